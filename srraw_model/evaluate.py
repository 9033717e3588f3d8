"""Models x pairs -> scores: PSNR, SSIM and LPIPS, always beside bicubic, under a protocol that is stated."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srraw_model.aligned import align_target
from srraw_model.baselines import Baseline, ThenBicubic
from srraw_model.checkpoint import Checkpoint, load_checkpoint
from srraw_model.dataset import pairs_of
from srraw_model.device import chosen_device
from srraw_model.features import LPIPS_BACKBONES
from srraw_model.metrics import SSIM_RADIUS_PX, Lpips, load_lpips, psnr, ssim, valid_rectangle
from srraw_model.metrics import download_lpips as fetch_lpips
from srraw_model.network import PaperNetwork, SmallNetwork
from srraw_model.pictures import Picture, baseline_picture, bicubic_picture, output_picture, target_picture
from srraw_model.public_weights import LOADERS
from srraw_model.registered import register_result
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, replacing, sha256_of
from srraw_tools.shards import Pair, PairData

Network = PaperNetwork | SmallNetwork
Mask = npt.NDArray[np.bool_]
System = tuple[str, str]
BICUBIC = "bicubic"
PROTOCOLS = {
    "as-is": "no registration or colour fit of the result",
    "registered": "each result is brought onto its target by one global similarity and scored where both "
    "have pixels; where that fails it is scored as it is, and marked",
    "aligned": "the target is warped to each result by dense flow, and the result's colours are fitted to it "
    "by a 3 x 3 matrix of linear light; pixels count where flow there and back agrees within 1 px; where it "
    "is known for less than 30 %, the result is scored as it is, and marked",
}
RECORD_FILE = "metrics.json"
CROPS = "crops"  # folder of pictures beside the record
SSIM_PX = 2 * SSIM_RADIUS_PX + 1  # side of SSIM's window
CROP_PX = 256  # side of a picture's most detailed part that is kept for people to look at
NOISE_SIGMA_PX = 2.0  # of the blur under which detail is looked for
TARGET = "target"


@dataclass(frozen=True)
class Score:
    """A model on a pair. Higher is better but for LPIPS, which is None where no weights were given.

    Attributes:
        psnr_db: in dB; infinite where both pictures are equal.
        counted: share of the target's valid pixels that are compared.
        failed: the protocol could not be kept, and the picture was scored as it is.
    """

    pair: str
    sequence: str
    model: str
    psnr_db: float
    ssim: float
    lpips: float | None
    counted: float = 1.0
    failed: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What is compared: pairs of a split, under the stated protocol.

    Attributes:
        pairs: by name, the hash of what each was packed from.
        sequences: how many these pairs are of.
        networks, hashes: by the model's name in tables, and its file's hash.
        systems: by the model's name, its row in the paper's tables: a name and "a", "b" or "".
        options: what else decides the numbers, as JSON keeps it.
        problems: sentences about what of the set cannot be read.
        published: the set is SR-RAW itself.
    """

    data: Path
    zoom: int
    split: str
    pairs: dict[str, str]
    sequences: int
    networks: dict[str, Network | Baseline]
    hashes: dict[str, str]
    systems: dict[str, System]
    lpips: Lpips | None
    options: dict[str, Any]
    problems: tuple[str, ...] = ()
    published: bool = False


