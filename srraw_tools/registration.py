"""Register two images of one scene at different focal lengths: start, refine, judge.

Both images are linear luminance (H, W), float32 in [0, 1]. The short focal length's image is `low`, the
one's `high`; the result, `low_to_high`, maps pixels of the full low frame to those of the full high one.

The images are compared at the low image's sampling, where both have the same sharpness: `high` is averaged
over the footprint of a low pixel. Refinement maximises the enhanced correlation coefficient (Evangelidis &
Psarakis, PAMI 2008) over a pyramid: see ecc.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import ecc, geometry
from srraw_tools.ecc import WARP, Image
from srraw_tools.geometry import Crop, Matrix

CLIPPED = 0.98  # of white; what is brighter is not compared
NORMALISE_SIGMA = 8.0  # pixels of the low image over which local mean and contrast are taken
NOISE_FLOOR = 0.004  # contrast, in square roots of light, below which there is nothing but noise
COARSEST_SIDE = 32  # pixels of the shorter side at the top of the pyramid
FEATURE_SIDE = 1200  # pixels of the longer side at which features are sought
GAIN_BLOCK = 4  # side, in pixels of the half-size low image, over which light is averaged
MIN_SCORE = 0.5  # correlation below which two images do not show the same thing
MAX_RESIDUAL_PX = 5.0  # median local shift, in pixels of the long shot, above which one map does not fit


@dataclass(frozen=True)
class Registration:
    """What was found; `reason` says in words why it is not to be trusted, None where it is.

    score: correlation coefficient of the two, locally normalised, over what both see, at most 1.
    residual_px: median length of the shifts that remain in blocks of the image, in pixels of the long shot.
    """

    low_to_high: Matrix
    score: float
    residual_px: float
    reason: str | None


def centred_start(low_size: tuple[int, int], high_size: tuple[int, int], scale: float) -> Matrix:
    """The map that scales by `scale` about the two frames' centres: what EXIF alone promises."""
    low_centre, high_centre = ((np.array(s[::-1]) - 1) / 2 for s in (low_size, high_size))
    return (
        geometry.translation(*high_centre) @ np.diag([scale, scale, 1]) @ geometry.translation(*-low_centre)
    )


def register(
    low: Image, high: Image, expected: Matrix, *, motion: str = "similarity", keep_scale: bool = False
) -> Registration:
    """Find the map from `low` to `high` near `expected`.

    Args:
        low, high: linear luminance (H, W), float32, black 0 and white 1; values at 1 are clipped.
        expected: low_to_high by EXIF; shifts of 15 % of the frame and wrong scales are found from features.
        motion: a key of ecc.GENERATORS.
        keep_scale: the scale of `expected` is right; features may only turn and shift.

    Returns:
        The best map found, with its judgement; never an exception because two images do not match.
    """
    starts = _starts(low, high, expected, keep_scale)
    levels = _levels(low, high, expected)
    ranked = sorted((_refine(levels[:1], start, motion) for start in starts), key=lambda found: -found[1])
    low_to_high, score = _refine(levels, ranked[0][0], motion)
    residual = _residual_px(levels[-1], low_to_high)
    return Registration(low_to_high, score, residual, _judge(low_to_high, score, residual, low, high))


# --- start ------------------------------------------------------------------------------------------------


def _starts(low: Image, high: Image, expected: Matrix, keep_scale: bool) -> list[Matrix]:
    """Maps to begin with: by EXIF, by EXIF and phase correlation, by features; the best is chosen later."""
    scale, _ = geometry.scale_and_rotation(expected)
    # The region of the low frame that can be in view: the expected one, grown by 20 % of the frame.
    x, y, w, h = _view(expected, low.shape, high.shape)
    mx, my = round(0.2 * low.shape[1]), round(0.2 * low.shape[0])
    x0, y0 = max(0, x - mx), max(0, y - my)
    x1, y1 = min(low.shape[1], x + w + mx), min(low.shape[0], y + h + my)
    reduction = max(1.0, max(high.shape) / scale / FEATURE_SIDE)
    low_small, region_to_small = _resized(low[y0:y1, x0:x1], 1 / reduction)
    high_small, high_to_small = _resized(high, 1 / (scale * reduction))
    low_to_small = region_to_small @ geometry.translation(-x0, -y0)
    starts = [expected]
    shift = _phase_shift(low_small, high_small, high_to_small @ expected @ np.linalg.inv(low_to_small))
    starts.append(np.linalg.inv(high_to_small) @ shift @ high_to_small @ expected)
    by_features = _match_features(low_small, high_small)
    if by_features is not None:
        found = np.linalg.inv(high_to_small) @ by_features @ low_to_small
        if keep_scale:  # the features' centre and rotation with the scale that was asked for
            centre = (np.array(high.shape[::-1]) - 1) / 2
            factor = scale / geometry.scale_and_rotation(found)[0]
            about = geometry.translation(*centre) @ np.diag([factor, factor, 1])
            found = about @ geometry.translation(*-centre) @ found
        starts.append(found)
    return starts


