"""Whether pairs of scenes at several distances could be aligned at all: what the best similarity leaves.

    python benchmarks/align.py --seed 3000 --sequences 16 --only parallax --cache DIR --json FILE
    python benchmarks/align_parallax.py --seed 3000 FILE

The true place of every eighth pixel of the long shot, on the plane that is seen there, and the similarity
that fits these places best by the mean of the distances. One row for each pair that was rejected.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from difficulties import DIFFICULTIES

from srraw_tools.simulate import lens, render, shoot
from srraw_tools.simulate.objects import EMPTY
from srraw_tools.simulate.plan import Plan

STEP_PX = 8
ALIGNABLE_PX = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path, help="what align.py --json wrote")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    rows = [row for row in json.loads(arguments.pairs.read_text()) if row["difficulty"] == "parallax"]
    print("sequence  pair           expected  best map  share of the planes, far to near")
    alignable = rejected = 0
    for row in rows:
        if row["reason"] is None:
            continue
        plan = Plan("x", arguments.seed + row["sequence"], optics=DIFFICULTIES["parallax"].optics)
        low, high = (int(Path(row[side]).stem) - 1 for side in ("low", "high"))
        error, shares = best_similarity(plan, low, high)
        rejected += 1
        alignable += error <= ALIGNABLE_PX
        told = " ".join(f"{share:4.0%}" for share in shares)
        pair = f"{row['low'][:5]}-{row['high'][:5]}"
        print(f"{row['sequence']:8d}  {pair:14s}{row['expected']:9.2f}{error:10.2f}  {told}")
    print(
        f"{rejected} of {len(rows)} pairs rejected; the best map of {alignable} is within {ALIGNABLE_PX} px"
    )


def best_similarity(plan: Plan, low: int, high: int) -> tuple[float, npt.NDArray[np.float64]]:
    """Mean distance in pixels of the long shot that the best map leaves, and the planes' shares of it."""
    stage = shoot._stage_of(plan)
    planes, shot = stage.scene.planes, stage.shots[high]
    height, width = shot.size
    seen = np.zeros((height // STEP_PX, width // STEP_PX), int)
    for number, plane in enumerate(planes[1:], 1):
        opaque = render._draw(None, plane, None, shot, slice(0, height), 0) != EMPTY
        first, step = render.SAMPLES // 2, render.SAMPLES * STEP_PX
        seen[opaque[first::step, first::step][: seen.shape[0], : seen.shape[1]]] = number
    y, x = (places.ravel() * float(STEP_PX) for places in np.indices(seen.shape))
    to, begin = np.stack([x, y], axis=1), np.empty((seen.size, 2))
    for number, plane in enumerate(planes):
        here = seen.ravel() == number
        scene = lens.pixels_to_scene(shot, to[here], plane.distance_m)
        begin[here] = lens.scene_to_pixels(stage.shots[low], scene, plane.distance_m)
    u, v, one, zero = begin[:, 0], begin[:, 1], np.ones(len(to)), np.zeros(len(to))
    equations = np.stack([np.stack([u, -v, one, zero], 1), np.stack([v, u, zero, one], 1)], 1).reshape(-1, 4)
    left = np.ones(len(to))
    for _ in range(30):  # least squares weighted by 1 / distance: the least mean distance
        weights = np.repeat(1 / np.sqrt(np.maximum(left, 0.05)), 2)
        solved = np.linalg.lstsq(equations * weights[:, None], to.ravel() * weights, rcond=None)[0]
        left = np.linalg.norm((equations @ solved - to.ravel()).reshape(-1, 2), axis=1)
    return float(left.mean()), np.bincount(seen.ravel(), minlength=len(planes)) / seen.size


if __name__ == "__main__":
    main()
