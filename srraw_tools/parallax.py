"""Whether a scene lies at several distances, as the links of its sequence show.

The entrance pupil of a zoom lens moves along its axis, so what is nearer grows more or less from shot to
shot than what is farther, about the image of the axis: its blocks lie off along the radius, beside others of
the same radius that do not, as they would by distortion. Blocks of something that moved, or that is another
thing altogether, lie off in any direction. So blocks that lie off along the radius, less as many as lie off
across it, are those of other distances.
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
CERTAIN_SHARE = 0.02  # of the blocks, beyond what chance does, that are farther for certain


@dataclass(frozen=True)
class Depths:
    """What blocks show beside the plane that the maps follow.

    Attributes:
        farther: share of the blocks that grow more than the maps say, beyond as many as moved: where the
            pupil moves back as the focal length grows, which it does in most zoom lenses, these are farther.
        deviation: of that share, by chance.
        growth: by how much more, relative, for each unit of the logarithm of zoom.
    """

    farther: float
    deviation: float
    growth: float

    def error_px(self, low_to_high: Matrix, points: npt.ArrayLike, centre: npt.ArrayLike) -> float:
        """How far the farther plane lies from a map, root mean square at points (n, 2), in high pixels."""
        zoom, _ = geometry.scale_and_rotation(low_to_high)
        radii_px = np.linalg.norm(np.asarray(points, np.float64) - centre, axis=-1) * zoom
        certainty = np.clip((self.farther - 2 * self.deviation) / CERTAIN_SHARE, 0, 1)
        return float(certainty * self.growth * max(0.0, math.log(zoom)) * np.sqrt((radii_px**2).mean()))


def depths(links: Sequence[Link], adjustment: Adjustment, sizes: Mapping[str, tuple[int, int]]) -> Depths:
    """Look for planes farther than those that the adjusted maps follow, in all links that tie their shots."""
    excess, growths = [np.zeros(0)], [np.zeros(0)]
    for link in links:
        if not {link.low, link.high} <= set(adjustment.to_reference):
            continue
        low_to_high = adjustment.low_to_high(link.low, link.high)
        zoom, _ = geometry.scale_and_rotation(low_to_high)
        off = _about_the_axis(link, low_to_high, sizes[link.low])
        if zoom <= 1 or len(off.along) < FEWEST_BLOCKS:
            continue
        # Distortion, too, shifts along the radius, but alike at one radius.
        uneven = 1 - np.corrcoef(off.radius**2, off.growth)[0, 1] ** 2
        farther = off.along > DEVIATIONS
        excess.append(uneven * (farther - (np.abs(off.across) > DEVIATIONS) / 2))
        growths.append(off.growth[farther] / math.log(zoom))
    shares, more = np.concatenate(excess), np.concatenate(growths)
    if not len(more):
        return Depths(0.0, 0.0, 0.0)
    return Depths(float(shares.mean()), float(shares.std() / np.sqrt(len(shares))), float(np.median(more)))


@dataclass(frozen=True)
class _Off:
    """How blocks lie off a map about the frame's centre: (n,) of the outer half, which distance moves most.

    radius: from the centre, in pixels of the high shot.
    growth: of the radius beyond what the map says, relative.
    along, across: the radius, in deviations; the scatter across it, which no distance causes, sets them.
    """

    radius: Array
    growth: Array
    along: Array
    across: Array


def _about_the_axis(link: Link, low_to_high: Matrix, low_size: tuple[int, int]) -> _Off:
    centre = (np.array(low_size[::-1]) - 1) / 2
    outwards = (link.shifts.points - centre) @ low_to_high[:2, :2].T / low_to_high[2, 2]
    radius = np.linalg.norm(outwards, axis=1)
    outer = np.argsort(radius)[(len(radius) + 1) // 2 :]
    radius, along = radius[outer], outwards[outer] / radius[outer, None]
    across = along @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    residual = (link.shifts.found - geometry.apply(low_to_high, link.shifts.points))[outer]

    def deviations(direction: Array) -> Array:
        variance = np.einsum("ni,nij,nj->n", direction, link.shifts.covariance[outer], direction)
        return (residual * direction).sum(axis=1) / np.sqrt(variance)

    chance = max(float(np.median(np.abs(deviations(across)))) / MEDIAN_OF_NORMAL, 1e-9)
    growth = (residual * along).sum(axis=1) / radius
    return _Off(radius, growth, deviations(along) / chance, deviations(across) / chance)
