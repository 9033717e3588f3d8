"""A whole photograph: raw in, zoomed sRGB picture out, upright, tile by tile."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srraw_model.checkpoint import load_checkpoint
from srraw_model.device import chosen_device
from srraw_model.network import PaperNetwork, SmallNetwork
from srraw_model.tiling import TILE, Crop, apply_in_tiles, count_tiles
from srraw_model.variants import balanced_for
from srraw_tools import geometry
from srraw_tools.errors import UserError
from srraw_tools.files import replacing
from srraw_tools.raw import RawImage, read_raw, render_srgb, to_uint8

MAX_TILE = 4096  # mosaic pixels; the memory that a tile takes grows with its area


@dataclass(frozen=True)
class ZoomJob:
    """A photograph, a network and where the picture goes.

    Attributes:
        crop: in mosaic pixels of the raw's frame, which is not rotated.
        orientation: EXIF's number; the picture is put upright by it.
    """

    raw: RawImage
    network: PaperNetwork | SmallNetwork
    label: str
    crop: Crop
    orientation: int
    tile: int
    out: Path

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return count_tiles(self.raw.cfa, self.crop, tile=self.tile)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture, upright."""
        height, width = self.crop[3] * self.network.zoom, self.crop[2] * self.network.zoom
        return (width, height) if self.orientation >= 5 else (height, width)


def prepare_zoom(
    photo: Path,
    *,
    checkpoint: Path,
    out: Path,
    zoom: int | None = None,
    crop: Crop | None = None,
    tile: int = TILE,
    device: str | None = None,
) -> ZoomJob:
    """Read the photograph and the checkpoint, and check that they go together.

    Args:
        photo: a raw file of any make with a Bayer sensor.
        out: the PNG to write.
        zoom: what the checkpoint must be for; None takes what it is.
        crop: [x, y, width, height] in pixels of the raw's visible frame, not rotated; None for all of it.
        tile: side in mosaic pixels; larger tiles are faster and take more memory.
        device: of torch; None takes a GPU where there is one.

    Raises:
        UserError: a file is not what it should be, the zoom differs, or the crop lies outside.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise UserError(
            f"{out} is no PNG file name.", "Name the picture with .png at the end.", wrong_use=True
        )
    if not out.parent.is_dir():
        raise UserError(f"The folder {out.parent} does not exist.", "Make it first.", wrong_use=True)
    if not 16 <= tile <= MAX_TILE or tile % 2:
        raise UserError(
            f"A tile of {tile} mosaic pixels is not even and from 16 to {MAX_TILE}.", wrong_use=True
        )
    on = chosen_device(device)
    trained = load_checkpoint(checkpoint, zoom=zoom)
    raw = read_raw(photo)
    height, width = raw.size
    x, y, w, h = crop = crop or (0, 0, width, height)
    if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > width or y + h > height:
        raise UserError(
            f"The crop {x},{y},{w},{h} does not lie inside {photo}, which is {width} x {height}.",
            "Give --crop x,y,width,height in pixels of the raw.",
            wrong_use=True,
        )
    orientation = raw.exif.orientation or 1
    return ZoomJob(raw, trained.make_network().to(on), trained.label, crop, orientation, tile, out)


def zoom_photo(job: ZoomJob) -> Iterator[int]:
    """Write the zoomed picture, upright, 8-bit sRGB by the one rendering, with the file's balance and matrix.

    The picture gathers in a scratch file beside `out`, so that memory does not grow with it: what the system
    keeps of that file in memory it gives back when asked.

    Yields:
        The number of tiles done; `job.tiles` is the last. The picture is there when the generator has ended.
    """
    import cv2

    raw = job.raw
    with replacing(job.out) as temporary, tempfile.TemporaryFile(dir=job.out.parent) as scratch:
        bgr = np.memmap(scratch, np.uint8, "w+", shape=(*job.size, 3))
        frame = geometry.as_shot(bgr, job.orientation)
        tiles = apply_in_tiles(
            balanced_for(job.network, raw.rgb_wb),
            raw.mosaic,
            raw.cfa,
            raw.black_level,
            raw.white_level,
            crop=job.crop,
            tile=job.tile,
        )
        for number, tile in enumerate(tiles, 1):
            srgb = render_srgb(tile.camera_rgb.transpose(1, 2, 0), raw.rgb_wb, raw.color_matrix)
            rows, columns = srgb.shape[:2]
            frame[tile.y : tile.y + rows, tile.x : tile.x + columns] = to_uint8(srgb)[:, :, ::-1]
            yield number
        if not cv2.imwrite(str(temporary), bgr):
            raise UserError(f"{job.out} could not be written as PNG.", "Free some space and try again.")
