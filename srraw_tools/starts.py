"""Where to begin: maps between two shots by EXIF, by phase correlation and by features.

Nothing here is exact. Registration tries every start on small images and goes on from the best one.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.ecc import WARP, Image
from srraw_tools.geometry import Matrix

MARGIN = 0.2  # of the frame, by which the field in view may lie elsewhere than expected
FEATURE_SIDE = 640  # pixels of the longer side at which features are sought near the expected map
MARGIN_SIDE = 1600  # and at most, with the margins; SIFT takes 180 bytes for each pixel
WIDE_SIDE = 1200  # and over the whole frame, where no map is expected
WIDE_REDUCTIONS = (1, 2, 4, 8)  # of the high image there; the low one is looked at in the first only
FEATURES = 2000  # of an image, the strongest
FEWEST_MATCHES = 10
RANSAC_SHARE = 0.002  # of the image's longer side that a match may be off

Features = tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]  # places (n, 2), descriptors (n, 128)
WideFeatures = tuple[Features, ...]  # for each of WIDE_REDUCTIONS


def centred_start(low_size: tuple[int, int], high_size: tuple[int, int], scale: float) -> Matrix:
    """The map that scales by `scale` about the two frames' centres: what EXIF alone promises."""
    low_centre, high_centre = ((np.array(s[::-1]) - 1) / 2 for s in (low_size, high_size))
    return (
        geometry.translation(*high_centre) @ np.diag([scale, scale, 1]) @ geometry.translation(*-low_centre)
    )


def near(low: Image, high: Image, expected: Matrix) -> Iterator[Matrix]:
    """Maps near the expected one: moved by phase correlation, and by features of the expected field.

    Args:
        low, high: linear luminance (H, W), float32.
        expected: low_to_high by EXIF.
    """
    scale, _ = geometry.scale_and_rotation(expected)
    x, y, w, h = geometry.view_or_frame(expected, low.shape, high.shape)
    mx, my = round(MARGIN * low.shape[1]), round(MARGIN * low.shape[0])
    x0, y0 = max(0, x - mx), max(0, y - my)
    x1, y1 = min(low.shape[1], x + w + mx), min(low.shape[0], y + h + my)
    reduction = max(1.0, max(high.shape) / scale / FEATURE_SIDE, max(x1 - x0, y1 - y0) / MARGIN_SIDE)
    low_small, region_to_small = resized(low[y0:y1, x0:x1], 1 / reduction)
    high_small, high_to_small = resized(high, 1 / (scale * reduction))
    low_to_small = region_to_small @ geometry.translation(-x0, -y0)
    shift = _phase_shift(low_small, high_small, high_to_small @ expected @ np.linalg.inv(low_to_small))
    yield np.linalg.inv(high_to_small) @ shift @ high_to_small @ expected
    found = _matched(_features(low_small, low_to_small), _features(high_small, high_to_small), high.shape)
    if found is not None:
        yield found


def wide_features(image: Image) -> WideFeatures:
    """Features of a whole shot at several sampling rates: all that `anywhere` needs of it."""
    base = min(1.0, WIDE_SIDE / max(image.shape))
    return tuple(_features(*resized(image, base / reduction)) for reduction in WIDE_REDUCTIONS)


def anywhere(low: WideFeatures, high: WideFeatures, high_size: tuple[int, ...]) -> Matrix | None:
    """A map by features alone, whatever the scale between the two is; None where they do not match."""
    places, words = (np.concatenate(parts) for parts in zip(*high, strict=True))
    return _matched(low[0], (places, words), high_size)


def resized(image: Image, factor: float) -> tuple[Image, Matrix]:
    """Average the image to about `factor` of its size; and the map from its pixels to the small one's.

    Whole pixels make the two axes' factors differ a little.
    """
    size = (max(8, round(image.shape[1] * factor)), max(8, round(image.shape[0] * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    sx, sy = size[0] / image.shape[1], size[1] / image.shape[0]
    return small, np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def _features(image: Image, frame_to_image: Matrix) -> Features:
    """SIFT features: their places (n, 2) in the frame, and their descriptors (n, 128)."""
    sift = cv2.SIFT_create(nfeatures=FEATURES, contrastThreshold=0.01)
    points, words = sift.detectAndCompute(_eight_bit(image), None)
    if words is None:
        return np.empty((0, 2)), np.empty((0, 128), np.float32)
    places = np.array([point.pt for point in points], np.float64)
    return geometry.apply(np.linalg.inv(frame_to_image), places), words


def _matched(low: Features, high: Features, high_size: tuple[int, ...]) -> Matrix | None:
    """The similarity low -> high on which most matches agree (RANSAC); None where fewer than ten do."""
    if min(len(low[0]), len(high[0])) < FEWEST_MATCHES:
        return None
    matches = cv2.BFMatcher().knnMatch(high[1], low[1], k=2)
    good = [m for m, second in matches if m.distance < 0.8 * second.distance]
    if len(good) < FEWEST_MATCHES:
        return None
    source = np.array([low[0][m.trainIdx] for m in good])
    target = np.array([high[0][m.queryIdx] for m in good])
    matrix, inliers = cv2.estimateAffinePartial2D(
        source,
        target,
        method=cv2.RANSAC,
        ransacReprojThreshold=RANSAC_SHARE * max(high_size),
        maxIters=5000,
        confidence=0.999,
    )
    if matrix is None or int(inliers.sum()) < FEWEST_MATCHES:
        return None
    return np.vstack([matrix, [0, 0, 1]])


def _phase_shift(low: Image, high: Image, low_to_high: Matrix) -> Matrix:
    """The translation of `high` that phase correlation adds to a map."""
    view = cv2.warpPerspective(
        np.sqrt(np.maximum(low, 0)),
        np.linalg.inv(low_to_high),
        high.shape[::-1],
        flags=WARP,
        borderMode=cv2.BORDER_REPLICATE,
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
