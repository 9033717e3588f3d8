"""Whether a scene lies at several distances, as the links of its sequence show.

The entrance pupil of a zoom lens moves along its axis, so what is nearer grows more or less from shot to
shot than what is farther, about the image of the axis: its blocks lie off along the radius. Blocks of
something that moved, or that is another thing altogether, lie off in any direction; so those off along the
radius, less as many as are off across it, are those of other distances. Distortion, too, acts along the
radius, but smoothly: where no blocks lie off the smooth surface of their link, it is no parallax.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.adjustment import Adjustment, Link
from srraw_tools.geometry import Matrix

Array = npt.NDArray[np.float64]

DEVIATIONS = 3.0  # by which a block lies off
MEDIAN_OF_NORMAL = 0.6745  # of absolute values, in deviations
FEWEST_BLOCKS = 12  # far from the axis, from which their scatter can be told
SHARES_OFF = (0.02, 0.06)  # of the blocks that are off the surfaces: hardly, and certainly parallax
SHARE_FARTHER = 0.02  # of the blocks, that is certainly more than none


@dataclass(frozen=True)
class Depths:
    """What blocks show beside the plane that the maps follow.

    Shares are those beyond what moves and chance do, two deviations below the best estimate.

    Attributes:
        off: share of the blocks that lie off the smooth surfaces along the radius: of other distances.
        farther: share that grows more than the maps say. Where the pupil moves back as the focal length
            grows, which it does in most zoom lenses, these are farther away.
        growth: by how much more, relative, for each unit of the logarithm of zoom.
    """

    off: float
    farther: float
    growth: float

    def error_px(self, low_to_high: Matrix, points: npt.ArrayLike, centre: npt.ArrayLike) -> float:
        """How far the farther plane lies from a map, root mean square at points (n, 2), in high pixels."""
        zoom, _ = geometry.scale_and_rotation(low_to_high)
        radii_px = np.linalg.norm(np.asarray(points, np.float64) - centre, axis=-1) * zoom
        certainty = np.clip((self.off - SHARES_OFF[0]) / (SHARES_OFF[1] - SHARES_OFF[0]), 0, 1)
        certainty *= np.clip(self.farther / SHARE_FARTHER, 0, 1)
        return float(certainty * self.growth * max(0.0, math.log(zoom)) * np.sqrt((radii_px**2).mean()))


def nearest_m(pupil_shift_mm: float, part: float = 1e-3) -> float:
    """How far away things must be, so that they lie at most `part` of their distance from the axis off.

    A point at distance d before the entrance pupil is seen at an angle r/d from the axis; once the pupil has
    moved back by s, at r/(d + s). Against what is far it lies s/(d + s) of that angle off, s/d where s is
    small.

    Args:
        pupil_shift_mm: s, from the shortest to the longest focal length.

    Returns:
        The distance in metres.
    """
    return pupil_shift_mm / 1000 * (1 / part - 1)


def depths(links: Sequence[Link], adjustment: Adjustment, sizes: Mapping[str, tuple[int, int]]) -> Depths:
    """Look for planes farther than those that the adjusted maps follow, in all links that tie their shots."""
    off, farther, growths = [], [], []
    for link in links:
        if not {link.low, link.high} <= set(adjustment.to_reference):
            continue
        low_to_high = adjustment.low_to_high(link.low, link.high)
        zoom, _ = geometry.scale_and_rotation(low_to_high)
        found = link.shifts.found
        of_map = _about_the_axis(
            link, found - geometry.apply(low_to_high, link.shifts.points), low_to_high, sizes[link.low]
        )
        of_surface = _about_the_axis(
            link, found - link.surface.found(link.shifts.points), low_to_high, sizes[link.low]
        )
        if zoom <= 1 or len(of_map.along) < FEWEST_BLOCKS:
            continue
        off.append((np.abs(of_surface.along) > DEVIATIONS) * 1.0 - (np.abs(of_surface.across) > DEVIATIONS))
        farther.append((of_map.along > DEVIATIONS) - (np.abs(of_map.across) > DEVIATIONS) / 2)
        growths.append(of_map.growth[of_map.along > DEVIATIONS] / math.log(zoom))
    if not off:
        return Depths(0.0, 0.0, 0.0)
    more = np.concatenate(growths)
    return Depths(
        _surely(np.concatenate(off)),
        _surely(np.concatenate(farther)),
        float(np.median(more)) if len(more) else 0.0,
    )


def _surely(votes: Array) -> float:
    """The mean, less two deviations of it by chance."""
    return float(votes.mean() - 2 * votes.std() / np.sqrt(len(votes)))


@dataclass(frozen=True)
class _Off:
    """How blocks lie off about the frame's centre: (n,) of the outer half, which distance moves most.

    growth: of the radius, relative.
    along, across: the radius, in deviations; the scatter across it, which no distance causes, sets them.
    """

    growth: Array
    along: Array
    across: Array


def _about_the_axis(link: Link, residual: Array, low_to_high: Matrix, low_size: tuple[int, int]) -> _Off:
    centre = (np.array(low_size[::-1]) - 1) / 2
    outwards = (link.shifts.points - centre) @ low_to_high[:2, :2].T / low_to_high[2, 2]
    radius = np.linalg.norm(outwards, axis=1)
    outer = np.argsort(radius)[(len(radius) + 1) // 2 :]
    radius, along = radius[outer], outwards[outer] / radius[outer, None]
    across = along @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    residual = residual[outer]

    def deviations(direction: Array) -> Array:
        variance = np.einsum("ni,nij,nj->n", direction, link.shifts.covariance[outer], direction)
        return (residual * direction).sum(axis=1) / np.sqrt(variance)

    chance = max(float(np.median(np.abs(deviations(across)))) / MEDIAN_OF_NORMAL, 1e-9)
    growth = (residual * along).sum(axis=1) / radius
    return _Off(growth, deviations(along) / chance, deviations(across) / chance)
