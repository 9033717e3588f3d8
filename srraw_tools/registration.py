"""Register two images of one scene at different focal lengths: start, refine, measure, judge.

Both images are linear luminance (H, W), float32 in [0, 1]. The short focal length's image is `low`, the long
one's `high`; the result, `low_to_high`, maps pixels of the full low frame to those of the full high one.

The images are compared at the low image's sampling, where both have the same sharpness: `high` is averaged
over the footprint of a low pixel. A pyramid of enhanced correlation (ecc.py) comes near; then blocks all over
the common field are each found in the other image, and the map is fitted to those (adjustment.py), so that
what moved does not pull it and the scatter tells how sure it is.

Where the lenses' distortions are known, blocks are found through them, and the map is that of undistorted
coordinates; coming near needs no such accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import distortion, ecc, geometry, starts
from srraw_tools.adjustment import Link, LocalShifts, fit_link
from srraw_tools.distortion import STRAIGHT, Lenses
from srraw_tools.ecc import WARP, Image
from srraw_tools.geometry import Matrix
from srraw_tools.starts import WideFeatures

Vector = npt.NDArray[np.float64]

CLIPPED = 0.98  # of white; what is brighter is not compared
NORMALISE_SIGMA = 8.0  # pixels of the low image over which local mean and contrast are taken
NOISE_FLOOR = 0.004  # contrast, in square roots of light, below which there is nothing but noise
COARSEST_SIDE = 32  # pixels of the shorter side of the common field at the top of the pyramid
MARGIN_PX = 16  # around the field in view, at every level but the coarsest
LARGEST_ECC = 600_000  # pixels of a level; larger ones are measured in blocks only
LARGEST_MEASURED = 2_000_000  # pixels; of larger views half the sampling holds more than enough
BLOCK_SIDES = (12, 24)  # pixels of the low image, at least: of a small common field, and else
BLOCKS_ACROSS = 6  # that a small common field is to have
MOST_BLOCKS = 12  # along a side
FEWEST_BLOCKS = 6
MEASURED_SHARE = 0.5  # of a block that both images must see
SOFTEST_PX = 4.0  # blur, in pixels of the compared images, by which one may be softer
SOFT_HIGH_PX, SOFT_LOW_PX = 0.8, 2.5  # of that, above which the long or the short shot is useless
SYSTEMATIC = 0.0015  # of a pixel of the compared images, that interpolation may shift them
ROUNDS = 4  # of measuring and fitting, at most
CONVERGED_PX = 0.02  # of the high image, below which a round was the last
CLEAR_SCORE = 0.9  # correlation of small images above which no other start is tried
SURE_SCORE = 0.4  # correlation below which other scales are tried
HOPELESS_SCORE = 0.1  # correlation at a level of the pyramid below which no finer one is tried
MIN_SCORE = 0.25  # correlation below which two images do not show the same thing
SCALES = (0.5, 16.0)  # of the low image in the high one that a registration can have


@dataclass(frozen=True)
class Registration:
    """What was found; `reason` says in words why it is not to be trusted, None where it is.

    score: correlation coefficient of the two, locally normalised, over what both see, at most 1.
    link: the blocks' shifts and the map fitted to them, `low_to_high`; None where too few could be measured.
    residual_px: median length of the blocks' shifts that remain, in pixels of the long shot.
    softer_px: sigma of the blur that makes the sharper image as soft as the other, in pixels of the low one;
        positive where the low image is the softer one.
    """

    low_to_high: Matrix
    score: float
    link: Link | None
    residual_px: float
    reason: str | None
    softer_px: float = 0.0


def register(
    low: Image,
    high: Image,
    expected: Matrix,
    *,
    motion: str = "similarity",
    keep_scale: bool = False,
    names: tuple[str, str] = ("low", "high"),
    lenses: Lenses = STRAIGHT,
    features: Callable[[], tuple[WideFeatures, WideFeatures]] | None = None,
) -> Registration:
    """Find the map from `low` to `high`, near `expected` or elsewhere.

    Args:
        low: the short shot's linear luminance (H, W), float32, black 0 and white 1; values at 1 are clipped.
        high: the long shot's, likewise.
        expected: low_to_high by EXIF; shifts of 15 % of the frame and wrong scales are found from the images.
        motion: a key of ecc.GENERATORS.
        keep_scale: the scale of `expected` is right; features may only turn and shift.
        names: of the two shots, for the link.
        lenses: distortions of the two shots; the map, its link and its residuals are then undistorted.
        features: of the two shots, asked for only where needed; None finds them here.

    Returns:
        The best map found, with its judgement; never an exception because two images do not match.
    """
    fixed = expected if keep_scale else None
    noise = max(_noise(low), _noise(high))

    def begun(candidates: Iterable[Matrix]) -> tuple[Matrix, float]:
        return _begun(low, high, candidates, motion, fixed, noise)

    def anywhere() -> Iterator[Matrix]:
        wide = (starts.wide_features(low), starts.wide_features(high)) if features is None else features()
        found = starts.anywhere(*wide, high.shape)
        if found is not None:
            yield found

    def measured(start: Matrix) -> Registration:
        undistorted = _undistorted(start, lenses, low.shape, high.shape, motion)
        return measure(low, high, undistorted, motion=motion, names=names, lenses=lenses)

    start, clear = begun(chain([expected], starts.near(low, high, expected)))
    refined, score = _refined(low, high, start, clear, motion, noise)
    found = measured(refined)
    # A small common field correlates well by chance; its blocks then fail.
    if score < SURE_SCORE or found.reason:
        other, clear = begun(anywhere())
        if clear >= 0:
            elsewhere = measured(_refined(low, high, other, clear, motion, noise)[0])
            found = max(found, elsewhere, key=lambda one: (one.reason is None, one.score))
    return found


def measure(
    low: Image,
    high: Image,
    start: Matrix,
    *,
    motion: str = "similarity",
    names: tuple[str, str] = ("low", "high"),
    lenses: Lenses = STRAIGHT,
    settled: bool = False,
) -> Registration:
    """Find blocks of the low image in the high one, from a map that is right to a pixel or two, and judge.

    Args as `register`; settled as adjustment.fit_link.
    """
    noise = max(_noise(low), _noise(high))
    low_to_high, link, softer_px = start, None, 0.0
    k = max(0, math.ceil(math.log(_pixels_in_view(low, high, start) / LARGEST_MEASURED, 4)))
    for number in range(ROUNDS):
        level = _level(low, high, low_to_high, k, MARGIN_PX, noise, lenses)
        if number:
            level = _equally_sharp(level, low_to_high, softer_px)
        shifts = _local_shifts(level, low_to_high)
        if shifts is None:
            reason = _why_not(low, high) or "too little of the picture can be measured"
            return Registration(low_to_high, _score(level, low_to_high), None, float("inf"), reason)
        link = fit_link(*names, low_to_high, shifts, motion, low.shape, settled=settled)
        moved = geometry.apply(link.low_to_high, shifts.points) - geometry.apply(low_to_high, shifts.points)
        low_to_high = link.low_to_high
        if number and np.abs(moved).max() < CONVERGED_PX:
            break
        if not number:
            softer_px = _softer_px(level, low_to_high)
    score = _score(level, low_to_high)
    left = link.shifts.found - geometry.apply(low_to_high, link.shifts.points)
    residual_px = float(np.median(np.linalg.norm(left, axis=1)))
    reason = _out_of_focus(softer_px)
    if score < MIN_SCORE:
        reason = _why_not(low, high) or (
            f"the two shots do not match: correlation {score:.2f}, at least {MIN_SCORE} is needed"
        )
    return Registration(low_to_high, score, link, residual_px, reason, softer_px)


# --- find -------------------------------------------------------------------------------------------------


def _begun(
    low: Image,
    high: Image,
    candidates: Iterable[Matrix],
    motion: str,
    fixed: Matrix | None,
    noise: float,
) -> tuple[Matrix, float]:
    """The best of several starts, refined on small images, and its score there.

    One that matches clearly spares looking for others.
    """
    low_to_high, score = np.eye(3), -2.0
    for candidate in candidates:
        start = candidate if fixed is None else _with_scale_of(fixed, candidate, high.shape)
        tried, its_score = _ecc(low, high, start, _count_levels(low, high, start) - 1, motion, noise)
        if its_score > score:
            low_to_high, score = tried, its_score
        if score > CLEAR_SCORE:
            break
    return low_to_high, score


def _refined(
    low: Image, high: Image, low_to_high: Matrix, score: float, motion: str, noise: float
) -> tuple[Matrix, float]:
    """A map that was begun on small images, refined on ever larger ones; its last score."""
    for k in range(_count_levels(low, high, low_to_high) - 2, -1, -1):
        if score < HOPELESS_SCORE or _pixels_in_view(low, high, low_to_high) / 4**k > LARGEST_ECC:
            break
        low_to_high, score = _ecc(low, high, low_to_high, k, motion, noise)
    return low_to_high, score


def _count_levels(low: Image, high: Image, low_to_high: Matrix) -> int:
    scale, _ = geometry.scale_and_rotation(low_to_high)
    return max(1, int(np.log2(max(1.0, min(high.shape) / scale / COARSEST_SIDE))) + 1)


def _pixels_in_view(low: Image, high: Image, low_to_high: Matrix) -> int:
    _, _, width, height = geometry.view_or_frame(low_to_high, low.shape, high.shape)
    return width * height


def _ecc(low: Image, high: Image, start: Matrix, k: int, motion: str, noise: float) -> tuple[Matrix, float]:
    """Refine a map on images of 1/2^k of the low sampling; the score is -1 where nothing can be compared."""
    scale, _ = geometry.scale_and_rotation(start)
    if not SCALES[0] <= scale <= SCALES[1]:
        return start, -1.0
    margin = max(MARGIN_PX, round(starts.MARGIN * max(low.shape) / 2**k)) if k else MARGIN_PX
    level = _level(low, high, start, k, margin, noise)
    begin = level.high_to_level @ start @ np.linalg.inv(level.low_to_level)
    sx, sy = level.low_to_level[0, 0], level.low_to_level[1, 1]
    # Normalised once, not at every step: the windows differ a little, and so does the map; `measure` follows.
    field = _field(level, begin)
    per_low_pixel = np.sqrt(abs(np.linalg.det(begin[:2, :2])))
    refined, score = ecc.maximise(
        _normalise(level.low, field, level.sigma, level.floor),
        level.low_seen,
        _normalise(level.high, np.ones_like(level.high), level.sigma * per_low_pixel, level.floor),
        level.high_seen,
        begin,
        motion,
        pixel=(sy / sx, 1.0),
    )
    low_to_high = np.linalg.inv(level.high_to_level) @ refined @ level.low_to_level
    return low_to_high / low_to_high[2, 2], score


def _with_scale_of(fixed: Matrix, found: Matrix, high_size: tuple[int, ...]) -> Matrix:
    """A map's rotation and centre, with the scale of another."""
    centre = (np.array(high_size[1::-1]) - 1) / 2
    factor = geometry.scale_and_rotation(fixed)[0] / geometry.scale_and_rotation(found)[0]
    about = geometry.translation(*centre) @ np.diag([factor, factor, 1]) @ geometry.translation(*-centre)
    return about @ found


