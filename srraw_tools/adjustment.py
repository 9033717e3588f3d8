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
BLOCK_TUNING = 5.0  # deviations at which a block counts nothing (Tukey)
LINK_TUNING = 3.0  # and at which a link of a network counts half (Cauchy)
CONSENSUS_TRIES = 400  # pairs of blocks from which a first map is drawn
FEWEST_FOR_BENDING = 24  # blocks from which more than an affine field can be told
AFFINE_TERMS = 6
PRIOR_FREEDOM = 4.0  # degrees of freedom with which the links' own deviations are believed
DIVIDED = 0.3  # share of blocks that do not follow, from which a picture is divided between two maps
AGREEING_OF_CHANCE = 0.85  # mean weight of blocks with nothing but Gaussian errors
CHANCE_OF_CHI2 = 40.0  # of the nine degrees of freedom of a field, that chance hardly exceeds
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
class Surface:
    """Where the points of a low frame lie in a high one, smoothly: a map, bent as perspective and lenses do.

    Attributes:
        low_to_high: the map that most blocks follow.
        frame_to_unit: 3x3, from pixels of the low frame to coordinates about 1 at the common field's border.
        coefficients: of `_bendings`.
        reality: 0 where chance explains the bending, near 1 where it is certain.
        agreeing: share of the blocks that lie on it; the others moved, or are nearer than the rest.
        dominant: share of the blocks that follow `low_to_high`.
    """

    low_to_high: Matrix
    frame_to_unit: Matrix
    coefficients: Array
    reality: float
    agreeing: float
    dominant: float

    def found(self, points: npt.ArrayLike) -> Array:
        """Points (n, 2) of the low frame as they are found in the high one, in its pixels."""
        bendings = _bendings(geometry.apply(self.frame_to_unit, points))
        bent = bendings[..., : len(self.coefficients)] @ self.coefficients
        return geometry.apply(self.low_to_high, points) + bent


@dataclass(frozen=True)
class Link:
    """Two shots, the map between them as fitted to their local shifts, and what that fit leaves.

    Attributes:
        low, high: the shots' names.
        low_to_high: the best map by this link alone.
        shifts: with covariances that agree with the scatter about the map.
        weights: (n,) of the blocks, low where something moved.
        surface: on which the blocks lie, whether a map of this motion follows it or not.
    """

    low: str
    high: str
    low_to_high: Matrix
    shifts: LocalShifts
    weights: Array
    surface: Surface

    def departure_px(self, low_to_high: Matrix, points: npt.ArrayLike | None = None) -> float:
        """How far the surface lies from a map, beyond what chance explains: over the blocks, or at points.

        Root mean square, in pixels of the high shot.
        """
        weights = self.weights if points is None else np.ones(len(np.asarray(points)))
        points = self.shifts.points if points is None else points
        apart = self.surface.found(points) - geometry.apply(low_to_high, points)
        return float(np.sqrt(np.average((apart**2).sum(axis=1), weights=weights) * self.surface.reality))

    def ambiguity_px(self, low_to_high: Matrix, points: npt.ArrayLike) -> float:
        """How far the map that most blocks follow lies from a map at points (n, 2), where others disagree.

        Root mean square, in pixels of the high shot; 0 where all blocks say the same.
        """
        share = np.clip(1 - self.surface.dominant / AGREEING_OF_CHANCE, 0, DIVIDED) / DIVIDED
        apart = geometry.apply(self.surface.low_to_high, points) - geometry.apply(low_to_high, points)
        return float(share * np.sqrt((apart**2).sum(axis=1).mean()))


@dataclass(frozen=True)
class Adjustment:
    """Maps of linked shots to a reference frame, and the covariance of their parameters.

    Attributes:
        to_reference: 3x3 by the shot's name.
        contradiction: how far the links deviate from the common maps, in their own deviations; 1 is what
            chance alone gives.
        motion: a key of ecc.GENERATORS.
    """

    to_reference: Mapping[str, Matrix]
    contradiction: float
    motion: str
    _frames: Mapping[str, Matrix]
    _covariance: Array

    def low_to_high(self, low: str, high: str) -> Matrix:
        """The map between two of the shots."""
        matrix = np.linalg.inv(self.to_reference[high]) @ self.to_reference[low]
        return matrix / matrix[2, 2]

    def error_px(self, low: str, high: str, points: npt.ArrayLike) -> float:
        """Expected distance of mapped points (n, 2) from the truth, root mean square, in high pixels."""

        def mapped(maps: Mapping[str, Matrix]) -> Array:
            return _between(maps, low, high, points)

        _, *moving = self._frames  # in the order of the covariance
        nudges = {shot: _nudges(self._frames[shot], self.motion) for shot in moving}
        parts = [_derivative(self.to_reference, shot, nudges[shot], mapped) for shot in moving]
        derivative = np.concatenate(parts, axis=-1).reshape(-1, len(self._covariance))
        variances = np.einsum("na,ab,nb->n", derivative, self._covariance, derivative)
        return float(np.sqrt(2 * variances.mean()))


