"""The protocol `registered`: one global similarity brings a result onto its target before it is scored."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import ecc, geometry
from srraw_tools.geometry import Matrix

Picture = npt.NDArray[np.uint8]

LEVELS = (8, 4, 2, 1)  # pixels of the picture to one of the level
SMALLEST_SIDE_PX = 32  # of a level that is searched
LOCAL_MEAN_PX = 8.0  # sigma of the mean that is taken off, so that a colour cast does not steer the search
LEAST_CORRELATION = 0.2  # of detail at full size, below which result and target have nothing in common
LARGEST_MOVE = 0.05  # of the diagonal; what moves further was not found but lost
CUBIC_REACH_PX = 2


@dataclass(frozen=True)
class Registered:
    """A result on its target's grid.

    Attributes:
        picture: (H, W, 3) uint8 sRGB; the result itself where the registration failed.
        valid: (H, W) bool, where both target and moved result have pixels.
        target_to_result: the map that was applied; None where the registration failed.
    """

    picture: Picture
    valid: npt.NDArray[np.bool_]
    target_to_result: Matrix | None


def register_result(result: Picture, target: Picture, valid: npt.NDArray[np.bool_]) -> Registered:
    """Move a result onto its target by the similarity of the largest correlation (`ecc`), coarse to fine.

    Where no map is better than none, that is the identity. It fails, and says so, where the correlation stays
    below 0.2 or a corner moves by more than 5 % of the diagonal: the result then stays as it is.

    Args:
        result: (H, W, 3) uint8 sRGB.
        target: (H, W, 3) uint8 sRGB.
        valid: (H, W), where the target shows the scene.
    """
    height, width = target.shape[:2]
    found = np.eye(3)
    for step in LEVELS:
        size = width // step, height // step
        if step > 1 and min(size) < SMALLEST_SIDE_PX:
            continue
        template, image = _detail(target, size), _detail(result, size)
        seen = cv2.resize(valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        seen = (seen > 0.999).astype(np.float32)
        x, y = size[0] / width, size[1] / height
        to_level = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])  # pixel centres are whole
        start = to_level @ found @ np.linalg.inv(to_level)
        level_map, _ = ecc.maximise(template, seen, image, np.ones_like(image), start, "similarity")
        found = np.linalg.inv(to_level) @ level_map @ to_level
    corners = geometry.frame_corners(target.shape[:2])
    moved = np.abs(geometry.apply(found, corners) - corners).max()
    before, after = (_correlation(template, seen, image, map_) for map_ in (np.eye(3), found))
    if not after > before:  # it lies best as it is
        found, moved, after = np.eye(3), 0.0, before
    if after < LEAST_CORRELATION or moved > LARGEST_MOVE * np.hypot(width, height):
        return Registered(result, valid.astype(bool), None)
    if moved == 0:
        return Registered(result, valid.astype(bool), found)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    picture = cv2.warpPerspective(
        result, found, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    covered = cv2.warpPerspective(
        np.ones((height, width), np.float32), found, (width, height), flags=ecc.WARP
    )
    reach = np.ones((2 * CUBIC_REACH_PX + 1,) * 2, np.uint8)
    inside = cv2.erode((covered > 0.999).astype(np.uint8), reach, borderValue=0 if moved > 0.01 else 1)
    return Registered(picture, valid.astype(bool) & (inside > 0), found)


def _detail(picture: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Green, made small, less its local mean."""
    green = cv2.resize(picture[..., 1].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return green - cv2.GaussianBlur(green, (0, 0), LOCAL_MEAN_PX)


def _correlation(
    template: npt.NDArray[np.float32],
    seen: npt.NDArray[np.float32],
    image: npt.NDArray[np.float32],
    template_to_image: Matrix,
) -> float:
    """Of what both see; -1 where that is next to nothing."""
    moving, mask = ecc.warped(seen, image, np.ones_like(image), template_to_image)
    inside = mask > 0
    if inside.sum() < 64 or min(template[inside].std(), moving[inside].std()) == 0:
        return -1.0
    return float(np.corrcoef(template[inside], moving[inside])[0, 1])
