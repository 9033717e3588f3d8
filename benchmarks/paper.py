"""The paper's comparison on simulated sequences, everything seeded.

    python benchmarks/paper.py data --folder DIR --photos PHOTOS     60 sequences, aligned and packed

Forty sequences are of made-up scenes, twenty of photographs. Those of training and validation hold hills,
walls, murals and balls, those of test signs, charts, posts and branches (the ground below is of one kind);
no photograph and no seed is in two splits. The camera has a low-pass filter, crosstalk, ISO 400 and an
exposure that drifts; its noise, levels and pattern are the same for all.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

from srraw_tools.align import align_sequences
from srraw_tools.errors import UserError
from srraw_tools.pack import pack_sequences
from srraw_tools.simulate.physics import Optics, Sensor
from srraw_tools.simulate.plan import Plan
from srraw_tools.simulate.shoot import simulate_sequences
from srraw_tools.terminal import with_progress

OPTICS, SENSOR = Optics(drift_ev=0.05), Sensor(iso=400, aa_filter_px=0.4, crosstalk=0.1)
TRAINED_ON, TESTED_ON = ("hill", "wall", "mural", "ball"), ("sign", "chart", "post", "branch")


@dataclass(frozen=True)
class Group:
    """Sequences of a split: `count` of made-up scenes, and as many of each photograph [first, last)."""

    split: str
    seed: int
    objects: tuple[str, ...]
    count: int
    photographs: tuple[int, int] = (0, 0)
    of_each: int = 1


GROUPS = (
    Group("train", 100, TRAINED_ON, 28),
    Group("train", 200, TRAINED_ON, 0, (0, 6), of_each=2),
    Group("val", 300, TRAINED_ON, 3, (6, 7)),
    Group("test", 400, TESTED_ON, 9),
    Group("test", 500, TESTED_ON, 0, (7, 12), of_each=1),
    Group("test", 600, TESTED_ON, 0, (7, 9), of_each=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("data",))
    parser.add_argument("--folder", type=Path, required=True, help="what was made there is not made again")
    parser.add_argument("--photos", type=Path, help="a folder of at least 12 photographs")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    make_data(arguments.folder, arguments.photos, arguments.jobs)


def make_data(folder: Path, photos: Path, jobs: int) -> None:
    """Sequences, alignments, split.csv and srraw.h5 in a folder."""
    photographs = sorted(photos.glob("*.jp*g"))
    plans, splits = [], []
    for group in GROUPS:
        scenes = [None] * group.count
        scenes += [photographs[n] for n in range(*group.photographs) for _ in range(group.of_each)]
        for index, scene in enumerate(scenes):
            name = f"{len(plans) + 1:05d}"
            plans.append(
                Plan(
                    name, group.seed, index, scene=scene, optics=OPTICS, sensor=SENSOR, objects=group.objects
                )
            )
            splits.append((name, group.split))
    sequences = folder / "sequences"
    shots = simulate_sequences(sequences, plans, jobs=jobs)
    for plan, result in with_progress(shots, 7 * len(plans), "Simulating", unit="shots"):
        if isinstance(result, UserError):
            raise SystemExit(f"{plan.name}: {result}")
    folders = [sequences / plan.name for plan in plans]
    rejected = 0
    aligned = align_sequences(folders, jobs=jobs)
    for path, found in with_progress(aligned, len(folders), "Aligning", unit="sequences"):
        if isinstance(found, UserError):
            raise SystemExit(f"{path}: {found}")
        rejected += sum(pair.status != "ok" for pair in found.pairs)
    print(f"{len(folders)} sequences aligned, {rejected} pairs rejected.")
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sequence", "split"), *splits])
    packed = pack_sequences(folders, out=folder / "srraw.h5", split_file=folder / "split.csv", jobs=jobs)
    count = sum(1 for _ in with_progress(packed, 4 * len(folders), "Packing", unit="pairs"))
    print(f"{count} pairs in {folder / 'srraw.h5'}.")


if __name__ == "__main__":
    main()
