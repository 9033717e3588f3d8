"""Numbers that tell how good a pair is, measured on its pictures; pure functions."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.float32]

LEAST_RESPONSE = 0.1  # of a phase correlation, below which nothing was found
LEAST_SCORE = 0.6  # of a correlation after that
LEAST_CONTRAST = 0.01  # of sRGB, standard deviation, below which a block shows nothing


def luminance(srgb: npt.NDArray[np.float32]) -> Grey:
    """(R + 2G + B)/4 of sRGB (H, W, 3) in [0, 1]."""
    return np.ascontiguousarray(srgb @ np.array([0.25, 0.5, 0.25], np.float32))


def area_mean(picture: Grey, factor: int) -> Grey:
    """Pixels `factor` times as large, each the mean over its area."""
    height, width = (side // factor for side in picture.shape)
    parts = picture[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return parts.mean(axis=(1, 3), dtype=np.float32)


def sharpness(target: Grey, zoom: int) -> float | None:
    """How much of a target's contrast is finer than the low shot's sampling, in [0, 1].

    The standard deviation of what is lost when the target is averaged over the low shot's pixels and enlarged
    again, over its own. None where the target shows nothing.
    """
    contrast = float(target.std())
    if contrast < LEAST_CONTRAST:
        return None
    coarse = cv2.resize(area_mean(target, zoom), target.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return min(1.0, float((target - coarse).std()) / contrast)


def shift(low: Grey, target: Grey, zoom: int) -> tuple[float, float] | None:
    """Where the low shot (h, w) lies beside its target (N h, N w), (x, y) in pixels of the target.

    By phase correlation at the low shot's sampling, refined by the enhanced correlation coefficient. None
    where the block shows too little.
    """
    small = area_mean(target, zoom)
    if min(float(low.std()), float(small.std())) < LEAST_CONTRAST:
        return None
    start, response = cv2.phaseCorrelate(low, small, cv2.createHanningWindow(low.shape[::-1], cv2.CV_32F))
    if response < LEAST_RESPONSE:
        return None
    warp = np.array([[1, 0, start[0]], [0, 1, start[1]]], np.float32)
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-5)
    try:
        score, warp = cv2.findTransformECC(low, small, warp, cv2.MOTION_TRANSLATION, until, None, 3)
    except cv2.error:  # it did not converge
        return None
    return None if score < LEAST_SCORE else (zoom * float(warp[0, 2]), zoom * float(warp[1, 2]))


def seen_crop(valid: npt.NDArray[np.uint8], zoom: int) -> tuple[int, int, int, int]:
    """A large crop [x, y, width, height] of a pair, in mosaic pixels and even, all of whose target is valid.

    Args:
        valid: (N h, N w), of the whole pair.
        zoom: N.
    """
    height, width = (side // (2 * zoom) for side in valid.shape)
    blocks = valid[: height * 2 * zoom, : width * 2 * zoom].reshape(height, 2 * zoom, width, 2 * zoom)
    seen = blocks.min(axis=(1, 3)) > 0
    top, bottom, left, right = 0, height, 0, width
    while top < bottom and left < right:
        # The side of the rectangle that shows least goes first.
        part = seen[top:bottom, left:right]
        shares = [part[0].mean(), part[-1].mean(), part[:, 0].mean(), part[:, -1].mean()]
        worst = int(np.argmin(shares))
        if shares[worst] == 1:
            if part.all():
                break
            worst = _nearest_hole(part)
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return 2 * left, 2 * top, 2 * (right - left), 2 * (bottom - top)


def _nearest_hole(part: npt.NDArray[np.bool_]) -> int:
    """The side (top, bottom, left, right) that lies nearest to something that is not seen."""
    rows, columns = np.nonzero(~part)
    height, width = part.shape
    return int(np.argmin([rows.min(), height - 1 - rows.max(), columns.min(), width - 1 - columns.max()]))
