"""The time between the shutter and "next focal length", exposure and transfer not counted.

    python benchmarks/capture_time.py --rounds 5

A camera that gives its file at once shoots sequences of seven raws of 24 megapixels (6000 x 4000, DNG without
compression, 48 MB) into a folder with a backup. What is measured is from the moment that the camera has
handed over the last byte to the moment that the next focal length is asked for: flushing and verifying the
copy, decoding, all checks of the shot, its facts, sequence.json and the verified backup. The pictures are
compared with each other meanwhile, in their thread; for the last shot the wait for that is given too.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np

from srraw_tools.camera import CardFile
from srraw_tools.capture import capture_sequence
from srraw_tools.checks import Expected
from srraw_tools.dng import write_dng
from srraw_tools.rig import find_rig
from srraw_tools.scene_watch import SceneWatch
from srraw_tools.sequence import NOMINAL_MM

SIZE = (4000, 6000)


class InstantCamera:
    """A camera that shoots files which lie ready, and notes when it handed each over."""

    model, serial = "instant", None

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._shot = 0
        self.handed_over: list[float] = []

    def value(self, name: str) -> str | None:
        return None

    def choices(self, name: str) -> tuple[str, ...]:
        return ()

    def card_files(self) -> list[CardFile]:
        return []

    def new_files(self, silence_s: float) -> list[CardFile]:
        return []

    def shoot(self, settle_s: float, files: int = 0) -> list[CardFile]:
        self._shot += 1
        return [CardFile("/", self._files[self._shot - 1].name)]

    def download(self, file: CardFile, path: Path) -> str:
        data = self._files[self._shot - 1].read_bytes()
        path.write_bytes(data)
        sent = hashlib.sha256(data).hexdigest()
        self.handed_over.append(time.perf_counter())
        return sent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        files = make_files(Path(home))
        shots, waits = [], []
        for number in range(arguments.rounds):
            between, wait = shoot(files, Path(home) / f"{number}", Path(home) / "backup")
            shots += between
            waits.append(wait)
            print(f"round {number + 1}: {' '.join(f'{s:.2f}' for s in between)} s, pictures {wait:.2f} s")
            shutil.rmtree(Path(home) / f"{number}")
            shutil.rmtree(Path(home) / "backup")
    shots.sort()
    print(f"shutter to next focal length: median {statistics.median(shots):.2f} s, longest {shots[-1]:.2f} s")
    print(f"after the last shot, until the pictures are compared: median {statistics.median(waits):.2f} s")


def make_files(home: Path) -> list[Path]:
    """Seven shots of a wall of blots, each an enlargement of the middle of the one before."""
    rng = np.random.default_rng(1)
    blots = cv2.resize(rng.random((3000, 4500), np.float32), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    files = []
    for number, focal in enumerate(NOMINAL_MM):
        share = NOMINAL_MM[0] / focal
        height, width = (round(side * share) for side in blots.shape)
        top, left = (blots.shape[0] - height) // 2, (blots.shape[1] - width) // 2
        seen = blots[top : top + height, left : left + width]
        light = cv2.resize(
            seen, SIZE[::-1], interpolation=cv2.INTER_AREA if share > 0.5 else cv2.INTER_LINEAR
        )
        mosaic = 512 + 15000 * np.clip(light, 0, 1) + 20 * rng.standard_normal(SIZE, np.float32)
        path = home / f"{number}.dng"
        write_dng(
            path,
            np.clip(mosaic, 0, 16383).astype(np.uint16),
            focal_mm=focal,
            taken_at=datetime(2026, 1, 1) + timedelta(seconds=15 * number),
        )
        files.append(path)
    return files


def shoot(files: list[Path], folder: Path, backup: Path) -> tuple[list[float], float]:
    """Seconds from each hand-over to the next question, and then until the pictures are compared."""
    camera, rig = InstantCamera(files), replace(find_rig("sony-fe-24-240"), focal_tolerance=0.05)
    asked: list[float] = []
    watch = SceneWatch(rig)
    ask: Callable[[float], None] = lambda focal: asked.append(time.perf_counter())  # noqa: E731
    events = capture_sequence(
        camera,
        folder,
        rig,
        focal_mm=NOMINAL_MM,
        expected=Expected(),
        turn_ring=ask,
        shoot_again=lambda findings: False,
        watch=watch,
        backup=backup,
    )
    asked += [time.perf_counter() for event in events if event.kind == "finished"]
    finished = time.perf_counter()
    watch.result()
    watch.close()
    between = [asked[n + 1] - handed for n, handed in enumerate(camera.handed_over)]
    return between, time.perf_counter() - finished


if __name__ == "__main__":
    main()
