"""A simulated zoom sequence: plan, shots as DNG files, sequence.json and truth.json.

Random numbers come from one generator per sequence, keyed by (seed, index): the same plan gives the same
bytes, however many processes work on it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, sha256_of, sync_folder, write_json
from srraw_tools.parallel import map_items
from srraw_tools.sequence import (
    NOMINAL_MM,
    SEQUENCE_FILE,
    ZOOMS,
    Sequence,
    choose_pairs,
    read_sequence,
    shot_from_file,
    write_sequence,
)
from srraw_tools.simulate import lens
from srraw_tools.simulate.lens import Imaging
from srraw_tools.simulate.photograph import FILLS_MM, Photograph, hang_photograph
from srraw_tools.simulate.physics import SIZE, Optics, Sensor
from srraw_tools.simulate.plan import Plan, check_plan, provenance
from srraw_tools.simulate.render import render_light
from srraw_tools.simulate.scene import Scene, build_scene
from srraw_tools.simulate.sensor import colour_data, digitise

TRUTH_FILE = "truth.json"
CLIPPED = 1.0  # percent of the mosaic that may saturate
PREVIEW_PX = 132  # width of the views from which the exposure is chosen
BETWEEN_SHOTS_S = 15.0


@dataclass(frozen=True)
class _Stage:
    """A plan made concrete: what stands before the camera, and how each shot looks at it."""

    scene: Scene
    photo: Photograph | None
    shots: tuple[Imaging, ...]  # the longest focal length first, as the files are numbered
    gain: float  # from radiance to the sensor's white
    started: datetime
    serial_number: str


def simulate_sequence(
    out: Path,
    *,
    name: str,
    seed: int = 0,
    index: int = 0,
    focal_mm: tuple[float, ...] = NOMINAL_MM,
    size: tuple[int, int] = SIZE,
    scene: Path | None = None,
    optics: Optics | None = None,
    sensor: Sensor | None = None,
    on_shot: Callable[[str], None] = lambda name: None,
) -> Sequence:
    """Shoot one simulated sequence into the new folder out/name; whole or not at all.

    Args:
        seed: with `index`, decides the scene, its geometry and the noise.
        index: number of the sequence among those of one seed.
        optics: what the lens and the hand on its ring do; None for `Optics()`.
        sensor: None for `Sensor()`.
        focal_mm: nominal focal lengths; EXIF reports these, as a zoom lens reports the mark on its ring.
        size: (height, width) in pixels, both even.
        scene: a photograph to hang before the camera; None makes a scene up.
        on_shot: called with each file's name when it is written.

    Raises:
        UserError: the folder exists, an option is senseless, the photograph cannot be read, the disk is full.
    """
    plan = Plan(name, seed, index, focal_mm, size, scene, optics or Optics(), sensor or Sensor())
    check_plan(plan)
    if (out / name).exists():
        raise UserError(f"{out / name} exists, and sequences are never overwritten.", "Choose another name.")
    for number in range(len(focal_mm)):
        on_shot(_shoot((plan, out, number)))
    return _finish(plan, out)


def simulate_sequences(
    out: Path, plans: list[Plan], *, jobs: int = 1
) -> Iterator[tuple[Plan, str | UserError]]:
    """Shoot several sequences, shot by shot, into folders of `out`; yields (plan, file name or error).

    A sequence that is there already is skipped if it was made by the same plan.

    Raises:
        UserError: an option is senseless, or a folder holds another sequence.
    """
    for plan in plans:
        check_plan(plan)
    missing = [plan for plan in plans if not already_there(plan, out)]
    for plan in missing:  # what an interrupted run, perhaps of another plan, left there
        shutil.rmtree(_unfinished(out, plan.name), ignore_errors=True)
    _make_folder(out)
    work = [(plan, out, number) for plan in missing for number in range(len(plan.focal_mm))]
    left = {plan.name: len(plan.focal_mm) for plan in missing}
    failed = set()
    for (plan, _, _), result in map_items(_shoot, work, jobs):
        if isinstance(result, UserError):
            if plan.name not in failed:
                failed.add(plan.name)
                yield plan, result
            continue
        left[plan.name] -= 1
        if left[plan.name] == 0:
            try:
                _finish(plan, out)
            except UserError as error:
                failed.add(plan.name)
                result = error
        yield plan, result
    for name in failed:
        shutil.rmtree(_unfinished(out, name), ignore_errors=True)


def already_there(plan: Plan, out: Path) -> bool:
    """Whether the plan's sequence lies in `out` already.

    Raises:
        UserError: the folder holds something else.
    """
    folder = out / plan.name
    if not folder.exists():
        return False
    made_by = read_sequence(folder).notes.get("simulated") if (folder / SEQUENCE_FILE).exists() else None
    if made_by != provenance(plan):
        raise UserError(
            f"{folder} holds another sequence, and sequences are never overwritten.",
            "Choose another --out, or the same seed and options to add more.",
            wrong_use=True,
        )
    return True


def point_map(truth: dict[str, Any], low: str, high: str, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Map pixels of one shot's frame to another's exactly, distortion included, for the farthest plane.

    Args:
        truth: the contents of truth.json.
        low: file name of the shot mapped from.
        high: file name of the shot mapped to.
        points: (..., 2) pixels (x, y).

    Returns:
        (..., 2) pixels of the other shot that see the same thing.
    """
    shots = {shot["file"]: _imaging_of(truth, shot) for shot in truth["shots"]}
    return lens.scene_to_pixels(shots[high], lens.pixels_to_scene(shots[low], points))


