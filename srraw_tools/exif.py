"""What a file's first bytes say: its true format, and the settings it was shot with."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError

RAW_FORMATS = ("dng", "ARW", "NEF", "CR2", "CR3", "RAF", "ORF", "RW2", "PEF", "SRW")
RAW_SUFFIXES = tuple("." + name.lower() for name in RAW_FORMATS)
PICTURE_FORMATS = ("JPG", "PNG")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

# A damaged tag is no news to the user: what is missing is reported by whoever needs it.
logging.getLogger("exifread").addHandler(logging.NullHandler())

_TIFF_RAW_BY_MAKER = {
    "SONY": "ARW",
    "NIKON": "NEF",
    "CANON": "CR2",
    "PENTAX": "PEF",
    "RICOH": "PEF",
    "SAMSUNG": "SRW",
}


@dataclass(frozen=True)
class Exif:
    """Settings of a shot as its file states them; None where it does not.

    Attributes:
        focal_mm: in mm.
        focal_35mm: the focal length that gives the same field of view on 36 x 24 mm.
        exposure_s: in seconds.
        taken_at: local time, as ISO 8601 writes it.
        orientation: EXIF's number 1 to 8: how the frame lies, as `geometry.as_shot` takes it.
        color_space: EXIF's number; 1 is sRGB.
    """

    focal_mm: float | None = None
    focal_35mm: float | None = None
    f_number: float | None = None
    exposure_s: float | None = None
    iso: float | None = None
    make: str | None = None
    model: str | None = None
    lens: str | None = None
    serial: str | None = None
    taken_at: str | None = None
    digital_zoom: float | None = None
    orientation: int | None = None
    color_space: int | None = None

    @property
    def camera(self) -> str:
        """Make and model as one name, the make not said twice."""
        make, model = self.make or "", self.model or ""
        if make and not model.lower().startswith(make.split()[0].lower()):
            model = f"{make} {model}"
        return model.strip() or "unknown camera"


def file_format(path: Path) -> str:
    """The true format of an image file, by its content: "dng", "ARW", ..., "JPG", "PNG", "TIF", "HEIC".

    Returns:
        The format as it is written in a file's extension.

    Raises:
        UserError: the file cannot be read, or its content is of no known image format.
    """
    head = _head_of(path)
    if head[:3] == b"\xff\xd8\xff":
        return "JPG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:15] == b"FUJIFILMCCD-RAW":
        return "RAF"
    if head[4:12] == b"ftypcrx ":
        return "CR3"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "HEIC"
    if head[:4] in (b"IIRO", b"IIRS", b"MMOR"):
        return "ORF"
    if head[:4] == b"IIU\0":
        return "RW2"
    if head[:4] in (b"II*\0", b"MM\0*"):
        if head[8:10] == b"CR":
            return "CR2"
        tags = _tags_of(path)
        if "Image Tag 0xC612" in tags or "Image DNGVersion" in tags:
            return "dng"
        maker = str(tags.get("Image Make", "")).upper().split()
        return _TIFF_RAW_BY_MAKER.get(maker[0], "TIF") if maker else "TIF"
    raise UserError(
        f"{path} is neither a raw file nor a picture.",
        "Give a raw file of a camera, such as ARW, NEF, CR2 or DNG.",
    )


def is_picture(path: Path) -> bool:
    """Whether a file is a JPEG or PNG rather than a raw file, by its first bytes.

    Raises:
        UserError: the file cannot be read.
    """
    return _head_of(path).startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def read_exif(path: Path) -> Exif:
    """Read the settings that a raw file or a JPEG states; what is absent or senseless is None.

    Raises:
        UserError: the file cannot be read.
    """
    tags = _tags_of(path)
    if not tags:
        return Exif()
    return Exif(
        focal_mm=_positive(tags, "EXIF FocalLength", "Image FocalLength"),
        f_number=_positive(tags, "EXIF FNumber", "Image FNumber"),
        focal_35mm=_positive(tags, "EXIF FocalLengthIn35mmFilm"),
        exposure_s=_positive(tags, "EXIF ExposureTime", "Image ExposureTime"),
        iso=_positive(tags, "EXIF ISOSpeedRatings", "EXIF PhotographicSensitivity", "Image ISOSpeedRatings"),
        make=_text(tags, "Image Make"),
        model=_text(tags, "Image Model"),
        lens=_text(tags, "EXIF LensModel", "Image LensModel"),
        serial=_text(tags, "EXIF BodySerialNumber", "Image Tag 0xC62F", "Image CameraSerialNumber"),
        taken_at=_time(tags),
        digital_zoom=_positive(tags, "EXIF DigitalZoomRatio"),
        orientation=_orientation(tags),
        color_space=_color_space(tags),
    )


def _head_of(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.", wrong_use=True) from error


def _tags_of(path: Path) -> dict[str, Any]:
    import exifread

    try:
        with open(path, "rb") as file:
            return exifread.process_file(file, details=False)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, IndexError, KeyError, TypeError, AssertionError, OverflowError, RecursionError):
        return {}  # exifread's ways of stumbling over a damaged header; the raw decoder has the last word


def _value(tags: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in tags:
            values = tags[name].values
            return values[0] if isinstance(values, (list, tuple)) and values else values
    return None


def _positive(tags: dict[str, Any], *names: str) -> float | None:
    try:
        number = float(_value(tags, names))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < float("inf") else None


def _orientation(tags: dict[str, Any]) -> int | None:
    number = _value(tags, ("Image Orientation",))
    return int(number) if number in range(1, 9) else None


def _color_space(tags: dict[str, Any]) -> int | None:
    number = _value(tags, ("EXIF ColorSpace",))
    return number if isinstance(number, int) else None


def _text(tags: dict[str, Any], *names: str) -> str | None:
    value = _value(tags, names)
    text = str(value).replace("\0", "").strip() if value else ""
    return text or None


def _time(tags: dict[str, Any]) -> str | None:
    """DateTimeOriginal as ISO 8601 with its fraction of a second, in the camera's own time."""
    text = _text(tags, "EXIF DateTimeOriginal", "Image DateTime")
    if text is None or len(text) < 19 or text[4] != ":":
        return None
    fraction = _text(tags, "EXIF SubSecTimeOriginal")
    stamp = text[:10].replace(":", "-") + "T" + text[11:19]
    return f"{stamp}.{fraction}" if fraction and fraction.isdigit() else stamp
