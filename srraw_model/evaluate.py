"""Models x pairs -> a table: PSNR, SSIM and LPIPS, always beside bicubic, under a protocol that is stated."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from srraw_model.checkpoint import load_checkpoint
from srraw_model.dataset import pairs_of
from srraw_model.metrics import Lpips, load_lpips, psnr, ssim
from srraw_model.network import PaperNetwork, SmallNetwork
from srraw_model.pictures import Picture, bicubic_picture, output_picture, target_picture
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.files import replacing

BICUBIC = "bicubic"
TABLE_FILE, SCORES_FILE = "metrics.md", "metrics.csv"


@dataclass(frozen=True)
class Score:
    """A model on a pair. Higher is better but for LPIPS, which is None where no weights were given."""

    pair: str
    model: str
    psnr_db: float
    ssim: float
    lpips: float | None


@dataclass(frozen=True)
class Evaluation:
    """What is compared: pairs of a split, under the stated protocol."""

    data: Path
    zoom: int
    split: str
    pairs: tuple[str, ...]
    networks: dict[str, PaperNetwork | SmallNetwork]
    lpips: Lpips | None

    @property
    def protocol(self) -> str:
        """How the numbers come about, in sentences."""
        lpips = (
            f"LPIPS v0.1 ({self.lpips.backbone}) on a rectangle of valid pixels."
            if self.lpips
            else "LPIPS was not computed: no weights were given."
        )
        return (
            f"{self.zoom}X, split '{self.split}', {len(self.pairs)} pairs. Protocol: as-is (no registration "
            "or colour fit of the result). 8-bit sRGB, RGB, data range 1, all valid target pixels, no border "
            "cut off. SSIM: Gaussian window 11x11, sigma 1.5, on windows that are wholly valid. Bicubic: the "
            f"demosaiced low shot's 8-bit sRGB, Keys's cubic with a = -1/2, areas kept. {lpips}"
        )


def prepare_evaluation(
    data: Path,
    *,
    checkpoints: Sequence[Path] = (),
    zoom: int | None = None,
    split: str = "test",
    lpips_backbone: Path | None = None,
    lpips_linear: Path | None = None,
) -> Evaluation:
    """Check everything and load the networks.

    Args:
        data: the srraw.h5.
        checkpoints: of srraw-train, all of one zoom.
        zoom: None takes the checkpoints'.
        lpips_backbone, lpips_linear: SqueezeNet 1.1 in torchvision's layout and LPIPS v0.1's linear layers.

    Raises:
        UserError: a file is not what it should be, zooms differ, or the split is empty.
    """
    if (lpips_backbone is None) != (lpips_linear is None):
        raise UserError(
            "LPIPS needs two files.", "Give --lpips-backbone and --lpips-linear together.", wrong_use=True
        )
    networks: dict[str, PaperNetwork | SmallNetwork] = {}
    for path in checkpoints:
        checkpoint = load_checkpoint(path, zoom=zoom)
        zoom = checkpoint.zoom
        name = checkpoint.label if checkpoint.label not in networks else f"{checkpoint.label}, {path}"
        networks[name] = checkpoint.make_network()
    if zoom is None:
        raise UserError(
            "Nothing says which zoom to evaluate.", "Give --checkpoint or --zoom.", wrong_use=True
        )
    with shards.open(data) as reader:
        pairs = tuple(pair.name for pair in pairs_of(reader, zoom=zoom, split=split))
    lpips = load_lpips(lpips_backbone, lpips_linear) if lpips_backbone and lpips_linear else None
    return Evaluation(Path(data), zoom, split, pairs, networks, lpips)


def evaluate_models(evaluation: Evaluation) -> Iterator[Score]:
    """Score bicubic and every network on every pair; pair by pair, bicubic first."""
    with shards.open(evaluation.data) as reader:
        for pair in reader.select(zoom=evaluation.zoom, split=evaluation.split):
            data = reader.read(pair)
            if not data.valid.any():
                raise UserError(f"{pair.name} of {evaluation.data} has no valid target pixel.", "Pack again.")
            target = _as_tensor(target_picture(pair, data))
            valid = torch.from_numpy(data.valid)[None, None]
            made = {BICUBIC: bicubic_picture(pair, data)}
            made |= {name: output_picture(net, pair, data) for name, net in evaluation.networks.items()}
            for name, picture in made.items():
                yield _score(pair.name, name, _as_tensor(picture), target, valid, evaluation.lpips)


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
            )
        )
    return means


def table_rows(scores: Sequence[Score]) -> list[tuple[str, str, str, str]]:
    """Model, PSNR, SSIM and LPIPS, as printed."""
    return [
        (s.model, f"{s.psnr_db:.2f}", f"{s.ssim:.4f}", "-" if s.lpips is None else f"{s.lpips:.4f}")
        for s in scores
    ]


def table_columns(evaluation: Evaluation) -> tuple[str, str, str, str]:
    """The head of the table."""
    lpips = f"LPIPS ({evaluation.lpips.backbone})" if evaluation.lpips else "LPIPS"
    return "model", "PSNR dB", "SSIM", lpips


def write_tables(evaluation: Evaluation, scores: Sequence[Score], out: Path) -> tuple[Path, Path]:
    """Write the table of means, and of every pair, as Markdown and CSV into the folder `out`."""
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
    table, all_scores = out / TABLE_FILE, out / SCORES_FILE
    with replacing(table) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with replacing(all_scores) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        backbone = evaluation.lpips.backbone if evaluation.lpips else ""
        writer.writerow(["pair", "model", "psnr_db", "ssim", "lpips", "lpips_backbone"])
        for s in (*scores, *mean_scores(scores)):
            writer.writerow(
                [s.pair, s.model, s.psnr_db, s.ssim, "" if s.lpips is None else s.lpips, backbone]
            )
    return table, all_scores


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    numbers = len(columns) - 3  # the last three columns hold numbers
    ruler = ["---" if i < numbers else "---:" for i in range(len(columns))]
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ruler, *rows)]
