"""How fast CoBi's search is on a CUDA GPU, beside the matrix products that the same card does.

    python benchmarks/cobi_gpu.py

The search: all that lies between two feature maps, float32 with 64 channels, and their pairs.
Its rate counts 2 N M C operations, what the bare product takes. The card's rate is that of torch's product of
two square float16 matrices, large enough to fill it; beside it the product at the search's own size, in
strips into one reused buffer, which is bound by writing. Times are medians, by the card's own clock, without
compilation. Needs a CUDA GPU; without one nothing is measured.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from unittest.mock import patch as replaced

import torch
from torch import Tensor
from torch.nn import functional

from srraw_model import gpu_search, search
from srraw_model.cobi import contextual_bilateral_loss, match
from srraw_model.matching import problems

CHANNELS = 64
SIDES = (64, 128, 256)
SQUARE = 8192  # rows of the matrices that tell the card's rate
STRIP = 4096  # sources of a product at the search's size
CHECKED_SIDE = 128  # of the maps on which pairs are compared with the CPU's


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("This needs a CUDA GPU, and torch finds none here: nothing is measured.")
        return
    torch.manual_seed(0)
    device = torch.device("cuda")
    kernels = (
        "Triton's kernels"
        if gpu_search.runs_on(device)
        else "tiles in plain torch: the kernels do not run here"
    )
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; searched by {kernels}")

    rates = {}
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.randn(SQUARE, SQUARE, device=device, dtype=dtype) for _ in range(2))
        seconds = _seconds(lambda a=a, b=b: a @ b, arguments.repeats)
        rates[dtype] = 2 * SQUARE**3 / seconds / 1e12
        print(f"product of {SQUARE} x {SQUARE} x {SQUARE}, {dtype}: {rates[dtype]:.0f} TFLOP/s")
    rate = rates[torch.float16]

    print("\npositions    features     distance   weight   search ms   TFLOP/s   of card's   of own size's")
    for side in SIDES:
        own = _operations(side) / _seconds(_product(side), arguments.repeats) / 1e12
        for name, maps in (("random", _random(side)), ("structured", _structured(side))):
            for distance, weight in (("cosine", 0.1), ("cosine", 1.0), ("l2", 0.1)):
                seconds = _seconds(_search(*maps, distance, weight), arguments.repeats)
                reached = _operations(side) / seconds / 1e12
                print(
                    f"{side * side:9,d}    {name:13s}{distance:11s}{weight:6.1f}{1000 * seconds:12.2f}"
                    f"{reached:10.0f}{reached / rate:12.0%}{reached / own:16.0%}",
                    flush=True,
                )

    print("\npositions    forward + backward ms   MB beyond inputs and gradients   search in plain torch ms")
    for side in SIDES:
        source, target = _random(side)
        loss = _loss(source.requires_grad_(), target)
        seconds = _seconds(loss, arguments.repeats)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss()
        memory = (torch.cuda.max_memory_allocated() - before) / 2**20
        with replaced.object(gpu_search, "runs_on", lambda device: False):
            plain = _seconds(_search(source.detach(), target, "cosine", 0.1), 3)
        print(f"{side * side:9,d}{1000 * seconds:24.2f}{memory:33.0f}{1000 * plain:27.1f}", flush=True)

    print(f"\npairs that differ from the CPU's, of {CHECKED_SIDE**2:,d}")
    for name, maps in (("random", _random(CHECKED_SIDE)), ("structured", _structured(CHECKED_SIDE))):
        for distance in ("cosine", "l2"):
            pairs = [
                match(*(values.to(place) for values in maps), distance=distance) for place in ("cuda", "cpu")
            ]
            differing = int((pairs[0].index.cpu() != pairs[1].index).sum())
            print(f"{name:13s}{distance:8s}{differing}", flush=True)


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of the times by the card's clock, after two runs that compile and warm up."""
    for _ in range(2):
        work()
    times = []
    for _ in range(repeats):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        started.record()
        work()
        ended.record()
        torch.cuda.synchronize()
        times.append(started.elapsed_time(ended) / 1000)
    return statistics.median(times)


def _operations(side: int) -> float:
    return 2.0 * side**4 * CHANNELS


def _product(side: int) -> Callable[[], None]:
    p, q = (torch.randn(side * side, CHANNELS, device="cuda", dtype=torch.float16) for _ in range(2))
    buffer = torch.empty(min(STRIP, len(p)), len(q), device="cuda", dtype=torch.float16)

    def work() -> None:
        for part in p.split(STRIP):
            torch.mm(part, q.T, out=buffer)

    return work


def _search(source: Tensor, target: Tensor, distance: str, weight: float) -> Callable[[], object]:
    (problem,) = problems(source, target, 1, 1, weight, distance)
    return lambda: search.search(problem)


def _loss(source: Tensor, target: Tensor) -> Callable[[], None]:
    def work() -> None:
        source.grad = None
        contextual_bilateral_loss(source, target).backward()

    return work


def _random(side: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(1, CHANNELS, side, side, device="cuda") for _ in range(2))


def _structured(side: int) -> tuple[Tensor, Tensor]:
    """Features that vary slowly, and the same 5 positions aside with a little noise."""
    noise = torch.randn(1, CHANNELS, math.ceil(side / 8) + 2, math.ceil(side / 8) + 2, device="cuda")
    smooth = functional.interpolate(noise, scale_factor=8, mode="bicubic").relu()
    target = smooth[..., :side, :side].contiguous()
    source = smooth[..., 5 : side + 5, 5 : side + 5]
    return source + 0.05 * torch.randn_like(source), target


if __name__ == "__main__":
    main()
