"""How well `srraw align` registers simulated sequences, whose true maps are known, and what it rejects.

    python benchmarks/align.py --sequences 12 --cache DIR
    python benchmarks/align.py --only default --only "ISO 6400" --sequences 4 --methods srraw,ecc,recipe
    python benchmarks/align.py --only "distortion 3 %" --rig FILE (from srraw calibrate lens)

One row for a difficulty and a method. Errors are mean distances over the corners of the crop from the exact
point map of the farthest layer, in pixels of the long shot. Columns:

    pairs     wanted of the sequences
    <.25 <.5 <1   share of all pairs that are accepted and right to so many pixels
    median    error of the accepted pairs
    wrong     accepted, and off by more than 1 px (of faults: accepted)
    lost      rejected, though the best map of the motion lies within 0.5 px of the truth
    <2E >E/2  share of the accepted pairs whose error is below twice, above half of the expected one
    s, MB     seconds a sequence (median, decoding included), most memory of the process

Methods: srraw; plain Euclidean ECC of OpenCV at full size, started from EXIF (50 iterations, 1e-6, filter 5);
and the recipe published with SR-RAW (affine ECC at 1/8 scale from one focal length to the next, all cropped
to the longest one's field by EXIF, each begun with the result before; a failure loses the sequence).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from difficulties import DIFFICULTIES, make

from srraw_tools import distortion, geometry
from srraw_tools.align import align_sequence
from srraw_tools.distortion import STRAIGHT, Lenses, LensTable
from srraw_tools.geometry import Matrix
from srraw_tools.raw import luminance, read_raw
from srraw_tools.rig import find_rig
from srraw_tools.sequence import choose_pairs, read_sequence
from srraw_tools.simulate.shoot import point_map, read_truth
from srraw_tools.starts import centred_start

Image = npt.NDArray[np.float32]
CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-6)
FILTER = 5
ALIGNABLE_PX = 0.5
METHODS = ("srraw", "ecc", "recipe")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=12, help="of each difficulty")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--only", action="append", choices=list(DIFFICULTIES), metavar="DIFFICULTY")
    parser.add_argument("--methods", default="srraw", help=f"of {','.join(METHODS)}")
    parser.add_argument("--rig", help="whose lens distortion srraw undoes, a TOML file")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="keep the simulated sequences here")
    parser.add_argument("--json", type=Path, help="write every pair here")
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if not set(methods) <= set(METHODS):
        parser.error(f"--methods takes some of {','.join(METHODS)}")
    lens = find_rig(arguments.rig).distortion if arguments.rig else ()
    everything: list[dict] = []
    print(f"{'':19s}{'':7s}pairs  <.25   <.5    <1  median wrong lost   <2E  >E/2     s   MB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        for name in arguments.only or DIFFICULTIES:
            wanted = [(name, n, arguments.seed, cache) for n in range(arguments.sequences)]
            list(_each(_made, wanted, arguments.jobs))  # by other processes than those that are measured
            for method in methods:
                rows = [
                    record
                    for records in _each(
                        _sequence, [(*task, method, lens) for task in wanted], arguments.jobs
                    )
                    for record in records
                ]
                everything += rows
                print(_line(name, method, rows), flush=True)
                if name == "default":
                    for zoom in (4, 8):
                        print(_line(f"  {zoom}X", method, [row for row in rows if row["zoom"] == zoom]))
    for method in methods:
        print(_judgement(method, [row for row in everything if row["method"] == method]))
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


def _each(work: Callable[[tuple], Any], tasks: list[tuple], jobs: int) -> Iterator[Any]:
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, result in enumerate(pool.map(work, tasks), 1):
            print(f"\r{number} of {len(tasks)}", end="\r", file=sys.stderr, flush=True)
            yield result


def _made(task: tuple[str, int, int, Path]) -> Path:
    cv2.setNumThreads(1)
    return make(*task)


def _sequence(task: tuple[str, int, int, Path, str, LensTable]) -> list[dict]:
    """One record for every pair of a sequence."""
    cv2.setNumThreads(1)
    name, number, seed, cache, method, lens = task
    folder = make(name, number, seed, cache)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        found = _by_srraw(folder, Path(out), lens) if method == "srraw" else _by_ecc(folder, method)
    seconds = time.perf_counter() - started
    truth = read_truth(folder)
    zooms = {(pair["low"], pair["high"]): pair["zoom"] for pair in truth["pairs"]}
    records = []
    for (low, high), (matrix, expected, reason, *lenses) in found.items():
        best = _best_error(truth, low, high)
        records.append(
            {
                "difficulty": name,
                "method": method,
                "sequence": number,
                "low": low,
                "high": high,
                "zoom": zooms.get((low, high)),
                "error": None if matrix is None else _error(truth, low, high, matrix, *lenses),
                "expected": expected,
                "reason": reason,
                "best": best,
                "alignable": not DIFFICULTIES[name].wrong and best is not None and best < ALIGNABLE_PX,
                "seconds": seconds,
                "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    return records


# By low and high shot: the map, None where it is rejected; the error that is expected; why it is rejected;
# and the lenses, where they are known.
Found = dict[tuple[str, str], tuple]


def _by_srraw(folder: Path, out: Path, lens: LensTable) -> Found:
    return {
        (p.low, p.high): (
            np.array(p.low_to_high) if p.status == "ok" else None,
            p.expected_error_px,
            p.reason,
            p.lenses,
        )
        for p in align_sequence(folder, out=out, distortions=lens).pairs
    }


def _by_ecc(folder: Path, method: str) -> Found:
    sequence = read_sequence(folder)
    focals = {shot.file: shot.focal_mm or shot.focal_nominal for shot in sequence.shots}
    pairs = [(low.file, high.file) for zoom in (4, 8) for low, high in choose_pairs(sequence, zoom)]
    images = {file: np.sqrt(np.clip(luminance(read_raw(folder / file)), 0, 1)) for file in focals}
    if method == "ecc":
        return {
            (low, high): (_plain(images[low], images[high], focals[high] / focals[low]), None, None)
            for low, high in pairs
        }
    return _chained(images, focals, pairs)


def _plain(low: Image, high: Image, ratio: float) -> Matrix | None:
    """The low image enlarged to the high one's frame by EXIF, then Euclidean ECC between the two."""
    start = centred_start(low.shape, high.shape, ratio)
    enlarged = cv2.warpPerspective(low, start, high.shape[::-1], flags=cv2.INTER_CUBIC)
    identity = np.eye(2, 3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(high, enlarged, identity, cv2.MOTION_EUCLIDEAN, CRITERIA, None, FILTER)
    except cv2.error:
        return None
    return np.linalg.inv(np.vstack([warp, [0, 0, 1]])) @ start


def _chained(
    images: dict[str, Image], focals: dict[str, float | None], pairs: list[tuple[str, str]]
) -> Found:
    """Affine ECC from each focal length to the next, all cropped by EXIF to the field of the longest.

    At an eighth of the size; each begins with the warp before it, and one failure loses the sequence.
    """
    ordered = sorted((file for file in focals if focals[file]), key=lambda file: focals[file])
    longest = ordered[-1]
    height, width = images[longest].shape
    to_small, small, full_to_small = geometry.scaling(1 / 8), {}, {}
    for file in ordered:
        start = centred_start(images[file].shape, (height, width), focals[longest] / focals[file])
        cropped = cv2.warpPerspective(images[file], start, (width, height), flags=cv2.INTER_CUBIC)
        small[file] = cv2.resize(cropped, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
        full_to_small[file] = to_small @ start
    to_first, warp = {ordered[0]: np.eye(3)}, np.eye(2, 3, dtype=np.float32)
    try:
        for low, high in pairwise(ordered):
            _, warp = cv2.findTransformECC(
                small[high], small[low], warp.copy(), cv2.MOTION_AFFINE, CRITERIA, None, FILTER
            )
            to_first[high] = to_first[low] @ np.vstack([warp, [0, 0, 1]])
    except cv2.error:
        return dict.fromkeys(pairs, (None, None, "did not converge"))
    shot_to_first = {file: to_first[file] @ full_to_small[file] for file in ordered}
    return {
        (low, high): (np.linalg.inv(shot_to_first[high]) @ shot_to_first[low], None, None)
        for low, high in pairs
    }


def _error(truth: dict, low: str, high: str, matrix: Matrix, lenses: Lenses = STRAIGHT) -> float:
    size = tuple(truth["size"])
    corners = geometry.crop_corners(distortion.view_or_frame(matrix, size, size, lenses))
    apart = distortion.map_points(matrix, lenses, corners) - point_map(truth, low, high, corners)
    return float(np.linalg.norm(apart, axis=1).mean())


def _best_error(truth: dict, low: str, high: str) -> float | None:
    """Error of the similarity that fits the true point map best; None of shots that make no pair."""
    size = tuple(truth["size"])
    about = next(
        (np.array(p["low_to_high"]) for p in truth["pairs"] if (p["low"], p["high"]) == (low, high)), None
    )
    if about is None:
        return None
    x, y, width, height = geometry.even_crop_of_view(about, size, size)
    grid = np.stack(np.meshgrid(np.linspace(x, x + width, 12), np.linspace(y, y + height, 8)), -1)
    points = grid.reshape(-1, 2)
    # A similarity multiplies by a complex number and adds another: found = turn points + move.
    unknowns = np.stack([points @ (1, 1j), np.ones(len(points))], axis=1)
    found = point_map(truth, low, high, points) @ (1, 1j)
    turn, move = np.linalg.lstsq(unknowns, found, rcond=None)[0]
    best = geometry.similarity(abs(turn), float(np.angle(turn)), move.real, move.imag)
    return _error(truth, low, high, best)


def _line(name: str, method: str, rows: list[dict]) -> str:
    accepted = [row for row in rows if row["error"] is not None]
    errors = np.array([row["error"] for row in accepted])
    known = [row for row in accepted if row["expected"] is not None]
    shares = "".join(f"{np.sum(errors < limit) / len(rows):6.0%}" for limit in (0.25, 0.5, 1.0))
    faulty = DIFFICULTIES[rows[0]["difficulty"]].wrong
    wrong = len(accepted) if faulty else int(np.sum(errors > 1))
    lost = sum(row["alignable"] and row["error"] is None for row in rows)
    honest = ""
    for below in (lambda r: r["error"] < 2 * r["expected"], lambda r: r["error"] > r["expected"] / 2):
        honest += f"{np.mean([below(row) for row in known]):6.0%}" if known else f"{'-':>6s}"
    median = f"{np.median(errors):8.3f}" if len(errors) else f"{'-':>8s}"
    seconds = statistics.median({row["sequence"]: row["seconds"] for row in rows}.values())
    most = max(row["megabytes"] for row in rows)
    counts = f"{wrong:6d}{lost:5d}"
    return f"{name:19s}{method:7s}{len(rows):5d}{shares}{median}{counts}{honest}{seconds:6.1f}{most:5.0f}"


def _judgement(method: str, rows: list[dict]) -> str:
    """Over all difficulties: what was accepted wrongly, and what was rejected wrongly."""
    accepted = [row for row in rows if row["error"] is not None]
    wrong = sum(row["error"] > 1 or DIFFICULTIES[row["difficulty"]].wrong for row in accepted)
    alignable = [row for row in rows if row["alignable"]]
    lost = sum(row["error"] is None for row in alignable)
    return (
        f"{method}: {wrong} of {len(accepted)} accepted pairs are wrong, "
        f"{lost} of {len(alignable)} alignable pairs are rejected"
    )


if __name__ == "__main__":
    main()
