"""Training: crops in, checkpoints, a log and sample pictures out. One loop; its whole state is in `Training`.

run/model.pt         the checkpoint: for use, and to go on from
run/log.jsonl        a line every few steps
run/samples/         bicubic | output | target, at every checkpoint
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from srraw_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from srraw_model.clock import Clock
from srraw_model.dataset import Crops, Sample
from srraw_model.device import chosen_device
from srraw_model.features import download_vgg19, load_vgg19
from srraw_model.losses import CoBiLoss, aligned_l1, render_srgb
from srraw_model.network import PaperNetwork, SmallNetwork, make_network
from srraw_model.options import (
    PRESET,
    PRESETS,
    SEED,
    ZOOM,
    TrainingOptions,
    check_options,
    learning_rate_at,
)
from srraw_model.pictures import bicubic_picture, middle_crop, output_picture, side_by_side, target_picture
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.files import replacing, sha256_of

CHECKPOINT_FILE, LOG_FILE, SAMPLES_FOLDER = "model.pt", "log.jsonl", "samples"
LOG_EVERY = 10  # steps
MAX_WORKERS = 64  # processes
CLIP_NORM = 1.0  # of the gradient
SAMPLES, SAMPLE_SIDE_PX = 3, 64  # pairs shown, mosaic pixels of each


@dataclass
class Training:
    """The state of a run. Only `step`, `network` and `optimiser` change."""

    options: TrainingOptions
    out: Path
    save_every: int
    workers: int
    device: torch.device
    data: Crops
    network: PaperNetwork | SmallNetwork
    optimiser: torch.optim.Optimizer
    cobi: CoBiLoss
    notes: tuple[str, ...]
    step: int = 0

    @property
    def label(self) -> str:
        """The run's name in tables, with the losses that it has minimised so far."""
        cobi = "CoBi_RGB" if self.cobi.features is None else "CoBi_RGB + CoBi_VGG"
        if self.options.l1_steps == 0:
            losses = cobi
        else:
            losses = "L1" if self.step <= self.options.l1_steps else f"L1, then {cobi}"
        return f"{self.options.preset} ({losses})"

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())


