"""Bayer mosaics as the networks take them: four half-size channels that always begin at a red pixel.

The channels of a packed mosaic (4, h, w) are red, the green of red's row, the green of blue's row, and blue.
A mosaic of another phase is not rolled, which would move the picture by a pixel: training cuts crops that
begin at red, and whole mosaics get a row or a column more, by reflection about the outermost pixel, which
continues the pattern.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def red_origin(cfa: str) -> tuple[int, int]:
    """(x, y) of the first red pixel of a pattern such as "GRBG"; both are 0 or 1."""
    y, x = divmod(cfa.index("R"), 2)
    return x, y


def pack(light: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Light (2h, 2w) that begins at a red pixel as channels (4, h, w)."""
    height, width = light.shape
    if height % 2 or width % 2:
        raise ValueError(f"a mosaic of {width} x {height} cannot be packed: both sides must be even")
    return np.stack([light[y::2, x::2] for y in (0, 1) for x in (0, 1)])


def reach_red(mosaic: npt.NDArray[np.uint16], cfa: str) -> npt.NDArray[np.uint16]:
    """Add what is needed before and after, so that a mosaic begins at red and has even sides.

    It grows by `red_origin(cfa)` to the left and at the top, and by at most one pixel at the other sides.
    """
    (left, top), (height, width) = red_origin(cfa), mosaic.shape
    return np.pad(mosaic, ((top, (top + height) % 2), (left, (left + width) % 2)), mode="reflect")
