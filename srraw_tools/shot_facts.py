"""What a photographer wants to know of a shot at once: histogram, clipped light, sharpness."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from srraw_tools.raw import RawImage, mosaic_light
from srraw_tools.scene_checks import clipped_shares

BINS = 32  # of the histogram
MIDDLE = 2048  # pixels of the side, at most, of the part that sharpness is judged by


@dataclass(frozen=True)
class ShotFacts:
    """Numbers of one shot.

    Attributes:
        histogram: for red, green and blue the share of pixels in each of BINS equal steps of the square root
            of linear light, black 0 and white 1: a step is about as visible in the shadows as in the lights.
        clipped: share of the pixels of red, green and blue that are at the sensor's white.
        sharpness: variance of the Laplacian of green light over the variance of green light, in the middle
            of the frame (the focus measure LAPV of Pech-Pacheco et al., ICPR 2000, made independent of
            exposure). It compares shots of one scene at one focal length, nothing else.
    """

    histogram: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    clipped: tuple[float, float, float]
    sharpness: float


def facts_of(raw: RawImage) -> ShotFacts:
    """Look at a mosaic; every fourth block of 2x2 is enough for a histogram."""
    counts = {"R": np.zeros(BINS), "G": np.zeros(BINS), "B": np.zeros(BINS)}
    for position, colour in enumerate(raw.cfa):
        row, column = divmod(position, 2)
        light = _light_of(raw, raw.mosaic[row::8, column::8], position)
        counts[colour] += np.histogram(np.sqrt(np.clip(light, 0, 1)), BINS, (0, 1))[0]
    red, green, blue = (tuple((counts[c] / max(1, counts[c].sum())).tolist()) for c in "RGB")
    return ShotFacts((red, green, blue), clipped_shares(raw), _sharpness(raw))


def _light_of(raw: RawImage, values: np.ndarray, position: int) -> np.ndarray:
    """Sensor values of one position of the CFA as linear light."""
    return mosaic_light(values, (raw.black_level[position],) * 4, raw.white_level)


def _sharpness(raw: RawImage) -> float:
    position = raw.cfa.index("G")
    row, column = divmod(position, 2)
    green = raw.mosaic[row::2, column::2]
    height, width = (min(side, MIDDLE) for side in green.shape)
    top, left = (green.shape[0] - height) // 2, (green.shape[1] - width) // 2
    light = _light_of(raw, green[top : top + height, left : left + width], position)
    variance = float(light.var())
    return float(cv2.Laplacian(light, cv2.CV_32F).var()) / variance if variance > 0 else 0.0
