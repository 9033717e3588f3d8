"""Training: crops in, checkpoints, a log and sample pictures out. One loop; its whole state is in `Training`.

run/model.pt         the checkpoint: for use, and to go on from
run/log.jsonl        a line every few steps, and at every checkpoint
run/samples/         input | bicubic | output | target, at every checkpoint
run/tensorboard/     the log once more, where --tensorboard asks for it

`torchrun --nproc-per-node N -m srraw_model.train ...` is srraw-train in N processes that share each batch.
"""

from __future__ import annotations

import copy
import hashlib
import json
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from srraw_model.baselines import LapSRN, rgb_to_ycbcr
from srraw_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from srraw_model.clock import Clock
from srraw_model.dataset import Crops, Sample, crop_numbers
from srraw_model.device import chosen_device
from srraw_model.discriminator import Discriminator, discriminator_loss
from srraw_model.features import download_vgg19, load_vgg19
from srraw_model.losses import CoBiLoss, render_srgb
from srraw_model.noise_models import read_noise
from srraw_model.objectives import Objective, needs_deep_features, objectives_of
from srraw_model.options import (
    ADVERSARIAL,
    MAX_WORKERS,
    RunOptions,
    TrainingOptions,
    check_options,
    checked_names,
    learning_rate_at,
    new_options,
    read_config,
)
from srraw_model.ranks import Ranks, join_ranks, local_device
from srraw_model.run_log import LOG_FILE, StepRecord, begin_log, summary_writer, writing_log
from srraw_model.validation import validation_crops, validation_psnr, write_sample
from srraw_model.variants import for_use, make_trained
from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of

CHECKPOINT_FILE, SAMPLES_FOLDER = "model.pt", "samples"
LOG_EVERY = 10  # steps
CLIP_NORM = 1.0  # of the gradient