# --- the images at a level of the pyramid -----------------------------------------------------------------


@dataclass(frozen=True)
class _Level:
    """Both images at a sampling: square roots of light, and what brings full frames to them."""

    low: Image  # the field in view and a margin
    low_seen: Image  # 1 where the low image is not clipped, else 0
    high: Image
    high_seen: Image
    sigma: float  # of the normalisation, in pixels of this level's low image
    floor: float  # contrast of noise
    low_to_level: Matrix
    high_to_level: Matrix
    lenses: Lenses


def _level(
    low: Image,
    high: Image,
    low_to_high: Matrix,
    k: int,
    margin: int,
    noise: float,
    lenses: Lenses = STRAIGHT,
) -> _Level:
    """Images of 1/2^k of the low sampling, `margin` pixels of which are added around the field in view."""
    scale, _ = geometry.scale_and_rotation(low_to_high)
    x, y, w, h = distortion.view_or_frame(low_to_high, low.shape, high.shape, lenses)
    m = margin * 2**k
    x0, y0 = max(0, x - m), max(0, y - m)
    region = low[y0 : min(low.shape[0], y + h + m), x0 : min(low.shape[1], x + w + m)]
    low_small, region_to_level = starts.resized(region, 0.5**k)
    # Twice the low sampling, so that linear interpolation of the blurred image is exact enough.
    reduction = max(1.0, scale * 2**k / 2)
    high_small, high_to_level = starts.resized(high, 1 / reduction)
    per_low_pixel = scale * 2**k / reduction
    # A low pixel has its own aperture (variance 1/12) and the luminance kernel's (1/2, full size only).
    variance = (1 / 12 + 0.5 / 4**k) * per_low_pixel**2 - 1 / 12 - 0.5 / reduction**2
    if variance > 0:
        high_small = cv2.GaussianBlur(high_small, (0, 0), float(np.sqrt(variance)))
    sigma = min(NORMALISE_SIGMA, min(low_small.shape) / 4)
    floor = max(NOISE_FLOOR, noise / 2**k)
    return _Level(
        np.sqrt(np.maximum(low_small, 0)),
        (low_small < CLIPPED).astype(np.float32),
        np.sqrt(np.maximum(high_small, 0)),
        (high_small < CLIPPED).astype(np.float32),
        sigma,
        floor,
        region_to_level @ geometry.translation(-x0, -y0),
        high_to_level,
        lenses,
    )


