"""Fit maps to local shifts: of one pair of shots, or of all linked shots of a sequence together.

Every link of two shots gives points of the lower one, where they were found in the higher one, and how
surely. One map per shot, to the frame of a reference shot, is fitted to all of them at once by weighted least
squares, as surveyors adjust a network (Gauss-Markov model): neighbouring focal lengths share most of their
view and tie the chain firmly, and the loops that direct pairs close show how far the links contradict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from srraw_tools import ecc, geometry
from srraw_tools.geometry import Matrix

Array = npt.NDArray[np.float64]

ROUNDS = 12  # of reweighting; the models are nearly linear
BLOCK_TUNING = 3.0  # deviations at which a block counts half (Cauchy)
LINK_TUNING = 3.0  # and at which a link of a network does
LARGEST_CORRELATION = 0.8  # of neighbouring blocks' residuals that is believed
PRIOR_FREEDOM = 4.0  # degrees of freedom with which the links' own deviations are believed
MEDIAN_OF_CHI2 = 1.386  # of two degrees of freedom
STEP = 1e-4  # of numerical derivatives, in units of half a frame


@dataclass(frozen=True)
class LocalShifts:
    """Where blocks of a low shot were found in a high shot.

    Attributes:
        points: (n, 2) in pixels of the low frame.
        found: (n, 2) in pixels of the high frame.
        covariance: (n, 2, 2) of `found`, in pixels squared.
        cells: (n, 2) row and column of each block in a grid of blocks.
        systematic_px: deviation, per axis, that all blocks may have in common, in pixels of the high frame.
    """

    points: Array
    found: Array
    covariance: Array
    cells: npt.NDArray[np.int64]
    systematic_px: float = 0.0


@dataclass(frozen=True)
class Link:
    """Two shots, the map between them as fitted to their local shifts, and what that fit leaves.

    Attributes:
        low, high: the shots' names.
        low_to_high: the best map by this link alone.
        shifts: with covariances that agree with the scatter about the map.
        weights: (n,) of the blocks, low where something moved.
        misfit_px: deviation, per axis, of what varies smoothly over the frame and no map of this motion
            follows, in pixels of the high shot.
    """

    low: str
    high: str
    low_to_high: Matrix
    shifts: LocalShifts
    weights: Array
    misfit_px: float


@dataclass(frozen=True)
class Adjustment:
    """Maps of linked shots to a reference frame, and the covariance of their parameters.

    Attributes:
        to_reference: 3x3 by the shot's name.
        contradiction: how far the links deviate from the common maps, in their own deviations; 1 is what
            chance alone gives.
    """

    to_reference: Mapping[str, Matrix]
    contradiction: float
    _frames: Mapping[str, Matrix]
    _covariance: Array
    _motion: str

    def low_to_high(self, low: str, high: str) -> Matrix:
        """The map between two of the shots."""
        matrix = np.linalg.inv(self.to_reference[high]) @ self.to_reference[low]
        return matrix / matrix[2, 2]

    def error_px(self, low: str, high: str, points: npt.ArrayLike) -> float:
        """Expected distance of mapped points (n, 2) from the truth, root mean square, in high pixels."""

        def mapped(maps: Mapping[str, Matrix]) -> Array:
            return _between(maps, low, high, points)

        _, *moving = self._frames  # in the order of the covariance
        parts = [_derivative(self.to_reference, s, self._frames[s], self._motion, mapped) for s in moving]
        derivative = np.concatenate(parts, axis=-1).reshape(-1, len(self._covariance))
        variances = np.einsum("na,ab,nb->n", derivative, self._covariance, derivative)
        return float(np.sqrt(2 * variances.mean()))


def fit_link(
    low: str, high: str, start: Matrix, shifts: LocalShifts, motion: str, low_size: tuple[int, int]
) -> Link:
    """The map of a motion that fits local shifts best, blocks that do not follow it set aside.

    The scatter of the blocks about the map, not the noise of their pixels, says how sure they are. Where
    neighbouring blocks deviate alike, the map cannot follow the picture, and their number does not help.
    """
    frames = {low: _unit_to_frame(low_size), high: np.eye(3)}
    maps = {low: start, high: np.eye(3)}
    information = np.linalg.inv(shifts.covariance)
    weights = np.ones(len(shifts.points))
    spread = 1.0
    for _ in range(ROUNDS):
        residual = shifts.found - _between(maps, low, high, shifts.points)
        squared = np.einsum("ni,nij,nj->n", residual, information, residual)
        spread = max(float(np.median(squared)) / MEDIAN_OF_CHI2, 1e-12)
        weights = 1 / (1 + squared / (2 * spread * BLOCK_TUNING**2))
        derivative = _derivative(
            maps, low, frames[low], motion, lambda m: _between(m, low, high, shifts.points)
        )
        normal, right = _normal_equations(derivative, information * weights[:, None, None], residual)
        maps[low] = _moved(maps[low], frames[low], motion, np.linalg.lstsq(normal, right, rcond=None)[0])
    correlation = _neighbours_correlation(residual, weights, shifts.cells)
    # n blocks whose neighbours correlate by r along both axes are worth n ((1 - r)/(1 + r))^2.
    worth = ((1 + correlation) / (1 - correlation)) ** 2
    # What all blocks share is no smaller the more there are.
    shared = weights.sum() * shifts.systematic_px**2 * np.eye(2)
    agreeing = replace(shifts, covariance=shifts.covariance * max(spread, 1.0) * worth + shared)
    scatter = float(np.average((residual**2).mean(axis=1), weights=weights))
    matrix = maps[low] / maps[low][2, 2]
    return Link(low, high, matrix, agreeing, weights, float(np.sqrt(correlation * scatter)))


def adjust(links: Sequence[Link], sizes: Mapping[str, tuple[int, int]], motion: str) -> Adjustment:
    """Fit one map per shot to all links together; a link that contradicts the others counts little.

    Args:
        links: that connect all their shots.
        sizes: (height, width) of every linked shot.
        motion: a key of ecc.GENERATORS; scales that it does not move are taken from the links.

    Raises:
        ValueError: the links fall into parts that nothing ties together.
    """
    shots = sorted({shot for link in links for shot in (link.low, link.high)})
    frames = {shot: _unit_to_frame(sizes[shot]) for shot in shots}
    size = len(ecc.GENERATORS[motion])
    limit = size * LINK_TUNING**2

    def contradiction(solved: _Solution) -> float:
        return float(np.log1p(solved.excess / limit).sum())

    best = _solved(links, links, frames, motion)
    if best.excess.max() > limit:
        # A wrong link of great weight may have won: what the most links agree on is right.
        for aside in links:
            others = [link for link in links if link is not aside]
            if len(connected(others)) == 1 and len({s for o in others for s in (o.low, o.high)}) == len(
                shots
            ):
                best = min(best, _solved(links, others, frames, motion), key=contradiction)
    freedom = size * (len(links) - len(shots) + 1)
    deviation = (float(best.trust @ best.excess) + PRIOR_FREEDOM) / (freedom + PRIOR_FREEDOM)
    covariance = np.linalg.pinv(best.normal) * max(1.0, deviation)
    return Adjustment(best.maps, float(np.sqrt(deviation)), frames, covariance, motion)


@dataclass(frozen=True)
class _Solution:
    """Maps to the reference, and of each link how much worse it fits than by its own map (chi squared)."""

    maps: dict[str, Matrix]
    normal: Array
    excess: Array
    trust: Array


def _solved(
    links: Sequence[Link], first: Sequence[Link], frames: Mapping[str, Matrix], motion: str
) -> _Solution:
    """Reweighted least squares over all links, begun on some of them."""
    reference, *moving = frames
    maps = _chained(first, reference, list(frames))
    size = len(ecc.GENERATORS[motion])
    places = {shot: k * size for k, shot in enumerate(moving)}
    informations = [np.linalg.inv(link.shifts.covariance) * link.weights[:, None, None] for link in links]
    excess = np.zeros(len(links))
    trust = np.array([float(any(link is one for one in first)) for link in links])
    for _ in range(ROUNDS):
        normal, right = np.zeros((len(moving) * size,) * 2), np.zeros(len(moving) * size)
        for number, (link, information) in enumerate(zip(links, informations, strict=True)):
            points = link.shifts.points

            def mapped(some: Mapping[str, Matrix], link: Link = link, points: Array = points) -> Array:
                return _between(some, link.low, link.high, points)

            residual = link.shifts.found - mapped(maps)
            own = link.shifts.found - geometry.apply(link.low_to_high, points)
            excess[number] = max(0.0, _cost(residual, information) - _cost(own, information))
            ends = [shot for shot in (link.low, link.high) if shot in places]
            derivative = np.concatenate(
                [_derivative(maps, shot, frames[shot], motion, mapped) for shot in ends], axis=-1
            )
            part, part_right = _normal_equations(derivative, information * trust[number], residual)
            index = np.concatenate([places[shot] + np.arange(size) for shot in ends])
            normal[np.ix_(index, index)] += part
            right[index] += part_right
        step = np.linalg.lstsq(normal, right, rcond=None)[0]
        for shot, place in places.items():
            maps[shot] = _moved(maps[shot], frames[shot], motion, step[place : place + size])
        trust = 1 / (1 + excess / (size * LINK_TUNING**2))
    return _Solution(maps, normal, excess, trust)


def connected(links: Sequence[Link]) -> list[list[Link]]:
    """The links in groups that share shots."""
    groups: list[list[Link]] = []
    for link in links:
        touched = [g for g in groups if any({link.low, link.high} & {o.low, o.high} for o in g)]
        groups = [g for g in groups if g not in touched] + [[link, *(o for g in touched for o in g)]]
    return groups


def _chained(links: Sequence[Link], reference: str, shots: Sequence[str]) -> dict[str, Matrix]:
    """Maps to the reference by as few links as possible."""
    maps = {reference: np.eye(3)}
    while len(maps) < len(shots):
        found = {}
        for link in links:
            if link.high in maps and link.low not in maps:
                found[link.low] = maps[link.high] @ link.low_to_high
            elif link.low in maps and link.high not in maps:
                found[link.high] = maps[link.low] @ np.linalg.inv(link.low_to_high)
        if not found:
            raise ValueError("the links do not tie all shots together")
        maps |= found
    return maps


def _unit_to_frame(size: tuple[int, int]) -> Matrix:
    """From coordinates about the frame's centre, 1 at the corners' distance, to its pixels."""
    height, width = size
    half_diagonal = float(np.hypot(height, width)) / 2
    centre = geometry.translation((width - 1) / 2, (height - 1) / 2)
    return centre @ np.diag([half_diagonal, half_diagonal, 1.0])


def _moved(matrix: Matrix, unit_to_frame: Matrix, motion: str, step: Array) -> Matrix:
    move = ecc.exponential(np.tensordot(step, np.array(ecc.GENERATORS[motion]), 1))
    return matrix @ unit_to_frame @ move @ np.linalg.inv(unit_to_frame)


def _between(maps: Mapping[str, Matrix], low: str, high: str, points: npt.ArrayLike) -> Array:
    return geometry.apply(np.linalg.inv(maps[high]) @ maps[low], points)


def _derivative(
    maps: Mapping[str, Matrix],
    shot: str,
    unit_to_frame: Matrix,
    motion: str,
    mapped: Callable[[Mapping[str, Matrix]], Array],
) -> Array:
    """Central differences (n, 2, parameters) of mapped points by the parameters of one shot's map."""
    columns = []
    for k in range(len(ecc.GENERATORS[motion])):
        step = np.zeros(len(ecc.GENERATORS[motion]))
        step[k] = STEP
        ahead = mapped({**maps, shot: _moved(maps[shot], unit_to_frame, motion, step)})
        behind = mapped({**maps, shot: _moved(maps[shot], unit_to_frame, motion, -step)})
        columns.append((ahead - behind) / (2 * STEP))
    return np.stack(columns, axis=-1)


