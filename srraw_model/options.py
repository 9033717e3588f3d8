"""What a training run is made of: presets, and the options that decide its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srraw_tools.errors import UserError


@dataclass(frozen=True)
class Preset:
    """A network and how it is trained, unless options say otherwise.

    Attributes:
        network: as `make_network` takes it, without the zoom.
        crop: side in mosaic pixels.
        l1_share: share of the steps, from the first, that minimise the aligned L1 instead of CoBi.
        fall_share: share of the steps, at the end, over which the learning rate falls to zero.
        cobi: of `CoBiLoss`: the step between patches (1 in the paper), the weight of D' (0.1), layers of VGG
            that are left out (none), whether it is asked both ways (no), and the distance of RGB patches.
            That is L2, as in the paper's released code: the cosine's does not see contrast, and a network
            that learns by it alone ends in black and white.
    """

    network: dict[str, Any]
    crop: int
    batch: int
    steps: int
    learning_rate: float
    l1_share: float
    fall_share: float
    cobi: dict[str, Any]


ZOOM, PRESET, SEED = 4, "paper", 0  # of a new run that is not told otherwise
RGB_DISTANCES = ("cosine", "l2")  # of the patches in CoBi_RGB

MAX_STEPS, MAX_SEED, MAX_BATCH = 10**9, 2**32 - 1, 1024

PRESETS = {
    "paper": Preset(  # crop, batch and rate of the paper, which does not say for how long
        network={"name": "paper"},
        crop=64,
        batch=1,
        steps=200_000,
        learning_rate=1e-4,
        l1_share=0.0,
        fall_share=0.0,
        cobi={"patch_stride": 1, "weight_spatial": 0.1, "rgb_distance": "cosine"},
    ),
    "small": Preset(  # the paper's network in minutes on two cores, its loss at most half of a step
        network={"name": "paper", "on_demosaic": True},
        crop=32,
        batch=1,
        steps=2000,
        learning_rate=2e-4,
        l1_share=0.75,
        fall_share=0.5,
        cobi={
            "patch_stride": 4,
            "weight_spatial": 1.0,
            "leave_out": ("conv1_2",),
            "both_ways": True,
            "rgb_distance": "l2",
        },
    ),
    "demo": Preset(  # minutes on two cores; its pairs are aligned well, so that D' may weigh more
        network={"name": "small", "channels": 48, "blocks": 6},
        crop=32,
        batch=8,
        steps=4000,
        learning_rate=1e-3,
        l1_share=0.75,
        fall_share=0.5,
        cobi={"patch_stride": 5, "weight_spatial": 1.0, "rgb_distance": "l2"},
    ),
}


@dataclass(frozen=True)
class TrainingOptions:
    """What decides the weights that a run ends in, besides the data. Stored in the checkpoint."""

    zoom: int
    preset: str
    steps: int
    seed: int
    crop: int
    batch: int
    learning_rate: float
    l1_steps: int
    rgb_distance: str
    vgg_sha256: str | None


def check_options(options: TrainingOptions) -> None:
    """Raises UserError for a value that no run can have."""
    wrong = None
    if options.preset not in PRESETS:
        wrong = f"There is no preset '{options.preset}'; there are {', '.join(PRESETS)}."
    elif not 1 <= options.steps <= MAX_STEPS:
        wrong = f"{options.steps} steps do not lie in 1 to {MAX_STEPS}."
    elif not 0 <= options.l1_steps <= MAX_STEPS:
        wrong = f"{options.l1_steps} steps of L1 do not lie in 0 to {MAX_STEPS}."
    elif not 0 <= options.seed <= MAX_SEED:
        wrong = f"A seed of {options.seed} does not lie in 0 to {MAX_SEED}."
    elif options.crop < 16 or options.crop % 2:
        wrong = f"A crop of {options.crop} mosaic pixels is not even and at least 16."
    elif not 1 <= options.batch <= MAX_BATCH:
        wrong = f"A batch of {options.batch} crops does not lie in 1 to {MAX_BATCH}."
    elif not 0 < options.learning_rate < 1:
        wrong = f"A learning rate of {options.learning_rate} is not between 0 and 1."
    elif options.rgb_distance not in RGB_DISTANCES:
        wrong = f"There is no distance {options.rgb_distance!r} of patches; there are cosine and l2."
    if wrong:
        raise UserError(wrong, wrong_use=True)


def learning_rate_at(step: int, options: TrainingOptions) -> float:
    """Constant, then falling along a straight line to zero over the preset's last share of the steps."""
    fall_steps = PRESETS[options.preset].fall_share * options.steps
    left = options.steps - step
    return options.learning_rate * (min(1.0, left / fall_steps) if fall_steps else 1.0)