def _noise(image: Image) -> float:
    """Deviation of an image's noise in square roots of light, where the scene is flat."""
    root = np.sqrt(np.maximum(image[::2, ::2], 0))  # the luminance kernel ties neighbours together
    difference = root[:-1, :-1] - root[1:, :-1] - root[:-1, 1:] + root[1:, 1:]
    return float(np.percentile(np.abs(difference), 25)) / (2 * 0.3186)  # quartile of |N(0, 1)|


def _normalise(root: Image, seen: Image, sigma: float, floor: float) -> Image:
    """Local mean 0 and contrast 1 within what is seen; flat areas stay flat, the rest is 0.

    Both images are averaged over the same field only: what one sees beyond the other's border would pull
    the scale.
    """
    weight = _blur(seen, sigma) + 1e-6
    centred = (root - _blur(root * seen, sigma) / weight) * seen
    contrast = np.sqrt(_blur(centred * centred, sigma) / weight + floor**2)
    return centred / contrast


def _blur(image: Image, sigma: float) -> Image:
    """About a Gaussian, at a cost that does not grow with sigma: two boxes of variance (side^2 - 1)/12."""
    side = round(np.sqrt(6 * sigma**2 + 1)) // 2 * 2 + 1
    once = cv2.blur(image, (side, side), borderType=cv2.BORDER_CONSTANT)
    return cv2.blur(once, (side, side), borderType=cv2.BORDER_CONSTANT)


