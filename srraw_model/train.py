"""Training: crops in, checkpoints, a log and sample pictures out. One loop; its whole state is in `Training`.

run/model.pt         the checkpoint: for use, and to go on from
run/log.jsonl        a line every few steps, and at every checkpoint
run/samples/         input | bicubic | output | target, at every checkpoint
run/tensorboard/     the log once more, where --tensorboard asks for it

`torchrun --nproc-per-node N -m srraw_model.train ...` is srraw-train in N processes that share each batch.
"""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from srraw_model.baselines import LapSRN, rgb_to_ycbcr
from srraw_model.checkpoint import Checkpoint, save_checkpoint
from srraw_model.clock import Clock
from srraw_model.dataset import Sample, crop_numbers
from srraw_model.discriminator import discriminator_loss
from srraw_model.losses import render_srgb
from srraw_model.options import KEPT, TrainingOptions, learning_rate_at
from srraw_model.preparing import CHECKPOINT_FILE, Training, identity_of, prepare_training
from srraw_model.run_log import StepRecord, begin_log, writing_log
from srraw_model.validation import validation_psnr, write_sample
from srraw_tools.errors import UserError

__all__ = ["CHECKPOINT_FILE", "Training", "prepare_training", "train"]

SAMPLES_FOLDER = "samples"
LOG_EVERY = 10  # steps
CLIP_NORM = 1.0  # of the gradient


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
    started = time.perf_counter()
    logging = nullcontext(lambda _record: None)
    if ranks.first:
        logging = writing_log(training.out, begun_at=training.step, tensorboard=run.tensorboard)
    with logging as log:
        try:
            parts = _parts_of_batches(training)
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


def _parts_of_batches(training: Training) -> Iterator[Sample]:
    """The crops of this process from the run's step on, as many at a time as it works on together."""
    options, ranks = training.options, training.ranks
    first, last = training.step * options.batch, options.steps * options.batch
    with warnings.catch_warnings():
        # Of more workers than cores, twice in raw Python; the run's notes have said it.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        return iter(
            DataLoader(
                training.data,
                batch_size=options.batch // (ranks.count * options.accumulate),
                sampler=crop_numbers(first, last, rank=ranks.rank, ranks=ranks.count),
                num_workers=training.run.workers,
                worker_init_fn=_leave_signals_to_the_run,
                pin_memory=training.device.type == "cuda",
                generator=torch.Generator(),  # so that torch's own random state stays as it was
            )
        )


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
    if training.run.channels_last:
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


def _is_logged(step: int, options: TrainingOptions) -> bool:
    return step % LOG_EVERY == 0 or step == options.steps


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
            if picture.stem.isdecimal() and int(picture.stem) > training.step:
                picture.unlink()
    except OSError as error:
        raise UserError(f"Cannot write into {out}: {error.strerror}.", "Give another --out.") from error


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
        options=asdict(training.options) | {name: getattr(training.run, name) for name in KEPT},
        trained_on=identity_of(training.data),
        state=state,
    )
    save_checkpoint(training.out / CHECKPOINT_FILE, checkpoint)


def _diverged(training: Training) -> UserError:
    return UserError(
        f"The loss is not finite any more at step {training.step + 1}; the last checkpoint is kept.",
        "Start again with a lower --learning-rate.",
    )


if __name__ == "__main__":
    from srraw_model.cli import train as command

    command()
