"""How well `srraw align` registers simulated sequences, whose true maps are known.

    python benchmarks/align.py --sequences 12

Prints one table: the mean error over the corners of the crop, in pixels of the long shot.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from srraw_tools import geometry
from srraw_tools.align import align_sequence
from srraw_tools.files import read_json
from srraw_tools.simulate.shoot import simulate_sequence


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1000)
    arguments = parser.parse_args()
    errors: dict[int, list[float]] = {4: [], 8: []}
    rejected, seconds = dict.fromkeys(errors, 0), []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.sequences):
            sequence = simulate_sequence(Path(folder), name=f"{i:05d}", seed=arguments.seed + i).folder
            started = time.perf_counter()
            aligned = align_sequence(sequence)
            seconds.append(time.perf_counter() - started)
            truth = {(p["low"], p["high"]): p for p in read_json(sequence / "truth.json")["pairs"]}
            for pair in aligned.pairs:
                if pair.status != "ok":
                    rejected[pair.zoom] += 1
                    errors[pair.zoom].append(float("inf"))
                    continue
                true = truth[pair.low, pair.high]["low_to_high"]
                errors[pair.zoom].append(geometry.corner_error_px(pair.low_to_high, true, pair.crop))
    print(
        f"{arguments.sequences} sequences from seed {arguments.seed}, {statistics.median(seconds):.2f} s each"
    )
    print("zoom  pairs  median px  within 0.25  within 0.5  within 1  worst px  rejected")
    for zoom, found in errors.items():
        shares = "  ".join(f"{sum(e <= limit for e in found) / len(found):10.0%}" for limit in (0.25, 0.5, 1))
        print(
            f"{zoom:3d}X  {len(found):5d}  {statistics.median(found):9.3f} {shares}  {max(found):8.2f}",
            end="",
        )
        print(f"  {rejected[zoom]:8d}")


if __name__ == "__main__":
    main()
