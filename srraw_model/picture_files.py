"""A picture as PNG, TIFF or JPEG with the settings it was shot with, written strip by strip.

Values are sRGB, which the file says. PNG (W3C, third edition) and TIFF are laid out here: libraries for
Python take a 16-bit RGB picture in one piece only, or write no EXIF with it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.exif import Exif

if TYPE_CHECKING:
    from PIL import Image

Strip = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

BITS = {".png": (16, 8), ".tif": (16, 8), ".tiff": (16, 8), ".jpg": (8,), ".jpeg": (8,)}  # default first
JPEG_MOST = 65500  # pixels of a side, in libjpeg
PNG_MOST = 2**31 - 1
TIFF_MOST = 2**32 - 2**25  # bytes of pixels; above that BigTIFF, whose offsets have 64 bits
STRIP_ROWS = 64
DEFLATE_LEVEL = 1  # higher ones gain little on the noise of photographs
EXIF_DIRECTORY = 34665


def chosen_bits(path: Path, bits: int | None, size: tuple[int, int]) -> int:
    """Bits of each value in the file that a picture goes into: 8 or 16; None takes the format's default.

    Args:
        path: its suffix says the format.
        size: (height, width) in pixels.

    Raises:
        UserError: no such format, or it cannot hold such values or a picture of that size.
    """
    possible = BITS.get(path.suffix.lower())
    if possible is None:
        raise UserError(
            f"{path} is no PNG, TIFF or JPEG file name.",
            "Name the picture with .png, .tif or .jpg at the end.",
            wrong_use=True,
        )
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if bits not in (None, *possible):
        told = " or ".join(str(number) for number in sorted(possible))
        hint = "16 bits need .png or .tif." if jpeg else ""
        raise UserError(f"{path} can have {told} bits, not {bits}.", hint, wrong_use=True)
    most = JPEG_MOST if jpeg else PNG_MOST
    if max(size) > most:
        raise UserError(
            f"A picture of {size[1]} x {size[0]} does not go into {path}: a side has at most {most}.",
            "Take .tif or .png, or zoom a part with --crop.",
            wrong_use=True,
        )
    return bits or possible[0]


def write_picture(
    path: Path, strips: Iterable[Strip], size: tuple[int, int], *, bits: int, exif: Exif, quality: int
) -> None:
    """Write a picture, upright, into a file of the format that its suffix says.

    Args:
        strips: (STRIP_ROWS, width, 3) uint8 or uint16 as `bits` says, sRGB, from the top; the last has what
            is left.
        size: (height, width).
        exif: make, model, lens, settings and date go into the file; its orientation and serial do not.
        quality: of JPEG, 1 to 100.
    """
    tags = exif_tags(exif)
    if path.suffix.lower() == ".png":
        with open(path, "wb") as file:
            _write_png(file, strips, size, bits, tags.tobytes().removeprefix(b"Exif\0\0"))
    elif path.suffix.lower() in (".tif", ".tiff"):
        with open(path, "wb") as file:
            _write_tiff(file, strips, size, bits, tags)
    else:
        _write_jpeg(path, strips, size, quality, tags)


def exif_tags(exif: Exif) -> Image.Exif:
    """What is known of a shot as EXIF tags (2.32, section 4.6) of its upright sRGB rendering."""
    from PIL import Image

    tags = Image.Exif()
    taken_at, _, fraction = (exif.taken_at or "").partition(".")
    date = taken_at.replace("-", ":").replace("T", " ")
    image = {271: exif.make, 272: exif.model, 274: 1, 305: f"srraw {__version__}", 306: date}
    shot = {
        33434: _rational(exif.exposure_s),
        33437: _rational(exif.f_number),
        34855: exif.iso and min(round(exif.iso), 65535),
        36864: b"0232",  # ExifVersion
        36867: date,
        37386: _rational(exif.focal_mm),
        37521: fraction,  # SubSecTimeOriginal
        40961: 1,  # ColorSpace: sRGB
        42036: exif.lens,
    }
    tags.update({tag: value for tag, value in image.items() if value})
    tags.get_ifd(EXIF_DIRECTORY).update({tag: value for tag, value in shot.items() if value})
    return tags


def _rational(number: float | None) -> Any:
    from PIL.TiffImagePlugin import IFDRational

    if number is None:
        return None
    fraction = Fraction(number).limit_denominator(100_000)  # 1/250 stays 1/250
    return IFDRational(fraction.numerator, fraction.denominator)


def _write_png(
    file: BinaryIO, strips: Iterable[Strip], size: tuple[int, int], bits: int, exif: bytes
) -> None:
    def chunk(name: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    height, width = size
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))  # 2: RGB
    chunk(b"sRGB", b"\0")  # rendering intent: perceptual
    chunk(b"eXIf", exif)
    deflate = zlib.compressobj(level=DEFLATE_LEVEL)
    for strip in strips:
        values = strip.astype(f">u{bits // 8}").view(np.uint8).reshape(len(strip), -1)
        pixel = 3 * bits // 8
        rows = np.empty((len(strip), 1 + values.shape[1]), np.uint8)
        rows[:, 0] = 1  # filter Sub: each byte less that of the pixel on its left
        rows[:, 1 : 1 + pixel] = values[:, :pixel]
        np.subtract(values[:, pixel:], values[:, :-pixel], out=rows[:, 1 + pixel :])
        if data := deflate.compress(rows):
            chunk(b"IDAT", data)
    chunk(b"IDAT", deflate.flush())
    chunk(b"IEND", b"")


def _write_tiff(
    file: BinaryIO, strips: Iterable[Strip], size: tuple[int, int], bits: int, tags: Image.Exif
) -> None:
    """Header, directory by Pillow's encoder (TIFF 6.0), strips."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    height, width = size
    big = height * width * 3 * bits // 8 > TIFF_MOST
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)

    def directory(counts: list[int]) -> bytes:
        entries = ImageFileDirectory_v2(head)
        entries.update(tags)
        long = 16 if big else 4  # TIFF's codes of integers of 64 and of 32 bits
        for tag, kind, value in (
            (256, 4, width),
            (257, 4, height),
            (258, 3, (bits,) * 3),
            (259, 3, 8),  # Compression: Deflate
            (262, 3, 2),  # PhotometricInterpretation: RGB
            (273, long, tuple(accumulate(counts[:-1], initial=0))),  # Pillow adds where the directory ends
            (277, 3, 3),  # SamplesPerPixel
            (278, 4, STRIP_ROWS),
            (279, long, tuple(counts)),
            (317, 3, 2),  # Predictor
        ):
            entries.tagtype[tag] = kind
            entries[tag] = value
        entries[EXIF_DIRECTORY] = dict(tags.get_ifd(EXIF_DIRECTORY))
        return head + entries.tobytes(len(head))

    file.write(directory([0] * -(-height // STRIP_ROWS)))  # its length does not depend on the counts
    counts = []
    for strip in strips:
        values = strip.astype(f"<u{bits // 8}")
        values[:, 1:] -= strip[:, :-1]  # predictor 2: differences along the row
        data = zlib.compress(values, DEFLATE_LEVEL)
        counts.append(file.write(data))
    file.seek(0)
    file.write(directory(counts))


def _write_jpeg(
    path: Path, strips: Iterable[Strip], size: tuple[int, int], quality: int, tags: Image.Exif
) -> None:
    from PIL import Image

    image = Image.new("RGB", (size[1], size[0]))
    for number, strip in enumerate(strips):
        image.paste(Image.fromarray(np.asarray(strip)), (0, number * STRIP_ROWS))
    image.save(path, "JPEG", quality=quality, subsampling=0, exif=tags)
