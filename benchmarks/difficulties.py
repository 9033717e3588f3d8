"""Simulated sequences of rising difficulty, and sequences with faults that alignment has to reject.

What the simulator's lens does not do - something that moves, EXIF that lies, a shot of another scene - is
done here to its finished files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from srraw_tools.files import read_json, sha256_of, write_json
from srraw_tools.simulate.physics import Optics, Sensor
from srraw_tools.simulate.shoot import simulate_sequence

Mosaic = npt.NDArray[np.uint16]
BLACK, WHITE = 512, 16383


@dataclass(frozen=True)
class Difficulty:
    """What `simulate_sequence` is told, and what is done to its folder after.

    Attributes:
        optics, sensor: of the simulated camera.
        change: called with the folder and a second sequence's folder, of another scene.
        wrong: every pair is to be rejected; else every pair can be registered.
    """

    optics: Optics = field(default_factory=Optics)
    sensor: Sensor = field(default_factory=Sensor)
    change: Callable[[Path, Path], None] | None = None
    wrong: bool = False


def _rewrite(folder: Path, change: Callable[[str, Mosaic], Mosaic]) -> None:
    """Put other sensor values into the shots, as if they had been shot so."""
    record = read_json(folder / "sequence.json")
    for shot in record["shots"]:
        path = folder / shot["file"]
        values = tifffile.memmap(path)
        values[...] = change(shot["file"], np.array(values))
        values.flush()
        shot["sha256"] = sha256_of(path)
    write_json(folder / "sequence.json", record)


def _moving(folder: Path, other: Path) -> None:
    """A fifth of every shot shows something else, in spots that lie elsewhere in each: leaves, people."""

    def change(name: str, mosaic: Mosaic) -> Mosaic:
        rng = np.random.default_rng(int(Path(name).stem))
        foreign = tifffile.imread(other / name)
        side = mosaic.shape[0] // 16 // 2 * 2
        changed = np.zeros(mosaic.shape, bool)
        while changed.mean() < 0.2:
            y, x = (int(rng.integers(0, extent - side)) // 2 * 2 for extent in mosaic.shape)
            changed[y : y + side, x : x + side] = True
        return np.where(changed, foreign, mosaic)

    _rewrite(folder, change)


def _wrong_exif(folder: Path, other: Path) -> None:
    """35 mm shown as 40, 70 mm not at all, nothing planned: as a published folder with a faulty lens."""
    record = read_json(folder / "sequence.json")
    for shot in record["shots"]:
        shot["focal_mm"] = {"00006.dng": 40.0, "00004.dng": None}.get(shot["file"], shot["focal_mm"])
        shot["focal_planned"] = None
    write_json(folder / "sequence.json", record)


def _long_shots(change: Callable[[Mosaic, np.random.Generator], Mosaic]) -> Callable[[Path, Path], None]:
    """Change the shots that are the long one of a pair: 100, 150 and 240 mm."""

    def of(folder: Path, other: Path) -> None:
        def one(name: str, mosaic: Mosaic) -> Mosaic:
            number = int(Path(name).stem)
            return change(mosaic, np.random.default_rng(number)) if number <= 3 else mosaic

        _rewrite(folder, one)

    return of


def _light(values: npt.NDArray[np.float64], rng: np.random.Generator) -> Mosaic:
    """Sensor values of light between 0 and 1, with shot noise of 60,000 electrons at white."""
    electrons = rng.poisson(np.clip(values, 0, None) * 60_000)
    return np.clip(BLACK + electrons / 60_000 * (WHITE - BLACK), 0, WHITE).astype(np.uint16)


def _blurred(mosaic: Mosaic, rng: np.random.Generator) -> Mosaic:
    out = mosaic.copy()
    for y in (0, 1):
        for x in (0, 1):
            out[y::2, x::2] = cv2.GaussianBlur(mosaic[y::2, x::2], (0, 0), 6.0)
    return out


def _other_scene(folder: Path, other: Path) -> None:
    _rewrite(
        folder, lambda name, mosaic: tifffile.imread(other / name) if int(Path(name).stem) <= 3 else mosaic
    )


def _gradient(shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    return np.linspace(0.5, 0.3, shape[0])[:, None] * np.ones(shape)


DIFFICULTIES = {
    "default": Difficulty(),
    "focal error 5 %": Difficulty(Optics(focal_error=0.05)),
    "shift 10 %": Difficulty(Optics(shift_px=100.0)),
    "rotation 3 deg": Difficulty(Optics(rotation_deg=3.0)),
    "exposure 0.5 EV": Difficulty(Optics(drift_ev=0.5, vignetting_ev=1.0)),
    "ISO 6400": Difficulty(sensor=Sensor(iso=6400)),
    "blur 1 px": Difficulty(Optics(blur_px=1.0)),
    "20 % moving": Difficulty(change=_moving),
    "wrong EXIF": Difficulty(change=_wrong_exif),
    "parallax": Difficulty(Optics(near_m=(40.0, 15.0))),
    "distortion 1 %": Difficulty(Optics(distortion=-0.01)),
    "distortion 3 %": Difficulty(Optics(distortion=-0.03)),
    "fault: other scene": Difficulty(change=_other_scene, wrong=True),
    "fault: black": Difficulty(change=_long_shots(lambda m, r: _light(np.zeros(m.shape), r)), wrong=True),
    "fault: noise": Difficulty(change=_long_shots(lambda m, r: _light(r.random(m.shape), r)), wrong=True),
    "fault: wall": Difficulty(change=_long_shots(lambda m, r: _light(np.full(m.shape, 0.4), r)), wrong=True),
    "fault: sky": Difficulty(change=_long_shots(lambda m, r: _light(_gradient(m.shape), r)), wrong=True),
    "fault: defocus": Difficulty(change=_long_shots(_blurred), wrong=True),
    "fault: clipped": Difficulty(
        change=_long_shots(lambda m, r: np.minimum((m - BLACK) * 30.0 + BLACK, WHITE).astype(np.uint16)),
        wrong=True,
    ),
}


def make(name: str, number: int, seed: int, cache: Path) -> Path:
    """The folder of a sequence of a difficulty, made once."""
    difficulty = DIFFICULTIES[name]
    out = cache / "".join(c if c.isalnum() else "-" for c in name)
    folder = out / f"{number:05d}"
    if folder.exists():
        return folder
    raw = out / "unfinished"
    shutil.rmtree(raw / folder.name, ignore_errors=True)
    made = simulate_sequence(
        raw, name=folder.name, seed=seed + number, optics=difficulty.optics, sensor=difficulty.sensor
    ).folder
    if difficulty.change:
        difficulty.change(made, make("default", number + 1, seed + 500, cache / "others"))
    made.rename(folder)
    return folder
