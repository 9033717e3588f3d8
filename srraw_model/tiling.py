"""A network over a whole mosaic or picture, tile by tile: as in one piece, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srraw_model.baselines import Baseline
from srraw_model.network import PaperNetwork, SmallNetwork
from srraw_model.packing import pack, reach_red, red_origin
from srraw_model.variants import PngNetwork
from srraw_tools.raw import mosaic_light

Crop = tuple[int, int, int, int]
Rectangle = tuple[slice, slice]  # rows and columns

TILE = 256  # pixels of the mosaic or the picture
MOST_MARGIN = 64  # pixels around a tile of a picture

# Side, in output pixels, of what is put out at once: the most memory goes into 256 channels of this size.
OUTPUT_BLOCK = 256

# torch convolves an input of up to so many values by another kernel, which sums in another order.
FEW_VALUES = 20480


@dataclass(frozen=True)
class Tile:
    """A piece of the output: linear camera RGB (3, height, width) at (x, y) of the zoomed crop."""

    x: int
    y: int
    camera_rgb: npt.NDArray[np.float32]


def apply_in_tiles(
    network: PaperNetwork | SmallNetwork,
    mosaic: npt.NDArray[np.uint16],
    cfa: str,
    black_level: tuple[float, ...],
    white_level: float,
    *,
    crop: Crop | None = None,
    tile: int = TILE,
) -> Iterator[Tile]:
    """Apply a network to a mosaic; what a tile depends on beyond its sides is computed with it.

    On the CPU tiles of any size, and of any crop, are their parts of the output in one piece, bit for bit. On
    a GPU those of one size are: they lie on a grid of the frame, and one that a crop cuts is computed whole.

    Args:
        mosaic: (H, W) sensor values; `cfa` and `black_level` (in its order) are those of its first pixel.
        crop: [x, y, width, height] of the mosaic to put out, of any phase; None for all.
        tile: side in mosaic pixels.

    Yields:
        Tiles that cover the crop, row by row; their number is `count_tiles` of the same arguments.
    """
    x, y, width, height = crop or (0, 0, mosaic.shape[1], mosaic.shape[0])
    left, top = red_origin(cfa)
    grown = reach_red(mosaic, cfa)
    device = next(network.parameters()).device
    whole = slice(0, grown.shape[0] // 2), slice(0, grown.shape[1] // 2)
    zoom = network.zoom

    def packed(seen: Rectangle) -> Tensor:
        light = mosaic_light(grown[_scaled(seen, 2)], black_level, white_level, origin=(left, top))
        return torch.from_numpy(pack(light))[None].to(device)

    for on_grid in _tiles(cfa, (x, y, width, height), tile):
        packed_tile = _widened(on_grid, 0, whole)
        rgb = _output_of_tile(network, packed, packed_tile, whole)
        # From the tile's own pixels to those inside the crop, in mosaic pixels of the frame.
        y0, x0 = 2 * packed_tile[0].start - top, 2 * packed_tile[1].start - left
        y1, x1 = max(y0, y), max(x0, x)
        y2, x2 = (
            min(2 * packed_tile[0].stop - top, y + height),
            min(2 * packed_tile[1].stop - left, x + width),
        )
        inside = rgb[:, zoom * (y1 - y0) : zoom * (y2 - y0), zoom * (x1 - x0) : zoom * (x2 - x0)]
        yield Tile(zoom * (x1 - x), zoom * (y1 - y), inside.cpu().numpy())


def enlarge_in_tiles(
    network: Baseline, srgb: npt.NDArray[np.uint8], *, tile: int = TILE
) -> Iterator[tuple[Rectangle, npt.NDArray[np.float32]]]:
    """Apply a baseline to a picture; what a tile depends on beyond its sides is computed with it.

    Tiles are their parts of the output in one piece: Ours-png's bit for bit on the CPU, the others' but for
    rounding. Of a network that sees farther than MOST_MARGIN, such as ESRGAN with its 349 pixels, only so
    much is computed with a tile, or most of the work would be done many times over. ESRGAN's blocks add 0.2
    of what they find: with 23 of them and random weights, of He's size and of 1.6 times it, the rest changed
    no value by more than rounding does.

    Args:
        srgb: (H, W, 3), sRGB.
        tile: side in pixels of the picture, even.

    Yields:
        A place in the enlarged picture (N H, N W), and what is there: sRGB (3, height, width), not clipped.
    """
    whole = slice(0, srgb.shape[0]), slice(0, srgb.shape[1])
    device = next(network.parameters()).device

    def seen_as_input(seen: Rectangle) -> Tensor:
        return torch.from_numpy(srgb[seen].transpose(2, 0, 1).astype(np.float32) / 255)[None].to(device)

    for rows in _split(0, whole[0].stop, tile):
        for columns in _split(0, whole[1].stop, tile):
            part = rows, columns
            place = _scaled(part, network.zoom)
            if isinstance(network, PngNetwork):
                output = _output_of_tile(
                    network.body,
                    lambda seen: network.packed(seen_as_input(_scaled(seen, 2))),
                    _packed(part),
                    _packed(whole),
                )
                # What made a side even is cut again.
                output = output[:, : place[0].stop - place[0].start, : place[1].stop - place[1].start]
            else:
                seen = _widened(part, min(network.reach, MOST_MARGIN), whole)
                with torch.inference_mode():
                    output = _part(network(seen_as_input(seen)), _scaled(seen, network.zoom), place)[0]
            yield place, output.cpu().numpy()


def count_tiles(cfa: str, crop: Crop, *, tile: int = TILE) -> int:
    """The number of tiles that `apply_in_tiles` yields for a crop."""
    return len(_tiles(cfa, crop, tile))


def _tiles(cfa: str, crop: Crop, tile: int) -> list[Rectangle]:
    """The tiles that a crop touches, in packed pixels of the mosaic that was grown to begin at red.

    The last of a row or column may reach beyond the mosaic.
    """
    (left, top), (x, y, width, height) = red_origin(cfa), crop
    rows = _on_grid((y + top) // 2, (y + top + height + 1) // 2, tile // 2)
    columns = _on_grid((x + left) // 2, (x + left + width + 1) // 2, tile // 2)
    return [(row, column) for row in rows for column in columns]


def _output_of_tile(
    network: PaperNetwork | SmallNetwork,
    packed_of: Callable[[Rectangle], Tensor],
    tile: Rectangle,
    whole: Rectangle,
) -> Tensor:
    """The network's output (3, 2Nh, 2Nw) of a tile; `packed_of` gives any part of the whole, (1, C, h, w)."""
    around = _large_enough(_widened(tile, network.output_reach, whole), 4, whole)
    seen = _widened(around, network.features_reach, whole)
    with torch.inference_mode():
        packed = packed_of(seen)
        features = _part(network.features(packed), seen, around)
        return _output_in_blocks(network, features, _part(packed, seen, around), tile, around, whole)