@dataclass(frozen=True)
class StepRecord:
    """A training step, as logged.

    Attributes:
        loss_name: "L1" or "CoBi".
        parts: of CoBi, before lambda.
        seconds: of the whole step, from asking for its crops.
        cost: seconds of its parts: `data` (waiting for the crops), `network`, `optimiser`, and of the loss
            `l1`, or `cobi_rgb` and, with VGG, `features` and `cobi_vgg`; all forward and backward.
    """

    step: int
    loss_name: str
    loss: float
    parts: dict[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float
    cost: dict[str, float]


def prepare_training(
    data: Path,
    *,
    out: Path,
    zoom: int | None = None,
    preset: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    crop: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    l1_steps: int | None = None,
    rgb_distance: str | None = None,
    vgg_weights: Path | None = None,
    download_vgg: bool = False,
    save_every: int = 500,
    workers: int = 0,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Training:
    """Check everything and set up a run, or read one back. Writes nothing.

    Args:
        data: the srraw.h5.
        out: folder of the run.
        zoom, preset, steps, seed, crop (mosaic pixels), batch, learning_rate, l1_steps, rgb_distance: None
            takes that of the run that is resumed; in a new run 4, "paper", 0 and what the preset says.
        l1_steps: steps, from the first, that minimise the aligned L1 instead of CoBi.
        rgb_distance: of the patches in CoBi_RGB, "cosine" (the paper's) or "l2".
        vgg_weights: a VGG-19 for CoBi_VGG; without it the loss is CoBi_RGB alone. A run that began with one
            is resumed with the same.
        download_vgg: take torchvision's public VGG-19, fetched at the first use.
        save_every: steps between checkpoints.
        workers: processes that read crops; 0 reads them in this one.
        device: of torch; None takes a GPU where there is one.
        resume: go on from the checkpoint in `out` with the options that the run began with; only the number
            of steps may be another one. On the CPU this ends in the same weights as without the interruption.
        overwrite: replace a run that is in `out`.

    Raises:
        UserError: nothing to train on, a run there already or none to resume, or options that don't fit.
    """
    if save_every < 1 or not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"--save-every is at least 1, --workers 0 to {MAX_WORKERS}.", wrong_use=True)
    if download_vgg and vgg_weights:
        raise UserError("--vgg-weights and --download-vgg exclude each other.", wrong_use=True)
    before = _previous(Path(out), zoom, resume, overwrite)
    vgg_weights = download_vgg19() if download_vgg else vgg_weights
    features = load_vgg19(vgg_weights) if vgg_weights else None
    asked = {
        "zoom": zoom,
        "preset": preset,
        "steps": steps,
        "seed": seed,
        "crop": crop,
        "batch": batch,
        "learning_rate": learning_rate,
        "l1_steps": l1_steps,
        "rgb_distance": rgb_distance,
        "vgg_sha256": sha256_of(vgg_weights) if vgg_weights else None,
    }
    options = _resumed_options(before, asked, Path(out)) if before else _new_options(asked)
    crops = Crops(data, zoom=options.zoom, crop=options.crop, seed=options.seed)
    chosen = PRESETS[options.preset]
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = make_network(zoom=options.zoom, **chosen.network)
    on = chosen_device(device)
    network = network.to(on)
    cobi = CoBiLoss(options.zoom, features, **{**chosen.cobi, "rgb_distance": options.rgb_distance})
    training = Training(
        options=options,
        out=Path(out),
        save_every=save_every,
        workers=workers,
        device=on,
        data=crops,
        network=network,
        optimiser=torch.optim.Adam(network.parameters(), lr=options.learning_rate),
        cobi=cobi.to(on),
        notes=(*crops.reader.problems, *_notes(options, cobi)),
    )
    if before:
        _go_on_from(training, before)
    return training


def train(training: Training) -> Iterator[StepRecord]:
    """Train to the last step, saving now and then; a record per step.

    Closing the generator saves the step reached, so that nothing is lost:

        steps = train(training)
        for record in steps:
            if stop_asked:
                break
        steps.close()

    Raises:
        UserError: the loss is not finite any more, or a file cannot be written.
    """
    options = training.options
    _begin_folder(training)
    training.network.train()
    batches = DataLoader(
        training.data,
        batch_size=options.batch,
        sampler=range(training.step * options.batch, options.steps * options.batch),
        num_workers=training.workers,
        generator=torch.Generator(),  # so that torch's own random state stays as it was
    )
    started = time.perf_counter()
    with open(training.out / LOG_FILE, "a", encoding="utf-8") as log:
        try:
            for batch in batches:
                record = _step(training, batch, started)
                if _is_logged(record.step, options):
                    log.write(json.dumps(asdict(record)) + "\n")
                    log.flush()
                if record.step % training.save_every == 0 or record.step == options.steps:
                    _save(training)
                    _write_sample(training)
                yield record
                started = time.perf_counter()
        except GeneratorExit:
            _save(training)
            raise


def _step(training: Training, batch: Sample, started: float) -> StepRecord:
    """One step of the optimiser."""
    options = training.options
    clock = Clock(training.device, wait=_is_logged(training.step + 1, options))
    clock.seconds["data"] = time.perf_counter() - started
    batch = Sample(*(values.to(training.device, non_blocking=True) for values in batch))
    rate = learning_rate_at(training.step, options)
    for group in training.optimiser.param_groups:
        group["lr"] = rate

    with clock("network"):
        camera_rgb = training.network(batch.packed)
        output = render_srgb(camera_rgb, batch.camera_wb, batch.color_matrix, for_loss=True)
    if not torch.isfinite(output).all():
        raise _diverged(training)
    if training.step < options.l1_steps:
        name, parts = "L1", {}
        with clock("l1"):
            rendered = output.detach().requires_grad_()
            loss = aligned_l1(rendered, batch.target, batch.valid)
            (gradient,) = torch.autograd.grad(loss, rendered)
    else:
        name, (loss, parts, gradient) = "CoBi", training.cobi.gradient(output, batch.target, clock)
    if not torch.isfinite(loss):
        raise _diverged(training)

    training.optimiser.zero_grad(set_to_none=True)
    with clock("network"):
        output.backward(gradient)
    with clock("optimiser"):
        norm = nn.utils.clip_grad_norm_(training.network.parameters(), CLIP_NORM)
        training.optimiser.step()
    training.step += 1
    return StepRecord(
        step=training.step,
        loss_name=name,
        loss=loss.item(),
        parts={part: value.item() for part, value in parts.items()},
        gradient_norm=norm.item(),
        learning_rate=rate,
        seconds=time.perf_counter() - started,
        cost=clock.seconds,
    )


def _is_logged(step: int, options: TrainingOptions) -> bool:
    return step % LOG_EVERY == 0 or step == options.steps


def _new_options(asked: dict[str, Any]) -> TrainingOptions:
    """The options of a new run: those that were asked for, and for None the preset's."""
    given = {name: value for name, value in asked.items() if value is not None}
    given = {"zoom": ZOOM, "preset": PRESET, "seed": SEED, "vgg_sha256": None} | given
    preset = PRESETS.get(given["preset"], PRESETS[PRESET])  # an unknown one is refused below
    steps = given.setdefault("steps", preset.steps)
    options = TrainingOptions(
        **{
            "crop": preset.crop,
            "batch": preset.batch,
            "learning_rate": preset.learning_rate,
            "l1_steps": round(preset.l1_share * steps),
            "rgb_distance": preset.cobi["rgb_distance"],
        }
        | given
    )
    check_options(options)
    return options


def _resumed_options(before: Checkpoint, asked: dict[str, Any], out: Path) -> TrainingOptions:
    """The options that a run began with, but for its number of steps; what is asked for must agree."""
    try:
        options = TrainingOptions(**before.options)
        check_options(options)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{out / CHECKPOINT_FILE} does not say how its run began, and cannot be resumed.",
            "Start a new run with another --out.",
        ) from error
    if options.vgg_sha256 and asked["vgg_sha256"] is None:
        raise UserError(
            f"The run in {out} began with VGG-19 weights.", "Give the same --vgg-weights.", wrong_use=True
        )
    differing = [
        name
        for name, value in asked.items()
        if name != "steps" and value is not None and value != getattr(options, name)
    ]
    if differing:
        told = ", ".join(f"{name} was {getattr(options, name)} and is {asked[name]}" for name in differing)
        raise UserError(
            f"The run in {out} began with other options: {told}.",
            "Leave them out to go on with it, or give another --out.",
            wrong_use=True,
        )
    if asked["steps"] is not None:
        options = replace(options, steps=asked["steps"])
        check_options(options)
    return options


