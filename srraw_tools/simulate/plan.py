"""What decides a simulated sequence, checked before anything is drawn, and kept beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of
from srraw_tools.sequence import NOMINAL_MM
from srraw_tools.simulate.physics import SIZE, Optics, Sensor


@dataclass(frozen=True)
class Plan:
    """All that decides a sequence.

    Attributes:
        name: the folder's name.
        focal_mm: nominal focal lengths; EXIF reports them, the true ones differ by the optics' tolerance.
        size: (height, width) of a shot in pixels.
        scene: a photograph, or None for a procedural scene.
    """

    name: str
    seed: int = 0
    index: int = 0
    focal_mm: tuple[float, ...] = NOMINAL_MM
    size: tuple[int, int] = SIZE
    scene: Path | None = None
    optics: Optics = field(default_factory=Optics)
    sensor: Sensor = field(default_factory=Sensor)


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
    if not plan.focal_mm or not all(5 <= focal <= 2000 for focal in plan.focal_mm):
        refuse("Focal lengths must lie between 5 and 2000 mm.", "Give some such as --focal 24,35,50.")
    if len(set(plan.focal_mm)) != len(plan.focal_mm):
        refuse("A focal length is named twice.", "Name each once.")
    if max(plan.focal_mm) / min(plan.focal_mm) > 40:
        refuse("The focal lengths span more than 40 times.", "Choose a smaller range.")
    optics, sensor = plan.optics, plan.sensor
    if not 0 <= optics.focal_error < 0.1:
        refuse(f"A focal error of {optics.focal_error:g} is not between 0 and 0.1.", "The usual is 0.015.")
    if not abs(optics.distortion) <= 0.1:
        refuse(f"A distortion of {optics.distortion:g} is beyond 0.1.", "A strong barrel is 0.05.")
    if sensor.cfa not in ("RGGB", "GRBG", "GBRG", "BGGR"):
        refuse(f"'{sensor.cfa}' is no Bayer pattern.", "Give RGGB, GRBG, GBRG or BGGR.")
    if not (
        0.1 <= sensor.fill_factor <= 1 and 0 <= sensor.crosstalk <= 0.4 and 0 <= sensor.aa_filter_px <= 2
    ):
        refuse(
            "Fill factor, crosstalk or anti-aliasing filter is out of range.", "See srraw simulate --help."
        )
    if not (0 <= sensor.black_level < 16000 and 25 <= sensor.iso <= 65535):
        refuse("Black level or ISO is out of range.", "Usual are 512 and 100.")
    positive = (optics.f_number, optics.exposure_s, *optics.near_m)
    not_negative = (
        optics.shift_px,
        optics.rotation_deg,
        optics.blur_px,
        optics.vignetting_ev,
        optics.drift_ev,
        sensor.read_noise_e,
    )
    if not (all(v > 0 for v in positive) and all(0 <= v < 1000 for v in not_negative)):
        refuse("A physical option is negative or zero.", "See srraw simulate --help.")
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