def read_truth(folder: Path) -> dict[str, Any]:
    """Read a sequence's truth.json.

    Raises:
        UserError: it is missing or damaged.
    """
    return read_json(folder / TRUTH_FILE)


def _shoot(task: tuple[Plan, Path, int]) -> str:
    """Write one shot of a plan into its unfinished folder; the number 0 is the longest focal length."""
    plan, out, number = task
    stage = _stage_of(plan)
    folder = _unfinished(out, plan.name)
    _make_folder(folder)
    shot = stage.shots[number]
    light = render_light(stage.scene, stage.photo, plan.optics, plan.sensor, shot)
    rng = np.random.default_rng((plan.seed, plan.index, 1 + number))
    mosaic = digitise(light * np.float32(stage.gain), plan.sensor, rng)
    camera_wb, camera_to_srgb = colour_data(plan.sensor)
    nominal = sorted(plan.focal_mm, reverse=True)
    since_start = BETWEEN_SHOTS_S * (len(nominal) - 1 - number)
    name = f"{number + 1:05d}.dng"
    write_dng(
        folder / name,
        mosaic,
        cfa=plan.sensor.cfa,
        black_level=plan.sensor.black_level,
        white_level=plan.sensor.white_level,
        camera_wb=camera_wb,
        camera_to_srgb=camera_to_srgb,
        serial_number=stage.serial_number,
        lens_model=f"Simulated {nominal[-1]:g}-{nominal[0]:g} mm",
        focal_mm=nominal[number],
        f_number=plan.optics.f_number,
        exposure_s=plan.optics.exposure_s,
        iso=plan.sensor.iso,
        taken_at=stage.started + timedelta(seconds=since_start),
    )
    return name


def _finish(plan: Plan, out: Path) -> Sequence:
    """Describe the shots, and give the folder its name."""
    folder = _unfinished(out, plan.name)
    nominal = sorted(plan.focal_mm, reverse=True)
    shots = []
    for number, focal in enumerate(nominal):
        path = folder / f"{number + 1:05d}.dng"
        shots.append(shot_from_file(path, focal_planned=float(focal), sha256=sha256_of(path)))
    sequence = Sequence(
        folder,
        plan.name,
        tuple(shots),
        planned_mm=tuple(float(focal) for focal in plan.focal_mm),
        made_by="srraw simulate",
        notes={"simulated": provenance(plan)},
    )
    write_sequence(sequence)
    write_json(folder / TRUTH_FILE, _truth(sequence, _stage_of(plan), plan))
    if (out / plan.name).exists():
        raise UserError(f"{out / plan.name} appeared meanwhile, and sequences are never overwritten.")
    folder.rename(out / plan.name)
    sync_folder(out)
    return read_sequence(out / plan.name)