def prepare_evaluation(
    data: Path,
    *,
    models: Sequence[str | Path] = (),
    zoom: int | None = None,
    split: str = "test",
    protocol: str = "as-is",
    lpips: str = "squeeze",
    lpips_backbone: Path | None = None,
    lpips_linear: Path | None = None,
    download_lpips: bool = False,
    device: str | None = None,
) -> Evaluation:
    """Check everything and load the networks.

    Args:
        data: the srraw.h5.
        models: checkpoints of srraw-train, all of one zoom; NAME:FILE, public weights of a baseline of
            `public_weights.LOADERS`; "bicubic", which is always there.
        zoom: None takes the models', or where there are none the data's, if that is one.
        protocol: a key of PROTOCOLS.
        lpips: the backbone, a key of `features.LPIPS_BACKBONES`.
        lpips_backbone: its file, in torchvision's layout; without it there is no LPIPS.
        lpips_linear: the file of LPIPS v0.1's linear layers for it.
        download_lpips: fetch both where they are not in torch.hub's cache.
        device: of the networks, as in `chosen_device`.

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
    if lpips not in LPIPS_BACKBONES:
        raise UserError(
            f"LPIPS has no backbone {lpips!r} here.",
            f"Give one of {', '.join(LPIPS_BACKBONES)}.",
            wrong_use=True,
        )
    on = chosen_device(device)
    models = [str(model) for model in models if str(model) != BICUBIC]
    twice = [model for number, model in enumerate(models) if model in models[:number]]
    if twice:
        raise UserError(f"{twice[0]} is named twice.", "Name every model once.", wrong_use=True)
    baselines = {model: _load_baseline(model) for model in models if model.partition(":")[0] in LOADERS}
    checkpoints = {}
    for path in (model for model in models if model not in baselines):
        _check_name(path)
        checkpoints[path] = load_checkpoint(Path(path), zoom=zoom)
        zoom = checkpoints[path].zoom
    if zoom is None and baselines:
        zoom = max(network.zoom for network in baselines.values())
    if zoom is None:
        zoom = _only_zoom(data)
    networks: dict[str, Network | Baseline] = {}
    hashes: dict[str, str] = {}
    systems: dict[str, System] = {}
    for model in models:
        if model in baselines:
            name, path = model.split(":", 1)
            label, network = _enlarging(name, baselines[model], zoom)
            system = name, "a"
        else:
            label, network, path = checkpoints[model].label, checkpoints[model].make_network(), model
            system = _system_of(checkpoints[model])
        for more in (_run_of(Path(path)), path):  # a table is shown to others: folders only where it must be
            label = label if label not in networks else f"{label}, {more}"
        networks[label], hashes[label], systems[label] = network.to(on), sha256_of(path), system
    with shards.open(data) as reader:
        selected = pairs_of(reader, zoom=zoom, split=split)
        pairs = {pair.name: pair.input_hash for pair in selected}
        sequences = len({pair.sequence for pair in selected})
        problems, published = reader.problems, all(_is_published(pair) for pair in selected)
        options = {"zoom": zoom, "split": split, "protocol": protocol}
        options |= {"target": reader.options.get("target"), "lpips": None}
    measure = None
    if download_lpips and not lpips_backbone:
        lpips_backbone, lpips_linear = fetch_lpips(lpips)
    if lpips_backbone and lpips_linear:
        measure = load_lpips(lpips_backbone, lpips_linear, backbone=lpips).to(on)
        options["lpips"] = [lpips, sha256_of(lpips_backbone), sha256_of(lpips_linear)]
    return Evaluation(
        data=Path(data),
        zoom=zoom,
        split=split,
        pairs=pairs,
        sequences=sequences,
        networks=networks,
        hashes=hashes,
        systems=systems,
        lpips=measure,
        options=options,
        problems=problems,
        published=published,
    )


def _check_name(model: str) -> None:
    """Raises UserError where what names a model can be no checkpoint."""
    if not model:
        raise UserError("A name in --models is empty.", "Leave out a comma.", wrong_use=True)
    name, colon, _ = model.partition(":")
    if colon and not Path(model).exists():
        known = ", ".join(f"{known}:FILE" for known in sorted(LOADERS))
        raise UserError(f"There are no public weights of {name!r}.", f"Known are {known}.", wrong_use=True)


def _only_zoom(data: Path) -> int:
    """The zoom of all pairs; where they differ, a person has to choose."""
    with shards.open(data) as reader:
        zooms = sorted({pair.zoom for pair in reader.pairs})
    if len(zooms) != 1:
        held = " and ".join(f"{zoom}X" for zoom in zooms) or "no"
        raise UserError(f"{data} holds {held} pairs.", "Give --models or --zoom.", wrong_use=True)
    return zooms[0]


def _system_of(checkpoint: Checkpoint) -> System:
    options = checkpoint.options
    if options.get("baseline"):
        return options["baseline"], "a" if options.get("pairs") == "bicubic" else "b"
    return options.get("variant", "raw"), ""


def _is_published(pair: Pair) -> bool:
    """Whether a pair is one of SR-RAW: its camera, in a sequence of its layout."""
    named = re.match(r"(train|val|test)-\d{5}$", pair.sequence)
    return named is not None and (pair.camera or "").endswith("ILCE-7SM2")


def _load_baseline(model: str) -> Baseline:
    name, _, path = model.partition(":")
    if not path:
        raise UserError(
            f"The baseline {name} needs its weights.", f"Give '{name}:FILE' among --models.", wrong_use=True
        )
    return LOADERS[name](Path(path))


def _run_of(checkpoint: Path) -> str:
    """What a person calls a checkpoint: its run's folder, or its own name."""
    return checkpoint.parent.name if checkpoint.stem == "model" else checkpoint.stem


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
    hint = "Give --overwrite to replace them, or another --out."
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file.", "Give --out a folder.", wrong_use=True)
    if not (out / RECORD_FILE).exists():
        if any(out.glob("metrics.*")):
            raise UserError(f"{out} holds tables that do not say what they are of.", hint, wrong_use=True)
        return {}
    try:
        record = read_json(out / RECORD_FILE)
        options, pairs, models = record["options"], record["inputs"].items(), record["models"].items()
        scores = [_read_score(score) for score in record["pairs"]]
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
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
    return {(score.pair, score.model): score for score in scores}


