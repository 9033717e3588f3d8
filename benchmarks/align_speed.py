"""Time and memory of registering photographs of 12 megapixels, beside plain ECC of OpenCV.

    python benchmarks/align_speed.py --cache DIR

One simulated sequence of 4000 x 3000 pixels. Decoding and demosaicing come first and do not count. For each
pair wanted at 4X and 8X:

    ecc     findTransformECC at full size: Euclidean, 50 iterations, 1e-6, filter 5. It cannot change the
            scale, so it gets the low image enlarged to the high one's frame by EXIF, which does not count.
    srraw   the same two images registered by themselves
    shared  all shots registered together as `srraw align` does, neighbours too, over the number of pairs

Errors are mean distances over the corners of the common field, in pixels of the long shot. Times are those of
the processor, which other work on the machine hardly changes; with one thread they are what the clock shows.
The last line is what a whole `srraw align` takes, decoding included: its worker and the process that decodes
for it, at the moment when both together hold most (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry, joint, starts
from srraw_tools.align import align_sequence
from srraw_tools.geometry import Matrix
from srraw_tools.raw import luminance, read_raw
from srraw_tools.sequence import choose_pairs, read_sequence
from srraw_tools.simulate.shoot import read_truth, simulate_sequence

Image = npt.NDArray[np.float32]
SIZE = (3000, 4000)
CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-6)
FILTER = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1, help="of OpenCV, for all methods")
    parser.add_argument("--cache", type=Path, help="keep the simulated sequence here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        sequence = cache / f"12mp-{arguments.seed}"
        if not sequence.exists():
            simulate_sequence(cache, name=sequence.name, seed=arguments.seed, size=SIZE)
        _compare(sequence, arguments.threads)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            seconds, megabytes = pool.submit(_whole, sequence, arguments.threads).result()
    print(f"srraw align: {seconds:.0f} s by the clock, at most {megabytes:.0f} MB")


def _compare(folder: Path, threads: int) -> None:
    cv2.setNumThreads(threads)
    sequence, truth = read_sequence(folder), read_truth(folder)
    images = {shot.file: luminance(read_raw(folder / shot.file)) for shot in sequence.shots}
    roots = {name: np.sqrt(np.clip(image, 0, 1)) for name, image in images.items()}
    focals = {shot.file: shot.focal_mm for shot in sequence.shots}
    true = {(pair["low"], pair["high"]): np.array(pair["low_to_high"]) for pair in truth["pairs"]}
    ratios = {
        (low.file, high.file): focals[high.file] / focals[low.file]
        for zoom in (4, 8)
        for low, high in choose_pairs(sequence, zoom)
    }
    print("pair           ecc s  error px     srraw s  error px  times as fast")
    plain_times, shares = [], []
    for (low, high), ratio in ratios.items():
        plain, plain_s = _plain(roots[low], roots[high], ratio)
        started = time.process_time()
        pair = {low: images[low], high: images[high]}
        found = joint.register_pairs(pair, {(low, high): ratio}, {}, motion="similarity")[low, high]
        seconds = time.process_time() - started
        plain_times.append(plain_s)
        shares.append(seconds / plain_s)
        crop = geometry.even_crop_of_view(true[low, high], SIZE, SIZE)
        errors = [
            "failed" if matrix is None else f"{geometry.corner_error_px(matrix, true[low, high], crop):.2f}"
            for matrix in (plain, found.low_to_high)
        ]
        name = f"{focals[low]:.0f}-{focals[high]:.0f} mm"
        print(
            f"{name:13s}{plain_s:7.1f}{errors[0]:>10s}{seconds:12.1f}{errors[1]:>10s}{1 / shares[-1]:15.1f}",
            flush=True,
        )
    started = time.process_time()
    neighbours = joint.link_neighbours(images, focals, motion="similarity")
    joint.register_pairs(images, ratios, neighbours, motion="similarity")
    shared_s = (time.process_time() - started) / len(ratios)
    print(f"A pair by itself takes {statistics.mean(shares):.0%} of the time of plain ECC.")
    print(f"Shared: {shared_s:.1f} s a pair, {shared_s / statistics.mean(plain_times):.0%}.")


def _plain(low: Image, high: Image, ratio: float) -> tuple[Matrix | None, float]:
    """The map that plain ECC finds, None where it fails, and the seconds that it takes."""
    start = starts.centred_start(low.shape, high.shape, ratio)
    enlarged = cv2.warpPerspective(low, start, high.shape[::-1], flags=cv2.INTER_CUBIC)
    begin, warp = time.process_time(), None
    try:
        identity = np.eye(2, 3, dtype=np.float32)
        _, warp = cv2.findTransformECC(high, enlarged, identity, cv2.MOTION_EUCLIDEAN, CRITERIA, None, FILTER)
    except cv2.error:  # it did not converge
        pass
    seconds = time.process_time() - begin
    return None if warp is None else np.linalg.inv(np.vstack([warp, [0, 0, 1]])) @ start, seconds


def _whole(folder: Path, threads: int) -> tuple[float, float]:
    """Seconds of aligning the sequence; the most megabytes that this process and its children hold."""
    cv2.setNumThreads(threads)
    held, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            held.append(_resident_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        align_sequence(folder, out=Path(out))
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return seconds, max(held)


def _resident_megabytes() -> float:
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (own, *children))
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