@dataclass
class Training:
    """The state of a run. The weights, the optimisers and `step` change; nothing else does.

    Attributes:
        network: what learns; `mean` is the running mean of its weights, where one is kept.
        judge, judge_optimiser: of srgan and esrgan, else None.
        objectives: of the first `l1_steps`, and of the others.
        validation: crops of "val", None where there are none.
    """

    options: TrainingOptions
    run: RunOptions
    out: Path
    device: torch.device
    ranks: Ranks
    data: Crops
    network: nn.Module
    mean: nn.Module | None
    optimiser: torch.optim.Optimizer
    judge: Discriminator | None
    judge_optimiser: torch.optim.Optimizer | None
    objectives: tuple[Objective, Objective]
    validation: Crops | None
    notes: tuple[str, ...]
    step: int = 0

    @property
    def objective(self) -> Objective:
        """What the next step minimises."""
        return self.objectives[self.step >= self.options.l1_steps]

    @property
    def used(self) -> nn.Module:
        """The network as evaluation takes it, sharing its weights."""
        return for_use(self.network if self.mean is None else self.mean, self.options.sizes).eval()

    @property
    def label(self) -> str:
        """The run's name in tables, with the losses that it has minimised so far."""
        first, main = (objective.name for objective in self.objectives)
        losses = main if self.options.l1_steps == 0 or first == main else f"{first}, then {main}"
        if self.step <= self.options.l1_steps:
            losses = first if self.step else "before the first step"
        fine_tuned = ", fine-tuned" if self.options.fine_tuned_from else ""
        return f"{self.options.system}{fine_tuned}: {losses}"

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def prepare_training(
    data: Path,
    *,
    out: Path = Path("run"),
    config: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **asked: Any,
) -> Training:
    """Check everything and set up a run, or read one back. Writes nothing.

    Args:
        data: the srraw.h5.
        out: folder of the run.
        config: a TOML file of options.
        resume: go on from the checkpoint in `out` with the options that the run began with; only the number
            of steps may be another one. On the CPU this ends in the same weights as without the interruption.
        overwrite: replace a run that is in `out`.
        asked: options by the names of the fields of TrainingOptions and RunOptions, which say what they mean;
            they go before those in `config`, and what neither tells is the preset's.

    Raises:
        UserError: nothing to train on, a run there already or none to resume, or options that don't fit.
    """
    asked = (read_config(config) if config else {}) | checked_names(asked, "the options")
    run = RunOptions(**{f.name: asked.pop(f.name) for f in fields(RunOptions) if f.name in asked})
    _check_run(run)
    before = _previous(Path(out), asked.get("zoom"), resume, overwrite)
    begun = load_checkpoint(run.fine_tune) if run.fine_tune and not before else None
    vgg_weights = download_vgg19() if run.download_vgg else run.vgg_weights
    known = {
        "vgg_sha256": sha256_of(vgg_weights) if vgg_weights and vgg_weights.is_file() else None,
        "fine_tuned_from": sha256_of(run.fine_tune) if run.fine_tune else None,
        "noise_models": read_noise(run.noise) if run.noise else None,
    }
    asked |= {name: value for name, value in known.items() if value is not None}
    if vgg_weights and not vgg_weights.is_file():
        load_vgg19(vgg_weights)  # says what is wrong with it
    if before:
        options = _resumed_options(before, asked, Path(out))
    else:
        options = new_options(asked, fine_tuned=_options_of(begun, run.fine_tune) if begun else None)

    on = chosen_device(local_device(run.device))
    if options.precision == "bf16" and on.type == "cpu":
        raise UserError(
            "bf16 is for a GPU; the CPU trains in float32.", "Leave --precision out.", wrong_use=True
        )
    ranks = join_ranks(on)
    if options.batch % (ranks.count * options.accumulate):
        raise UserError(
            f"A batch of {options.batch} crops has no equal shares for {ranks.count} processes"
            f"{f', in {options.accumulate} parts each' if options.accumulate > 1 else ''}.",
            f"Give --batch a multiple of {ranks.count * options.accumulate}.",
            wrong_use=True,
        )
    crops = Crops(
        data,
        zoom=options.zoom,
        crop=options.crop,
        seed=options.seed,
        source=options.source,
        noise=options.noise_models,
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = make_trained(**options.sizes)
        judge = Discriminator().to(on) if options.baseline in ADVERSARIAL else None
    if begun:
        _take_weights(network, begun, options, run.fine_tune)
    features = load_vgg19(vgg_weights, deep=needs_deep_features(options)).to(on) if vgg_weights else None
    objectives = objectives_of(options, features, judge)
    network = network.to(on)
    if on.type == "cuda" and run.channels_last:
        network = network.to(memory_format=torch.channels_last)
    mean = copy.deepcopy(network).requires_grad_(False) if options.ema else None
    if run.compile:
        network.compile()
    validation = validation_crops(
        data, zoom=options.zoom, crop=options.crop, network=for_use(network, options.sizes)
    )
    training = Training(
        options=options,
        run=run,
        out=Path(out),
        device=on,
        ranks=ranks,
        data=crops,
        network=network,
        mean=mean,
        optimiser=_optimiser(network, options),
        judge=judge,
        judge_optimiser=_optimiser(judge, options) if judge else None,
        objectives=objectives,
        validation=validation if run.validation_crops else None,
        notes=(*crops.reader.problems, *_notes(options, objectives[1], validation)),
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

    Several processes (`ranks`) have to stop at the same step.

    Raises:
        UserError: the loss is not finite any more, or a file cannot be written.
    """
    options, run, ranks = training.options, training.run, training.ranks
    _begin_folder(training)
    training.network.train()
    first, last = training.step * options.batch, options.steps * options.batch
    batches = DataLoader(
        training.data,
        batch_size=options.batch // (ranks.count * options.accumulate),
        sampler=crop_numbers(first, last, rank=ranks.rank, ranks=ranks.count),
        num_workers=run.workers,
        worker_init_fn=_leave_signals_to_the_run,
        pin_memory=training.device.type == "cuda",
        generator=torch.Generator(),  # so that torch's own random state stays as it was
    )
    started = time.perf_counter()
    logging = nullcontext(lambda _record: None)
    if ranks.first:
        logging = writing_log(training.out, begun_at=training.step, tensorboard=run.tensorboard)
    with logging as log:
        try:
            parts = iter(batches)
            while training.step < options.steps:
                record = _step(training, islice(parts, options.accumulate), started)
                saves = record.step % run.save_every == 0 or record.step == options.steps
                if saves:
                    try:
                        record = replace(record, validation_db=_validate(training))
                    except UserError:  # of a pair or a picture: what was learned is kept
                        _save(training)
                        raise
                if saves or _is_logged(record.step, options):
                    log(record)
                if saves:  # last: killed before, the run makes this step's line and picture again
                    _save(training)
                yield record
                started = time.perf_counter()
        except GeneratorExit:
            _save(training)
            raise


def _leave_signals_to_the_run(_worker: int) -> None:
    """Ctrl-C and batch systems tell all processes of a job; those that read crops end with the run."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _step(training: Training, batch: Iterable[Sample], started: float) -> StepRecord:
    """One step of the optimiser, on a batch in parts."""
    options, objective = training.options, training.objective
    clock = Clock(training.device, wait=_is_logged(training.step + 1, options))
    rate = learning_rate_at(training.step, options)
    optimisers = [training.optimiser]
    if objective.adversarial:
        optimisers.append(training.judge_optimiser)
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = rate

    total, totals = torch.zeros((), device=training.device), {}
    waiting = started
    for crops in batch:
        clock.seconds["data"] = clock.seconds.get("data", 0.0) + time.perf_counter() - waiting
        crops = Sample(*(values.to(training.device, non_blocking=True) for values in crops))
        with clock("network"):
            outputs = _outputs(training, crops)
        finite = all(torch.isfinite(output).all() for output in outputs)
        if training.ranks.any(not finite, training.device):
            raise _diverged(training)
        loss, parts, gradients = objective.gradients(outputs, crops, clock)
        with clock("network"):
            torch.autograd.backward(outputs, [gradient / options.accumulate for gradient in gradients])
        total += loss / options.accumulate
        if objective.adversarial:
            with clock("judge"):
                relativistic = options.baseline == "esrgan"
                judged = discriminator_loss(
                    training.judge, outputs[-1].detach(), crops.target, relativistic=relativistic
                )
                (judged / options.accumulate).backward()
            parts = parts | {"discriminator": judged.detach()}
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + value / options.accumulate
        waiting = time.perf_counter()

    with clock("optimiser"):
        learning = [p for o in optimisers for group in o.param_groups for p in group["params"]]
        training.ranks.average([total, *totals.values(), *(p.grad for p in learning if p.grad is not None)])
        if not torch.isfinite(total):
            raise _diverged(training)
        norms = [
            nn.utils.clip_grad_norm_([p for group in o.param_groups for p in group["params"]], CLIP_NORM)
            for o in optimisers
        ]
        for optimiser in optimisers:
            optimiser.step()
        _follow(training)
    training.step += 1
    return StepRecord(
        step=training.step,
        loss_name=objective.short,
        loss=total.item(),
        parts={part: value.item() for part, value in totals.items()},
        gradient_norm=norms[0].item(),
        learning_rate=rate,
        seconds=time.perf_counter() - started,
        cost=clock.seconds,
    )


def _outputs(training: Training, crops: Sample) -> list[Tensor]:
    """What the network makes of crops, as the loss compares it: rendered sRGB, or LapSRN's luma by levels."""
    network, options = training.network, training.options
    bf16 = options.precision != "float32" and training.device.type == "cuda"
    shown = crops.input
    if training.device.type == "cuda" and training.run.channels_last:
        shown = shown.contiguous(memory_format=torch.channels_last)
    with torch.autocast(training.device.type, torch.bfloat16, enabled=bf16):
        if isinstance(network, LapSRN):
            return [luma.float() for luma in network.pyramid(rgb_to_ycbcr(shown)[:, :1])]
        output = network(shown).float()
    if options.source in ("raw", "syn-calibrated"):
        output = render_srgb(output, crops.camera_wb, crops.color_matrix, for_loss=True)
    return [output]


@torch.no_grad()
def _follow(training: Training) -> None:
    """Move the running mean of the weights; of a young run it is the mean of a few steps."""
    if training.mean is None:
        return
    decay = min(training.options.ema, (1 + training.step) / (10 + training.step))
    for mean, value in zip(training.mean.parameters(), training.network.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for mean, value in zip(training.mean.buffers(), training.network.buffers(), strict=True):
        mean.copy_(value)


def _validate(training: Training) -> float | None:
    """Write sample strips; PSNR of the validation crops, where there are any."""
    used = training.used
    if training.ranks.first:
        picture = training.out / SAMPLES_FOLDER / f"{training.step:06d}.png"
        write_sample(picture, used, training.data.path, training.options.zoom, training.device)
    found = None
    if training.validation is not None:
        count = training.run.validation_crops
        found = validation_psnr(used, training.validation, count, training.ranks, training.device)
    training.network.train()
    return found


def _optimiser(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )


def _is_logged(step: int, options: TrainingOptions) -> bool:
    return step % LOG_EVERY == 0 or step == options.steps


def _check_run(run: RunOptions) -> None:
    if run.save_every < 1 or not 0 <= run.workers <= MAX_WORKERS or run.validation_crops < 0:
        raise UserError(
            f"--save-every is at least 1, --workers 0 to {MAX_WORKERS}, --validation-crops at least 0.",
            wrong_use=True,
        )
    if run.download_vgg and run.vgg_weights:
        raise UserError("--vgg-weights and --download-vgg exclude each other.", wrong_use=True)
    if run.tensorboard:
        summary_writer()


def _options_of(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """The options that a checkpoint's run began with."""
    try:
        options = TrainingOptions(**checkpoint.options)
        check_options(options)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{path} does not say how its run began, and cannot be gone on from.",
            "Give a model.pt that srraw-train wrote.",
        ) from error
    return asdict(options)


def _resumed_options(before: Checkpoint, asked: dict[str, Any], out: Path) -> TrainingOptions:
    """The options that a run began with, but for its number of steps; what is asked for must agree."""
    options = TrainingOptions(**_options_of(before, out / CHECKPOINT_FILE))
    if options.vgg_sha256 and "vgg_sha256" not in asked:
        raise UserError(
            f"The run in {out} began with VGG-19 weights.",
            "Give the same --vgg-weights, or --download-vgg if it began with that.",
            wrong_use=True,
        )
    differing = [name for name, value in asked.items() if name != "steps" and value != getattr(options, name)]
    if differing:
        told = ", ".join(f"{name} was {getattr(options, name)} and is {asked[name]}" for name in differing)
        raise UserError(
            f"The run in {out} began with other options: {told}.",
            "Leave them out to go on with it, or give another --out.",
            wrong_use=True,
        )
    if "steps" in asked:
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


def _take_weights(network: nn.Module, begun: Checkpoint, options: TrainingOptions, path: Path) -> None:
    """Begin with the weights of another run; UserError where they are of another network."""
    if options.sizes != begun.network:
        differing = ", ".join(
            f"{name} is {begun.network.get(name)} there and {options.sizes.get(name)} here"
            for name in dict.fromkeys([*begun.network, *options.sizes])
            if begun.network.get(name) != options.sizes.get(name)
        )
        raise UserError(
            f"{path} holds another network than is to be trained: {differing}.",
            "Leave these options out: a fine-tuned network is the one that it begins with.",
            wrong_use=True,
        )
    network.load_state_dict(begun.weights)


def _notes(options: TrainingOptions, objective: Objective, validation: Crops | None) -> tuple[str, ...]:
    notes = [] if validation else ["The split val holds no pair for validation: only the loss is logged."]
    loss = objective.loss
    if not isinstance(loss, CoBiLoss):
        return tuple(notes)
    if loss.features is not None:
        compared = [name for name in loss.features.taps.values() if name not in loss.leave_out]
        notes.append(f"{objective.short}_VGG compares {', '.join(compared)}.")
        if not loss.both_ways:
            # Trained so from a start by L1, a network ended in one grey: 12.9 dB.
            notes.append("CoBi of Eq. 2 alone may end in a flat picture; the preset small asks both ways.")
        return tuple(notes)
    notes.append(
        "No VGG-19 weights were given (--vgg-weights, --download-vgg): the loss is "
        f"{objective.short}_RGB alone."
    )
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
    state = before.state
    try:
        training.optimiser.load_state_dict(state["optimiser"])
        training.network.load_state_dict(state.get("weights", before.weights))
        if training.mean is not None:
            training.mean.load_state_dict(before.weights)
        if training.judge is not None:
            training.judge.load_state_dict(state["judge"])
            training.judge_optimiser.load_state_dict(state["judge_optimiser"])
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
    if not training.ranks.first:
        return
    state: dict[str, Any] = {"optimiser": training.optimiser.state_dict()}
    weights = training.network.state_dict()
    if training.mean is not None:
        state["weights"], weights = weights, training.mean.state_dict()
    if training.judge is not None:
        state["judge"] = training.judge.state_dict()
        state["judge_optimiser"] = training.judge_optimiser.state_dict()
    checkpoint = Checkpoint(
        label=training.label,
        network=training.options.sizes,
        weights=weights,
        step=training.step,
        options=asdict(training.options),
        trained_on=_identity(training.data),
        state=state,
    )
    save_checkpoint(training.out / CHECKPOINT_FILE, checkpoint)


def _begin_folder(training: Training) -> None:
    """Make the run's folder; what an older run, or the lost end of this one, left there goes.

    A new run is saved before its first step: killed at any moment, there is something to go on from.
    """
    out = training.out
    training.ranks.wait()  # all have looked at what was there
    if not training.ranks.first:
        return
    try:
        (out / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
        if not training.step:
            _save(training)
        begin_log(out, training.step)
        for picture in (out / SAMPLES_FOLDER).glob("[0-9]*.png"):
            if int(picture.stem) > training.step:
                picture.unlink()
    except OSError as error:
        raise UserError(f"Cannot write into {out}: {error.strerror}.", "Give another --out.") from error


def _diverged(training: Training) -> UserError:
    return UserError(
        f"The loss is not finite any more at step {training.step + 1}; the last checkpoint is kept.",
        "Start again with a lower --learning-rate.",
    )


if __name__ == "__main__":
    from srraw_model.cli import train as command

    command()
