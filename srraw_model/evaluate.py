"""Models x pairs -> a table: PSNR, SSIM and LPIPS, always beside bicubic, under a protocol that is stated."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srraw_model.baselines import Baseline, ThenBicubic
from srraw_model.checkpoint import load_checkpoint
from srraw_model.dataset import pairs_of
from srraw_model.metrics import Lpips, load_lpips, psnr, ssim
from srraw_model.network import PaperNetwork, SmallNetwork
from srraw_model.pictures import Picture, baseline_picture, bicubic_picture, output_picture, target_picture
from srraw_model.public_weights import LOADERS
from srraw_model.registered import register_result
from srraw_tools import __version__, shards
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, replacing, sha256_of, write_json

Network = PaperNetwork | SmallNetwork
BICUBIC = "bicubic"
PROTOCOLS = {
    "as-is": "no registration or colour fit of the result",
    "registered": "each result is brought onto its target by one global similarity and scored where both "
    "have pixels; where that fails it is scored as it is, and marked",
}
RECORD_FILE, TABLE_FILE, SCORES_FILE = "metrics.json", "metrics.md", "metrics.csv"


@dataclass(frozen=True)
class Score:
    """A model on a pair. Higher is better but for LPIPS, which is None where no weights were given.

    `registration_failed`: the protocol is `registered`, and the picture was scored as it is.
    """

    pair: str
    model: str
    psnr_db: float
    ssim: float
    lpips: float | None
    registration_failed: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What is compared: pairs of a split, under the stated protocol.

    Attributes:
        pairs: by name, the hash of what each was packed from.
        networks, hashes: by the model's name in tables, and its file's hash.
        options: what else decides the numbers, as JSON keeps it.
    """

    data: Path
    zoom: int
    split: str
    pairs: dict[str, str]
    networks: dict[str, Network | Baseline]
    hashes: dict[str, str]
    lpips: Lpips | None
    options: dict[str, Any]

    @property
    def protocol(self) -> str:
        """How the numbers come about, in sentences."""
        lpips = (
            f"LPIPS v0.1 ({self.lpips.backbone}) on a rectangle of valid pixels."
            if self.lpips
            else "LPIPS was not computed: no weights were given."
        )
        return (
            f"{self.zoom}X, split '{self.split}', {len(self.pairs)} pairs. Protocol: "
            f"{self.options['protocol']} ({PROTOCOLS[self.options['protocol']]}). "
            "8-bit sRGB, RGB, data range 1, all valid target pixels, no border cut off. SSIM: Gaussian "
            "window 11x11, sigma 1.5, on windows that are wholly valid. Bicubic: the demosaiced low shot's "
            "8-bit sRGB, Keys's cubic with a = -1/2, areas kept. Public baselines see "
            f"that same sRGB. {lpips}"
        )


def prepare_evaluation(
    data: Path,
    *,
    models: Sequence[str | Path] = (),
    zoom: int | None = None,
    split: str = "test",
    protocol: str = "as-is",
    lpips_backbone: Path | None = None,
    lpips_linear: Path | None = None,
) -> Evaluation:
    """Check everything and load the networks.

    Args:
        data: the srraw.h5.
        models: checkpoints of srraw-train, all of one zoom; NAME:FILE, public weights of a baseline of
            `public_weights.LOADERS`; "bicubic", which is always there.
        zoom: None takes the models'.
        protocol: a key of PROTOCOLS.
        lpips_backbone, lpips_linear: SqueezeNet 1.1 in torchvision's layout and LPIPS v0.1's linear layers.

    Raises:
        UserError: a file is not what it should be, zooms differ, or the split is empty.
    """
    if protocol not in PROTOCOLS:
        raise UserError(
            f"There is no protocol {protocol!r}.", f"Give one of {', '.join(PROTOCOLS)}.", wrong_use=True
        )
    if (lpips_backbone is None) != (lpips_linear is None):
        raise UserError(
            "LPIPS needs two files.", "Give --lpips-backbone and --lpips-linear together.", wrong_use=True
        )
    models = [str(model) for model in models if str(model) != BICUBIC]
    baselines = {model: _load_baseline(model) for model in models if model.partition(":")[0] in LOADERS}
    checkpoints = {}
    for path in (model for model in models if model not in baselines):
        checkpoints[path] = load_checkpoint(Path(path), zoom=zoom)
        zoom = checkpoints[path].zoom
    if zoom is None and baselines:
        zoom = max(network.zoom for network in baselines.values())
    if zoom is None:
        raise UserError("Nothing says which zoom to evaluate.", "Give --models or --zoom.", wrong_use=True)
    networks: dict[str, Network | Baseline] = {}
    hashes: dict[str, str] = {}
    for model in models:
        if model in baselines:
            name, path = model.split(":", 1)
            label, network = _enlarging(name, baselines[model], zoom)
        else:
            label, network, path = checkpoints[model].label, checkpoints[model].make_network(), model
        label = label if label not in networks else f"{label}, {path}"
        networks[label], hashes[label] = network, sha256_of(path)
    with shards.open(data) as reader:
        pairs = {pair.name: pair.input_hash for pair in pairs_of(reader, zoom=zoom, split=split)}
        options = {"zoom": zoom, "split": split, "protocol": protocol}
        options |= {"target": reader.options.get("target"), "lpips": None}
    lpips = None
    if lpips_backbone and lpips_linear:
        lpips = load_lpips(lpips_backbone, lpips_linear)
        options["lpips"] = [sha256_of(lpips_backbone), sha256_of(lpips_linear)]
    return Evaluation(Path(data), zoom, split, pairs, networks, hashes, lpips, options)


