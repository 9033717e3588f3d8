"""What a training run begins with: everything checked and made, or a run read back, to go on with."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from srraw_model.baselines import LapSRN
from srraw_model.checkpoint import Checkpoint, load_checkpoint
from srraw_model.dataset import Crops
from srraw_model.device import chosen_device
from srraw_model.discriminator import Discriminator
from srraw_model.features import download_vgg19, load_vgg19
from srraw_model.losses import CoBiLoss
from srraw_model.noise_models import read_noise
from srraw_model.objectives import Objective, needs_deep_features, objectives_of
from srraw_model.options import (
    ADVERSARIAL,
    BASELINES,
    KEPT,
    MAX_WORKERS,
    RunOptions,
    TrainingOptions,
    check_options,
    checked_names,
    new_options,
    read_config,
)
from srraw_model.ranks import Ranks, join_ranks, local_device
from srraw_model.run_log import LOG_FILE, summary_writer
from srraw_model.validation import validation_crops
from srraw_model.variants import for_use, make_trained
from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of
from srraw_tools.terminal import counted

CHECKPOINT_FILE = "model.pt"


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
        losses = ", then ".join(self.losses(self.step)) or "before the first step"
        fine_tuned = ", fine-tuned" if self.options.fine_tuned_from else ""
        return f"{self.options.system}{fine_tuned}: {losses}"

    def losses(self, steps: int) -> dict[str, int]:
        """What the first `steps` minimise: the losses' names, in order, and the steps of each."""
        first, main = (objective.name for objective in self.objectives)
        of_first = 0 if first == main else min(steps, self.options.l1_steps)
        return {name: count for name, count in ((first, of_first), (main, steps - of_first)) if count}

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
            of steps, and how the run is done, may be another one. On the CPU this ends in the same weights as
            without the interruption.
        overwrite: replace a run that is in `out`.
        asked: options by the names of the fields of TrainingOptions and RunOptions, which say what they mean;
            they go before those in `config`, and what neither tells is the preset's.

    Raises:
        UserError: nothing to train on, a run there already or none to resume, or options that don't fit.
    """
    asked = (read_config(config) if config else {}) | checked_names(asked, "the options")
    before = _previous(Path(out), asked.get("zoom"), resume, overwrite)
    stored, kept = _options_of(before, Path(out) / CHECKPOINT_FILE) if before else (None, {})
    run = RunOptions(**kept | {f.name: asked.pop(f.name) for f in fields(RunOptions) if f.name in asked})
    _check_run(run)
    begun = load_checkpoint(run.fine_tune) if run.fine_tune and not before else None
    vgg_weights = download_vgg19() if run.download_vgg else run.vgg_weights
    hashed = {
        "vgg_sha256": sha256_of(vgg_weights) if vgg_weights and vgg_weights.is_file() else None,
        "fine_tuned_from": sha256_of(run.fine_tune) if run.fine_tune else None,
        "noise_models": read_noise(run.noise) if run.noise else None,
    }
    asked |= {name: value for name, value in hashed.items() if value is not None}
    if vgg_weights and not vgg_weights.is_file():
        load_vgg19(vgg_weights)  # says what is wrong with it
    if stored:
        options = _resumed_options(stored, asked, Path(out))
    elif begun:
        options = _fine_tuned_options(begun, asked, run.fine_tune)
    else:
        options = new_options(asked)

    on = chosen_device(local_device(run.device))
    if options.precision == "bf16" and on.type == "cpu":
        hint = "Resume it on a GPU: the run began with bf16." if stored else "Leave --precision out."
        raise UserError("bf16 is for a GPU; the CPU trains in float32.", hint, wrong_use=True)
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
    if run.channels_last:
        network = network.to(memory_format=torch.channels_last)
    mean = copy.deepcopy(network).requires_grad_(False) if options.ema else None
    if run.compile:
        _compile(network)
    validation, validation_note = None, ""
    if run.validation_crops:
        validation, validation_note = validation_crops(
            data, zoom=options.zoom, crop=options.crop, network=for_use(network, options.sizes)
        )
    notes = (crops.note, validation_note, *_notes_on_loss(options, objectives[1]), _note_on_workers(run))
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
        validation=validation,
        notes=(*crops.reader.problems, *filter(None, notes)),
    )
    if before:
        _go_on_from(training, before)
    return training


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


def _options_of(checkpoint: Checkpoint, path: Path) -> tuple[TrainingOptions, dict[str, Any]]:
    """The options that a checkpoint's run began with, and those of how it was done that are KEPT."""
    try:
        stored = dict(checkpoint.options)
        kept = checked_names({name: stored.pop(name) for name in KEPT if name in stored}, str(path))
        options = TrainingOptions(**stored)
        check_options(options)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{path} does not say how its run began, and cannot be gone on from.",
            "Give a model.pt that srraw-train wrote.",
        ) from error
    return options, kept


