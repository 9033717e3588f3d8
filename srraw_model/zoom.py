"""A whole photograph: raw in, zoomed sRGB picture out, upright, tile by tile."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srraw_model.baselines import Baseline
from srraw_model.checkpoint import load_checkpoint
from srraw_model.device import chosen_device
from srraw_model.network import PaperNetwork, SmallNetwork
from srraw_model.picture_files import STRIP_ROWS, chosen_bits, write_picture
from srraw_model.tiling import TILE, Crop, apply_in_tiles, count_tiles
from srraw_model.variants import balanced_for
from srraw_tools import geometry
from srraw_tools.errors import UserError
from srraw_tools.files import replacing
from srraw_tools.raw import RawImage, read_raw, render_srgb

MAX_TILE = 4096  # mosaic pixels; the memory that a tile takes grows with its area
BASE_BYTES = 500_000_000  # of Python and torch
TILE_BYTES = 3 * 256 * 4  # of a packed pixel of a tile: three layers of 256 channels
TILES_KEPT = 16  # of the scratch file in memory


@dataclass(frozen=True)
class ZoomJob:
    """A photograph, a network and where the picture goes.

    Attributes:
        crop: in mosaic pixels of the raw's frame, which is not rotated.
        orientation: EXIF's number; the picture is put upright by it.
        bits, quality: of a value in the file, and of JPEG.
    """

    raw: RawImage
    network: PaperNetwork | SmallNetwork
    label: str
    crop: Crop
    orientation: int
    tile: int
    out: Path
    bits: int
    quality: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return count_tiles(self.raw.cfa, self.crop, tile=self.tile)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture, upright."""
        return _size(self.crop, self.network.zoom, self.orientation)

    @property
    def scratch_bytes(self) -> int:
        """What the scratch file beside `out` takes while the picture is made."""
        return self.size[0] * self.size[1] * 3 * self.bits // 8


def prepare_zoom(
    photo: Path,
    *,
    checkpoint: Path,
    out: Path,
    zoom: int | None = None,
    crop: Crop | None = None,
    tile: int = TILE,
    bits: int | None = None,
    quality: int = 95,
    device: str | None = None,
) -> ZoomJob:
    """Read the photograph and the checkpoint, and check that they go together.

    Args:
        photo: a raw file of any make with a Bayer sensor.
        out: the PNG, TIFF or JPEG to write, as its suffix says.
        zoom: what the checkpoint must be for; None takes what it is.
        crop: [x, y, width, height] in pixels of the raw's visible frame, not rotated; None for all of it.
        tile: side in mosaic pixels; larger tiles are faster and take more memory.
        bits: of a value, 8 or 16; None takes 16, and 8 for JPEG.
        quality: of JPEG, 1 to 100.
        device: of torch; None takes a GPU where there is one.

    Raises:
        UserError: a file is not what it should be, the zoom differs, or the crop lies outside.
    """
    out = Path(out)
    chosen_bits(out, bits, (1, 1))  # before anything is read
    if not 1 <= quality <= 100:
        raise UserError(f"A JPEG quality of {quality} is not from 1 to 100.", wrong_use=True)
    if not out.parent.is_dir():
        raise UserError(f"The folder {out.parent} does not exist.", "Make it first.", wrong_use=True)
    if not 16 <= tile <= MAX_TILE or tile % 2:
        raise UserError(
            f"A tile of {tile} mosaic pixels is not even and from 16 to {MAX_TILE}.", wrong_use=True
        )
    on = chosen_device(device)
    trained = load_checkpoint(checkpoint, zoom=zoom)
    network = trained.make_network()
    if isinstance(network, Baseline):
        raise UserError(
            f"{checkpoint} ({trained.label}) takes rendered pictures, not raw files.",
            "Give a model of ours trained on mosaics; --onnx takes any.",
            wrong_use=True,
        )
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
    bits = chosen_bits(out, bits, _size(crop, trained.zoom, orientation))
    return ZoomJob(raw, network.to(on), trained.label, crop, orientation, tile, out, bits, quality)


def plan_record(job: ZoomJob) -> dict[str, Any]:
    """What a job will make and take, as plain values.

    The memory is that of Python and torch and the mosaic, of a tile and, for JPEG, of the picture: an
    estimate, on the CPU.
    """
    height, width = job.size
    side = job.tile // 2 + 2 * (job.network.features_reach + job.network.output_reach)
    memory = BASE_BYTES + TILE_BYTES * side**2 + job.raw.mosaic.nbytes
    jpeg = job.out.suffix.lower() in (".jpg", ".jpeg")
    return {
        "photo": str(job.raw.path),
        "out": str(job.out),
        "width": width,
        "height": height,
        "bits": job.bits,
        "zoom": job.network.zoom,
        "model": job.label,
        "tiles": job.tiles,
        "memory_bytes": memory + (4 * width * height if jpeg else 0),
        "scratch_bytes": job.scratch_bytes,
    }


def zoom_photo(job: ZoomJob) -> Iterator[int]:
    """Write the zoomed picture, upright, sRGB by the one rendering, with the file's balance and matrix.

    The picture gathers in a scratch file beside `out`, and goes from there strip by strip into the file of
    its format: memory does not grow with it, but for JPEG, whose encoder takes it in one piece.

    Yields:
        The number of tiles done; `job.tiles` is the last. The picture is there when the generator has ended.
    """
    raw = job.raw
    kind = np.dtype(f"u{job.bits // 8}")
    with replacing(job.out) as temporary, tempfile.TemporaryFile(dir=job.out.parent) as scratch:
        if hasattr(os, "posix_fallocate"):  # a disk that is full is told now, not by a signal later
            os.posix_fallocate(scratch.fileno(), 0, math.prod(job.size) * 3 * kind.itemsize)
        picture = np.memmap(scratch, kind, "w+", shape=(*job.size, 3))
        frame = geometry.as_shot(picture, job.orientation)
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
            # float32 keeps 24 bits: rounding to 16 loses nothing before it.
            values = (srgb * np.float32(2**job.bits - 1) + np.float32(0.5)).astype(kind)
            frame[tile.y : tile.y + rows, tile.x : tile.x + columns] = values
            if number % TILES_KEPT == 0:
                _give_back(picture)
            yield number
        _give_back(picture)
        try:
            write_picture(
                temporary, _strips(picture), job.size, bits=job.bits, exif=raw.exif, quality=job.quality
            )
        except OSError as error:
            if error.errno is not None:  # the operating system's own, which `replacing` words
                raise
            raise UserError(f"{job.out} could not be written.", "Free some space and try again.") from error


def _strips(picture: np.memmap) -> Iterator[npt.NDArray[Any]]:
    for y in range(0, len(picture), STRIP_ROWS):
        yield np.array(picture[y : y + STRIP_ROWS])
        _give_back(picture)


def _give_back(picture: np.memmap) -> None:
    """Let the system take the memory of the scratch file's pages; what they hold stays in the file."""
    pages = picture.base
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def _size(crop: Crop, zoom: int, orientation: int) -> tuple[int, int]:
    """(height, width) of a crop zoomed and upright."""
    height, width = crop[3] * zoom, crop[2] * zoom
    return (width, height) if orientation >= 5 else (height, width)