def _load_baseline(model: str) -> Baseline:
    name, _, path = model.partition(":")
    if not path:
        raise UserError(
            f"The baseline {name} needs its weights.", f"Give '{name}:FILE' among --models.", wrong_use=True
        )
    return LOADERS[name](Path(path))


def _enlarging(name: str, network: Baseline, zoom: int) -> tuple[str, Baseline]:
    """A baseline's name in tables, which says how it comes to the zoom, and the baseline at that zoom."""
    if network.zoom == zoom:
        return name, network
    if zoom % network.zoom:
        raise UserError(
            f"The weights of {name} enlarge {network.zoom}X, more than {zoom}X.",
            f"Give weights of {zoom}X or less.",
            wrong_use=True,
        )
    return f"{name} {network.zoom}X, then bicubic", ThenBicubic(network, zoom)


def known_scores(evaluation: Evaluation, out: Path) -> dict[tuple[str, str], Score]:
    """The scores that the tables in `out` hold already, by pair and model; none where there are no tables.

    Raises:
        UserError: the tables there hold what this evaluation would not: made by other options, or of
            models or pairs that it lacks or that have changed.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file.", "Give --out a folder.", wrong_use=True)
    if not any((out / name).exists() for name in (RECORD_FILE, TABLE_FILE, SCORES_FILE)):
        return {}
    hint = "Give --overwrite to replace them, or another --out."
    try:
        record = read_json(out / RECORD_FILE)
        options, pairs, models = record["options"], record["inputs"].items(), record["models"].items()
        scores = [Score(**score) for score in record["pairs"]]
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{out} holds tables that do not say what they are of.", hint, wrong_use=True
        ) from error
    if options != evaluation.options:
        raise UserError(f"{out} holds tables made by other options.", hint, wrong_use=True)
    if not pairs <= evaluation.pairs.items() or not models <= evaluation.hashes.items():
        raise UserError(
            f"{out} holds tables of other models or pairs, or they have changed since.",
            hint,
            wrong_use=True,
        )
    return {
        (score.pair, score.model): replace(score, psnr_db=math.inf) if score.psnr_db is None else score
        for score in scores
    }


def evaluate_models(
    evaluation: Evaluation, known: Mapping[tuple[str, str], Score] | None = None
) -> Iterator[Score]:
    """Score bicubic and every network on every pair, pair by pair, bicubic first; `known` scores are kept."""
    known, models = known or {}, [BICUBIC, *evaluation.networks]
    with shards.open(evaluation.data) as reader:
        for pair in reader.select(zoom=evaluation.zoom, split=evaluation.split):
            if all((pair.name, model) in known for model in models):
                yield from (known[pair.name, model] for model in models)
                continue
            data = reader.read(pair)
            if not data.valid.any():
                raise UserError(f"{pair.name} of {evaluation.data} has no valid target pixel.", "Pack again.")
            target = target_picture(pair, data)
            for model in models:
                if (pair.name, model) in known:
                    yield known[pair.name, model]
                    continue
                if model == BICUBIC:
                    picture = bicubic_picture(pair, data)
                elif isinstance(evaluation.networks[model], Baseline):
                    picture = baseline_picture(evaluation.networks[model], data)
                else:
                    picture = output_picture(evaluation.networks[model], pair, data)
                valid, failed = data.valid, False
                if evaluation.options["protocol"] == "registered":
                    registered = register_result(picture, target, valid)
                    picture, valid = registered.picture, registered.valid
                    failed = registered.target_to_result is None
                score = _score(
                    pair.name,
                    model,
                    _as_tensor(picture),
                    _as_tensor(target),
                    torch.from_numpy(valid)[None, None],
                    evaluation.lpips,
                )
                yield replace(score, registration_failed=failed)


def _score(pair: str, model: str, image: Tensor, target: Tensor, valid: Tensor, lpips: Lpips | None) -> Score:
    return Score(
        pair=pair,
        model=model,
        psnr_db=psnr(image, target, valid=valid).item(),
        ssim=ssim(image, target, valid=valid).item(),
        lpips=lpips(image, target, valid=valid).item() if lpips else None,
    )


def _as_tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def mean_scores(scores: Sequence[Score]) -> list[Score]:
    """The mean of every model over the pairs, in the order in which the models came."""
    means = []
    for model in dict.fromkeys(score.model for score in scores):
        own = [score for score in scores if score.model == model]
        lpips = [score.lpips for score in own if score.lpips is not None]
        means.append(
            Score(
                pair="mean",
                model=model,
                psnr_db=sum(score.psnr_db for score in own) / len(own),
                ssim=sum(score.ssim for score in own) / len(own),
                lpips=sum(lpips) / len(lpips) if lpips else None,
                registration_failed=any(score.registration_failed for score in own),
            )
        )
    return means


def table_rows(scores: Sequence[Score]) -> list[tuple[str, str, str, str]]:
    """Model, PSNR, SSIM and LPIPS, as printed."""
    return [
        (
            f"{s.model} (registration failed)" if s.registration_failed else s.model,
            f"{s.psnr_db:.2f}",
            f"{s.ssim:.4f}",
            "-" if s.lpips is None else f"{s.lpips:.4f}",
        )
        for s in scores
    ]


def table_columns(evaluation: Evaluation) -> tuple[str, str, str, str]:
    """The head of the table."""
    lpips = f"LPIPS ({evaluation.lpips.backbone})" if evaluation.lpips else "LPIPS"
    return "model", "PSNR dB", "SSIM", lpips


def evaluation_record(evaluation: Evaluation, scores: Sequence[Score]) -> dict[str, Any]:
    """What was compared, and the scores, as JSON keeps them: PSNR is null where two pictures are equal."""

    def plain(score: Score) -> dict[str, Any]:
        return {**asdict(score), "psnr_db": score.psnr_db if math.isfinite(score.psnr_db) else None}

    return {
        "created_by": f"srraw {__version__}",
        "protocol": evaluation.protocol,
        "options": evaluation.options,
        "inputs": evaluation.pairs,
        "models": evaluation.hashes,
        "mean": [plain(score) for score in mean_scores(scores)],
        "pairs": [plain(score) for score in scores],
    }


def write_tables(evaluation: Evaluation, scores: Sequence[Score], out: Path) -> tuple[Path, Path]:
    """Write the table of means, and of every pair, as JSON, Markdown and CSV into the folder `out`.

    Returns:
        The Markdown and the CSV file. What was there is replaced; `known_scores` says whether it may be.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {out}: {error.strerror}.", "Give another --out.") from error
    columns = table_columns(evaluation)
    lines = [
        "# Evaluation",
        "",
        evaluation.protocol,
        "",
        *_markdown(columns, table_rows(mean_scores(scores))),
    ]
    lines += ["", "## Every pair", ""]
    rows = [(s.pair, *row) for s, row in zip(scores, table_rows(scores), strict=True)]
    lines += _markdown(("pair", *columns), rows)
    write_json(out / RECORD_FILE, evaluation_record(evaluation, scores))
    table, all_scores = out / TABLE_FILE, out / SCORES_FILE
    with replacing(table) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with replacing(all_scores) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        backbone = evaluation.lpips.backbone if evaluation.lpips else ""
        writer.writerow(
            ["pair", "model", "psnr_db", "ssim", "lpips", "lpips_backbone", "registration_failed"]
        )
        for s in (*scores, *mean_scores(scores)):
            writer.writerow(
                [
                    *(s.pair, s.model, s.psnr_db, s.ssim),
                    *("" if s.lpips is None else s.lpips, backbone, s.registration_failed),
                ]
            )
    return table, all_scores


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    numbers = len(columns) - 3  # the last three columns hold numbers
    ruler = ["---" if i < numbers else "---:" for i in range(len(columns))]
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ruler, *rows)]
