"""The protocol `aligned`: the target follows the result, and the result's colours follow the target.

As AlignedPSNR does for bursts (Bhat et al., "Deep Burst Super-Resolution", CVPR 2021): dense flow takes off
what a global map cannot, parallax and what is left of distortion; a 3 x 3 matrix takes off a colour cast; and
only pixels count whose flow can be trusted. The colours of the result are fitted, not those of the target: a
grey result would draw a target's to grey and be praised for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools.flow import there_and_back
from srraw_tools.raw import decode_srgb, encode_srgb, to_uint8

Picture = npt.NDArray[np.uint8]

CONSISTENT_PX = 1.0  # that flow there and back again may miss the beginning by
LEAST_SHARE = 0.3  # of the valid pixels, that flow must be known for
COLOUR_SIGMA_PX = 4.0  # of the blur under which colours are compared: sharpness is no colour
CLIPPED = 4, 251  # grey levels beyond which a colour tells nothing
FEWEST_COLOURS = 100


@dataclass(frozen=True)
class Aligned:
    """A result and its target as they are compared.

    Attributes:
        picture: (H, W, 3) uint8 sRGB, the result in the target's colours.
        target: (H, W, 3) uint8 sRGB, the target where the result shows the same; elsewhere the result.
        counts: (H, W) bool, where they are compared.
    """

    picture: Picture
    target: Picture
    counts: npt.NDArray[np.bool_]


def align_target(result: Picture, target: Picture, valid: npt.NDArray[np.bool_]) -> Aligned | None:
    """Warp a target to a result by dense flow, and fit the result's colours to it.

    Args:
        result: (H, W, 3) uint8 sRGB.
        target: (H, W, 3) uint8 sRGB.
        valid: (H, W), where the target shows the scene.

    Returns:
        None where the flow is known for less than 30 % of the valid pixels.
    """
    here, there = _alike(result, target, valid)
    flow, missed_px = there_and_back(here, there)
    height, width = valid.shape
    y, x = np.indices((height, width), np.float32)
    x, y = x + flow[..., 0], y + flow[..., 1]
    warped = cv2.remap(target, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    # A pixel is taken from 4 x 4 others by the cubic kernel; all of them must be valid.
    whole = cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1).astype(np.float32)
    known = cv2.remap(whole, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT) > 0.999
    counts = known & (missed_px < CONSISTENT_PX)
    if counts.sum() < LEAST_SHARE * valid.sum():
        return None
    picture = in_colours_of(result, warped, counts)
    return Aligned(picture, np.where(counts[..., None], warped, picture), counts)


def in_colours_of(result: Picture, target: Picture, counts: npt.NDArray[np.bool_]) -> Picture:
    """A result after the 3 x 3 matrix, of linear light, that brings it closest to the target where it counts.

    The result itself where too few pixels tell colours.
    """
    light, wanted = (decode_srgb(picture.astype(np.float32) / 255) for picture in (result, target))
    blurred, wanted = (_blurred(image, counts) for image in (light, wanted))
    low, high = CLIPPED
    tells = counts & (np.minimum(result, target).min(axis=2) >= low)
    tells &= np.maximum(result, target).max(axis=2) <= high
    if tells.sum() < FEWEST_COLOURS:
        return result
    seen, wanted = blurred[tells].astype(np.float64), wanted[tells].astype(np.float64)
    # The normal equations, 3 x 3; a grey result makes them singular, which lstsq takes.
    matrix, *_ = np.linalg.lstsq(seen.T @ seen, seen.T @ wanted, rcond=1e-9)
    return to_uint8(encode_srgb(light @ matrix.astype(np.float32)))


def _blurred(image: npt.NDArray[np.float32], counts: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The mean over what counts, around each pixel."""
    weights = counts.astype(np.float32)
    total = cv2.GaussianBlur(image * weights[..., None], (0, 0), COLOUR_SIGMA_PX)
    return total / np.maximum(cv2.GaussianBlur(weights, (0, 0), COLOUR_SIGMA_PX), 1e-6)[..., None]


def _alike(result: Picture, target: Picture, valid: npt.NDArray[np.bool_]) -> tuple[Picture, Picture]:
    """Both in grey, the target with the mean and contrast of the result: flow compares values as they are."""
    here, there = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (result, target))
    deviation = max(float(there[valid].std()), 1e-3)
    scaled = (there.astype(np.float32) - there[valid].mean()) * (here[valid].std() / deviation)
    return here, np.clip(np.rint(scaled + here[valid].mean()), 0, 255).astype(np.uint8)
