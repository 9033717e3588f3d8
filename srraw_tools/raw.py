"""A raw file: mosaic, levels, colour pattern, white balance, EXIF, and the one rendering to sRGB."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srraw_tools import isolation
from srraw_tools.errors import UserError
from srraw_tools.exif import Exif

BAYER_PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")
TARGET_WHITE = 65535  # white of demosaiced light kept in 16 bits

# IEC 61966-2-1, linear sRGB (D65) to CIE XYZ.
SRGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


@dataclass(frozen=True)
class RawImage:
    """What a raw file holds, in the frame that LibRaw calls visible, not rotated.

    Attributes:
        mosaic: (H, W) uint16 sensor values, untouched.
        cfa: colours of the top-left 2x2 block in reading order, such as "RGGB".
        black_level, camera_wb: four values in the order of `cfa`; the balance is divided by green.
        white_level: the sensor value of saturation.
        color_matrix: (3, 3), white-balanced camera RGB to linear sRGB.
        camera_rgb: (H, W, 3) uint16 demosaiced light, linear camera RGB without white balance, black 0,
            white 65535; None unless it was asked for.
        notes: what had to be assumed because the file does not say it.
    """

    path: Path
    mosaic: npt.NDArray[np.uint16]
    cfa: str
    black_level: tuple[float, ...]
    white_level: int
    camera_wb: tuple[float, ...]
    color_matrix: npt.NDArray[np.float64]
    exif: Exif = field(default_factory=Exif)
    camera_rgb: npt.NDArray[np.uint16] | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.mosaic.shape[0], self.mosaic.shape[1]

    @property
    def rgb_wb(self) -> tuple[float, float, float]:
        """White balance multipliers of red, green and blue; green is 1."""
        return wb_of_rgb(self.cfa, self.camera_wb)


def wb_of_rgb(cfa: str, camera_wb: npt.ArrayLike) -> tuple[float, float, float]:
    """The balance of (red, green, blue) from one in CFA order."""
    values = [float(v) for v in np.asarray(camera_wb)]
    return tuple(values[cfa.index(colour)] for colour in "RGB")


def read_raw(path: Path, *, demosaic: bool = False) -> RawImage:
    """Read a raw file through LibRaw.

    Args:
        demosaic: also give `camera_rgb`, LibRaw's AHD run on balanced values, the balance undone after.

    Raises:
        UserError: the file is missing, no raw, truncated or damaged, or its pattern is not a 2x2 Bayer one;
            also where it makes LibRaw crash (isolation.py).
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem}; a raw file is needed.", wrong_use=True)
    values, (mosaic, *camera_rgb) = isolation.decode("raw", path, demosaic=demosaic)
    return RawImage(
        path=path,
        mosaic=mosaic,
        cfa=values["cfa"],
        black_level=tuple(values["black_level"]),
        white_level=values["white_level"],
        camera_wb=tuple(values["camera_wb"]),
        color_matrix=np.array(values["color_matrix"], np.float64),
        exif=Exif(**values["exif"]),
        camera_rgb=camera_rgb[0] if demosaic else None,
        notes=tuple(values["notes"]),
    )


def luminance(raw: RawImage) -> npt.NDArray[np.float32]:
    """White-balanced linear light (R + 2G + B)/4 at every pixel, (H, W) float32, black 0 and white 1.

    The kernel [1 2 1] x [1 2 1] gathers the same weight of each colour at every place of a Bayer pattern,
    so that no demosaicing, and no shift by one, stands between the sensor and a registration.
    """
    import cv2

    light = _balanced(raw)
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    # Reflection about the outermost pixel continues the pattern.
    return cv2.sepFilter2D(light, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def half_size_rgb(raw: RawImage) -> npt.NDArray[np.float32]:
    """White-balanced linear light of each 2x2 block, (H//2, W//2, 3) float32, black 0 and white 1."""
    light = _balanced(raw)
    height, width = (side // 2 * 2 for side in raw.size)
    planes = {"R": [], "G": [], "B": []}
    for position, colour in enumerate(raw.cfa):
        planes[colour].append(light[position // 2 : height : 2, position % 2 : width : 2])
    return np.stack([sum(planes[c]) / np.float32(len(planes[c])) for c in "RGB"], axis=-1)


def mosaic_light(
    mosaic: npt.NDArray[np.uint16],
    black_level: tuple[float, ...],
    white_level: float,
    *,
    origin: tuple[int, int] = (0, 0),
) -> npt.NDArray[np.float32]:
    """Sensor values as linear light, black 0 and white 1, (H, W). Nothing is clipped: noise keeps its mean.

    Args:
        mosaic: (H, W) sensor values.
        black_level: four values in the order of the frame's CFA; each position has its own range to white.
        origin: (x, y) of the mosaic's first pixel in that frame.
    """
    black = np.roll(np.reshape(black_level, (2, 2)), (-origin[1], -origin[0]), axis=(0, 1))
    light = np.empty(mosaic.shape, np.float32)
    for y in (0, 1):
        for x in (0, 1):
            light[y::2, x::2] = (mosaic[y::2, x::2] - np.float32(black[y, x])) / (white_level - black[y, x])
    return light


def _balanced(raw: RawImage) -> npt.NDArray[np.float32]:
    """The mosaic as white-balanced linear light, (H, W) float32."""
    light = mosaic_light(raw.mosaic, raw.black_level, raw.white_level)
    for position, balance in enumerate(raw.camera_wb):
        light[position // 2 :: 2, position % 2 :: 2] *= np.float32(balance)
    return light


def render_srgb(
    camera_rgb: npt.ArrayLike, camera_wb: npt.ArrayLike, color_matrix: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Render linear camera RGB to sRGB: white balance, clip, matrix, sRGB curve. The only rendering there is.

    Args:
        camera_rgb: (..., 3) linear light, black 0 and white 1.
        camera_wb: multipliers (R, G, B).
        color_matrix: (3, 3), balanced camera RGB to linear sRGB.

    Returns:
        (..., 3) float32 sRGB in [0, 1].
    """
    balanced = np.clip(np.asarray(camera_rgb, np.float32) * np.asarray(camera_wb, np.float32), 0, 1)
    return encode_srgb(balanced @ np.asarray(color_matrix, np.float32).T)


def encode_srgb(linear: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The sRGB curve (IEC 61966-2-1) of linear light, clipped to [0, 1]."""
    light = np.clip(np.asarray(linear, np.float32), 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055)


def decode_srgb(srgb: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Linear light of sRGB values in [0, 1]: the inverse of `encode_srgb`."""
    value = np.asarray(srgb, np.float32)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** np.float32(2.4))


def to_uint8(srgb: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """sRGB in [0, 1] as 8-bit values, rounded."""
    return (np.clip(np.asarray(srgb), 0, 1) * 255 + 0.5).astype(np.uint8)


def matrix_from_xyz(xyz_to_camera: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Balanced camera RGB to linear sRGB from the map of XYZ to camera RGB (3, 3).

    The rows of sRGB -> camera are normalised before the inversion, so that white stays white.
    """
    srgb_to_camera = np.asarray(xyz_to_camera, np.float64) @ SRGB_TO_XYZ
    return np.linalg.inv(srgb_to_camera / srgb_to_camera.sum(axis=1, keepdims=True))
