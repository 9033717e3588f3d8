"""A raw file: mosaic, levels, colour pattern, white balance, EXIF, and the one rendering to sRGB."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rawpy

from srraw_tools.errors import UserError
from srraw_tools.exif import Exif, file_format, read_exif

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
        UserError: the file is missing, no raw, truncated or damaged, or its pattern is not a 2x2 Bayer one.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem}; a raw file is needed.", wrong_use=True)
    try:
        with rawpy.imread(str(path)) as raw:
            return _image_of(raw, path, demosaic)
    except (rawpy.LibRawFileUnsupportedError, rawpy.LibRawNotImplementedError) as error:
        raise UserError(*_not_raw(path)) from error
    except rawpy.LibRawError as error:
        if not _is_image(path):
            raise UserError(*_not_raw(path)) from error
        raise UserError(
            f"{path} is truncated or damaged: LibRaw says '{_text(error)}'.", "Copy it from the card again."
        ) from error


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


def _balanced(raw: RawImage) -> npt.NDArray[np.float32]:
    """The mosaic as white-balanced linear light, (H, W) float32."""
    black, gain = np.empty((2, 2), np.float32), np.empty((2, 2), np.float32)
    black.flat = raw.black_level
    gain.flat = [wb / (raw.white_level - b) for wb, b in zip(raw.camera_wb, raw.black_level, strict=True)]
    height, width = raw.size
    tiles = ((height + 1) // 2, (width + 1) // 2)
    light = raw.mosaic.astype(np.float32)
    light -= np.tile(black, tiles)[:height, :width]
    light *= np.tile(gain, tiles)[:height, :width]
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


def _image_of(raw: rawpy.RawPy, path: Path, demosaic: bool) -> RawImage:
    # Read everything before postprocess(), which changes the pattern.
    indices = _bayer_indices(raw, path)
    cfa = "".join(chr(raw.color_desc[i]) for i in indices)
    if cfa not in BAYER_PATTERNS:
        raise UserError(f"{path} has the colour pattern {cfa}; only 2x2 Bayer patterns are supported.")
    notes: list[str] = []
    balance = _balance([raw.camera_whitebalance[i] for i in indices], cfa, notes)
    matrix = _color_matrix(raw, notes)
    mosaic = raw.raw_image_visible.copy()
    black = tuple(float(raw.black_level_per_channel[i]) for i in indices)
    white = int(raw.white_level)
    if white <= max(black):
        raise UserError(f"{path} states a white level of {white}, not above its black level; it is damaged.")
    camera_rgb = None
    if demosaic:
        camera_rgb = _demosaic(raw, wb_of_rgb(cfa, balance))
        if camera_rgb.shape[:2] != mosaic.shape:
            raise UserError(f"{path} has pixels that are not square; such cameras are not supported.")
    return RawImage(
        path, mosaic, cfa, black, white, balance, matrix, _exif_of(raw, path), camera_rgb, tuple(notes)
    )


def _bayer_indices(raw: rawpy.RawPy, path: Path) -> list[int]:
    """LibRaw's colour indices of the visible frame's top-left 2x2 block."""
    pattern = raw.raw_pattern
    if raw.raw_type != rawpy.RawType.Flat or pattern is None or pattern.shape != (2, 2):
        kind = "X-Trans" if pattern is not None and pattern.shape == (6, 6) else "no Bayer mosaic"
        raise UserError(
            f"{path} is not supported: its sensor pattern is {kind}, and only 2x2 Bayer patterns are packed.",
            "Use a camera with a Bayer sensor.",
        )
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    return [int(raw.raw_color(top + y, left + x)) for y in (0, 1) for x in (0, 1)]


def _balance(values: list[float], cfa: str, notes: list[str]) -> tuple[float, ...]:
    """White balance in CFA order, divided by green; a zero second green means the first."""
    greens = [v for v, colour in zip(values, cfa, strict=True) if colour == "G" and v > 0]
    if not greens or min(v for v, colour in zip(values, cfa, strict=True) if colour != "G") <= 0:
        notes.append("no white balance in the file; none is applied")
        return (1.0, 1.0, 1.0, 1.0)
    green = greens[0]
    return tuple(float(v / green) if v > 0 else 1.0 for v in values)


def _color_matrix(raw: rawpy.RawPy, notes: list[str]) -> npt.NDArray[np.float64]:
    """White-balanced camera RGB to linear sRGB: of the file, else of LibRaw's table, else identity."""
    own = np.asarray(raw.color_matrix, np.float64)[:, :3]
    if np.any(own):
        return own
    xyz_to_camera = np.asarray(raw.rgb_xyz_matrix, np.float64)[:3]
    if np.any(xyz_to_camera):
        return matrix_from_xyz(xyz_to_camera)
    notes.append("no colour matrix for this camera; colours are the sensor's own")
    return np.eye(3)


def matrix_from_xyz(xyz_to_camera: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Balanced camera RGB to linear sRGB from the map of XYZ to camera RGB (3, 3).

    The rows of sRGB -> camera are normalised before the inversion, so that white stays white.
    """
    srgb_to_camera = np.asarray(xyz_to_camera, np.float64) @ SRGB_TO_XYZ
    return np.linalg.inv(srgb_to_camera / srgb_to_camera.sum(axis=1, keepdims=True))


def _demosaic(raw: rawpy.RawPy, balance: tuple[float, float, float]) -> npt.NDArray[np.uint16]:
    """LibRaw's AHD on balanced values, scaled so that no channel clips, and the balance undone."""
    rgb = raw.postprocess(
        demosaic_algorithm=rawpy.DemosaicAlgorithm.AHD,
        user_wb=[*balance, balance[1]],
        output_color=rawpy.ColorSpace.raw,
        output_bps=16,
        gamma=(1, 1),
        no_auto_bright=True,
        highlight_mode=rawpy.HighlightMode.Ignore,
        adjust_maximum_thr=0.0,
        user_flip=0,
    )
    undo = (max(balance) / np.array(balance)).astype(np.float32)
    out = np.empty_like(rgb)
    for channel in range(3):  # one plane at a time keeps the peak memory low
        out[..., channel] = np.minimum(rgb[..., channel] * undo[channel] + 0.5, TARGET_WHITE)
    return out


def _exif_of(raw: rawpy.RawPy, path: Path) -> Exif:
    """EXIF by exifread; where its container is unknown to that (CR3), LibRaw's own reading."""
    exif = read_exif(path)
    if exif != Exif():
        return exif
    other = raw.other
    return Exif(
        focal_mm=other.focal_length or None,
        f_number=other.aperture or None,
        exposure_s=other.shutter_speed or None,
        iso=other.iso_speed or None,
    )


def _is_image(path: Path) -> bool:
    try:
        file_format(path)
    except UserError:
        return False
    return True


def _not_raw(path: Path) -> tuple[str, str]:
    kind = f"a {file_format(path)} file" if _is_image(path) else "of no known image format"
    return f"{path} is not a raw file that LibRaw can read: it is {kind}.", "Give a camera's raw file."


def _text(error: Exception) -> str:
    value = error.args[0] if error.args else error
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
