"""Sequences shot while cable, camera, driver, disk and program fail at random moments: what is lost?

    python benchmarks/capture_faults.py --sequences 500

Prints the faults that were injected, and how many shots were lost, kept twice, or under a wrong name.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fault_sequences import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=500)
    parser.add_argument("--rate", type=float, default=0.04, help="chance of a fault at every call")
    arguments = parser.parse_args()
    faults: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for seed in range(arguments.sequences):
        outcome = run(seed, arguments.rate)
        faults.update(outcome.faults)
        for name in ("released", "resumed", "lost", "duplicated", "wrong", "incomplete", "again"):
            sums[name] += getattr(outcome, name)
        if outcome.lost or outcome.duplicated or outcome.wrong or outcome.incomplete:
            print(f"seed {seed}: {outcome}")
    print(f"{arguments.sequences} sequences, {faults.total()} faults of {len(faults)} kinds")
    for name, count in sums.items():
        print(f"{name:>12} {count}")
    for name, count in sorted(faults.items()):
        print(f"{count:6d}  {name}")


if __name__ == "__main__":
    main()
