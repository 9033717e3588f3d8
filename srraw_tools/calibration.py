"""The stage from sequences to what a lens does: its radial distortion at every focal length.

Two shots of one scene at different focal lengths see the same directions at different radii, so where blocks
of one lie in the other tells how differently the two are distorted; no chart is needed. A distortion that all
focal lengths share, in angles, shows in no pair: of all that explain the shots alike the smallest is taken,
and to align them any of these is as good.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srraw_tools import distortion, joint, parallel, picture
from srraw_tools.adjustment import Link
from srraw_tools.distortion import Distortion, LensTable
from srraw_tools.errors import UserError
from srraw_tools.exif import is_picture
from srraw_tools.raw import luminance, read_raw
from srraw_tools.sequence import foreign_shots, read_sequence

Array = npt.NDArray[np.float64]

ROUNDS = 3  # of measuring, each through the distortion found before; further ones change next to nothing
PRIOR = (0.1, 0.05)  # of k1 and k2: lenses distort so much, and where nothing is measured, not at all
STEP = 1e-5  # of k1 and k2, for numerical derivatives
FITS = 8  # of Gauss and Newton, and of reweighting, at most
CONVERGED = 1e-5  # of k1 and k2
TUNING = 3.0  # deviations at which a block counts half (Cauchy)
FEWEST_BLOCKS = 30  # of a link that is to tell of distortion


@dataclass(frozen=True)
class LensLink:
    """Two shots and where blocks of one lie in the other, in pixels as they are seen.

    Attributes:
        focals: the nominal focal lengths of the low and the high shot.
        sizes: (height, width) of their frames.
        points, found: (n, 2) in the low frame and in the high one.
        information: (n, 2, 2), inverse covariance of `found`.
    """

    focals: tuple[float, float]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    points: Array
    found: Array
    information: Array


@dataclass(frozen=True)
class FocalDistortion:
    """A lens at one focal length.

    Attributes:
        focal_mm: by EXIF, the median of the shots; k1, k2 as in distortion.of_frame.
        shots: from how many.
        corner_share: by how much more than the middle the corner is magnified.
        next_mm: the next longer focal length, None at the longest; and how far shots of the two are from each
            other by their best similarity, before and after, root mean square in pixels of the longer one.
    """

    focal_mm: float
    k1: float
    k2: float
    shots: int
    next_mm: float | None = None
    before_px: float | None = None
    after_px: float | None = None

    @property
    def corner_share(self) -> float:
        return self.k1 + self.k2


@dataclass(frozen=True)
class _Linked:
    """The links of one sequence; its shots' focal lengths by EXIF, by nominal one; and what went wrong."""

    links: tuple[LensLink, ...]
    focals_mm: tuple[tuple[float, float], ...]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationRound:
    """One sequence was measured in one of the ROUNDS: how many links, and what could not be used of it."""

    number: int
    sequence: str
    links: int
    failures: tuple[str, ...]


