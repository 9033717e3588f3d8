"""The stage: sequences, into the noise of their sensor.

Photons and readout make a pixel's variance a straight line over its signal, the Poisson-Gaussian model:
variance = a signal + b (Foi et al., IEEE TIP 2008). Both are measured in blocks of one colour. Detail would
pass for noise, so that a block counts by how much it looks like white noise of the line's variance: of that,
three measures over different frequencies agree. Blocks of noise alone crowd along one line over brightness,
those with detail scatter widely above it: a mixture of both is fitted by expectation maximisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srraw_tools.errors import UserError
from srraw_tools.parallel import map_items
from srraw_tools.raw import read_raw
from srraw_tools.sequence import read_sequence

Array = npt.NDArray[np.float64]

FORMAT = "srraw-noise"
COLOURS = "RGB"
BLOCK = 16  # samples of one colour, a side
CELL = 4  # of a block, whose means hold its low frequencies
FEWEST_BLOCKS = 60  # of noise alone, to tell a line
UNCLIPPED = 0.9  # of white, that no sample of a block reaches
WIDEST_RATIO = 4.0  # between the measures of a block that may be noise alone
DETAIL_DENSITY = 1 / 84  # of blocks with detail, over the logarithms of their three measures: far and wide
STARTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)  # shares of blocks below the first line
ROUNDS = 60


@dataclass(frozen=True)
class Blocks:
    """Of n blocks of one colour, in sensor values.

    Attributes:
        mean: above black (n,).
        measures: (3, n), each the variance where a block holds nothing but white noise: of mixed second
            differences, of second differences along rows and columns, of means over cells about a plane.
    """

    mean: Array
    measures: Array


@dataclass(frozen=True)
class NoiseModel:
    """variance = a signal + b in sensor values above black, over red, green and blue.

    Attributes:
        camera, iso: as pairs name them; no ISO where the files tell none.
        shots: that were measured.
        a, b: of each colour.
    """

    camera: str
    iso: float | None
    shots: int
    a: tuple[float, ...]
    b: tuple[float, ...]


Setting = tuple[str, float | None]  # camera and ISO


@dataclass(frozen=True)
class MeasuredShot:
    """The blocks of a raw shot.

    Attributes:
        setting: the camera and its ISO.
        blocks: by colour, "R", "G" and "B".
    """

    path: Path
    setting: Setting
    blocks: dict[str, Blocks]


def measure_shots(
    folders: Iterable[Path], *, jobs: int = 1
) -> Iterator[tuple[Path, MeasuredShot | UserError]]:
    """Measure every raw shot of sequences; a shot that cannot be read costs itself only.

    Args:
        folders: of the sequences.
        jobs: processes to work in.

    Yields:
        Each raw file, and what was measured or why it could not be read.
    """
    paths = [folder / shot.file for folder in folders for shot in read_sequence(folder).shots]
    yield from map_items(_measured, paths, jobs)


def fit_models(shots: Iterable[MeasuredShot]) -> list[NoiseModel]:
    """A model for each camera and ISO.

    Raises:
        UserError: too few smooth areas of different brightness.
    """
    by_setting: dict[Setting, list[MeasuredShot]] = {}
    for shot in shots:
        by_setting.setdefault(shot.setting, []).append(shot)
    models = []
    for setting, of_it in sorted(by_setting.items(), key=str):
        lines = [fit_line(_joined([shot.blocks[colour] for shot in of_it])) for colour in COLOURS]
        if any(line is None for line in lines):
            told = " at ISO ".join(str(part) for part in setting if part is not None) or "the camera"
            raise UserError(
                f"The shots of {told} hold too few smooth areas of different brightness to tell the noise.",
                "Add a shot of a plain wall or of the sky with something dark in it.",
            )
        models.append(NoiseModel(*setting, len(of_it), *(tuple(v) for v in zip(*lines, strict=True))))
    return models


def record_of(models: Iterable[NoiseModel]) -> dict[str, object]:
    """What noise.json holds."""
    return {"format": FORMAT, "version": 1, "models": [vars(model) for model in models]}


def measure_blocks(plane: npt.NDArray[np.uint16], black: float, white: int) -> Blocks:
    """Blocks of the samples (h, w) of one place in the Bayer pattern that are not clipped."""
    rows, columns = (side // BLOCK for side in plane.shape)
    tiles = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
    tiles = tiles.reshape(-1, BLOCK, BLOCK)
    top = black + UNCLIPPED * (white - black)
    tiles = tiles[(tiles.max(axis=(1, 2)) < top) & (tiles.min(axis=(1, 2)) > 0)].astype(np.float64) - black
    return Blocks(tiles.mean(axis=(1, 2)), _measures(tiles))


def fit_line(blocks: Blocks) -> tuple[float, float] | None:
    """(a, b) of variance = a mean + b, neither negative; None where the blocks cannot tell."""
    usable = (blocks.mean > 0) & (blocks.measures.min(axis=0) > 0)
    usable &= blocks.measures.max(axis=0) < WIDEST_RATIO * blocks.measures.min(axis=0)
    mean, measures = blocks.mean[usable], blocks.measures[:, usable]
    if len(mean) < FEWEST_BLOCKS:
        return None
    slopes = np.quantile(measures[0] / mean, STARTS)
    _, a, b, count = max(_mixture(mean, measures, slope) for slope in slopes)
    return (a, b) if count >= FEWEST_BLOCKS else None


def _mixture(mean: Array, measures: Array, a: float) -> tuple[float, float, float, float]:
    """Log-likelihood, (a, b) and the number of blocks of noise alone, from a first slope."""
    centre, covariance = _of_white_noise()
    inverse, scale = np.linalg.inv(covariance), math.sqrt(np.linalg.det(2 * math.pi * covariance))
    share, b = 0.3, 0.0
    for _ in range(ROUNDS):
        line = a * mean + b
        off = np.log(measures / line) - centre[:, None]
        noise = share / scale * np.exp(-0.5 * np.einsum("in,ij,jn->n", off, inverse, off))
        density = noise + (1 - share) * DETAIL_DENSITY
        belongs = noise / density
        share = max(float(belongs.mean()), 1e-6)
        a, b = _line(mean, measures[0], belongs / line**2)
    return float(np.log(density).sum()), a, b, float(belongs.sum())


def _line(x: Array, y: Array, weights: Array) -> tuple[float, float]:
    """The best line whose slope and offset are not negative."""
    roots = np.sqrt(weights)
    equations = np.stack([x, np.ones_like(x)], axis=1) * roots[:, None]
    a, b = np.linalg.lstsq(equations, y * roots, rcond=None)[0]
    if b < 0:
        return float((weights * x * y).sum() / (weights * x**2).sum()), 0.0
    if a < 0:
        return 0.0, float(np.average(y, weights=weights))
    return float(a), float(b)


def _measures(tiles: Array) -> Array:
    """(3, n) of blocks (n, BLOCK, BLOCK), as in `Blocks`."""
    across = tiles[:, :, 2:] - 2 * tiles[:, :, 1:-1] + tiles[:, :, :-2]
    down = tiles[:, 2:] - 2 * tiles[:, 1:-1] + tiles[:, :-2]
    mixed = across[:, 2:] - 2 * across[:, 1:-1] + across[:, :-2]
    cells = tiles.reshape(-1, BLOCK // CELL, CELL, BLOCK // CELL, CELL).mean(axis=(2, 4))
    # Second differences of white noise have six times its variance, means of CELL^2 samples a part of it.
    return np.stack(
        [
            (mixed**2).mean(axis=(1, 2)) / 36,
            ((across**2).mean(axis=(1, 2)) + (down**2).mean(axis=(1, 2))) / 12,
            _off_a_plane(cells) * CELL**2,
        ]
    )


def _off_a_plane(cells: Array) -> Array:
    """Variance of n squares of values (n, s, s) about the best plane through each: light has gradients."""
    side = cells.shape[1]
    values = cells.reshape(-1, side * side)
    row, column = np.indices((side, side)).reshape(2, -1) - (side - 1) / 2
    plane, _ = np.linalg.qr(np.stack([np.ones_like(row), row, column], axis=1))
    rest = values - values @ plane @ plane.T
    return (rest**2).sum(axis=1) / (side * side - 3)


@cache
def _of_white_noise() -> tuple[Array, Array]:
    """Mean (3,) and covariance (3, 3) of the logarithms of the measures of white noise of variance 1."""
    logarithms = np.log(_measures(np.random.default_rng(0).standard_normal((4000, BLOCK, BLOCK))))
    return logarithms.mean(axis=1), np.cov(logarithms)


def _joined(parts: list[Blocks]) -> Blocks:
    return Blocks(
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.measures for part in parts], axis=1),
    )


def _measured(path: Path) -> MeasuredShot:
    raw = read_raw(path)
    found: dict[str, list[Blocks]] = {colour: [] for colour in COLOURS}
    for place, colour in enumerate(raw.cfa):
        plane = raw.mosaic[place // 2 :: 2, place % 2 :: 2]
        found[colour].append(measure_blocks(plane, raw.black_level[place], raw.white_level))
    return MeasuredShot(
        path, (raw.exif.camera, raw.exif.iso), {c: _joined(blocks) for c, blocks in found.items()}
    )