def _field(level: _Level, level_low_to_high: Matrix) -> Image:
    """1 where the high image sees the low one's pixels, by a map between the level's images, else 0."""
    everywhere = np.ones(level.high.shape, np.float32)
    field = cv2.warpPerspective(everywhere, level_low_to_high, level.low.shape[::-1], flags=WARP)
    return (field > 0.5).astype(np.float32)


def _on_low_grid(level: _Level, low_to_high: Matrix) -> tuple[Image, Image, Image]:
    """The high image on the low image's grid, by a map of full frames; what both see, and `_field`."""
    if level.lenses == STRAIGHT:
        to_level = level.high_to_level @ low_to_high @ np.linalg.inv(level.low_to_level)
        return *ecc.warped(level.low_seen, level.high, level.high_seen, to_level), _field(level, to_level)
    level_to_low = np.linalg.inv(level.low_to_level)
    size = level.low.shape
    places = distortion.sampling_places(low_to_high, level.lenses, size, level_to_low, level.high_to_level)
    moving = cv2.remap(level.high, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.remap(level.high_seen, places, None, cv2.INTER_LINEAR)
    reach = cv2.remap(np.ones_like(level.high), places, None, cv2.INTER_LINEAR)
    return moving, ecc.seen_by_both(level.low_seen, seen), (reach > 0.5).astype(np.float32)


def _undistorted(
    low_to_high: Matrix, lenses: Lenses, low_size: tuple[int, ...], high_size: tuple[int, ...], motion: str
) -> Matrix:
    """The map of undistorted coordinates nearest to one of coordinates as they are seen.

    Turned and shifted, and scaled where the motion does, to agree over the common field by least squares.
    """
    if lenses == STRAIGHT:
        return low_to_high
    x, y, w, h = geometry.view_or_frame(low_to_high, low_size, high_size)
    lattice = np.stack(np.meshgrid(np.linspace(x, x + w - 1, 9), np.linspace(y, y + h - 1, 9)), axis=-1)
    seen = lattice.reshape(-1, 2)
    here = geometry.apply(low_to_high, distortion.undistorted(lenses[0], seen)) @ (1, 1j)
    there = distortion.undistorted(lenses[1], geometry.apply(low_to_high, seen)) @ (1, 1j)
    centred = here - here.mean()
    turn = np.vdot(centred, there) / np.vdot(centred, centred)
    if motion == "translation":
        turn = 1
    elif motion == "euclidean":
        turn = turn / abs(turn)
    move = there.mean() - turn * here.mean()
    closer = geometry.similarity(abs(turn), float(np.angle(turn)), move.real, move.imag)
    return closer @ low_to_high


def _equally_sharp(level: _Level, low_to_high: Matrix, softer_px: float) -> _Level:
    """The level with its sharper image blurred, as `_softer_px` says."""
    if softer_px > 0:
        scale = np.sqrt(
            abs(
                np.linalg.det((level.high_to_level @ low_to_high @ np.linalg.inv(level.low_to_level))[:2, :2])
            )
        )
        return replace(level, high=cv2.GaussianBlur(level.high, (0, 0), softer_px * float(scale)))
    if softer_px < 0:
        return replace(level, low=cv2.GaussianBlur(level.low, (0, 0), -softer_px))
    return level


def _softer_px(level: _Level, low_to_high: Matrix) -> float:
    """Sigma of the blur that makes one image as soft as the other, in pixels of the level's low image.

    Positive where the low image is the softer one, negative where the high one is. Their common detail is
    compared, fine against coarse, so that noise does not pass for sharpness.
    """
    moving, mask, _ = _on_low_grid(level, low_to_high)
    template, seen = level.low, mask > 0

    def excess(sigma: float) -> float:
        """Fine detail of the low image over that of the high one, less 1, when one is blurred by sigma."""
        a = cv2.GaussianBlur(template, (0, 0), -sigma) if sigma < 0 else template
        b = cv2.GaussianBlur(moving, (0, 0), sigma) if sigma > 0 else moving
        ratios = []
        for fine, coarse in ((0.0, 1.0), (2.0, 4.0)):
            of_a, of_b = (_band(image, fine, coarse)[seen] for image in (a, b))
            # Regressed on the high image, which has next to no noise and no aliasing at this sampling.
            ratios.append(float(of_a @ of_b) / max(float(of_b @ of_b), 1e-12))
        return ratios[0] / max(ratios[1], 1e-6) - 1

    sign = 1.0 if excess(0.0) < 0 else -1.0
    least, most = 0.0, SOFTEST_PX
    for _ in range(7):
        middle = (least + most) / 2
        least, most = (middle, most) if sign * excess(sign * middle) < 0 else (least, middle)
    return sign * (least + most) / 2


def _band(image: Image, fine: float, coarse: float) -> Image:
    """Detail between two Gaussian blurs."""
    low = cv2.GaussianBlur(image, (0, 0), fine) if fine else image
    return low - cv2.GaussianBlur(image, (0, 0), coarse)


# --- measure ----------------------------------------------------------------------------------------------


def _compared(level: _Level, low_to_high: Matrix) -> tuple[Image, Image, npt.NDArray[np.bool_]]:
    """Both images on the low image's grid, normalised alike, by a map of full frames; what both see."""
    moving, mask, field = _on_low_grid(level, low_to_high)
    template = _normalise(level.low, field, level.sigma, level.floor)
    return template, _normalise(moving, field, level.sigma, level.floor), mask > 0


def _score(level: _Level, low_to_high: Matrix) -> float:
    template, moving, seen = _compared(level, low_to_high)
    if seen.sum() < BLOCK_SIDES[1] ** 2:
        return -1.0
    t, i = template[seen] - template[seen].mean(), moving[seen] - moving[seen].mean()
    return float(t @ i / max(float(np.linalg.norm(t) * np.linalg.norm(i)), 1e-12))


def _local_shifts(level: _Level, low_to_high: Matrix) -> LocalShifts | None:
    """Where blocks of the low image lie in the high one: one Gauss-Newton step of translation and gain each.

    Blocks with too little in them to measure are left out; None where fewer than FEWEST_BLOCKS remain.
    """
    template, moving, seen = _compared(level, low_to_high)
    rows, columns = np.nonzero(seen.any(axis=1))[0], np.nonzero(seen.any(axis=0))[0]
    shorter = min(len(rows), len(columns))
    if shorter < 2 * BLOCK_SIDES[0]:
        return None
    side = int(np.clip(shorter // BLOCKS_ACROSS, *BLOCK_SIDES))
    bands = [np.array_split(line, min(MOST_BLOCKS, len(line) // side)) for line in (rows, columns)]
    gx, gy = ecc.gradients(moving)
    points, moves, covariances, cells = [], [], [], []
    for row, band_y in enumerate(bands[0]):
        for column, band_x in enumerate(bands[1]):
            part = np.s_[band_y[0] : band_y[-1] + 1, band_x[0] : band_x[-1] + 1]
            inside = seen[part]
            if inside.mean() < MEASURED_SHARE:
                continue
            planes = [plane[part][inside].astype(np.float64) for plane in (gx, gy, template, moving)]
            found = _block_shift(*planes)
            if found is None:
                continue
            move, covariance = found
            y, x = np.nonzero(inside)
            weight = planes[0] ** 2 + planes[1] ** 2  # the shift is that of the block's edges
            points.append(
                (band_x[0] + np.average(x, weights=weight), band_y[0] + np.average(y, weights=weight))
            )
            moves.append(move)
            covariances.append(covariance)
            cells.append((row, column))
    if len(points) < FEWEST_BLOCKS:
        return None
    level_to_low = np.linalg.inv(level.low_to_level)
    scale = geometry.scale_and_rotation(low_to_high)[0] * level_to_low[0, 0]
    found = np.array(points) + np.array(moves)  # as if the low shot saw there what the high one shows
    lens = level.lenses[0]
    if lens is None:
        found = geometry.apply(low_to_high @ level_to_low, found)
    else:
        found = geometry.apply(low_to_high, lens.undistort(geometry.apply(level_to_low, found)))
    return LocalShifts(
        points=distortion.undistorted(lens, geometry.apply(level_to_low, points)),
        found=found,
        covariance=np.array(covariances) * scale**2,
        cells=np.array(cells),
        systematic_px=SYSTEMATIC * scale,
    )


def _block_shift(
    gx: Vector, gy: Vector, template: Vector, moving: Vector
) -> tuple[Vector, npt.NDArray[np.float64]] | None:
    """The shift d and its covariance by which moving(x + d) fits gain x template(x) + offset best."""
    design = np.stack([gx, gy, -template, np.ones_like(template)], axis=1)
    normal = design.T @ design
    if np.linalg.cond(normal) > 1e8:
        return None
    solution = np.linalg.solve(normal, -design.T @ moving)
    error = moving + design @ solution
    covariance = np.linalg.inv(normal)[:2, :2] * float(error @ error) / max(1, len(error) - 4)
    # One that stands for less than a pixel of certainty, or shows a negative, says nothing.
    if solution[2] <= 0 or np.trace(covariance) > 1:
        return None
    return np.clip(solution[:2], -2, 2), covariance


# --- judge ------------------------------------------------------------------------------------------------


def _out_of_focus(softer_px: float) -> str | None:
    """In words, where one shot lacks the detail that the other shows; `softer_px` as `_softer_px`."""
    if softer_px < -SOFT_HIGH_PX:
        return "the long shot is softer than the short one: out of focus, or shaken"
    if softer_px > SOFT_LOW_PX:
        return "the short shot is much too soft: out of focus, or shaken"
    return None


def _why_not(low: Image, high: Image) -> str | None:
    """What is wrong with images that do not match, where it is seen in one of them."""
    for name, image in (("short", low), ("long", high)):
        if float((image >= CLIPPED).mean()) > 0.5:
            return f"most of the {name} shot is clipped"
        if float(image.std()) < 2 * NOISE_FLOOR**2:
            return f"the {name} shot is blank"
    return None
