"""The search of matching.py over feature maps on a CUDA GPU, by Triton kernels (gpu_kernels.py), and exact.

`scan` multiplies tiles of features, rounded to float16, on the tensor cores, and writes for every source the
greatest product with each block of 64 targets: the distance matrix stays in registers. float16 has the
significand of tf32 at the rate of bfloat16, and features of length 1 need no wider range. What rounding took
from each feature is measured in float64. So every product has a margin, some 5e-4 for the cosine; with
it, and with the least that a block can be away, `choose` has a lower bound of the cost within every block. It
opens the most promising one, computes the most promising target's cost in float64 from the map itself, and
goes on until no bound is as small. Of random features, 1.0 to 1.6 blocks and 1.03 targets per source have
such bounds (65,536 targets, weights 0 to 1).

Costs at 65,536 x 65,536 positions of 64 channels, 5.5e11 floating-point operations, by count: with only 64
channels a product earns 64 multiplications, so whatever else is done per product decides. It is one
maximum. The spatial term, the margins and the index are left to the blocks, 64 times fewer. A group of 256
sources stays on the chip while the targets stream past, so that the second-level cache delivers 2 GB.

Tiles are taken nearest first. Costs within the NEAR first ones tell how far a better target could lie
(`reach`); where `weight_spatial` times the distance is more, the group stops.
"""

from __future__ import annotations

import math
import os
import shutil
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from srraw_model.matching import Chosen, PatchGrid, Problem, compact_order, search_by_tiles

BLOCK = 64  # targets that share a bound; a tile has two blocks
BLOCK_SIDES = 8, 8  # rows and columns that they lie in, about
TILE_SIDES = 8, 16
GROUP_SIDES = 16, 16  # of sources that are searched together
GROUP_SIDES_WIDE = 8, 16  # where more than NARROW channels would not leave room for them
NARROW, WIDE = 64, 128  # channels; more than WIDE of them are multiplied in steps of NARROW
NEAR = 16  # tiles that every group takes
SPAN = 32  # tiles that a program takes
CHUNK = 1024  # blocks whose bounds are compared at a time
BOUNDS = 2**26  # products of sources with blocks that are kept at a time, 256 MB
ROWS = 32  # features that are rounded together
OPENED = 32  # channels of an opened block that are read together

# Assumed, for the makers do not specify it: a tensor core adds float16 products, which are exact, with at
# least 23 bits, and truncates. Twice that is allowed for each.
SUM_ROUNDOFF = 2.0**-22
SHORTEST = 1e-100  # of the longest feature, up to which it need not be scaled
GREATEST = 1e15  # length of a feature, or weight_spatial, up to which float32 holds all bounds


@cache
def runs_on(device: torch.device) -> bool:
    """Whether a device can: a CUDA GPU since Ampere, with Triton and the C compiler that Triton calls."""
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and torch.cuda.get_device_capability(device) >= (8, 0)


class Layout(NamedTuple):
    """The positions of a grid in a compact order, the last one repeated until all tiles are full.

    Attributes:
        index: (rows,) int64.
        position: (2, rows) float64, x and y.
        box: (4, rows / BLOCK) float64, least x, greatest x, least y, greatest y of BLOCK consecutive ones.
    """

    index: Tensor
    position: Tensor
    box: Tensor


class Order(NamedTuple):
    """In which order groups of sources take the tiles: those first that are nearest.

    Attributes:
        nearest: (groups, tiles) int32.
        tile_apart: (groups, tiles) float32, distances of group and tile, rising.
        apart: (cells, 2 tiles) float32, distances between BLOCK consecutive sources and the tiles' blocks.
    """

    nearest: Tensor
    tile_apart: Tensor
    apart: Tensor


class Rounded(NamedTuple):
    """A map and its features in float16; shapes as in gpu_kernels.py.

    Attributes:
        pixels: (C, positions), the map itself.
    """

    pixels: Tensor
    layout: Layout
    factors: Tensor
    scale: Tensor
    size: Tensor