def _truth(sequence: Sequence, stage: _Stage, plan: Plan) -> dict[str, Any]:
    """The exact geometry; `low_to_high` maps undistorted pixels (all pixels where k1 is 0)."""
    imaging = dict(zip((shot.file for shot in sequence.shots), stage.shots, strict=True))
    pairs = []
    for zoom in ZOOMS:
        for low, high in choose_pairs(sequence, zoom):
            low_to_scene = np.linalg.inv(lens.scene_to_ideal(imaging[low.file]))
            low_to_high = lens.scene_to_ideal(imaging[high.file]) @ low_to_scene
            pairs.append(
                {"low": low.file, "high": high.file, "zoom": zoom, "low_to_high": low_to_high.tolist()}
            )
    return {
        "format": "srraw-truth",
        "version": 1,
        "size": list(plan.size),
        "sensor_width_mm": lens.SENSOR_WIDTH_MM,
        "distortion_centre": stage.shots[0].centre.tolist(),
        "distortion_normaliser_px": stage.shots[0].half_diagonal_px,
        "planes_m": [None if math.isinf(p.distance_m) else p.distance_m for p in stage.scene.planes],
        "shots": [
            {
                "file": name,
                "focal_true": shot.focal_mm,
                "rotation_deg": shot.rotation_deg,
                "shift_px": list(shot.shift_px),
                "k1": shot.k1,
                "pupil_m": shot.pupil_m,
                "vignetting_ev": shot.corner_ev,
                "drift_ev": shot.drift_ev,
            }
            for name, shot in imaging.items()
        ],
        "pairs": pairs,
    }


def _imaging_of(truth: dict[str, Any], shot: dict[str, Any]) -> Imaging:
    height, width = truth["size"]
    return Imaging(
        size=(height, width),
        focal_mm=shot["focal_true"],
        rotation_deg=shot["rotation_deg"],
        shift_px=tuple(shot["shift_px"]),
        k1=shot["k1"],
        pupil_m=shot["pupil_m"],
    )


@lru_cache(maxsize=1)  # the shots of a sequence follow each other
def _stage_of(plan: Plan) -> _Stage:
    rng = np.random.default_rng((plan.seed, plan.index))
    nominal = tuple(sorted(plan.focal_mm, reverse=True))
    shots = tuple(lens.draw_imaging(plan.optics, nominal, plan.size, rng))
    scene = build_scene(
        rng,
        shortest_mm=nominal[-1],
        longest_mm=nominal[0],
        size=plan.size,
        sensor_width_mm=lens.SENSOR_WIDTH_MM,
        near_m=plan.optics.near_m,
        kinds=plan.objects,
    )
    photo = None
    if plan.scene is not None:
        longest_focal_px = nominal[0] * (1 + plan.optics.focal_error) * plan.size[1] / lens.SENSOR_WIDTH_MM
        filled = max(1.0, nominal[0] / max(FILLS_MM, nominal[-1]))
        photo = hang_photograph(
            plan.scene,
            rng,
            longest_focal_px=longest_focal_px,
            frame_px=(round(plan.size[0] * filled), round(plan.size[1] * filled)),
        )
    started = datetime(2019, 6, 16, 10) + timedelta(seconds=float(rng.uniform(0, 8 * 3600)))
    return _Stage(scene, photo, shots, _gain(scene, photo, plan, shots), started, f"{plan.seed}")


def _gain(scene: Scene, photo: Photograph | None, plan: Plan, shots: tuple[Imaging, ...]) -> float:
    """The exposure, one for all shots: small views along the zoom range just reach white."""
    width = min(PREVIEW_PX, plan.size[1])
    size = (max(2, round(width * plan.size[0] / plan.size[1] / 2) * 2), width)
    light = [
        render_light(scene, photo, Optics(), plan.sensor, Imaging(size, shots[k].focal_mm))
        for k in sorted({0, len(shots) // 2, len(shots) - 1})
    ]
    return 1 / max(np.percentile(view, 100 - CLIPPED) for view in light)


def _unfinished(out: Path, name: str) -> Path:
    """Where a sequence lies until it is whole; a name that no stage takes for a sequence."""
    return out / f".{name}-unfinished"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {folder}: {error.strerror}.", "Choose another --out.") from error
