"""How much of its time a GPU spends on training, and how much it waits for crops.

    python benchmarks/loader_gpu.py srraw.h5 --vgg-weights vgg19.pth
    python benchmarks/loader_gpu.py srraw.h5 --vgg-weights vgg19.pth --preset small --workers 0,2

Steps of CoBi as `srraw-train` makes them, by the preset `paper-4x` unless another is given, for each number
of reading processes. Busy: the share of the time that is not spent waiting for crops. It needs a CUDA GPU, on
which it has not been run yet; with `--device cpu` it shows what it prints.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from srraw_model.options import PRESETS
from srraw_model.train import LOG_EVERY, prepare_training, train
from srraw_tools.errors import UserError

WARM_UP = 2 * LOG_EVERY  # steps that start the workers, compile and choose algorithms
WANTED = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--vgg-weights", type=Path)
    parser.add_argument("--preset", choices=list(PRESETS), default="paper-4x")
    parser.add_argument("--workers", default="0,1,2,4,8", help="numbers of reading processes")
    parser.add_argument("--steps", type=int, default=300, help="that are measured, for each number")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA GPU; --device cpu only shows what is printed.")
    print(f"{'workers':>7s}{'s a step':>10s}{'waiting':>9s}{'busy':>7s}")
    for workers in (int(number) for number in arguments.workers.split(",")):
        seconds, waiting = measured(arguments, workers)
        busy = 1 - waiting / seconds
        enough = "" if busy > WANTED else f"   below {WANTED:.0%}"
        print(f"{workers:7d}{seconds:10.4f}{waiting:9.4f}{busy:7.1%}{enough}", flush=True)


def measured(arguments: argparse.Namespace, workers: int) -> tuple[float, float]:
    """Mean seconds of a step, by the wall's clock, and of waiting for its crops."""
    with tempfile.TemporaryDirectory() as out:
        training = prepare_training(
            arguments.data,
            out=Path(out),
            preset=arguments.preset,
            vgg_weights=arguments.vgg_weights,
            workers=workers,
            device=arguments.device,
            l1_steps=0,
            steps=10**6,
            save_every=10**6,
        )
        steps = train(training)
        for record in steps:
            if record.step == WARM_UP:
                break
        waited, began = [], time.perf_counter()
        for record in steps:  # reading a step's loss has waited for the GPU, so the clock counts its work
            waited.append(record.cost["data"])
            if len(waited) == arguments.steps:
                break
        seconds = (time.perf_counter() - began) / len(waited)
        steps.close()
    return seconds, statistics.fmean(waited)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from error
