"""How much brighter one shot of a pair is than the other, per channel."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.distortion import STRAIGHT, Lenses, view_or_frame, warp
from srraw_tools.ecc import Image
from srraw_tools.geometry import Matrix

BLOCK = 4  # side, in pixels of the half-size low image, over which light is averaged


def fit_gain(
    low_rgb: npt.NDArray[Any],
    high_rgb: npt.NDArray[Any],
    low_to_high: Matrix,
    lenses: Lenses = STRAIGHT,
) -> tuple[float, float, float]:
    """Per-channel factor that brings the high shot to the low shot's exposure.

    The ratio of the light of both, averaged over blocks of 4 low pixels that lie wholly in both frames,
    over blocks where neither is clipped nor dark and whose own ratio is near the median one. A channel with
    too few of them, such as the red of a blue evening, gets the median of the others: exposures differ alike.

    Args:
        low_rgb: (h, w, 3) float32, white-balanced linear light, white 1.
        high_rgb: (H, W, 3), likewise.
        low_to_high: (3, 3), the map between these two images' pixels.
        lenses: the distortions of low and high, in these pixels.
    """
    crop = view_or_frame(low_to_high, low_rgb.shape, high_rgb.shape, lenses)
    side = BLOCK
    columns, rows = crop[2] // side, crop[3] // side
    if min(columns, rows) < 1:
        return 1.0, 1.0, 1.0
    scale, _ = geometry.scale_and_rotation(low_to_high)
    # The high shot at the low one's sampling: blurred to its pixel's footprint, then sampled.
    blurred = cv2.GaussianBlur(high_rgb, (0, 0), max(0.3, 0.4 * scale), borderType=cv2.BORDER_REFLECT_101)
    crop_to_low = geometry.crop_to_frame(crop)
    size = (rows * side, columns * side)
    high_view = warp(blurred, low_to_high, lenses, size, grid_to_low=crop_to_low)
    everywhere = np.ones(high_rgb.shape[:2], np.float32)
    inside = warp(everywhere, low_to_high, lenses, size, grid_to_low=crop_to_low)
    low_view = low_rgb[crop[1] : crop[1] + size[0], crop[0] : crop[0] + size[1]]
    low_blocks, high_blocks = _block_means(low_view, side), _block_means(high_view, side)
    whole = _block_means(inside[..., None], side)[..., 0] > 0.999
    gains: list[float | None] = []
    for low, high in zip(np.moveaxis(low_blocks, -1, 0), np.moveaxis(high_blocks, -1, 0), strict=True):
        usable = whole & (np.minimum(low, high) > 0.01) & (np.maximum(low, high) < 0.9)
        if usable.sum() < 8:
            gains.append(None)
            continue
        ratio = np.log(low[usable] / high[usable])
        deviation = np.abs(ratio - np.median(ratio))
        near = deviation <= 3 * np.median(deviation) + 1e-6
        gains.append(float(low[usable][near].sum() / high[usable][near].sum()))
    known = [gain for gain in gains if gain is not None]
    usual = float(np.median(known)) if known else 1.0
    red, green, blue = (usual if gain is None else gain for gain in gains)
    return red, green, blue


def _block_means(image: Image, side: int) -> npt.NDArray[np.float64]:
    """Means over side x side blocks of (H, W, C), whose sides are multiples of `side`."""
    height, width, channels = image.shape
    blocks = image.reshape(height // side, side, width // side, side, channels)
    return blocks.mean(axis=(1, 3), dtype=np.float64)