def search_maps(problem: Problem) -> Chosen:
    """What every source position of a feature map chooses."""
    maps = [_as_rows(grid) for grid in (problem.source, problem.target)]
    longest = _longest(problem, maps) if _length_matters(problem, maps) else None
    if problem.weight_spatial >= GREATEST or (longest is not None and not longest < GREATEST):
        return search_by_tiles(problem)
    device = problem.mean.device
    width, step = _width_and_step(len(problem.mean))
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    group_sides = GROUP_SIDES if width <= NARROW else GROUP_SIDES_WIDE
    group = math.prod(group_sides)
    orders = [
        (problem.source.rows, problem.source.columns, group_sides, BLOCK_SIDES, group, device, stream),
        (problem.target.rows, problem.target.columns, TILE_SIDES, BLOCK_SIDES, 2 * BLOCK, device, stream),
    ]
    scalars = _scalars(problem, longest)
    with torch.cuda.device_of(scalars):
        source, target = (
            _rounded(problem, pixels, _layout(*order), scalars, width)
            for pixels, order in zip(maps, orders, strict=True)
        )
        found = Chosen(
            *(
                torch.empty(problem.source.count, dtype=dtype, device=device)
                for dtype in (torch.int64, torch.float64, torch.float64)
            )
        )
        groups, tiles = len(source.factors) // group, len(target.factors) // (2 * BLOCK)
        strip = max(1, BOUNDS // (2 * tiles * group))  # groups whose bounds are kept at a time
        for first in range(0, groups, strip):
            order = _nearest(*orders, first, min(first + strip, groups))
            _search_groups(problem, source, target, scalars, first * group, group, step, order, found)
    return found


def _search_groups(
    problem: Problem,
    source: Rounded,
    target: Rounded,
    scalars: Tensor,
    first_row: int,
    group: int,
    step: int,
    order: Order,
    found: Chosen,
) -> None:
    """Fill in what the groups of an order choose; the first of them begins at `first_row`."""
    from srraw_model import gpu_kernels

    (groups, tiles), (rows, width) = order.nearest.shape, source.factors.shape
    of_strip = slice(first_row, first_row + groups * group)
    factors, scale, size = source.factors[of_strip], source.scale[of_strip], source.size[:, of_strip]
    index, position = source.layout.index[of_strip], source.layout.position[:, of_strip]
    block_size = target.size[:2].view(2, -1, BLOCK).amax(dim=2)
    best = torch.empty(groups * group, 2 * tiles, dtype=torch.float32, device=factors.device)
    near = min(NEAR, tiles)
    counts = torch.full((groups,), near, dtype=torch.int32, device=factors.device)
    is_l2 = problem.distance == "l2"
    options = scan_options(width, group, is_l2, _capability(factors.device))

    def scan(begin: int, end: int) -> None:
        gpu_kernels.scan[(groups, -(-(end - begin) // SPAN))](
            factors,
            target.factors,
            target.size,
            order.nearest,
            tiles,
            counts,
            begin,
            best,
            WIDTH=width,
            STEP=step,
            SPAN=SPAN,
            GROUP=group,
            BLOCK=BLOCK,
            IS_L2=is_l2,
            **options,
        )

    scan(0, near)
    if tiles > near:
        gpu_kernels.reach[(groups,)](
            best,
            order.nearest,
            order.tile_apart,
            tiles,
            near,
            position,
            size,
            rows,
            target.layout.box,
            block_size,
            scalars,
            counts,
            CHUNK=CHUNK,
            GROUP=group,
            IS_L2=is_l2,
        )
        scan(near, tiles)
    gpu_kernels.choose[(min(groups * group, problem.source.count - first_row),)](
        best,
        order.nearest,
        tiles,
        order.apart,
        counts,
        source.pixels,
        source.pixels.shape[1],
        index,
        position,
        factors,
        scale,
        size,
        rows,
        target.pixels,
        target.pixels.shape[1],
        target.layout.index,
        target.layout.position,
        target.factors,
        target.scale,
        target.size,
        target.layout.box,
        block_size,
        block_size.amax(dim=1),
        len(problem.mean),
        problem.target.origin.contiguous(),  # of a float64 map it is a view
        problem.mean.contiguous(),
        scalars,
        found.index,
        found.feature,
        found.spatial,
        WIDTH=width,
        STEP=min(step, OPENED),
        CHUNK=CHUNK,
        GROUP=group,
        BLOCK=BLOCK,
        IS_L2=is_l2,
        num_warps=1,
    )


def _as_rows(grid: PatchGrid) -> Tensor:
    """The map of a grid of single pixels as (C, positions), contiguous."""
    return grid.pixels[:, :: grid.stride, :: grid.stride].reshape(len(grid.pixels), -1).contiguous()


def _length_matters(problem: Problem, maps: list[Tensor]) -> bool:
    """Whether features could be too long: to ask how long they are keeps the GPU waiting.

    Those of the cosine are brought to length 1 in float64, which holds the square of any float32.
    """
    return problem.distance == "l2" or any(values.dtype == torch.float64 for values in maps)


def _longest(problem: Problem, maps: list[Tensor]) -> Tensor:
    """At least the length of every centred feature of both maps, () float64."""
    extremes = torch.stack([torch.stack(values.aminmax(dim=1)) for values in maps]).double()
    return (extremes - problem.target.origin - problem.mean).abs().amax(dim=(0, 1)).square().sum().sqrt()


def _scalars(problem: Problem, longest: Tensor | None) -> Tensor:
    """As gpu_kernels.py takes them; `longest` may be None where the distance is the cosine's."""
    channels, length = len(problem.mean), problem.no_length
    if problem.distance == "cosine":
        scale = unit = torch.ones_like(length)  # it takes neither
    else:
        scale = torch.where(longest > SHORTEST, 1 / longest, 1.0)
        unit = 1 / (scale * math.sqrt(channels))
    weight = torch.full_like(length, problem.weight_spatial)
    return torch.stack([length, scale, unit, weight, torch.full_like(length, (channels + 32) * SUM_ROUNDOFF)])


def scan_options(width: int, group: int, is_l2: bool, capability: tuple[int, int]) -> dict[str, int]:
    """How Triton is to compile `scan` for this width of the features, size of the groups, and GPU."""
    options = {"num_warps": max(4, group // 32)}
    if width <= NARROW:
        # Where a tile lies is loaded just before the tile, and each of these loads takes its share of the
        # stages: with Triton's three no tile is under way while another one is multiplied. Wider features
        # would need more shared memory for five than a card of every kind can spare.
        options["num_stages"] = 5
        if is_l2 and width == NARROW and capability[0] == 9:
            # A multiprocessor has not enough of the 140 to 146 that it takes otherwise for a second program.
            # Next to nothing is spilled for that here; with other widths and on other cards more is.
            options["maxnreg"] = 128
    return options


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    """Of a GPU; 0, 0 of the CPU, on which Triton interprets."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _width_and_step(channels: int) -> tuple[int, int]:
    """How many channels there are with padding, and how many are multiplied at a time."""
    if channels > WIDE:
        return math.ceil(channels / NARROW) * NARROW, NARROW
    width = max(16, 2 ** (channels - 1).bit_length())  # the least that tensor cores take is 16
    return width, width


def _rounded(problem: Problem, pixels: Tensor, layout: Layout, scalars: Tensor, width: int) -> Rounded:
    from srraw_model import gpu_kernels

    rows, device = len(layout.index), pixels.device
    factors = torch.empty(rows, width, dtype=torch.float16, device=device)
    scale = torch.empty(rows, dtype=torch.float64, device=device)
    size = torch.empty(3, rows, dtype=torch.float32, device=device)
    gpu_kernels.round_features[(rows // ROWS,)](
        pixels,
        pixels.shape[1],
        len(pixels),
        layout.index,
        problem.target.origin.contiguous(),  # of a float64 map it is a view
        problem.mean.contiguous(),
        scalars,
        factors,
        scale,
        size,
        rows,
        WIDTH=width,
        STEP=min(width, NARROW),
        ROWS=ROWS,
        IS_L2=problem.distance == "l2",
    )
    return Rounded(pixels, layout, factors, scale, size)


# The following depend on the maps' sizes alone, and a training run has few of these. They are kept for each
# stream: what was put on another one may not be there yet.


@lru_cache(maxsize=8)
def _layout(
    rows: int,
    columns: int,
    outer: tuple[int, int],
    inner: tuple[int, int],
    multiple: int,
    device: torch.device,
    stream: int,
) -> Layout:
    """The layout of a grid, its length a multiple of `multiple`; outer, inner: as in `compact_order`.

    stream: the device's current one, by which layouts are told apart.
    """
    grid = PatchGrid(torch.empty(0, rows, columns), torch.empty(0), patch=1, stride=1)
    index = compact_order(grid, outer, inner)
    index = torch.cat([index, index[-1:].expand(-len(index) % multiple)])
    position = grid.positions(index).T.contiguous()
    parts = position.view(2, -1, BLOCK)
    box = torch.stack([parts.amin(dim=2), parts.amax(dim=2)], dim=1).view(4, -1)
    return Layout(index.to(device), position.to(device), box.to(device))


@lru_cache(maxsize=16)
def _nearest(of_source: tuple, of_target: tuple, first: int, last: int) -> Order:
    """The order for groups `first` to before `last`; of_source, of_target: the arguments of `_layout`."""
    cells, blocks = _layout(*of_source).box, _layout(*of_target).box
    in_group = of_source[4] // BLOCK
    cells = cells[:, first * in_group : last * in_group]
    tile_apart, nearest = _between(_around(cells, in_group), _around(blocks, 2)).sort(stable=True)
    in_order = (2 * nearest[..., None] + torch.arange(2, device=nearest.device)).flatten(1)
    apart = _between(cells, blocks).gather(1, in_order.repeat_interleave(in_group, dim=0))
    return Order(nearest.int(), tile_apart.float(), apart.float())


def _around(boxes: Tensor, count: int) -> Tensor:
    """Rectangles (4, K / count) around `count` consecutive ones each of (4, K)."""
    parts = boxes.reshape(2, 2, -1, count)
    return torch.stack([parts[:, 0].amin(dim=2), parts[:, 1].amax(dim=2)], dim=1).view(4, -1)


def _between(boxes: Tensor, others: Tensor) -> Tensor:
    """Distances (N, K) of rectangles (4, N) and (4, K), 0 where they meet."""
    boxes = boxes[:, :, None]
    dx = torch.maximum(others[0] - boxes[1], boxes[0] - others[1]).clamp(min=0)
    dy = torch.maximum(others[2] - boxes[3], boxes[2] - others[3]).clamp(min=0)
    return (dx.square() + dy.square()).sqrt()