def _output_in_blocks(
    network: PaperNetwork | SmallNetwork,
    features: Tensor,
    packed: Tensor,
    tile: Rectangle,
    around: Rectangle,
    whole: Rectangle,
) -> Tensor:
    """The network's output (3, 2Nh, 2Nw) of a tile, from features and channels of the rectangle around it."""
    scale = 2 * network.zoom
    side = max(1, OUTPUT_BLOCK // scale)
    block_rows = []
    for rows in _split(tile[0].start, tile[0].stop, side):
        blocks = []
        for columns in _split(tile[1].start, tile[1].stop, side):
            seen = _widened((rows, columns), network.output_reach, whole)
            seen = _large_enough(seen, features.shape[1], around)
            out = network.output(_part(features, around, seen), _part(packed, around, seen))[0]
            y, x = scale * (rows.start - seen[0].start), scale * (columns.start - seen[1].start)
            height, width = scale * (rows.stop - rows.start), scale * (columns.stop - columns.start)
            blocks.append(out[:, y : y + height, x : x + width])
        block_rows.append(torch.cat(blocks, dim=2))
    return torch.cat(block_rows, dim=1)


def _on_grid(start: int, stop: int, side: int) -> list[slice]:
    """The multiples of `side` that a stretch touches."""
    return [slice(at, at + side) for at in range(start // side * side, stop, side)]


def _split(start: int, stop: int, side: int) -> list[slice]:
    return [slice(at, min(at + side, stop)) for at in range(start, stop, side)]


def _scaled(rectangle: Rectangle, factor: int) -> Rectangle:
    """A rectangle of pixels in pixels of which so many make one, each way."""
    rows, columns = (slice(factor * part.start, factor * part.stop) for part in rectangle)
    return rows, columns


def _packed(rectangle: Rectangle) -> Rectangle:
    """A rectangle that begins at even pixels in packed ones; the last may lie half beyond it."""
    rows, columns = (slice(part.start // 2, (part.stop + 1) // 2) for part in rectangle)
    return rows, columns


def _widened(rectangle: Rectangle, reach: int, whole: Rectangle) -> Rectangle:
    """A rectangle and `reach` around it, as far as the whole goes."""
    rows, columns = (
        slice(max(part.start - reach, all_.start), min(part.stop + reach, all_.stop))
        for part, all_ in zip(rectangle, whole, strict=True)
    )
    return rows, columns


def _large_enough(rectangle: Rectangle, channels: int, whole: Rectangle) -> Rectangle:
    """A rectangle of more than FEW_VALUES in so many channels, as far as the whole goes."""
    rows, columns = rectangle
    area = FEW_VALUES // channels + 1
    rows = _lengthened(rows, math.isqrt(area) + 1, whole[0])
    columns = _lengthened(columns, math.ceil(area / (rows.stop - rows.start)), whole[1])
    return _lengthened(rows, math.ceil(area / (columns.stop - columns.start)), whole[0]), columns


def _lengthened(part: slice, length: int, all_: slice) -> slice:
    """A stretch of at least `length`, or all there is."""
    start = max(min(part.start, all_.stop - length), all_.start)
    return slice(start, max(part.stop, min(start + length, all_.stop)))


def _part(values: Tensor, outer: Rectangle, inner: Rectangle) -> Tensor:
    """The part `inner` of values (1, C, h, w) that are those of `outer`."""
    rows, columns = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
    return values[:, :, rows, columns]
