"""What a training run is made of: every option with its meaning, presets, and the learning rate's course.

The command line and the TOML file are both made from the fields below: an option is stated once.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError

ZOOM, PRESET, SEED = 4, "paper-4x", 0  # of a new run that is not told otherwise
ZOOMS = (2, 4, 8)
VARIANTS = {
    "raw": "Ours",
    "png": "Ours-png",
    "syn-raw": "Ours-syn-raw",
    "syn-calibrated": "Ours-syn-calibrated",
}
BASELINES = {
    "srresnet": "SRResNet",
    "srgan": "SRGAN",
    "esrgan": "ESRGAN",
    "lapsrn": "LapSRN",
    "johnson": "Johnson",
}
ADVERSARIAL = ("srgan", "esrgan")
PAIRS = ("real", "bicubic")
LOSSES = ("cobi", "cx", "l1", "perceptual")
RGB_DISTANCES = ("cosine", "l2")  # of the patches in CoBi_RGB
SCHEDULES = ("constant", "linear", "cosine", "step")
STEP_SHARES = (1 / 2, 3 / 4, 7 / 8, 15 / 16)  # of the fall, after each of which the step schedule halves
FINE_TUNE_STEPS, FINE_TUNE_RATE = 5000, 0.2  # the paper's iterations; share of the preset's learning rate

MAX_STEPS, MAX_SEED, MAX_BATCH, MAX_WORKERS = 10**9, 2**32 - 1, 1024, 64


def _option(kind: type, told: str, choices: tuple[Any, ...] = ()) -> Any:
    """A field that is an option: what a value is, its help, and the values that there are."""
    return field(default=None, metadata=_about(kind, told, choices))


def _about(kind: type, told: str, choices: tuple[Any, ...] = ()) -> dict[str, Any]:
    return {"kind": kind, "told": told, "choices": choices}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What decides the weights that a run ends in, besides the data. Stored in the checkpoint.

    What each of them means is told by `srraw-train --help`. The last three are no options themselves: hashes
    of the files of --vgg-weights and --fine-tune, and the models in the file of --noise, by camera and ISO.
    """

    preset: str = _option(str, "Where all options begin that are not given.")
    zoom: int = _option(int, "Which pairs to train on.", ZOOMS)
    variant: str = _option(
        str,
        "Ours from what: the raw mosaic; the low shot's 8-bit rendering; a mosaic made of the target's 8-bit "
        "rendering; one with the sensor's own noise.",
        tuple(VARIANTS),
    )
    baseline: str | None = _option(str, "Train this network by its own loss instead.", tuple(BASELINES))
    pairs: str = _option(
        str,
        "A baseline's input: the low shot's rendering (row b), or the target made smaller (row a).",
        PAIRS,
    )
    steps: int = _option(int, "Training steps.")
    seed: int = _option(int, "Of weights, crops and synthetic noise.")
    crop: int = _option(int, "Side of a crop in mosaic pixels, even and at least 16.")
    batch: int = _option(int, "Crops a step, of all processes together.")
    accumulate: int = _option(int, "Parts in which a process works off its share of a batch.")
    learning_rate: float = _option(float, "Of AdamW.")
    weight_decay: float = _option(float, "Of AdamW; 0 makes it Adam.")
    schedule: str = _option(str, "How the learning rate falls.", SCHEDULES)
    fall_share: float = _option(float, "Share of the steps, at the end, over which it falls.")
    warmup_steps: int = _option(int, "Steps over which the learning rate rises from zero.")
    ema: float = _option(float, "Decay of the weights' running mean, which is what is used; 0 for none.")
    precision: str = _option(
        str, "Of the network: auto is bf16 on a GPU and float32 on the CPU.", ("auto", "float32", "bf16")
    )
    l1_steps: int = _option(int, "Steps of aligned L1 before the loss (srgan: of MSE).")
    loss: str | None = _option(str, "What ours minimises; a baseline has its own.", LOSSES)
    rgb_distance: str = _option(
        str, "Of the patches in CoBi_RGB; the preset's unless given (paper: cosine).", RGB_DISTANCES
    )
    weight_spatial: float = _option(float, "w_s of CoBi, Eq. 2.")
    lambda_vgg: float = _option(float, "Weight of CoBi_VGG, Eq. 3.")
    patch_stride: int = _option(int, "Step between the patches of CoBi_RGB in pixels; 1 is the paper's.")
    both_ways: bool = _option(bool, "CoBi from output to target and back, instead of Eq. 2 alone.")
    leave_out: tuple[str, ...] = _option(tuple, "Layers of VGG that are not compared, such as conv1_2.")
    network: str | None = _option(str, "Ours: the paper's, or the one for two cores.", ("paper", "small"))
    blocks: int | None = _option(int, "Residual blocks, or convolutions in a level of lapsrn.")
    channels: int | None = _option(int, "Channels of the blocks.")
    wide: int | None = _option(int, "Channels of the upsampling stages of the paper's network.")
    on_demosaic: bool = _option(
        bool, "The paper's network adds to an enlarged demosaicing: for short training."
    )
    vgg_sha256: str | None = None
    fine_tuned_from: str | None = None
    noise_models: tuple[dict[str, Any], ...] = ()

    @property
    def source(self) -> str:
        """What the network is shown in training, as in `inputs`."""
        if self.baseline:
            return "png" if self.pairs == "real" else "bicubic"
        return self.variant

    @property
    def system(self) -> str:
        """The short name in tables."""
        if self.baseline:
            return f"{BASELINES[self.baseline]} ({'a' if self.pairs == 'bicubic' else 'b'})"
        return VARIANTS[self.variant]

    @property
    def sizes(self) -> dict[str, Any]:
        """What describes the network: name, zoom, variant, and the sizes that are not its own."""
        own = {"name": self.baseline or self.network, "zoom": self.zoom, "variant": self.variant}
        given = {name: getattr(self, name) for name in ("blocks", "channels", "wide")}
        if self.network == "paper" and self.on_demosaic:
            own["on_demosaic"] = True
        return own | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is done here: one that is resumed is told them anew, or has them again if they are KEPT."""

    vgg_weights: Path | None = field(
        default=None, metadata=_about(Path, "VGG-19 weights; without them CoBi_RGB alone.")
    )
    download_vgg: bool = field(
        default=False, metadata=_about(bool, "Take torchvision's VGG-19: 548 MB, fetched once.")
    )
    noise: Path | None = field(
        default=None, metadata=_about(Path, "What 'srraw calibrate noise' wrote, for syn-calibrated.")
    )
    fine_tune: Path | None = field(
        default=None, metadata=_about(Path, "Begin with the weights of this model.pt.")
    )
    save_every: int = field(
        default=500, metadata=_about(int, "Steps between checkpoints, each with samples and validation.")
    )
    workers: int = field(default=0, metadata=_about(int, "Processes that read crops."))
    device: str | None = _option(str, "cpu, cuda or cuda:N; a GPU where there is one unless given.")
    validation_crops: int = field(
        default=16, metadata=_about(int, "Crops of the split val whose PSNR is taken.")
    )
    channels_last: bool = field(
        default=True, metadata=_about(bool, "Images channels-last in memory: faster.")
    )
    compile: bool = field(default=False, metadata=_about(bool, "Compile the network by torch.compile."))
    tensorboard: bool = field(
        default=False, metadata=_about(bool, "Write a TensorBoard log too (srraw[tensorboard]).")
    )


OPTION_FIELDS = {f.name: f for f in (*fields(TrainingOptions), *fields(RunOptions)) if f.metadata}
DECIDING = tuple(f.name for f in fields(TrainingOptions) if f.metadata)
# Of RunOptions, what the checkpoint stores too: the others belong to the computer, or to the run's beginning.
KEPT = ("save_every", "validation_crops", "tensorboard")

# What every preset begins with. l1_share stands for l1_steps: a share of the steps.
COMMON = {
    "zoom": ZOOM,
    "variant": "raw",
    "baseline": None,
    "pairs": "real",
    "seed": SEED,
    "accumulate": 1,
    "weight_decay": 0.0,
    "schedule": "constant",
    "fall_share": 0.0,
    "warmup_steps": 0,
    "ema": 0.0,
    "precision": "auto",
    "loss": "cobi",
    "weight_spatial": 0.1,
    "lambda_vgg": 1.0,
    "patch_stride": 1,
    "both_ways": False,
    "leave_out": (),
    "blocks": None,
    "channels": None,
    "wide": None,
    "on_demosaic": False,
}

# Network, loss, crop, batch and rate are the paper's, which does not say for how long. It begins by L1, as
# the reproductions did that worked, and uses the mean of its weights.
PAPER = {
    "network": "paper",
    "crop": 64,
    "batch": 1,
    "steps": 200_000,
    "learning_rate": 1e-4,
    "warmup_steps": 500,
    "schedule": "step",
    "fall_share": 0.5,
    "ema": 0.999,
    "l1_share": 0.1,
    "rgb_distance": "cosine",
}

# small and demo compare RGB patches by L2, as the paper's released code does: the cosine's distance does not
# see contrast, and a network that learns by it alone ends in black and white.
PRESETS: dict[str, dict[str, Any]] = {
    "paper-4x": COMMON | PAPER,
    "paper-8x": COMMON | PAPER | {"zoom": 8},
    "small": COMMON  # the paper's network in minutes on two cores, its loss at most half of a step
    | {
        "network": "paper",
        "on_demosaic": True,
        "crop": 32,
        "batch": 1,
        "steps": 2000,
        "learning_rate": 2e-4,
        "schedule": "linear",
        "fall_share": 0.5,
        "l1_share": 0.75,
        "rgb_distance": "l2",
        "weight_spatial": 1.0,
        "patch_stride": 4,
        "leave_out": ("conv1_2",),
        "both_ways": True,
    },
    "demo": COMMON  # minutes on two cores; its pairs are aligned well, so that D' may weigh more
    | {
        "network": "small",
        "channels": 48,
        "blocks": 6,
        "crop": 32,
        "batch": 8,
        "steps": 4000,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "fall_share": 0.5,
        "l1_share": 0.75,
        "rgb_distance": "l2",
        "weight_spatial": 1.0,
        "patch_stride": 5,
    },
}

# What a fine-tuned network takes over besides the preset: what it is, what it is shown, what it minimises.
INHERITED = ("zoom", "variant", "baseline", "pairs", "network", "blocks", "channels", "wide", "on_demosaic")
INHERITED += ("crop", "batch", "loss", "rgb_distance", "weight_spatial", "lambda_vgg", "patch_stride")
INHERITED += ("both_ways", "leave_out")

OF_OURS = {"network": None, "blocks": None, "channels": None, "wide": None, "loss": None}


def new_options(given: Mapping[str, Any], *, fine_tuned: Mapping[str, Any] | None = None) -> TrainingOptions:
    """The options of a new run: those given, and the preset's for all others.

    Args:
        given: by the names of TrainingOptions.
        fine_tuned: the options of the checkpoint whose weights are taken: its network, crops and loss are the
            default, and no steps of L1, which these weights are past.

    Raises:
        UserError: there is no such preset, or a value that no run can have.
    """
    name = given.get("preset", (fine_tuned or {}).get("preset", PRESET))
    if name not in PRESETS:
        raise UserError(f"There is no preset '{name}'; there are {', '.join(PRESETS)}.", wrong_use=True)
    values = PRESETS[name] | {"preset": name}
    share = values.pop("l1_share")
    if fine_tuned is not None:
        values |= {name: fine_tuned[name] for name in INHERITED}
        values |= {"steps": FINE_TUNE_STEPS, "learning_rate": FINE_TUNE_RATE * values["learning_rate"]}
        values["l1_steps"] = 0
    baseline = given.get("baseline", values["baseline"])
    if baseline is not None:
        if fine_tuned is None:
            values |= OF_OURS
        share = 0.5 if baseline in ADVERSARIAL else 0.0
    values |= given
    values.setdefault("l1_steps", round(share * values["steps"]) if isinstance(values["steps"], int) else 0)
    options = TrainingOptions(**values)
    check_options(options)
    return options


def check_options(options: TrainingOptions) -> None:
    """Raises UserError for a value that no run can have."""
    of_ours = [n for n in ("network", "wide", "loss") if options.baseline and getattr(options, n) is not None]
    checks = (
        (
            options.preset in PRESETS,
            f"There is no preset '{options.preset}'; there are {', '.join(PRESETS)}.",
        ),
        (1 <= options.steps <= MAX_STEPS, f"{options.steps} steps do not lie in 1 to {MAX_STEPS}."),
        (
            0 <= options.l1_steps <= MAX_STEPS,
            f"{options.l1_steps} steps of L1 do not lie in 0 to {MAX_STEPS}.",
        ),
        (0 <= options.seed <= MAX_SEED, f"A seed of {options.seed} does not lie in 0 to {MAX_SEED}."),
        (
            options.crop >= 16 and options.crop % 2 == 0,
            f"A crop of {options.crop} mosaic pixels is not even and at least 16.",
        ),
        (
            1 <= options.batch <= MAX_BATCH,
            f"A batch of {options.batch} crops does not lie in 1 to {MAX_BATCH}.",
        ),
        (
            options.accumulate >= 1 and options.batch % options.accumulate == 0,
            f"A batch of {options.batch} crops is not worked off in {options.accumulate} equal parts.",
        ),
        (
            0 < options.learning_rate < 1,
            f"A learning rate of {options.learning_rate} is not between 0 and 1.",
        ),
        (
            0 <= options.weight_decay < 1,
            f"A weight decay of {options.weight_decay} is not from 0 to below 1.",
        ),
        (0 <= options.fall_share <= 1, f"A fall share of {options.fall_share} is not from 0 to 1."),
        (
            0 <= options.warmup_steps <= MAX_STEPS,
            f"{options.warmup_steps} steps of warm-up do not lie in 0 to {MAX_STEPS}.",
        ),
        (0 <= options.ema < 1, f"A decay of {options.ema} is not from 0 to below 1."),
        (
            0 <= options.weight_spatial < math.inf and 0 <= options.lambda_vgg < math.inf,
            "weight_spatial and lambda_vgg are at least 0.",
        ),
        (options.patch_stride >= 1, "patch_stride is at least 1."),
        (
            all(
                size is None or 1 <= size <= 1024 for size in (options.blocks, options.channels, options.wide)
            ),
            "blocks, channels and wide are 1 to 1024.",
        ),
        (not of_ours, f"A baseline has its own network and loss: leave out {', '.join(of_ours)}."),
        (
            options.baseline is not None or options.pairs == "real",
            "pairs belong to a baseline; ours is chosen by its variant.",
        ),
        (
            options.baseline is None or options.variant == "raw",
            "A variant is one of ours; a baseline is chosen by its pairs.",
        ),
        (
            options.baseline != "esrgan" or options.zoom % 4 == 0,
            "ESRGAN enlarges 4X, and 8X with a bicubic step after it; there is none for 2X.",
        ),
        (
            options.wide is None or options.network == "paper",
            "wide belongs to the paper's network alone.",
        ),
    )
    for name in DECIDING:
        choices = OPTION_FIELDS[name].metadata["choices"]
        value = getattr(options, name)
        if choices and value is not None and value not in choices:
            told = ", ".join(str(choice) for choice in choices)
            raise UserError(f"There is no {name} {value!r}; there are {told}.", wrong_use=True)
    for holds, told in checks:
        if not holds:
            raise UserError(told, wrong_use=True)


def checked_names(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values by the names of options, each of its kind.

    Args:
        given: names, with dashes or underscores, and values; those that are None are left out.
        where: what gave them, for the message.

    Raises:
        UserError: a name that no option has, with the nearest that one has, or a value of another kind.
    """
    found = {}
    for written, value in given.items():
        name = written.replace("-", "_")
        if name not in OPTION_FIELDS:
            near = difflib.get_close_matches(name, OPTION_FIELDS, n=1, cutoff=0.0)[0]
            raise UserError(
                f"{where}: there is no option '{written}'; the nearest is '{near}'.", wrong_use=True
            )
        if value is None:
            continue
        kind = OPTION_FIELDS[name].metadata["kind"]
        if kind is float and type(value) is int:
            value = float(value)
        if kind is Path and isinstance(value, str):
            value = Path(value)
        if kind is tuple and isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = tuple(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            words = {
                int: "a whole number",
                float: "a number",
                bool: "true or false",
                tuple: "a list of names",
            }
            raise UserError(
                f"{where}: {written} is {words.get(kind, 'a text')}, not {value!r}.", wrong_use=True
            )
        found[name] = value
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by their names; UserError where it is none or names what there is not."""
    try:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", wrong_use=True) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}.", wrong_use=True) from error
    return checked_names(given, str(path))


def config_text(options: TrainingOptions, run: RunOptions) -> str:
    """Every option that has a value, as a TOML file that asks for the same run."""
    lines = []
    for name in OPTION_FIELDS:
        value = getattr(options if name in DECIDING else run, name)
        if value is not None:
            value = str(value) if isinstance(value, Path) else value
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def learning_rate_at(step: int, options: TrainingOptions) -> float:
    """Rising over the warm-up, constant, then falling over the last share of the steps by the schedule.

    linear and cosine end at zero; step halves after a half, three quarters, 7/8 and 15/16 of the fall.
    """
    rate = options.learning_rate * min(1.0, (step + 1) / max(1, options.warmup_steps))
    fall_steps = options.fall_share * options.steps
    if options.schedule == "constant" or not fall_steps:
        return rate
    done = max(0.0, 1 - (options.steps - step) / fall_steps)
    if options.schedule == "linear":
        return rate * (1 - done)
    if options.schedule == "cosine":
        return rate * (1 + math.cos(math.pi * done)) / 2
    return rate * 0.5 ** sum(done >= share for share in STEP_SHARES)
