"""How well registration finds known maps between real pictures, and whether its expected error is honest.

    python benchmarks/align_known.py --data ../shared/data --rounds 2

Three kinds of material, each warped by known random maps:

    zoom pairs     zoom_rgb/NNNL is warped and NNNH is not: two real focal lengths of one lens. These lie on
                   each other only as well as their publisher registered them. The second row is measured
                   against the known map after `their own`, which is what registering the unwarped pair
                   finds; so many pixels it moves the corners.
    photographs    photos/*: the low shot is averaged from the whole picture, the high one a part of it.
    textures       the same of noise with a spectrum of 1/f^1.2: detail everywhere, alike everywhere.

The maps are similarities (3 % of scale, 2 degrees, 15 pixels of the picture) and homographies (the corners
moved by up to 0.5 % of the width, too), and are registered as what they are. Every low pixel is the mean of
its footprint; then it gets another exposure (a quarter of a stop) and shot noise (20,000 electrons at white).

Errors are mean distances over the corners of the common field, in pixels of the high image. Columns as in
align.py; a pair that is rejected counts as not within any limit.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry, joint
from srraw_tools.geometry import Matrix
from srraw_tools.picture import luminance, read_picture

Image = npt.NDArray[np.float32]
HIGH_SIZE = (704, 1056)  # of the part of a photograph that is the high shot
ELECTRONS = 20_000
MOTIONS = ("similarity", "homography")
ZOOMS = {"zoom pairs": (1, 2, 4), "photographs": (2, 4, 8), "textures": (4,)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", action="append", choices=list(ZOOMS))
    parser.add_argument("--rounds", type=int, default=1, help="random maps for each picture")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every pair here")
    arguments = parser.parse_args()
    pictures = {
        "zoom pairs": sorted(str(path) for path in (arguments.data / "zoom_rgb").glob("*H.PNG")),
        "photographs": sorted(str(path) for path in (arguments.data / "photos").glob("*.jp*g")),
        "textures": [f"texture {number}" for number in range(6)],
    }
    if not all(pictures.values()):
        parser.error(f"{arguments.data} holds no zoom_rgb/*H.PNG or no photos/*.jpg: give --data")
    everything: list[dict] = []
    print(f"{'':30s}pairs   ok  <.25   <.5    <1  median  worst expected   <2E  >E/2    s")
    for kind in arguments.only or ZOOMS:
        tasks = [(kind, name, n) for name in pictures[kind] for n in range(arguments.rounds)]
        rows = list(_each(tasks, arguments.jobs))
        everything += rows
        for zoom in ZOOMS[kind]:
            for motion in MOTIONS:
                these = [row for row in rows if (row["zoom"], row["motion"]) == (zoom, motion)]
                print(_line(f"{kind} {zoom}X {motion}", these, "error"), flush=True)
                if kind == "zoom pairs":
                    own = statistics.median(row["own"] for row in these)
                    print(_line(f"  after their own {own:.2f} px", these, "after_own"), flush=True)
    print(_line("everything", everything, "error"))
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


def _each(tasks: list[tuple[str, str, int]], jobs: int) -> Iterator[dict]:
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, rows in enumerate(pool.map(_picture, tasks), 1):
            print(f"\r{number} of {len(tasks)}", end="\r", file=sys.stderr, flush=True)
            yield from rows


def _picture(task: tuple[str, str, int]) -> list[dict]:
    """One record for every zoom and motion."""
    cv2.setNumThreads(1)
    kind, name, number = task
    low_source, high, high_to_source, owns = _material(kind, name)
    rng = np.random.default_rng([number, *name.encode()[-12:]])
    records = []
    for zoom in ZOOMS[kind]:
        for motion in MOTIONS:
            warp = _random_map(low_source.shape, motion, rng)
            size = tuple(side // zoom for side in low_source.shape)
            low_to_source = warp @ geometry.scaling(zoom)
            low = _exposed(_averaged(low_source, low_to_source, size, max(2, zoom)), rng)
            low_to_high, own = np.linalg.inv(high_to_source) @ low_to_source, owns[motion]
            started = time.perf_counter()
            found = _register(low, high, zoom, motion)
            ok = found.reason is None
            records.append(
                {
                    "kind": kind,
                    "picture": Path(name).stem,
                    "zoom": zoom,
                    "motion": motion,
                    "ok": ok,
                    "reason": found.reason,
                    "error": _error(low, high, low_to_high, found.low_to_high) if ok else None,
                    "after_own": _error(low, high, own @ low_to_high, found.low_to_high) if ok else None,
                    "own": geometry.corner_error_px(own, np.eye(3), (0, 0, *high.shape[::-1])),
                    "expected": found.expected_error_px if ok else None,
                    "seconds": time.perf_counter() - started,
                }
            )
    return records


@lru_cache(maxsize=1)
def _material(kind: str, name: str) -> tuple[Image, Image, Matrix, dict[str, Matrix]]:
    """What the low shot is averaged from; the high shot and its place there; their own maps by motion."""
    if kind == "zoom pairs":
        high = luminance(read_picture(Path(name)))
        low = luminance(read_picture(Path(name.replace("H.PNG", "L.PNG"))))
        return low, high, np.eye(3), {m: _register(low, high, 1, m).low_to_high for m in MOTIONS}
    source = _texture(name) if kind == "textures" else luminance(read_picture(Path(name)))
    height, width = HIGH_SIZE
    x, y = ((whole - part) // 2 for whole, part in zip(source.shape[::-1], (width, height), strict=True))
    high = np.ascontiguousarray(source[y : y + height, x : x + width])
    return source, high, geometry.crop_to_frame((x, y, width, height)), dict.fromkeys(MOTIONS, np.eye(3))


def _register(low: Image, high: Image, zoom: float, motion: str) -> joint.PairRegistration:
    pair = ("low", "high")
    return joint.register_pairs({"low": low, "high": high}, {pair: float(zoom)}, {}, motion=motion)[pair]


def _texture(name: str) -> Image:
    """Gaussian noise of a spectrum 1/f^1.2, between 0.05 and 0.95 of white."""
    rng = np.random.default_rng(list(name.encode()))
    height, width = (side * 4 for side in HIGH_SIZE)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal((height, width)))
    noise = np.fft.irfft2(white / frequency**1.2, (height, width))
    return (0.5 + 0.15 * np.clip(noise / noise.std(), -3, 3)).astype(np.float32)


def _random_map(size: tuple[int, int], motion: str, rng: np.random.Generator) -> Matrix:
    """From the frame of a picture into itself."""
    height, width = size
    centre = geometry.translation((width - 1) / 2, (height - 1) / 2)
    scale, turn = rng.uniform(0.97, 1.03), math.radians(rng.uniform(-2, 2))
    similarity = centre @ geometry.similarity(scale, turn, *rng.uniform(-15, 15, 2)) @ np.linalg.inv(centre)
    if motion == "similarity":
        return similarity
    corners = geometry.frame_corners(size).astype(np.float32)
    moved = corners + rng.uniform(-0.005, 0.005, (4, 2)).astype(np.float32) * width
    return similarity @ cv2.getPerspectiveTransform(corners, moved)


def _averaged(source: Image, to_source: Matrix, size: tuple[int, int], samples: int) -> Image:
    """The mean of the source over the footprint of every pixel, of `samples` x `samples` points."""
    bands = []
    for first in range(0, size[0], 64):  # a band at a time, for memory
        rows = np.arange(first * samples, min(first + 64, size[0]) * samples)
        x, y = np.meshgrid(np.arange(size[1] * samples), rows)
        points = (np.stack([x, y], axis=-1) + 0.5) / samples - 0.5
        at = geometry.apply(to_source, points).astype(np.float32)
        seen = cv2.remap(source, at, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        bands.append(seen.reshape(-1, samples, size[1], samples).mean(axis=(1, 3)))
    return np.concatenate(bands)


def _exposed(light: Image, rng: np.random.Generator) -> Image:
    gain = 2 ** rng.uniform(-0.25, 0.25)
    electrons = rng.poisson(np.clip(light * gain, 0, 1) * ELECTRONS)
    return np.clip(electrons / ELECTRONS, 0, 1).astype(np.float32)


def _error(low: Image, high: Image, true: Matrix, found: Matrix) -> float:
    return geometry.corner_error_px(found, true, geometry.view_or_frame(true, low.shape, high.shape))


def _line(name: str, rows: list[dict], error: str) -> str:
    accepted = [row for row in rows if row["ok"]]
    if not accepted:
        return f"{name:30s}{len(rows):5d}{0:5d}"
    errors = np.array([row[error] for row in accepted])
    expected = np.array([row["expected"] for row in accepted])
    shares = "".join(f"{np.sum(errors < limit) / len(rows):6.0%}" for limit in (0.25, 0.5, 1.0))
    honest = f"{np.mean(errors < 2 * expected):6.0%}{np.mean(errors > expected / 2):6.0%}"
    seconds = statistics.median(row["seconds"] for row in rows)
    return (
        f"{name:30s}{len(rows):5d}{len(accepted):5d}{shares}{np.median(errors):8.3f}{errors.max():7.2f}"
        f"{np.median(expected):9.3f}{honest}{seconds:5.1f}"
    )


if __name__ == "__main__":
    main()
