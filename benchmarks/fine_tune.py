"""What fine-tuning gains on another sensor than the one trained on (section 6.4 of the paper, simulated).

    OMP_NUM_THREADS=1 python benchmarks/fine_tune.py --folder DIR

The network of the preset `demo` learns from eight sequences of one camera. A second camera has another phase
of its colour filter array, crosstalk, a low-pass filter, more noise and another black level; three of its
sequences are there to fine-tune on, and five to test, of other kinds of objects. Four rows: bicubic, the
model as it is, fine-tuned, and trained from scratch on the three sequences for as many steps. All seeded;
what was made or trained before is not made again.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

from srraw_model.checkpoint import load_checkpoint
from srraw_model.evaluate import evaluate_models, prepare_evaluation
from srraw_model.options import PRESETS
from srraw_model.tables import rows_of
from srraw_model.train import CHECKPOINT_FILE, prepare_training, train
from srraw_tools.align import align_sequences
from srraw_tools.errors import UserError
from srraw_tools.pack import pack_sequences
from srraw_tools.simulate.physics import Optics, Sensor
from srraw_tools.simulate.plan import Plan
from srraw_tools.simulate.shoot import simulate_sequences

FIRST = Sensor()
SECOND = Sensor(cfa="GBRG", iso=3200, read_noise_e=5.0, aa_filter_px=0.5, crosstalk=0.25, black_level=2048)
TRAINED_ON, TESTED_ON = ("hill", "wall", "mural", "ball"), ("sign", "chart", "post", "branch")
STEPS, FEW_STEPS = 1000, 300


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for sequences, sets and runs")
    parser.add_argument("--steps", type=int, default=STEPS, help="on the first sensor")
    parser.add_argument("--few-steps", type=int, default=FEW_STEPS, help="on the second")
    parser.add_argument("--seed", type=int, default=1, help="of the steps on the second")
    arguments = parser.parse_args()
    folder, few, seed = arguments.folder, arguments.few_steps, arguments.seed
    began = time.monotonic()
    first = make_set(folder / "first", FIRST, [(10, 8, TRAINED_ON, "train")])
    second = make_set(folder / "second", SECOND, [(20, 3, TRAINED_ON, "train"), (30, 5, TESTED_ON, "test")])
    model = trained(first, folder / "model", steps=arguments.steps, preset="demo", seed=1)
    rows = {
        "the first sensor's model": model,
        # By as much L1 as the preset begins with from scratch, so that the start alone tells the rows apart.
        f"fine-tuned, {few} steps": trained(
            second,
            folder / f"fine-tuned-{seed}",
            steps=few,
            l1_steps=round(PRESETS["demo"]["l1_share"] * few),
            fine_tune=model,
            seed=seed,
        ),
        f"from scratch, {few} steps": trained(
            second, folder / f"scratch-{seed}", steps=few, preset="demo", seed=seed
        ),
    }
    print(f"\n{'on the second sensor':28s}{'PSNR dB':>9s}{'SSIM':>8s}")
    for number, (name, path) in enumerate(rows.items()):
        found = rows_of(list(evaluate_models(prepare_evaluation(second, models=[path]))))
        for label, row in zip(("bicubic", name), found, strict=True):
            if label == name or not number:
                print(f"{label:28s}{row.means['psnr_db'].value:9.2f}{row.means['ssim'].value:8.4f}")
    print(f"{time.monotonic() - began:.0f} s in all.")


def make_set(folder: Path, sensor: Sensor, groups: list[tuple[int, int, tuple[str, ...], str]]) -> Path:
    """An srraw.h5 of 4X pairs; a group is a seed, a number of sequences, their objects and their split."""
    out = folder / "srraw.h5"
    if out.exists():
        return out
    plans, splits = [], []
    for seed, count, objects, split in groups:
        for index in range(count):
            name = f"{len(plans) + 1:05d}"
            plans.append(Plan(name, seed, index, optics=Optics(), sensor=sensor, objects=objects))
            splits.append((name, split))
    for plan, result in simulate_sequences(folder / "sequences", plans):
        if isinstance(result, UserError):
            raise SystemExit(f"{plan.name}: {result}")
    folders = [folder / "sequences" / plan.name for plan in plans]
    for path, found in align_sequences(folders, zooms=(4,)):
        if isinstance(found, UserError):
            raise SystemExit(f"{path}: {found}")
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sequence", "split"), *splits])
    pairs = list(pack_sequences(folders, out=out, zooms=(4,), split_file=folder / "split.csv"))
    print(f"{out}: {len(pairs)} pairs of {len(folders)} sequences", flush=True)
    return out


def trained(data: Path, out: Path, *, steps: int, **options: Any) -> Path:
    """The checkpoint of a run, made unless it is there."""
    path = out / CHECKPOINT_FILE
    if not path.exists() or load_checkpoint(path).step < steps:
        began = time.monotonic()
        options |= {"steps": steps, "save_every": 10**6, "device": "cpu"}
        training = prepare_training(data, out=out, overwrite=True, **options)
        for _ in train(training):
            pass
        print(f"{out.name}: {training.label}, {steps} steps in {time.monotonic() - began:.0f} s", flush=True)
    return path


if __name__ == "__main__":
    main()
