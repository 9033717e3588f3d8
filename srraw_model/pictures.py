"""The pictures of a pair that tables and people compare: bicubic, a network's output, the target.

All are (N h, N w, 3) uint8, sRGB by the one rendering, each with its own shot's metadata.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from srraw_model.baselines import Baseline
from srraw_model.network import PaperNetwork, SmallNetwork, upsampled
from srraw_model.tiling import apply_in_tiles, enlarge_in_tiles
from srraw_model.variants import balanced_for
from srraw_tools.raw import render_srgb, to_uint8
from srraw_tools.shards import Pair, PairData, render_target

Picture = npt.NDArray[np.uint8]

TILE = 256  # pixels of the low shot, of a baseline's tiles


def bicubic_picture(pair: Pair, data: PairData) -> Picture:
    """The low shot's rendering, upsampled in sRGB: what the table calls bicubic."""
    srgb = torch.from_numpy(data.rgb.transpose(2, 0, 1).astype(np.float32) / 255)
    return to_uint8(upsampled(srgb[None], pair.zoom)[0].permute(1, 2, 0).numpy())


def output_picture(network: PaperNetwork | SmallNetwork, pair: Pair, data: PairData) -> Picture:
    """What a network makes of the low shot's mosaic, rendered with that shot's balance and matrix."""
    height, width = data.raw.shape
    picture = np.empty((pair.zoom * height, pair.zoom * width, 3), np.uint8)
    network = balanced_for(network, pair.rgb_wb)
    for tile in apply_in_tiles(network, data.raw, pair.cfa, pair.black_level, pair.white_level):
        rendered = render_srgb(tile.camera_rgb.transpose(1, 2, 0), pair.rgb_wb, pair.color_matrix)
        rows, columns = rendered.shape[:2]
        picture[tile.y : tile.y + rows, tile.x : tile.x + columns] = to_uint8(rendered)
    return picture


def baseline_picture(network: Baseline, data: PairData) -> Picture:
    """What a baseline makes of the low shot's rendering, in tiles that show what the whole would."""
    height, width = data.rgb.shape[:2]
    picture = np.empty((network.zoom * height, network.zoom * width, 3), np.uint8)
    for place, srgb in enlarge_in_tiles(network, data.rgb, tile=TILE):
        picture[place] = to_uint8(srgb.transpose(1, 2, 0))
    return picture


def target_picture(pair: Pair, data: PairData) -> Picture:
    """The high shot, at the low shot's exposure."""
    return to_uint8(render_target(pair, data.target))


def side_by_side(pictures: list[Picture], *, gap: int = 8) -> Picture:
    """Pictures of one size beside each other, white between them."""
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (white, picture)][1:]
    return np.concatenate(parts, axis=1)


def middle_crop(pair: Pair, side: int) -> tuple[int, int, int, int]:
    """A crop [x, y, width, height] of at most side x side mosaic pixels, amid the pair, in its phase."""
    height, width = (min(side, length) // 2 * 2 for length in pair.size)
    return (pair.size[1] - width) // 4 * 2, (pair.size[0] - height) // 4 * 2, width, height