def calibrate_lens(
    folders: Iterable[Path], *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[CalibrationRound | tuple[FocalDistortion, ...]]:
    """Estimate the radial distortion of a lens from sequences of any scenes that it shot.

    All sequences are measured, the distortion is fitted, and they are measured again through it: where two
    shots are far from each other as seen, less can be measured.

    Args:
        jobs: processes to work in.
        scheduler: address of a Dask cluster to work on instead, as parallel.map_items.

    Yields:
        A CalibrationRound for every sequence of every round; at last the lens, by focal length.

    Raises:
        UserError: the sequences are of several lenses, or no two focal lengths could be registered.
    """
    folders = list(folders)
    _check_one_lens(folders)
    nominal: dict[float, tuple[float, float]] = {}
    before: tuple[LensLink, ...] = ()
    for number in range(1, ROUNDS + 1):
        linked = []
        measure = partial(_link_sequence, lens=nominal)
        for folder, result in parallel.map_items(measure, folders, jobs, scheduler):
            failures = (str(result),) if isinstance(result, UserError) else result.failures
            links = () if isinstance(result, UserError) else result.links
            yield CalibrationRound(number, folder.name, len(links), failures)
            if not isinstance(result, UserError):
                linked.append(result)
        links = tuple(link for one in linked for link in one.links)
        if not links:
            raise UserError(
                "No two focal lengths could be registered, so nothing is known of the lens.",
                "Take sequences of scenes with detail up to the corners.",
            )
        before = before or links
        nominal = fit_distortions(links)
    yield _described(nominal, before, links, linked)


def fit_distortions(links: Iterable[LensLink]) -> dict[float, tuple[float, float]]:
    """k1 and k2 by nominal focal length, that make similarities of all links fit best.

    For given distortions the best similarity of each link is linear (as complex numbers), so that only the
    distortions are searched (variable projection; Golub & Pereyra, "The differentiation of pseudo-inverses
    and nonlinear least squares problems whose variables separate", SIAM J. Numer. Anal. 1973). Blocks that do
    not follow count little (Cauchy).
    """
    links = list(links)
    focals = sorted({focal for link in links for focal in link.focals})
    place = {focal: 2 * k for k, focal in enumerate(focals)}
    prior = np.tile([1 / sigma**2 for sigma in PRIOR], len(focals))
    k = np.zeros(2 * len(focals))
    for _ in range(FITS):
        normal, right = np.diag(prior), -prior * k
        for link in links:
            terms = [place[focal] + term for focal in link.focals for term in (0, 1)]
            values = k[terms]
            weights = _trust(link, _residual(link, values))
            residual = _residual(link, values, weights)
            columns = []
            for term in range(4):
                step = np.zeros(4)
                step[term] = STEP
                ahead, behind = (_residual(link, values + sign * step, weights) for sign in (1, -1))
                columns.append((ahead - behind) / (2 * STEP))
            derivative = np.stack(columns, axis=-1)  # (n, 2, 4)
            information = link.information * weights[:, None, None]
            weighted = np.einsum("nia,nij->naj", derivative, information)
            normal[np.ix_(terms, terms)] += np.einsum("naj,njb->ab", weighted, derivative)
            right[terms] -= np.einsum("naj,nj->a", weighted, residual)
        step = np.linalg.solve(normal, right)
        k = k + step
        if np.abs(step).max() < CONVERGED:
            break
    return {focal: (float(k[at]), float(k[at + 1])) for focal, at in place.items()}


def _residual(link: LensLink, terms: Array, weights: Array | None = None) -> Array:
    """What the best similarity leaves of a link, (n, 2) in undistorted pixels of the high shot.

    Args:
        terms: k1 and k2 of the low shot, then those of the high one.
    """
    low, high = (
        distortion.of_frame(float(k1), float(k2), size)
        for (k1, k2), size in zip(terms.reshape(2, 2), link.sizes, strict=True)
    )
    here = low.undistort(link.points) @ (1, 1j)
    there = high.undistort(link.found) @ (1, 1j)
    weight = np.sqrt(np.trace(link.information, axis1=1, axis2=2) * (1 if weights is None else weights))
    design = np.stack([here, np.ones_like(here)], axis=1) * weight[:, None]
    solution = np.linalg.lstsq(design, there * weight, rcond=None)[0]
    left = there - solution[0] * here - solution[1]
    return np.stack([left.real, left.imag], axis=1)


def _trust(link: LensLink, residual: Array) -> Array:
    """Weights (n,) of the blocks, by their deviations from the median one's."""
    squared = np.einsum("ni,nij,nj->n", residual, link.information, residual)
    return 1 / (1 + squared / (TUNING**2 * max(float(np.median(squared)), 1e-12)))


# --- measure ----------------------------------------------------------------------------------------------


def _link_sequence(folder: Path, lens: Mapping[float, tuple[float, float]]) -> _Linked:
    """Register the neighbouring focal lengths of a sequence, through the distortions found so far."""
    sequence = read_sequence(folder)
    foreign = foreign_shots(sequence)
    nominal, images, failures = {}, {}, []
    for shot in sequence.shots:
        if shot.file in foreign or shot.focal_nominal is None:
            continue
        try:
            images[shot.file] = _luminance(folder / shot.file)
            nominal[shot.file] = shot.focal_nominal
        except UserError as error:
            failures.append(str(error))
    lenses = {
        name: distortion.of_frame(*lens[focal], images[name].shape)
        for name, focal in nominal.items()
        if focal in lens
    }
    found = joint.link_neighbours(images, nominal, motion="similarity", distortions=lenses)
    links = []
    for (low, high), registration in found.items():
        if registration.link is None or registration.reason or nominal[low] == nominal[high]:
            failures.append(f"{folder / low} and {high}: {registration.reason or 'of the same focal length'}")
        elif len(registration.link.shifts.points) >= FEWEST_BLOCKS:
            focals, sizes = (nominal[low], nominal[high]), (images[low].shape, images[high].shape)
            links.append(_as_seen(registration.link, focals, sizes, (lenses.get(low), lenses.get(high))))
    known = ((nominal[s.file], s.focal_mm) for s in sequence.shots if s.file in images and s.focal_mm)
    return _Linked(tuple(links), tuple(known), tuple(failures))


def _luminance(path: Path) -> npt.NDArray[np.float32]:
    return picture.luminance(picture.read_picture(path)) if is_picture(path) else luminance(read_raw(path))


def _as_seen(
    link: Link,
    focals: tuple[float, float],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    lenses: tuple[Distortion | None, Distortion | None],
) -> LensLink:
    """A link's blocks where they are seen; those that moved, by the link's own judgement, left out."""
    follows = link.weights > 0
    return LensLink(
        focals,
        sizes,
        distortion.distorted(lenses[0], link.shifts.points[follows]),
        distortion.distorted(lenses[1], link.shifts.found[follows]),
        np.linalg.inv(link.shifts.covariance[follows]) * link.weights[follows, None, None],
    )


def _check_one_lens(folders: list[Path]) -> None:
    lenses = Counter(
        (shot.camera, shot.lens) for folder in folders for shot in read_sequence(folder).shots if shot.lens
    )
    if len(lenses) > 1:
        names = "; ".join(f"{lens} on {camera}" for camera, lens in lenses)
        raise UserError(
            f"The sequences are of several lenses: {names}.", "Calibrate one at a time.", wrong_use=True
        )


def _described(
    lens: Mapping[float, tuple[float, float]],
    before: Iterable[LensLink],
    after: Iterable[LensLink],
    linked: Iterable[_Linked],
) -> tuple[FocalDistortion, ...]:
    by_exif = defaultdict(list)
    for one in linked:
        for focal, focal_mm in one.focals_mm:
            by_exif[focal].append(focal_mm)
    focals = sorted(lens)
    described = []
    for focal, following in zip(focals, [*focals[1:], None], strict=True):
        remaining = []
        for links, terms in (
            (before, np.zeros(4)),
            (after, np.array([*lens[focal], *lens.get(following, ())])),
        ):
            squared = [
                float((_residual(link, terms) ** 2).sum(axis=1).mean())
                for link in links
                if link.focals == (focal, following)
            ]
            remaining.append(float(np.sqrt(np.mean(squared))) if squared else None)
        shown = statistics.median(by_exif[focal]) if by_exif[focal] else focal
        shots = len(by_exif[focal])
        described.append(FocalDistortion(shown, *lens[focal], shots, following, *remaining))
    return tuple(described)


def lens_table(lens: Iterable[FocalDistortion]) -> LensTable:
    """As a rig holds it."""
    return tuple((one.focal_mm, one.k1, one.k2) for one in lens)
