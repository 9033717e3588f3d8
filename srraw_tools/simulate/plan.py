"""What decides a simulated sequence, checked before anything is drawn, and kept beside it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of
from srraw_tools.sequence import NOMINAL_MM
from srraw_tools.simulate.lens import Imaging, blur_sigma_px
from srraw_tools.simulate.objects import KINDS
from srraw_tools.simulate.physics import SIZE, Optics, Sensor


@dataclass(frozen=True)
class Plan:
    """All that decides a sequence.

    Attributes:
        name: the folder's name.
        focal_mm: nominal focal lengths; EXIF reports them, the true ones differ by the optics' tolerance.
        size: (height, width) of a shot in pixels.
        scene: a photograph, or None for a procedural scene.
        objects: what kinds of objects a procedural scene holds.
    """

    name: str
    seed: int = 0
    index: int = 0
    focal_mm: tuple[float, ...] = NOMINAL_MM
    size: tuple[int, int] = SIZE
    scene: Path | None = None
    optics: Optics = field(default_factory=Optics)
    sensor: Sensor = field(default_factory=Sensor)
    objects: tuple[str, ...] = tuple(KINDS)


# What an option may be, from and to, and what is usual; a value that is no number lies nowhere.
OPTICS_RANGES = {
    "focal_error": (0, 0.1, 0.015),
    "shift_px": (0, 200, 12),
    "rotation_deg": (0, 10, 0.4),
    "blur_px": (0, 20, 0.25),
    "distortion": (-0.1, 0.1, -0.03),
    "vignetting_ev": (0, 6, 1),
    "drift_ev": (0, 2, 0.1),
    "f_number": (0.5, 128, 20),
    "exposure_s": (1e-5, 3600, 0.02),
}
SENSOR_RANGES = {
    "iso": (25, 65535, 100),
    "read_noise_e": (0, 1000, 3),
    "fill_factor": (0.1, 1, 1),
    "aa_filter_px": (0, 2, 0.4),
    "crosstalk": (0, 0.4, 0.1),
    "black_level": (0, 15000, 512),
}
NEAR_M = (1, 1e5)
MAX_PLANES = 16
MAX_BLUR_PX = 40.0  # all causes together; the time that a shot takes grows with it
MAX_SEED = 2**32 - 1


def check_plan(plan: Plan) -> None:
    """Refuse what cannot be simulated.

    Raises:
        UserError: with the option that is wrong.
    """

    def refuse(problem: str, hint: str) -> None:
        raise UserError(problem, hint, wrong_use=True)

    height, width = plan.size
    if height % 2 or width % 2 or not (32 <= height <= 20000 and 32 <= width <= 20000):
        refuse(f"A shot cannot be {width}x{height} pixels.", "Give even numbers from 32 to 20000: 1056x704.")
    if not 0 <= plan.seed <= MAX_SEED:
        refuse(f"--seed {plan.seed} does not lie between 0 and {MAX_SEED}.", "Any number there will do.")
    if not plan.focal_mm or not all(5 <= focal <= 2000 for focal in plan.focal_mm):
        refuse("Focal lengths must lie between 5 and 2000 mm.", "Give some such as --focal 24,35,50.")
    if len(set(plan.focal_mm)) != len(plan.focal_mm):
        refuse("A focal length is named twice.", "Name each once.")
    if max(plan.focal_mm) / min(plan.focal_mm) > 40:
        refuse("The focal lengths span more than 40 times.", "Choose a smaller range.")
    optics, sensor = plan.optics, plan.sensor
    for options, ranges in ((optics, OPTICS_RANGES), (sensor, SENSOR_RANGES)):
        for name, (least, most, usual) in ranges.items():
            value = getattr(options, name)
            if not least <= value <= most:
                option = f"--{name.replace('_', '-')}"
                refuse(
                    f"{option} {value:g} does not lie between {least:g} and {most:g}.",
                    f"The usual is {usual:g}.",
                )
    if sensor.cfa not in ("RGGB", "GRBG", "GBRG", "BGGR"):
        refuse(f"'{sensor.cfa}' is no Bayer pattern.", "Give RGGB, GRBG, GBRG or BGGR.")
    if len(optics.near_m) > MAX_PLANES or not all(NEAR_M[0] <= m <= NEAR_M[1] for m in optics.near_m):
        refuse(
            f"--near-m takes up to {MAX_PLANES} distances from {NEAR_M[0]:g} to {NEAR_M[1]:g} m.",
            "Give some such as 40,15.",
        )
    longest = Imaging(plan.size, max(plan.focal_mm) * (1 + optics.focal_error))
    blur_px = blur_sigma_px(optics, longest, min(optics.near_m, default=math.inf), 0)
    if blur_px > MAX_BLUR_PX:
        refuse(
            f"At {max(plan.focal_mm):g} mm the lens would blur by {blur_px:.0f} pixels, more than "
            f"{MAX_BLUR_PX:g}.",
            "Give a smaller --blur-px or --size, a farther --near-m, or another --f-number.",
        )
    if not plan.objects or not set(plan.objects) <= set(KINDS):
        refuse(f"--objects takes some of {', '.join(KINDS)}.", "Give some such as --objects hill,wall.")
    if plan.scene is not None and not plan.scene.is_file():
        refuse(f"{plan.scene} does not exist.", "--scene needs a photograph.")


def provenance(plan: Plan) -> dict[str, Any]:
    """The plan as JSON keeps it, the photograph by its content."""
    record = asdict(plan)
    record["scene"] = None if plan.scene is None else sha256_of(plan.scene)
    del record["name"]
    return {k: _as_json(v) for k, v in record.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _as_json(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_as_json(v) for v in value]
    return value