def fit_link(
    low: str,
    high: str,
    start: Matrix,
    shifts: LocalShifts,
    motion: str,
    low_size: tuple[int, int],
    *,
    settled: bool = False,
) -> Link:
    """The map of a motion that fits local shifts best, blocks that do not lie on one surface set aside.

    How much neighbouring blocks differ, not the noise of their pixels, says how sure each is. The map that
    most blocks agree on comes first, so that a nearer plane or something that moved does not draw it away;
    from there a smooth surface grows over what distortion bends; the map is fitted to all of that surface.

    Args:
        settled: other links say that the start is right but for its last fraction of a pixel, and flat:
            blocks that do not follow it, though they may be most, have moved or are nearer.
    """
    unit_to_frame = _unit_to_frame(low_size)
    nudges = _nudges(unit_to_frame, motion)
    # Where the picture is divided, more neighbours than not may differ because they lie on two planes.
    quantile = 0.25 if settled else 0.5
    spread = _local_spread(shifts, start, quantile)
    information = np.linalg.inv(shifts.covariance * spread)

    def fitted(matrix: Matrix, information: Array, weights: Array | None) -> Matrix:
        for _ in range(ROUNDS if weights is None else 3):
            residual = shifts.found - geometry.apply(matrix, shifts.points)
            trust = _tukey(residual, information) if weights is None else weights
            derivative = _derivative(
                {low: matrix, high: np.eye(3)},
                low,
                nudges,
                lambda maps: _between(maps, low, high, shifts.points),
            )
            normal, right = _normal_equations(derivative, information * trust[:, None, None], residual)
            step = np.linalg.lstsq(normal, right, rcond=None)[0]
            matrix = _moved(matrix, unit_to_frame, motion, step)
        return matrix / matrix[2, 2]

    begin = start if settled else _consensus(shifts, information, start, motion)
    dominant = fitted(begin, information, None)
    residual = shifts.found - geometry.apply(dominant, shifts.points)
    weights = _tukey(residual, information)
    # Blocks that were set aside have neighbours that were drawn a little, and were not.
    doubt = max(1.0, AGREEING_OF_CHANCE / float(weights.mean())) ** 4
    surface = (
        Surface(dominant, np.eye(3), np.zeros(0), 0.0, float(weights.mean()), float(weights.mean()))
        if settled
        else _grown_surface(dominant, shifts.points, residual, information, weights)
    )
    left = shifts.found - surface.found(shifts.points)
    # What the surface leaves may scatter more than neighbours differ.
    spread *= _excess(_squared(left, information), quantile)
    weights = _tukey(left, np.linalg.inv(shifts.covariance * spread))
    # Where the map cannot follow the surface, every block of it counts, not those alone that are sharp.
    bent = np.sqrt(surface.reality) * (surface.found(shifts.points) - geometry.apply(dominant, shifts.points))
    everywhere = shifts.covariance * spread + (bent**2).mean() * np.eye(2)
    matrix = fitted(dominant, np.linalg.inv(everywhere), weights)
    link = Link(low, high, matrix, shifts, weights, surface)
    # What all blocks share is no smaller the more there are. Over another part of the frame the best map is
    # another one: by about the departure at the corners, where p parameters weigh 4 p/n.
    elsewhere = link.departure_px(matrix) ** 2 / (4 * len(ecc.GENERATORS[motion]))
    shared = weights.sum() * (shifts.systematic_px**2 + elsewhere) * np.eye(2)
    return replace(link, shifts=replace(shifts, covariance=shifts.covariance * spread * doubt + shared))


def _local_spread(shifts: LocalShifts, start: Matrix, quantile: float) -> float:
    """By how much the variance of the blocks' shifts exceeds the one stated, from neighbours' differences."""
    residual = shifts.found - geometry.apply(start, shifts.points)
    first, second = _neighbours(shifts.cells)
    if len(first) < 4:
        return 1.0
    difference = residual[first] - residual[second]
    expected = shifts.covariance[first] + shifts.covariance[second]
    squared = _squared(difference, np.linalg.inv(expected))
    return _excess(squared, quantile)


def _excess(squared: Array, quantile: float) -> float:
    """By how much a quantile of squared deviations of points exceeds that of chance, 1 at least."""
    of_chi2 = -2 * np.log(1 - quantile)  # of two degrees of freedom
    return max(1.0, float(np.quantile(squared, quantile)) / of_chi2)