def _fine_tuned_options(begun: Checkpoint, asked: dict[str, Any], path: Path) -> TrainingOptions:
    """The options of a run that begins with the weights of another; what is asked for must suit these."""
    began, _ = _options_of(begun, path)
    baseline = asked.get("baseline", began.baseline)
    if baseline in BASELINES and baseline != began.baseline:
        theirs = BASELINES[began.baseline] if began.baseline else began.system
        raise UserError(
            f"{path} is of {theirs}, not of {BASELINES[baseline]}.",
            "Leave --baseline out: a fine-tuned network is the one that it begins with.",
            wrong_use=True,
        )
    return new_options(asked, fine_tuned=asdict(began))


def _resumed_options(options: TrainingOptions, asked: dict[str, Any], out: Path) -> TrainingOptions:
    """The options that a run began with, but for its number of steps; what is asked for must agree."""
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


def _optimiser(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )


def _compile(network: nn.Module) -> None:
    """Compile what a training step calls (`train._outputs`): of LapSRN that is its pyramid."""
    if isinstance(network, LapSRN):
        network.pyramid = torch.compile(network.pyramid)
    else:
        network.compile()


def _notes_on_loss(options: TrainingOptions, objective: Objective) -> tuple[str, ...]:
    """What is worth knowing of the loss after L1, if there is an after."""
    loss, notes = objective.loss, []
    if not isinstance(loss, CoBiLoss) or options.l1_steps >= options.steps:
        return ()
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


def _note_on_workers(run: RunOptions) -> str:
    """Nothing, or that there are fewer cores than processes that read."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not cores or run.workers <= cores:
        return ""
    return f"{run.workers} processes that read crops share {counted(cores, 'core')}: fewer may be faster."


def _go_on_from(training: Training, before: Checkpoint) -> None:
    """Bring a run to the state of its checkpoint, if it is of the same pairs."""
    if before.trained_on != identity_of(training.data):
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


def plan_record(training: Training) -> dict[str, Any]:
    """What will be trained, on what, how, and where it goes, as JSON keeps it."""
    run = asdict(training.run)
    return {
        "data": str(training.data.path),
        "pairs": [pair.name for pair in training.data.pairs],
        "system": training.options.system,
        "parameters": training.parameters,
        "losses": training.losses(training.options.steps),
        "step": training.step,
        "device": str(training.device),
        "processes": training.ranks.count,
        "options": asdict(training.options),
        "run": {name: str(value) if isinstance(value, Path) else value for name, value in run.items()},
        "notes": list(training.notes),
        "out": str(training.out),
    }


def identity_of(crops: Crops) -> dict[str, Any]:
    """What says, in a checkpoint, which pairs a run learns from."""
    made_of = [[pair.name, pair.input_hash] for pair in crops.pairs]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    return {"file": crops.path.name, "pairs": len(crops.pairs), "sha256": digest}
