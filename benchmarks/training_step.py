"""What a training step costs, by part: waiting for crops, network, features, CoBi_RGB, CoBi_VGG, optimiser.

    python benchmarks/training_step.py srraw.h5 --vgg-weights vgg_normalised.pth            the preset `small`
    python benchmarks/training_step.py srraw.h5 --vgg-weights vgg_normalised.pth --preset paper-4x

Steps of CoBi as `srraw-train` makes them, on a GPU where there is one; medians of their parts, forward and
backward together, the first steps (which compile and load) left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from srraw_model.options import PRESETS
from srraw_model.train import LOG_EVERY, prepare_training, train

LOSS = ("features", "cobi_rgb", "cobi_vgg")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--vgg-weights", type=Path, required=True)
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--steps", type=int, default=5, help="that are measured")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as out:
        training = prepare_training(
            arguments.data,
            out=Path(out),
            preset=arguments.preset,
            vgg_weights=arguments.vgg_weights,
            l1_steps=0,
            steps=(arguments.steps + 1) * LOG_EVERY if torch.cuda.is_available() else arguments.steps + 2,
            save_every=10**9,
        )
        records = list(train(training))
    # On a GPU only the steps that are logged wait for their parts, and so know what these cost.
    measured = [r for r in records if r.step % LOG_EVERY == 0] if torch.cuda.is_available() else records[2:]
    side = training.options.crop * training.options.zoom
    print(
        f"{arguments.preset} on {training.device}, {training.options.batch} outputs of {side} x {side} "
        f"a step; {len(measured)} steps"
    )
    whole = statistics.median(record.seconds for record in measured)
    for part in measured[0].cost:
        seconds = statistics.median(record.cost[part] for record in measured)
        print(f"{part:12s}{seconds:9.4f} s{seconds / whole:7.0%}")
    share = statistics.median(sum(r.cost[part] for part in LOSS) / r.seconds for r in measured)
    print(f"{'a step':12s}{whole:9.4f} s; the loss is {share:.0%} of it")


if __name__ == "__main__":
    main()
