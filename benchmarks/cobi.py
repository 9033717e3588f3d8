"""How fast the contextual bilateral loss is, beside the bare matrix product that any dense search needs.

    python benchmarks/cobi.py
    python benchmarks/cobi.py --vgg-weights vgg_normalised.pth --photo DIR/photo.png

The product: P^T Q of the same size in tiles of 512 x 4,096 into one reused buffer, nothing else done. Times
are medians of repeated runs, forward and backward together, the first run (which compiles) left out; a ratio
is that of medians of alternating runs. Memory: what the process's peak grows by, inputs and gradients not
counted, in a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch as replaced

import torch
from torch import Tensor

from srraw_model import search
from srraw_model.cobi import contextual_bilateral_loss, contextual_bilateral_rgb_loss

CHANNELS = 64
SIDES = (64, 128, 256)
WARM_SIDE = 72  # large enough to load and compile everything


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vgg-weights", type=Path, help="VGG-19, for the search on real features")
    parser.add_argument("--photo", type=Path, help="a photograph of at least 1056 x 1056 pixels, likewise")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.memory_of:
        print(json.dumps(_memory_mb(arguments.memory_of)))
        return
    _loss_of(WARM_SIDE)()
    print(f"{arguments.threads} threads, {CHANNELS} channels, cosine, weight_spatial 0.1, float32")
    print("positions      product s   forward + backward s   times   MB")
    for side in SIDES:
        product, loss = _alternating([_product(side * side), _loss_of(side)], arguments.repeats)
        print(
            f"{side * side:9,d}{product:15.3f}{loss:23.3f}{loss / product:8.2f}{_memory_of(side):5.0f}",
            flush=True,
        )
    print("\nweight_spatial 1, 65,536 positions, search   all tiles s   those that can win s   times faster")
    features = {"random": torch.randn(2, CHANNELS, 256, 256)}
    if arguments.vgg_weights and arguments.photo:
        features["conv1_2 of a registered pair"] = _real_features(arguments.vgg_weights, arguments.photo)
    for name, (source, target) in features.items():
        whole, bounded = _bounded(source[None], target[None], arguments.repeats)
        print(f"{name:42s}{whole:14.2f}{bounded:23.2f}{whole / bounded:15.1f}", flush=True)
    print("\nCoBi_RGB, 256 x 256, stride 1       forward s   backward s")
    for patch in (10, 15):
        forward, backward = _patches(patch, max(1, arguments.repeats // 2))
        print(f"n = {patch}{forward:37.2f}{backward:13.2f}", flush=True)


def _alternating(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each, run in turn, so that what else the machine does falls on all alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, seconds in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in times]


def _product(positions: int) -> Callable[[], None]:
    p, q = torch.randn(positions, CHANNELS), torch.randn(positions, CHANNELS)
    buffer = torch.empty(512, 4096)

    def work() -> None:
        for i in range(0, positions, 512):
            for j in range(0, positions, 4096):
                torch.mm(p[i : i + 512], q[j : j + 4096].T, out=buffer)

    return work


def _loss_of(side: int) -> Callable[[], None]:
    source = torch.randn(1, CHANNELS, side, side, requires_grad=True)
    target = torch.randn(1, CHANNELS, side, side)

    def work() -> None:
        source.grad = None
        contextual_bilateral_loss(source, target).backward()

    return work


def _memory_of(side: int) -> float:
    command = [sys.executable, __file__, "--memory-of", str(side), "--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _memory_mb(side: int) -> float:
    _loss_of(WARM_SIDE)()
    source = torch.randn(1, CHANNELS, side, side, requires_grad=True)
    target = torch.randn(1, CHANNELS, side, side)
    source.grad = torch.ones_like(source)  # touched, so that it is counted before
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is no reserve that hides what follows
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak_mb()
    contextual_bilateral_loss(source, target).backward()
    return _peak_mb() - before


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def _bounded(source: Tensor, target: Tensor, repeats: int) -> list[float]:
    def run() -> None:
        with torch.no_grad():
            contextual_bilateral_loss(source, target, weight_spatial=1)

    def run_all() -> None:
        near = search._distances_to
        with replaced.object(search, "_distances_to", lambda p, boxes: near(p, boxes) * 1e-9):
            run()

    return _alternating([run_all, run], max(1, repeats // 2))


def _real_features(weights: Path, photo: Path) -> tuple[Tensor, Tensor]:
    """conv1_2 of a soft picture and of its target, which lies up to 8 px beside it, 256 x 256 positions."""
    import cv2
    import numpy as np

    from srraw_model.features import load_vgg19

    image = cv2.imread(str(photo))[:1056, :1056, ::-1].astype(np.float32) / 255
    y, x = np.indices((256, 256), np.float32)
    rng = np.random.default_rng(0)
    field = cv2.resize(
        rng.uniform(-8, 8, (4, 4, 2)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC
    )
    field = np.clip(field, -8, 8)
    target = cv2.remap(image, x + 400, y + 400, cv2.INTER_CUBIC)
    source = cv2.remap(image, x + 400 + field[..., 0], y + 400 + field[..., 1], cv2.INTER_CUBIC)
    source = cv2.GaussianBlur(source, (0, 0), 1.0)
    with torch.no_grad():
        network = load_vgg19(weights)
        return tuple(
            network(torch.from_numpy(picture.clip(0, 1)).permute(2, 0, 1)[None].contiguous())["conv1_2"][0]
            for picture in (source, target)
        )


def _patches(patch: int, repeats: int) -> tuple[float, float]:
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    target = torch.rand(1, 3, 256, 256)
    forward, backward = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        loss = contextual_bilateral_rgb_loss(image, target, patch)
        middle = time.perf_counter()
        loss.backward()
        forward.append(middle - started)
        backward.append(time.perf_counter() - middle)
    return statistics.median(forward), statistics.median(backward)


if __name__ == "__main__":
    main()