def _previous(out: Path, zoom: int | None, resume: bool, overwrite: bool) -> Checkpoint | None:
    """The checkpoint to go on from; None for a new run."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other.", wrong_use=True)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file.", "Give --out a folder.", wrong_use=True)
    if resume:
        if not (out / CHECKPOINT_FILE).exists():
            raise UserError(
                f"{out} holds no run to resume.", "Leave --resume out to start one.", wrong_use=True
            )
        return load_checkpoint(out / CHECKPOINT_FILE, zoom=zoom)
    if not overwrite and any((out / name).exists() for name in (CHECKPOINT_FILE, LOG_FILE)):
        raise UserError(
            f"{out} holds a run already.",
            "Go on with it by --resume, replace it by --overwrite, or give another --out.",
            wrong_use=True,
        )
    return None


def _notes(options: TrainingOptions, cobi: CoBiLoss) -> tuple[str, ...]:
    if cobi.features is not None:
        compared = [name for name in cobi.features.taps.values() if name not in cobi.leave_out]
        notes = [f"CoBi_VGG compares {', '.join(compared)}."]
        if not cobi.both_ways:
            # Trained so from a start by L1, a network ended in one grey: 12.9 dB.
            notes.append("CoBi of Eq. 2 alone may end in a flat picture; the preset small asks both ways.")
        return tuple(notes)
    notes = ["No VGG-19 weights were given (--vgg-weights, --download-vgg): the loss is CoBi_RGB alone."]
    if options.rgb_distance == "cosine":
        # Trained so, a demo ended in a white picture of 8.9 dB: a patch's angle says nothing of its contrast.
        notes.append("CoBi_RGB by cosine alone does not see contrast: consider --rgb-distance l2.")
    return tuple(notes)


def _go_on_from(training: Training, before: Checkpoint) -> None:
    """Bring a run to the state of its checkpoint, if it is of the same pairs."""
    if before.trained_on != _identity(training.data):
        raise UserError(
            f"The run in {training.out} began with other pairs than {training.data.path} holds now.",
            "Give the same file, or start a new run with another --out.",
            wrong_use=True,
        )
    if before.step >= training.options.steps:
        raise UserError(
            f"The run in {training.out} has done its {before.step} steps.",
            "Give more --steps to go on.",
            wrong_use=True,
        )
    try:
        training.network.load_state_dict(before.weights)
        training.optimiser.load_state_dict(before.optimiser)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{training.out / CHECKPOINT_FILE} is damaged, or of another srraw than this.",
            "Start a new run with another --out.",
        ) from error
    training.step = before.step


def _identity(crops: Crops) -> dict[str, Any]:
    made_of = [[pair.name, pair.input_hash] for pair in crops.pairs]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    return {"file": crops.path.name, "pairs": len(crops.pairs), "sha256": digest}


def _save(training: Training) -> None:
    checkpoint = Checkpoint(
        label=training.label,
        network={"zoom": training.options.zoom, **PRESETS[training.options.preset].network},
        weights=training.network.state_dict(),
        step=training.step,
        options=asdict(training.options),
        trained_on=_identity(training.data),
        optimiser=training.optimiser.state_dict(),
    )
    save_checkpoint(training.out / CHECKPOINT_FILE, checkpoint)


def _begin_folder(training: Training) -> None:
    """Make the run's folder; what an older run, or the lost end of this one, left there goes."""
    out = training.out
    try:
        (out / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
        kept = _log_until(out / LOG_FILE, training.step)
        with replacing(out / LOG_FILE) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        if not training.step:
            (out / CHECKPOINT_FILE).unlink(missing_ok=True)
        for picture in (out / SAMPLES_FOLDER).glob("[0-9]*.png"):
            if int(picture.stem) > training.step:
                picture.unlink()
    except OSError as error:
        raise UserError(f"Cannot write into {out}: {error.strerror}.", "Give another --out.") from error


def _log_until(path: Path, step: int) -> list[str]:
    """The lines of a log up to a step; a line that a power cut left unfinished is not one of them."""
    if not step or not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    return kept


def _write_sample(training: Training) -> None:
    """Strips of the first pairs of val, or of train where val is empty."""
    import cv2

    training.network.eval()
    strips = []
    with shards.open(training.data.path) as reader:
        zoom = training.options.zoom
        pairs = reader.select(zoom=zoom, split="val") or reader.select(zoom=zoom, split="train")
        for pair in pairs[:SAMPLES]:
            data = reader.read(pair, middle_crop(pair, SAMPLE_SIDE_PX))
            pictures = (
                bicubic_picture(pair, data),
                output_picture(training.network, pair, data),
                target_picture(pair, data),
            )
            strips.append(side_by_side(list(pictures)))
    training.network.train()
    width = max(strip.shape[1] for strip in strips)
    padded = [
        cv2.copyMakeBorder(s, 0, 8, 0, width - s.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3)
        for s in strips
    ]
    with replacing(training.out / SAMPLES_FOLDER / f"{training.step:06d}.png") as temporary:
        cv2.imwrite(str(temporary), cv2.vconcat(padded)[:, :, ::-1])


def _diverged(training: Training) -> UserError:
    return UserError(
        f"The loss is not finite any more at step {training.step + 1}; the last checkpoint is kept.",
        "Start again with a lower --learning-rate.",
    )
