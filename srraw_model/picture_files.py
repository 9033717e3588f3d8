"""A zoomed picture into PNG, TIFF or JPEG, strip by strip, with what the photograph's EXIF told."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.exif import Exif

Rgb = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Strips = Callable[[], Iterator[Rgb]]

STRIP_ROWS = 64
BITS = {
    ".png": (8, 16),
    ".tif": (16, 8),
    ".tiff": (16, 8),
    ".jpg": (8,),
    ".jpeg": (8,),
}  # the first by default
LONGEST_JPEG_PX = 65500  # a side, in libjpeg
CLASSIC_TIFF_BYTES = 2**32 - 2**25
LEVEL = 3  # of zlib
UP = 2  # PNG's filter: each row less the one above


def bits_of(path: Path, bits: int | None, size: tuple[int, int]) -> int:
    """Bits of a channel of the file, after its name; checks that such a file can be.

    Raises:
        UserError: a name of another kind of file, bits that it cannot have, or a side too long for it.
    """
    kinds = BITS.get(path.suffix.lower())
    if kinds is None:
        raise UserError(
            f"{path} is no name of a picture that can be written.",
            f"Let it end in {', '.join(BITS)}.",
            wrong_use=True,
        )
    if bits is not None and bits not in kinds:
        raise UserError(
            f"A {path.suffix} has no {bits} bits.", f"Give --bits {kinds[0]}, or name a .tif.", wrong_use=True
        )
    if path.suffix.lower() in (".jpg", ".jpeg") and max(size) > LONGEST_JPEG_PX:
        raise UserError(
            f"The picture is {size[1]} x {size[0]}, more than the {LONGEST_JPEG_PX} pixels a side of JPEG.",
            "Name a .png or a .tif, or give --crop.",
            wrong_use=True,
        )
    return bits or kinds[0]


def write_picture(
    path: Path, kind: str, strips: Strips, size: tuple[int, int], bits: int, exif: Exif
) -> None:
    """Write a picture.

    Args:
        path: of the file, whatever its name.
        kind: the suffix that says what it is, a key of BITS.
        strips: gives the rows from the top, (STRIP_ROWS or fewer, width, 3) each, sRGB, of `bits` bits.
        size: (height, width).
        exif: of the photograph; its orientation is left out, because the picture is upright.

    Raises:
        OSError: it cannot be written.
    """
    if kind == ".png":
        _write_png(path, strips, size, bits, exif)
    elif kind.startswith(".tif"):
        _write_tiff(path, strips, size, bits, exif)
    else:
        _write_jpeg(path, strips, size, exif)


def _write_png(path: Path, strips: Strips, size: tuple[int, int], bits: int, exif: Exif) -> None:
    """PNG (ISO/IEC 15948): 8 or 16 bits RGB, sRGB stated, EXIF in a chunk of its own."""
    height, width = size
    with open(path, "wb") as file:

        def chunk(name: bytes, data: bytes) -> None:
            file.write(
                struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            )

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
        chunk(b"sRGB", b"\0")  # perceptual
        chunk(b"eXIf", exif_bytes(exif))
        packer, above = zlib.compressobj(LEVEL), np.zeros((1, width * 3 * bits // 8), np.uint8)
        for strip in strips():
            rows = np.ascontiguousarray(strip, ">u2" if bits == 16 else np.uint8).view(np.uint8)
            rows = rows.reshape(len(strip), -1)
            filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
            filtered[:, 0] = UP
            np.subtract(rows, np.concatenate([above, rows[:-1]]), out=filtered[:, 1:])
            above = rows[-1:].copy()
            if packed := packer.compress(filtered.tobytes()):
                chunk(b"IDAT", packed)
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


def _write_tiff(path: Path, strips: Strips, size: tuple[int, int], bits: int, exif: Exif) -> None:
    """TIFF with deflated strips; what the photograph tells lies in its first directory, as TIFF/EP has it."""
    import tifffile

    dtype = np.dtype(f"<u{bits // 8}")
    big = size[0] * size[1] * 3 * dtype.itemsize > CLASSIC_TIFF_BYTES
    with tifffile.TiffWriter(path, bigtiff=big, byteorder="<") as writer:
        writer.write(
            (zlib.compress(np.ascontiguousarray(strip, dtype), LEVEL) for strip in strips()),
            shape=(*size, 3),
            dtype=dtype,
            photometric="rgb",
            rowsperstrip=STRIP_ROWS,
            compression="zlib",
            software=_software(),
            metadata=None,
            extratags=[tag for tag in _tiff_tags(exif) if tag is not None],
        )


def _write_jpeg(path: Path, strips: Strips, size: tuple[int, int], exif: Exif) -> None:
    """JPEG of quality 95 without colour subsampling, EXIF in its first segment."""
    import cv2

    bgr, at = np.empty((*size, 3), np.uint8), 0
    for strip in strips():
        bgr[at : at + len(strip)] = strip[..., ::-1]
        at += len(strip)
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    jpeg = cv2.imencode(".jpg", bgr, settings)[1]
    told = b"Exif\0\0" + exif_bytes(exif)
    with open(path, "wb") as file:
        file.write(jpeg[:2].tobytes() + b"\xff\xe1" + struct.pack(">H", len(told) + 2) + told)
        file.write(jpeg[2:].data)


def exif_bytes(exif: Exif) -> bytes:
    """An EXIF block, as PNG's eXIf chunk takes it: a small TIFF file."""
    from PIL import Image
    from PIL.ExifTags import IFD, Base

    block = Image.Exif()
    told = {
        Base.Make: exif.make,
        Base.Model: exif.model,
        Base.DateTime: exif.taken_at,
        Base.Software: _software(),
        Base.Orientation: 1,
    }
    photograph = {
        Base.ExposureTime: _rational(exif.exposure_s),
        Base.FNumber: _rational(exif.f_number),
        Base.ISOSpeedRatings: None if exif.iso is None else round(exif.iso),
        Base.FocalLength: _rational(exif.focal_mm),
        Base.DateTimeOriginal: exif.taken_at,
        Base.LensModel: exif.lens,
        Base.ColorSpace: 1,  # sRGB
    }
    block.update({tag: value for tag, value in told.items() if value is not None})
    block.get_ifd(IFD.Exif).update({tag: value for tag, value in photograph.items() if value is not None})
    return block.tobytes().removeprefix(b"Exif\0\0")


def _tiff_tags(exif: Exif) -> Iterator[tuple[int, str, int, Any, bool] | None]:
    """(code, type, count, value, once) of each tag that is known; codes of TIFF/EP, ISO 12234-2."""
    for code, text in ((271, exif.make), (272, exif.model), (306, exif.taken_at), (36867, exif.taken_at)):
        yield None if text is None else (code, "s", 0, text, True)
    for code, value in ((33434, exif.exposure_s), (33437, exif.f_number), (37386, exif.focal_mm)):
        ratio = None if value is None else Fraction(value).limit_denominator(10**6)
        yield None if ratio is None else (code, "2I", 1, (ratio.numerator, ratio.denominator), True)
    yield None if exif.iso is None else (34855, "H", 1, min(round(exif.iso), 65535), True)
    yield (274, "H", 1, 1, True)


def _rational(value: float | None) -> Any:
    from PIL.TiffImagePlugin import IFDRational

    return None if value is None else IFDRational(Fraction(value).limit_denominator(10**6))


def _software() -> str:
    return f"srraw {__version__}"