def _read_score(kept: Mapping[str, Any]) -> Score:
    """A score as JSON keeps it, in which what is infinite is null; KeyError and such where it is none."""
    score = Score(**kept)
    psnr_db = math.inf if score.psnr_db is None else float(score.psnr_db)
    lpips = None if score.lpips is None else float(score.lpips)
    return replace(score, psnr_db=psnr_db, ssim=float(score.ssim), lpips=lpips, counted=float(score.counted))


def evaluate_models(
    evaluation: Evaluation,
    known: Mapping[tuple[str, str], Score] | None = None,
    *,
    out: Path | None = None,
) -> Iterator[Score]:
    """Score bicubic and every network on every pair, pair by pair, bicubic first; `known` scores are kept.

    Args:
        out: a folder for crops of the pictures, which `crop_file` names; None keeps none.

    Raises:
        UserError: a pair cannot be read, or shows nothing of the target.
    """
    known, models = dict(known or {}), [BICUBIC, *evaluation.networks]
    if out is not None:
        (out / CROPS).mkdir(parents=True, exist_ok=True)
        files = {
            (p, m): crop_file(evaluation, out, p, m) for p in evaluation.pairs for m in (*models, TARGET)
        }
        known = {at: score for at, score in known.items() if at in files and files[at].exists()}
    with shards.open(evaluation.data) as reader:
        for pair in reader.select(zoom=evaluation.zoom, split=evaluation.split):
            if all((pair.name, model) in known for model in models):
                yield from (known[pair.name, model] for model in models)
                continue
            data = reader.read(pair)
            if not _can_be_scored(data.valid):
                raise UserError(
                    f"{pair.name} of {evaluation.data} has no {SSIM_PX} x {SSIM_PX} valid target pixels.",
                    "Pack again.",
                )
            target = target_picture(pair, data)
            crop = detailed_crop(target, data.valid, CROP_PX)
            if out is not None:
                _write_crop(files[pair.name, TARGET], target[crop])
            for model in models:
                if (pair.name, model) in known:
                    yield known[pair.name, model]
                    continue
                picture = picture_of(evaluation, model, pair, data)
                if out is not None:
                    _write_crop(files[pair.name, model], picture[crop])
                yield _score(evaluation, pair, model, picture, target, data.valid)


