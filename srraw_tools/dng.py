"""A mosaic and its metadata as an uncompressed DNG.

The file is two TIFF directories (the image's and EXIF's) and one strip of sensor values. TIFF libraries for
Python do not write EXIF directories, so the directories are encoded here; the same arguments give the same
bytes. Tags: TIFF 6.0, EXIF 2.32 (section 4.6), DNG 1.4 (chapter 4).
"""

from __future__ import annotations

import struct
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srraw_tools.files import replacing
from srraw_tools.raw import SRGB_TO_XYZ

CFA_COLORS = "RGB"  # DNG numbers the colours of a pattern by their place here
D65 = 21  # EXIF's LightSource code
# TIFF types: code and struct format of one value.
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL = 1, 2, 3, 4, 5, 7, 10
STRUCT = {BYTE: "B", ASCII: "s", SHORT: "H", LONG: "I", RATIONAL: "II", UNDEFINED: "s", SRATIONAL: "ii"}
Tags = dict[int, tuple[int, Any]]


def write_dng(
    path: Path,
    mosaic: npt.NDArray[np.uint16],
    *,
    cfa: str = "RGGB",
    black_level: int | tuple[int, ...] = 512,
    white_level: int = 16383,
    camera_wb: tuple[float, float, float] = (2.0, 1.0, 1.5),
    camera_to_srgb: npt.ArrayLike = ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    camera_make: str = "srraw",
    camera_model: str = "Simulated camera",
    serial_number: str = "0",
    lens_model: str = "",
    focal_mm: float | None = None,
    f_number: float = 20.0,
    exposure_s: float = 0.01,
    iso: int = 100,
    taken_at: datetime = datetime(2019, 6, 16, 12),
    software: str = "srraw simulate",
) -> None:
    """Write sensor values as a DNG that LibRaw reads back bit-exactly; whole or not at all.

    Args:
        path: the file to write, replaced where it exists.
        mosaic: (H, W) uint16 sensor values.
        cfa: colour filters of a repeating square, row by row: "RGGB", "GRBG", ...; X-Trans has 36 letters.
        black_level: sensor value of no light; four where those of a 2x2 block differ.
        white_level: sensor value of saturation.
        camera_wb: factors for R, G and B that make grey neutral, green 1.
        camera_to_srgb: (3, 3) white-balanced camera RGB to linear sRGB; rows sum to 1: grey stays grey.
        focal_mm: as the lens reports it; None writes no focal length.
        taken_at: local time, to the microsecond.

    Raises:
        ValueError: the pattern is not a square of R, G and B, or the mosaic is not (H, W) uint16.
        UserError: the file cannot be written.
    """
    side = round(len(cfa) ** 0.5)
    if not cfa or side * side != len(cfa) or set(cfa) - set(CFA_COLORS):
        raise ValueError(f"{cfa!r} is not a square pattern of R, G and B")
    if mosaic.ndim != 2 or mosaic.dtype != np.uint16:
        raise ValueError("a mosaic is (H, W) uint16")
    height, width = mosaic.shape
    # DNG chapter 6: the matrix takes XYZ to the camera's own RGB, where AsShotNeutral is the colour of white.
    neutral = 1 / np.asarray(camera_wb, np.float64)
    xyz_to_camera = neutral[:, None] * (np.linalg.inv(camera_to_srgb) @ np.linalg.inv(SRGB_TO_XYZ))
    image: Tags = {
        254: (LONG, 0),  # NewSubfileType: the full image
        256: (LONG, width),
        257: (LONG, height),
        258: (SHORT, 16),  # BitsPerSample
        259: (SHORT, 1),  # Compression: none
        262: (SHORT, 32803),  # PhotometricInterpretation: CFA
        271: (ASCII, camera_make),
        272: (ASCII, camera_model),
        273: (LONG, 0),  # StripOffsets: known once the directories are laid out
        274: (SHORT, 1),  # Orientation: as it lies
        277: (SHORT, 1),  # SamplesPerPixel
        278: (LONG, height),  # RowsPerStrip
        279: (LONG, 2 * width * height),  # StripByteCounts
        284: (SHORT, 1),  # PlanarConfiguration
        305: (ASCII, software),
        306: (ASCII, taken_at.strftime("%Y:%m:%d %H:%M:%S")),
        33421: (SHORT, (side, side)),  # CFARepeatPatternDim
        33422: (BYTE, tuple(CFA_COLORS.index(color) for color in cfa)),
        34665: (LONG, 0),  # ExifIFD: likewise
        50706: (BYTE, (1, 4, 0, 0)),  # DNGVersion
        50707: (BYTE, (1, 1, 0, 0)),  # DNGBackwardVersion
        50708: (ASCII, f"{camera_make} {camera_model}"),
        50714: (LONG, black_level),
        50717: (LONG, white_level),
        50721: (SRATIONAL, tuple(xyz_to_camera.ravel())),  # ColorMatrix1
        50728: (RATIONAL, tuple(neutral)),  # AsShotNeutral
        50730: (SRATIONAL, 0.0),  # BaselineExposure
        50735: (ASCII, serial_number),
        50778: (SHORT, D65),  # CalibrationIlluminant1
    }
    if isinstance(black_level, tuple):
        image[50713] = (SHORT, (2, 2))  # BlackLevelRepeatDim
    exif: Tags = {
        33434: (RATIONAL, exposure_s),
        33437: (RATIONAL, f_number),
        34855: (SHORT, iso),
        36864: (UNDEFINED, b"0232"),  # ExifVersion
        36867: (ASCII, taken_at.strftime("%Y:%m:%d %H:%M:%S")),
        37521: (ASCII, f"{taken_at.microsecond:06d}"),  # SubSecTimeOriginal
        42033: (ASCII, serial_number),  # BodySerialNumber
        42036: (ASCII, lens_model),
    }
    if focal_mm is not None:
        exif[37386] = (RATIONAL, focal_mm)

    exif_at = 8 + len(_directory(image, 8))
    data_at = exif_at + len(_directory(exif, exif_at))
    image[34665] = (LONG, exif_at)
    image[273] = (LONG, data_at)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 8))
        file.write(_directory(image, 8))
        file.write(_directory(exif, exif_at))
        file.write(np.ascontiguousarray(mosaic, "<u2").data)


def _directory(tags: Tags, offset: int) -> bytes:
    """Encode a TIFF directory that starts at `offset` of the file, its longer values behind it."""
    entries, values = b"", b""
    values_at = offset + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, value = tags[tag]
        count, data = _encode(kind, value)
        if len(data) > 4:
            pointer = struct.pack("<I", values_at + len(values))
            values += data + b"\0" * (len(data) % 2)
        else:
            pointer = data.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, count) + pointer
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + values


def _encode(kind: int, value: Any) -> tuple[int, bytes]:
    """A tag's number of values and their bytes."""
    if kind in (ASCII, UNDEFINED):
        data = value.encode("ascii", "replace") + b"\0" if kind == ASCII else value
        return len(data), data
    numbers = value if isinstance(value, tuple) else (value,)
    if kind in (RATIONAL, SRATIONAL):
        # Numerator and denominator have 32 bits; the exact decimal where it is short (1/250, 35.2).
        fractions = [Fraction(float(number)).limit_denominator(1_000_000) for number in numbers]
        data = b"".join(struct.pack("<" + STRUCT[kind], f.numerator, f.denominator) for f in fractions)
        return len(fractions), data
    return len(numbers), struct.pack(f"<{len(numbers)}{STRUCT[kind]}", *numbers)
