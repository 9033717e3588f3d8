"""A whole photograph: raw in, zoomed sRGB picture out, upright, tile by tile."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srraw_model.checkpoint import load_checkpoint
from srraw_model.device import chosen_device
from srraw_model.network import PaperNetwork, SmallNetwork
from srraw_model.picture_files import STRIP_ROWS, bits_of, write_picture
from srraw_model.tiling import TILE, Crop, apply_in_tiles, count_tiles
from srraw_model.variants import balanced_for
from srraw_tools import geometry
from srraw_tools.errors import UserError
from srraw_tools.files import replacing
from srraw_tools.raw import RawImage, read_raw, render_srgb

TILES_HELD = 16  # before their part of the scratch file is let go of
MAX_TILE = 4096  # mosaic pixels; the memory that a tile takes grows with its area


@dataclass(frozen=True)
class ZoomJob:
    """A photograph, a network and where the picture goes.

    Attributes:
        crop: in mosaic pixels of the raw's frame, which is not rotated.
        orientation: EXIF's number; the picture is put upright by it.
        bits: of a channel of the picture.
    """

    raw: RawImage
    network: PaperNetwork | SmallNetwork
    label: str
    crop: Crop
    orientation: int
    tile: int
    out: Path
    bits: int

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
    bits: int | None = None,
) -> ZoomJob:
    """Read the photograph and the checkpoint, and check that they go together.

    Args:
        photo: a raw file of any make with a Bayer sensor.
        out: the PNG, TIFF or JPEG to write, by its suffix.
        zoom: what the checkpoint must be for; None takes what it is.
        crop: [x, y, width, height] in pixels of the raw's visible frame, not rotated; None for all of it.
        tile: side in mosaic pixels; larger tiles are faster and take more memory.
        device: of torch; None takes a GPU where there is one.
        bits: of a channel, 8 or 16; None takes 16 for TIFF and 8 for the others.

    Raises:
        UserError: a file is not what it should be or cannot be of that kind, the zoom differs, or the crop
            lies outside.
    """
    out = Path(out)
    bits_of(out, bits, (0, 0))
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
    network = trained.make_network().to(on)
    chosen = bits_of(out, bits, (h * network.zoom, w * network.zoom))
    return ZoomJob(raw, network, trained.label, crop, orientation, tile, out, chosen)


def zoom_photo(job: ZoomJob) -> Iterator[int]:
    """Write the zoomed picture, upright, sRGB by the one rendering, with the file's balance and matrix.

    The picture gathers in a scratch file beside `out`, and what is done of it is let go of, so that memory
    does not grow with it (but for JPEG, whose encoder takes it whole).

    Yields:
        The number of tiles done; `job.tiles` is the last. The picture is there when the generator has ended.

    Raises:
        UserError: the picture or its scratch file cannot be written.
    """
    raw, white = job.raw, 2**job.bits - 1
    try:
        with replacing(job.out) as temporary, tempfile.TemporaryFile(dir=job.out.parent) as scratch:
            rgb = np.memmap(scratch, np.dtype(f"u{job.bits // 8}"), "w+", shape=(*job.size, 3))
            frame = geometry.as_shot(rgb, job.orientation)
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
                frame[tile.y : tile.y + rows, tile.x : tile.x + columns] = np.clip(srgb, 0, 1) * white + 0.5
                if number % TILES_HELD == 0:
                    _let_go(rgb)
                yield number

            def strips() -> Iterator[np.ndarray]:
                for top in range(0, len(rgb), STRIP_ROWS):
                    yield rgb[top : top + STRIP_ROWS]
                    _let_go(rgb)

            write_picture(temporary, job.out.suffix.lower(), strips, job.size, job.bits, raw.exif)
    except OSError as error:
        raise UserError(
            f"{job.out} could not be written: {error.strerror or error}.", "Free some space and try again."
        ) from error


def _let_go(rgb: np.memmap) -> None:
    """Give the memory of a scratch file back; what it holds stays in the file."""
    if hasattr(mmap, "MADV_DONTNEED"):
        rgb._mmap.madvise(mmap.MADV_DONTNEED)