def _normal_equations(derivative: Array, information: Array, residual: Array) -> tuple[Array, Array]:
    weighted = np.einsum("nia,nij->naj", derivative, information)
    return np.einsum("naj,njb->ab", weighted, derivative), np.einsum("naj,nj->a", weighted, residual)


def _cost(residual: Array, information: Array) -> float:
    return float(np.einsum("ni,nij,nj->", residual, information, residual))


def _neighbours_correlation(residual: Array, weights: Array, cells: npt.NDArray[np.int64]) -> float:
    """Correlation of the residuals of blocks that lie side by side, 0 where it may be chance."""
    place = {tuple(cell): k for k, cell in enumerate(cells.tolist())}
    pairs = [
        (k, place[row + down, column + right])
        for (row, column), k in place.items()
        for down, right in ((0, 1), (1, 0))
        if (row + down, column + right) in place
    ]
    if len(pairs) < 4:
        return 0.0
    first, second = np.array(pairs).T
    shared = np.sqrt(weights[first] * weights[second])
    # What chance alone gives is taken off: two deviations.
    chance = 2 / np.sqrt(2 * max(1.0, float(shared.sum())))
    product = (residual[first] * residual[second]).sum(axis=1) @ shared
    power = ((residual[first] ** 2 + residual[second] ** 2) / 2).sum(axis=1) @ shared
    correlation = product / power if power > 0 else 0.0
    return float(np.clip(correlation - chance, 0.0, LARGEST_CORRELATION))