def _view(low_to_high: Matrix, low_size: tuple[int, ...], high_size: tuple[int, ...]) -> Crop:
    try:
        return geometry.even_crop_of_view(low_to_high, low_size[:2], high_size[:2])
    except ValueError:
        return 0, 0, low_size[1], low_size[0]


def _resized(image: Image, factor: float) -> tuple[Image, Matrix]:
    """Average the image to about `factor` of its size; and the map from its pixels to the small one's."""
    size = (max(8, round(image.shape[1] * factor)), max(8, round(image.shape[0] * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    sx, sy = size[0] / image.shape[1], size[1] / image.shape[0]
    return small, np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def _match_features(low: Image, high: Image) -> Matrix | None:
    """A similarity low -> high from SIFT matches and RANSAC; None where fewer than ten agree."""
    sift = cv2.SIFT_create(nfeatures=4000, contrastThreshold=0.01)
    points_low, words_low = sift.detectAndCompute(_eight_bit(low), None)
    points_high, words_high = sift.detectAndCompute(_eight_bit(high), None)
    if words_low is None or words_high is None or min(len(words_low), len(words_high)) < 10:
        return None
    matches = cv2.BFMatcher().knnMatch(words_high, words_low, k=2)
    good = [m for m, second in matches if m.distance < 0.8 * second.distance]
    if len(good) < 10:
        return None
    source = np.float32([points_low[m.trainIdx].pt for m in good])
    target = np.float32([points_high[m.queryIdx].pt for m in good])
    matrix, inliers = cv2.estimateAffinePartial2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=2.0, maxIters=5000, confidence=0.999
    )
    if matrix is None or int(inliers.sum()) < 10:
        return None
    return np.vstack([matrix, [0, 0, 1]])


def _phase_shift(low: Image, high: Image, low_to_high: Matrix) -> Matrix:
    """The translation of `high` that phase correlation adds to a map."""
    view = cv2.warpPerspective(
        np.sqrt(np.maximum(low, 0)),
        np.linalg.inv(low_to_high),
        high.shape[::-1],
        flags=WARP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    window = cv2.createHanningWindow(high.shape[::-1], cv2.CV_32F)
    target = np.sqrt(np.maximum(high, 0))
    (dx, dy), _ = cv2.phaseCorrelate(view - view.mean(), target - target.mean(), window)
    return geometry.translation(dx, dy)


def _eight_bit(light: Image) -> npt.NDArray[np.uint8]:
    """Square root of light, stretched between its 0.5 and 99.5 percentiles."""
    root = np.sqrt(np.maximum(light, 0))
    first, last = np.percentile(root, (0.5, 99.5))
    return (np.clip((root - first) / max(last - first, 1e-6), 0, 1) * 255).astype(np.uint8)


# --- refine -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Level:
    """One level of the pyramid: square roots of light, and what brings full frames to them."""

    low: Image
    low_seen: Image  # 1 where the low image is not clipped, else 0
    high: Image  # normalised
    high_seen: Image
    sigma: float  # of the normalisation, in pixels of this level's low image
    low_to_level: Matrix
    high_to_level: Matrix


def _levels(low: Image, high: Image, expected: Matrix) -> list[_Level]:
    """The pyramid, coarsest first. The low image is cut to the region that can be in view."""
    scale, _ = geometry.scale_and_rotation(expected)
    x, y, w, h = _view(expected, low.shape, high.shape)
    mx, my = max(16, round(0.2 * low.shape[1])), max(16, round(0.2 * low.shape[0]))
    x0, y0 = max(0, x - mx), max(0, y - my)
    region = low[y0 : min(low.shape[0], y + h + my), x0 : min(low.shape[1], x + w + mx)]
    count = max(1, int(np.log2(max(1.0, min(high.shape) / scale / COARSEST_SIDE))) + 1)
    levels = []
    for k in range(count):
        low_small, region_to_level = _resized(region, 0.5**k)
        # Twice the low sampling, so that linear interpolation of the blurred image is exact enough.
        reduction = max(1.0, scale * 2**k / 2)
        high_small, high_to_level = _resized(high, 1 / reduction)
        per_low_pixel = scale * 2**k / reduction
        # A low pixel has its own aperture (variance 1/12) and the luminance kernel's (1/2, full size only).
        variance = (1 / 12 + 0.5 / 4**k) * per_low_pixel**2 - 1 / 12 - 0.5 / reduction**2
        if variance > 0:
            high_small = cv2.GaussianBlur(high_small, (0, 0), float(np.sqrt(variance)))
        sigma = min(NORMALISE_SIGMA, min(low_small.shape) / 4)
        high_root = np.sqrt(np.maximum(high_small, 0))
        everywhere = np.ones_like(high_root)
        levels.append(
            _Level(
                np.sqrt(np.maximum(low_small, 0)),
                (low_small < CLIPPED).astype(np.float32),
                _normalise(high_root, everywhere, sigma * per_low_pixel),
                (high_small < CLIPPED).astype(np.float32),
                sigma,
                region_to_level @ geometry.translation(-x0, -y0),
                high_to_level,
            )
        )
    return levels[::-1]


def _normalise(root: Image, seen: Image, sigma: float) -> Image:
    """Local mean 0 and contrast 1 within what is seen; flat areas stay flat, the rest is 0.

    Both images are averaged over the same field only: what one sees beyond the other's border would pull
    the scale.
    """
    weight = _blur(seen, sigma) + 1e-6
    centred = (root - _blur(root * seen, sigma) / weight) * seen
    contrast = np.sqrt(_blur(centred * centred, sigma) / weight + NOISE_FLOOR**2)
    return centred / contrast


def _blur(image: Image, sigma: float) -> Image:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)


def _refine(levels: list[_Level], low_to_high: Matrix, motion: str) -> tuple[Matrix, float]:
    """Maximise the correlation level by level; returns the map and the score at the last one."""
    score = -1.0
    # The last level twice: the field over which it is normalised follows the map that was found.
    for level in (*levels, levels[-1]):
        start = level.high_to_level @ low_to_high @ np.linalg.inv(level.low_to_level)
        refined, score = ecc.maximise(
            _template(level, start), level.low_seen, level.high, level.high_seen, start, motion
        )
        low_to_high = np.linalg.inv(level.high_to_level) @ refined @ level.low_to_level
        low_to_high /= low_to_high[2, 2]
    return low_to_high, score


def _template(level: _Level, low_to_high: Matrix) -> Image:
    """The low image, normalised over the field that the high image sees by a map."""
    everywhere = np.ones(level.high.shape, np.float32)
    field = cv2.warpPerspective(everywhere, low_to_high, level.low.shape[::-1], flags=WARP)
    return _normalise(level.low, (field > 0.5).astype(np.float32), level.sigma)


# --- judge ------------------------------------------------------------------------------------------------


def _residual_px(level: _Level, low_to_high: Matrix, blocks: int = 6) -> float:
    """Median length of the shifts that remain in blocks of the view, in pixels of the long shot.

    One Gauss-Newton step of translation per block between the low image and the warped high one; blocks with
    too little in them to measure are left out. Infinity where none can be measured.
    """
    to_level = level.high_to_level @ low_to_high @ np.linalg.inv(level.low_to_level)
    template = _template(level, to_level)
    image, mask = ecc.warped(level.low_seen, level.high, level.high_seen, to_level)
    rows, columns = np.nonzero(mask.max(axis=1))[0], np.nonzero(mask.max(axis=0))[0]
    if len(rows) < 4 * blocks or len(columns) < 4 * blocks:
        return float("inf")
    gx = cv2.sepFilter2D(image, cv2.CV_32F, np.float32([-0.5, 0, 0.5]), np.float32([1]))
    gy = cv2.sepFilter2D(image, cv2.CV_32F, np.float32([1]), np.float32([-0.5, 0, 0.5]))
    shifts = []
    for band_y in np.array_split(rows, blocks):
        for band_x in np.array_split(columns, blocks):
            part = np.s_[band_y[0] : band_y[-1] + 1, band_x[0] : band_x[-1] + 1]
            inside = mask[part] > 0
            if inside.mean() < 0.5:
                continue
            g = np.stack([gx[part][inside], gy[part][inside]])
            i, t = image[part][inside], template[part][inside]
            i, t = i - i.mean(), t - t.mean()
            gain = float(i @ t) / max(float(t @ t), 1e-12)
            hessian = g @ g.T
            # A block measures a shift where its gradients in every direction stand well above the residual.
            error = i - gain * t
            if gain <= 0 or np.linalg.eigvalsh(hessian)[0] < 10 * float(error @ error) / inside.sum():
                continue
            shifts.append(np.linalg.norm(np.linalg.solve(hessian, -(g @ error))))
    if len(shifts) < blocks:
        return float("inf")
    low_px_per_level_px = 1 / level.low_to_level[0, 0]
    scale, _ = geometry.scale_and_rotation(low_to_high)
    return float(np.median(shifts) * low_px_per_level_px * scale)


def _judge(low_to_high: Matrix, score: float, residual_px: float, low: Image, high: Image) -> str | None:
    """Why a registration is not to be trusted, in words; None where nothing speaks against it."""
    if max(float(low.std()), float(high.std())) < 2 * NOISE_FLOOR**2:
        return "an image is blank"
    try:
        geometry.even_crop_of_view(low_to_high, low.shape[:2], high.shape[:2])
    except ValueError:
        return "the two shots do not see a common field"
    if score < MIN_SCORE:
        return f"the two shots do not match: correlation {score:.2f}, at least {MIN_SCORE} is needed"
    if not residual_px <= MAX_RESIDUAL_PX:
        return f"parts of the image remain shifted by {residual_px:.1f} px: moving scene or parallax"
    return None


def fit_gain(
    low_rgb: npt.NDArray[Any], high_rgb: npt.NDArray[Any], low_to_high: Matrix
) -> tuple[float, float, float]:
    """Per-channel factor that brings the high shot to the low shot's exposure.

    The ratio of the light of both, averaged over blocks of 4 low pixels that lie wholly in both frames,
    over blocks where neither is clipped nor dark and whose own ratio is near the median one.

    Args:
        low_rgb, high_rgb: (H, W, 3) float32, white-balanced linear light, white 1.
        low_to_high: the map between these two images' pixels.
    """
    crop = _view(low_to_high, low_rgb.shape, high_rgb.shape)
    side = GAIN_BLOCK
    columns, rows = crop[2] // side, crop[3] // side
    if min(columns, rows) < 1:
        return 1.0, 1.0, 1.0
    scale, _ = geometry.scale_and_rotation(low_to_high)
    # The high shot at the low one's sampling: blurred to its pixel's footprint, then sampled.
    blurred = cv2.GaussianBlur(high_rgb, (0, 0), max(0.3, 0.4 * scale), borderType=cv2.BORDER_REFLECT_101)
    crop_to_high = low_to_high @ geometry.crop_to_frame(crop)
    size = (columns * side, rows * side)
    high_view = cv2.warpPerspective(blurred, crop_to_high, size, flags=WARP)
    inside = cv2.warpPerspective(np.ones(high_rgb.shape[:2], np.float32), crop_to_high, size, flags=WARP)
    low_view = low_rgb[crop[1] : crop[1] + size[1], crop[0] : crop[0] + size[0]]
    low_blocks, high_blocks = _block_means(low_view, side), _block_means(high_view, side)
    whole = _block_means(inside[..., None], side)[..., 0] > 0.999
    gains = []
    for low, high in zip(np.moveaxis(low_blocks, -1, 0), np.moveaxis(high_blocks, -1, 0), strict=True):
        usable = whole & (np.minimum(low, high) > 0.01) & (np.maximum(low, high) < 0.9)
        if usable.sum() < 8:
            gains.append(1.0)
            continue
        ratio = np.log(low[usable] / high[usable])
        deviation = np.abs(ratio - np.median(ratio))
        near = deviation <= 3 * np.median(deviation) + 1e-6
        gains.append(float(low[usable][near].sum() / high[usable][near].sum()))
    return gains[0], gains[1], gains[2]


def _block_means(image: Image, side: int) -> npt.NDArray[np.float64]:
    """Means over side x side blocks of (H, W, C), whose sides are multiples of `side`."""
    height, width, channels = image.shape
    blocks = image.reshape(height // side, side, width // side, side, channels)
    return blocks.mean(axis=(1, 3), dtype=np.float64)