def _neighbours(cells: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the blocks that lie side by side, of each pair the first and the second."""
    place = {tuple(cell): k for k, cell in enumerate(cells.tolist())}
    pairs = [
        (k, place[row + down, column + right])
        for (row, column), k in place.items()
        for down, right in ((0, 1), (1, 0))
        if (row + down, column + right) in place
    ]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return first, second


def _consensus(shifts: LocalShifts, information: Array, start: Matrix, motion: str) -> Matrix:
    """The similarity through two blocks that most blocks follow, or the start (Torr & Zisserman 2000)."""
    if motion not in ("similarity", "affine", "homography"):
        return start
    points, found = (array @ (1, 1j) for array in (shifts.points, shifts.found))  # as complex numbers
    a, b = np.random.default_rng(0).integers(len(points), size=(2, CONSENSUS_TRIES))
    a, b = a[a != b], b[a != b]
    turns = (found[b] - found[a]) / (points[b] - points[a])
    moves = found[a] - turns * points[a]
    begun = geometry.apply(start, shifts.points) @ (1, 1j)
    residual = found - np.vstack([begun, turns[:, None] * points + moves[:, None]])
    squared = (
        information[:, 0, 0] * residual.real**2
        + 2 * information[:, 0, 1] * residual.real * residual.imag
        + information[:, 1, 1] * residual.imag**2
    )
    best = int(np.minimum(squared, BLOCK_TUNING**2).sum(axis=1).argmin())
    if best == 0:
        return start
    turn, move = turns[best - 1], moves[best - 1]
    return np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag], [0, 0, 1]])


def _tukey(residual: Array, information: Array) -> Array:
    return np.clip(1 - _squared(residual, information) / BLOCK_TUNING**2, 0, 1) ** 2


def _bendings(unit: Array) -> Array:
    """Vector fields (n, 2, 9) at points (n, 2): shift, turn and scale, stretch, tilt, radial distortion."""
    x, y = unit.T
    one, none, r2 = np.ones_like(x), np.zeros_like(x), x**2 + y**2
    along_x = [one, none, -y, x, x, y, x * x, x * y, x * r2]
    along_y = [none, one, x, y, -y, x, x * y, y * y, y * r2]
    return np.stack([np.stack(along_x, axis=1), np.stack(along_y, axis=1)], axis=1)


def _grown_surface(
    low_to_high: Matrix, points: Array, residual: Array, information: Array, weights: Array
) -> Surface:
    """The surface through the residuals of a map, begun where they are small and grown from there."""
    centre, half = (points.max(axis=0) + points.min(axis=0)) / 2, np.ptp(points, axis=0).max() / 2
    frame_to_unit = np.diag([1 / half, 1 / half, 1.0]) @ geometry.translation(*-centre)
    design = _bendings(geometry.apply(frame_to_unit, points))
    if len(points) < FEWEST_FOR_BENDING:
        design = design[..., :AFFINE_TERMS]
    dominant = float(weights.mean())
    for _ in range(ROUNDS):
        normal, right = _normal_equations(design, information * weights[:, None, None], residual)
        coefficients = np.linalg.pinv(normal) @ right
        left = residual - design @ coefficients
        weights = _tukey(left, information)
    chi2 = _truncated_cost(residual, information) - _truncated_cost(left, information)
    reality = max(0.0, 1 - CHANCE_OF_CHI2 / max(chi2, 1e-12))
    return Surface(low_to_high, frame_to_unit, coefficients, reality, float(weights.mean()), dominant)


def _truncated_cost(residual: Array, information: Array) -> float:
    """Chi squared, in which a block that does not follow counts as one at the limit."""
    return float(np.minimum(_squared(residual, information), BLOCK_TUNING**2).sum())


def _squared(residual: Array, information: Array) -> Array:
    """Squared deviations (n,) of residuals (n, 2)."""
    return np.einsum("ni,nij,nj->n", residual, information, residual)


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
    return Adjustment(best.maps, float(np.sqrt(deviation)), motion, frames, covariance)


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
    nudges = {shot: _nudges(frames[shot], motion) for shot in moving}
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
                [_derivative(maps, shot, nudges[shot], mapped) for shot in ends], axis=-1
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


def _nudges(unit_to_frame: Matrix, motion: str) -> list[tuple[Matrix, Matrix]]:
    """For each parameter of a motion, what moves a frame a small step ahead, and one behind."""
    steps = STEP * np.eye(len(ecc.GENERATORS[motion]))
    return [
        tuple(_moved(np.eye(3), unit_to_frame, motion, sign * step) for sign in (1, -1)) for step in steps
    ]


def _derivative(
    maps: Mapping[str, Matrix],
    shot: str,
    nudges: Sequence[tuple[Matrix, Matrix]],
    mapped: Callable[[Mapping[str, Matrix]], Array],
) -> Array:
    """Central differences (n, 2, parameters) of mapped points by the parameters of one shot's map."""
    columns = []
    for ahead, behind in nudges:
        difference = mapped({**maps, shot: maps[shot] @ ahead}) - mapped({**maps, shot: maps[shot] @ behind})
        columns.append(difference / (2 * STEP))
    return np.stack(columns, axis=-1)


def _normal_equations(derivative: Array, information: Array, residual: Array) -> tuple[Array, Array]:
    weighted = np.einsum("nia,nij->naj", derivative, information)
    return np.einsum("naj,njb->ab", weighted, derivative), np.einsum("naj,nj->a", weighted, residual)


def _cost(residual: Array, information: Array) -> float:
    return float(_squared(residual, information).sum())
