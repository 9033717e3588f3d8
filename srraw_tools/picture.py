"""A JPEG or PNG as a shot, where there is no raw: a phone's, or a published pair's. Values are sRGB."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srraw_tools import isolation
from srraw_tools.errors import UserError
from srraw_tools.exif import PICTURE_FORMATS, Exif, file_format, read_exif
from srraw_tools.raw import TARGET_WHITE, decode_srgb

OTHER_SPACE = "a picture states another colour space than sRGB; its values are taken for sRGB"


@dataclass(frozen=True)
class Picture:
    """What a JPEG or PNG holds. Its frame is that of the stored pixels, not rotated by the orientation flag.

    Attributes:
        srgb: (H, W, 3) uint8 or uint16, red first, the whole range from black to white. A grey picture has
            three equal channels.
        notes: what had to be assumed.
    """

    path: Path
    srgb: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    exif: Exif
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.srgb.shape[0], self.srgb.shape[1]


def read_picture(path: Path) -> Picture:
    """Read a JPEG or PNG, of 8 or 16 bits; palettes and grey become RGB.

    Raises:
        UserError: the file is missing, no such picture, truncated or damaged, or partly transparent.
    """
    path = Path(path)
    values, (srgb,) = isolation.decode("picture", path)
    return Picture(path, srgb, Exif(**values["exif"]), tuple(values["notes"]))


def linear_light(picture: Picture) -> npt.NDArray[np.uint16]:
    """Linear sRGB light, (H, W, 3) uint16, black 0 and white 65535."""
    return _table(picture, TARGET_WHITE)[picture.srgb]


def luminance(picture: Picture) -> npt.NDArray[np.float32]:
    """Linear light (R + 2G + B)/4 at every pixel, (H, W) float32, black 0 and white 1: as raw.luminance."""
    table = _table(picture)
    light = table[picture.srgb[..., 1]] * np.float32(0.5)
    for channel in (0, 2):  # one plane at a time keeps the peak memory low
        light += table[picture.srgb[..., channel]] * np.float32(0.25)
    return light


def half_size_rgb(picture: Picture) -> npt.NDArray[np.float32]:
    """Linear sRGB light of each 2x2 block, (H//2, W//2, 3) float32, black 0 and white 1."""
    table, (height, width) = _table(picture), picture.size
    blocks = np.empty((height // 2, width // 2, 3), np.float32)
    for channel in range(3):
        plane = table[picture.srgb[: height // 2 * 2, : width // 2 * 2, channel]]
        blocks[..., channel] = plane[::2, ::2] + plane[::2, 1::2] + plane[1::2, ::2] + plane[1::2, 1::2]
    blocks *= np.float32(0.25)
    return blocks


def _table(picture: Picture, white: int | None = None) -> npt.NDArray[Any]:
    """Linear light of every value that a pixel can have: float32 in [0, 1], or uint16 up to `white`."""
    most = np.iinfo(picture.srgb.dtype).max
    light = decode_srgb(np.arange(most + 1, dtype=np.float32) / most)
    return light if white is None else np.round(light * white).astype(np.uint16)


def decode(path: Path) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """Decode a picture in this process, for isolation.py.

    Returns:
        The plain fields of Picture by name; and its pixels.

    Raises:
        UserError: as read_picture.
    """
    import cv2

    kind = file_format(path)
    if kind not in PICTURE_FORMATS:
        raise UserError(f"{path} is a {kind} file, and neither JPEG nor PNG.", "Convert it to one of them.")
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)  # as stored, not rotated
    except cv2.error:  # a header that states more pixels than OpenCV takes
        image = None
    if image is None:
        raise UserError(f"{path} is truncated or damaged.", "Copy it again from where it came.")
    if image.ndim == 3 and image.shape[2] == 4:
        if image[..., 3].min() < np.iinfo(image.dtype).max:
            raise UserError(f"{path} is partly transparent; a shot must not be.", "Save it without alpha.")
        image = image[..., :3]
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., ::-1]
    exif = read_exif(path)
    notes = [OTHER_SPACE] if exif.color_space not in (None, 1) else []
    return {"exif": asdict(exif), "notes": notes}, [np.ascontiguousarray(rgb)]