def picture_of(evaluation: Evaluation, model: str, pair: Pair, data: PairData) -> Picture:
    """What a model, or bicubic, makes of a pair: (N h, N w, 3) uint8 sRGB."""
    if model == BICUBIC:
        return bicubic_picture(pair, data)
    network = evaluation.networks[model]
    if isinstance(network, Baseline):
        return baseline_picture(network, data)
    return output_picture(network, pair, data)


def _score(
    evaluation: Evaluation, pair: Pair, model: str, picture: Picture, target: Picture, valid: Mask
) -> Score:
    """Under the evaluation's protocol; `failed` where that could not be kept."""
    counts, failed = valid, False
    if evaluation.options["protocol"] == "registered":
        registered = register_result(picture, target, valid)
        failed = registered.target_to_result is None or not _can_be_scored(registered.valid)
        if not failed:
            picture, counts = registered.picture, registered.valid
    elif evaluation.options["protocol"] == "aligned":
        aligned = align_target(picture, target, valid)
        failed = aligned is None or not _can_be_scored(aligned.counts, within=valid)
        if not failed:
            picture, target, counts = aligned.picture, aligned.target, aligned.counts
    image, reference = _levels(picture), _levels(target)
    mask = torch.from_numpy(counts)[None, None]
    lpips = None
    if evaluation.lpips:
        # LPIPS sees far around a pixel. What flow does not know is equal in both pictures, and may lie
        # anywhere: it needs no rectangle, but must not count either, or a result that is wrong is praised.
        around = mask if evaluation.options["protocol"] != "aligned" else torch.from_numpy(valid)[None, None]
        on = next(evaluation.lpips.buffers()).device
        pictures = ((levels / 255).to(on) for levels in (image, reference))
        lpips = evaluation.lpips(*pictures, valid=around.to(on), counts=mask.to(on)).item()
    return Score(
        pair=pair.name,
        sequence=pair.sequence,
        model=model,
        psnr_db=psnr(image, reference, data_range=255, valid=mask).item(),
        ssim=ssim(image, reference, data_range=255, valid=mask).item(),
        lpips=lpips,
        counted=float(counts.sum() / valid.sum()),
        failed=failed,
    )


def _can_be_scored(counts: npt.NDArray[Any], *, within: npt.NDArray[Any] | None = None) -> bool:
    """Whether a window of SSIM, and a pixel of LPIPS's rectangle, lie on pixels that count.

    within: the pixels of which that rectangle is made; those that count unless given.
    """
    inside = cv2.erode(counts.astype(np.uint8), np.ones((SSIM_PX, SSIM_PX), np.uint8), borderValue=0)
    rectangle = valid_rectangle(torch.from_numpy(counts if within is None else within))
    return bool(inside.any() and counts[rectangle].any())


def _levels(picture: Picture) -> Tensor:
    """(1, 3, H, W) float32 from 0 to 255: every level exact, so that float64 sums are too."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float()


def detailed_crop(picture: Picture, valid: Mask, side: int) -> tuple[slice, slice]:
    """Rows and columns of the square, of at most `side`, that holds the most detail where it is valid."""
    height, width = (min(side, length) for length in valid.shape)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), NOISE_SIGMA_PX)  # noise is no detail
    detail = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) * valid
    sums = cv2.integral(detail)
    total = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    y, x = np.unravel_index(int(np.argmax(total)), total.shape)
    return slice(int(y), int(y) + height), slice(int(x), int(x) + width)


def crop_file(evaluation: Evaluation, out: Path, pair: str, model: str) -> Path:
    """Where the crop of a model's picture of a pair lies, by what both are made of; also of TARGET."""
    made_of = f"{evaluation.pairs[pair]} {pair} {evaluation.hashes.get(model, model)}"
    return out / CROPS / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.webp"


def _write_crop(path: Path, picture: Picture) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 95])[1])
