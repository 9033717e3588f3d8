"""The search of matching.py, by the fastest way that is as exact: on the CPU by compiled loops (kernels.py).

Feature maps on a GPU are searched by gpu_search.py; what follows is the CPU's.

Feature maps: matrix products of tiles in float32, of which only the best of every block of targets is kept;
less than its rounding and the nearest that a block lies, a block whose best cannot win is left out, and the
others are ranked in float64. Sources are taken in compact groups: where `weight_spatial` times the distance
of a tile exceeds the best cost found nearby, that tile is not even multiplied.

Patches of pixels: the distances of all patches at one shift are box sums (kernels.match_patches). Shifts are
tried in the order of D', and no further than one could win. Those few patches of which box sums do not tell
the direction, for they are nearly the target's mean, are ranked apart. Box sums are made at every pixel;
patches that are wide apart are multiplied, tile by tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from srraw_model import gpu_search, matching
from srraw_model.matching import (
    FLOAT32_ROUNDOFF,
    Chosen,
    PatchGrid,
    Problem,
    best_of_block,
    compact_order,
    product_roundoff,
    search_by_tiles,
    search_strip,
)

if TYPE_CHECKING:
    from srraw_model.pair_kernels import Pairs

T = TypeVar("T")
Floats = npt.NDArray[np.float64]

SMALL = 2e8  # multiplications below which nothing need be compiled
GROUP = 1024  # sources that are searched together
GROUP_SIDES = 32, 32  # rows and columns that they lie in, about
TILE = 1024  # targets that are multiplied together
TILE_SIDES = 32, 32
BLOCK = 64  # targets that share a bound
BLOCK_SIDES = 8, 8
GREATEST = 1e15  # up to which float32 holds the products
SPARSE = 0.75  # share of a group below which only the sources that a tile may serve are multiplied
DENSE_STRIDE = 2  # of patches, up to which box sums cost less than products
# Lengths of a centred patch below which box sums are not exact enough: relative to the texture of the
# target's mean patch, whose products are taken from the sums, and to that patch less the origin, for pixels
# are rounded when both are subtracted.
WEAK, FAINT = 1e-2, 1e-7
MANY = 1 / 8  # of the targets, that cost more to compare one by one than all of them tile by tile
STRIP_ROWS = 16  # of a picture that are unfolded at a time


def search(problem: Problem) -> Chosen:
    """What every source position chooses."""
    source, target = problem.source, problem.target
    if not _is_small(problem) and source.patch == 1 and gpu_search.runs_on(source.pixels.device):
        return gpu_search.search_maps(problem)
    if not _is_compiled(problem):
        return search_by_tiles(problem)
    if source.patch == 1:
        return _search_maps(problem)
    of_shift = max(source.rows, source.columns) == max(target.rows, target.columns)  # D' is that of the shift
    if source.stride <= DENSE_STRIDE and of_shift:
        return _search_patches(problem)
    return search_by_tiles(problem)


def _is_small(problem: Problem) -> bool:
    return problem.source.count * problem.target.count * len(problem.mean) < SMALL


def _is_compiled(problem: Problem) -> bool:
    """Whether it is worth compiled loops, and there they are."""
    on_cpu = problem.source.pixels.device.type == "cpu"
    return on_cpu and not _is_small(problem) and find_spec("numba") is not None


# --- feature maps -----------------------------------------------------------------------------------------


def _search_maps(problem: Problem) -> Chosen:
    targets = _Targets.of(problem)
    if not (targets.usable and _usable(problem)):
        return search_by_tiles(problem)
    sources = compact_order(problem.source, GROUP_SIDES, GROUP_SIDES)
    groups = sources.split(GROUP)
    workers = min(torch.get_num_threads(), len(groups))

    @torch.no_grad()  # which a thread does not inherit
    def work(number: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        product = torch.empty(GROUP * TILE, dtype=torch.float32)
        return [_search_group(problem, group, targets, product) for group in groups[number::workers]]

    found = _in_threads(work, workers)
    in_order = [found[k % workers][k // workers] for k in range(len(groups))]
    place = torch.empty_like(sources)
    place[sources] = torch.arange(len(sources))  # where each position stands in the order
    return Chosen(*(torch.cat(parts)[place] for parts in zip(*in_order, strict=True)))


@dataclass(frozen=True)
class _Targets:
    """The targets in blocks, and what is needed of them for every group of sources.

    Attributes:
        features: (blocks, C, BLOCK) float64.
        factors: (blocks BLOCK, C or C + 1) float32, of products.
        longest: (blocks,) float32, of l2 the greatest |q|^2.
        positions: (blocks, 2, BLOCK) float64.
        index: (blocks, BLOCK).
        box: (4, blocks), least x, greatest x, least y, greatest y of the positions.
        tiles: of blocks that are multiplied together; tile_box: (4, tiles).
    """

    features: Tensor
    factors: Tensor
    longest: Tensor
    positions: Tensor
    index: Tensor
    box: Tensor
    tiles: list[slice]
    tile_box: Tensor

    @staticmethod
    def of(problem: Problem) -> _Targets:
        order = compact_order(problem.target, TILE_SIDES, BLOCK_SIDES)
        order = torch.cat([order, order[-1:].expand(-len(order) % BLOCK)])  # the last one again
        blocks, channels, is_l2 = len(order) // BLOCK, len(problem.mean), problem.distance == "l2"
        positions = problem.target.positions(order).view(blocks, BLOCK, 2)
        box = torch.stack([positions.amin(1), positions.amax(1)], dim=2).view(blocks, 4).T.contiguous()
        tiles = [slice(k, min(k + TILE // BLOCK, blocks)) for k in range(0, blocks, TILE // BLOCK)]
        features = torch.empty(blocks, channels, BLOCK, dtype=torch.float64)
        factors = torch.empty(len(order), channels + is_l2, dtype=torch.float32)
        longest = torch.empty(blocks, dtype=torch.float32)
        for strip in torch.arange(blocks).split(TILE // BLOCK):  # the whole in float64 once, not many times
            of_strip, rows = slice(strip[0], strip[-1] + 1), slice(BLOCK * strip[0], BLOCK * (strip[-1] + 1))
            here = problem.features(problem.target, order[rows])
            square = here.square().sum(dim=1)
            features[of_strip] = here.view(-1, BLOCK, channels).transpose(1, 2)
            factors[rows, :channels] = here
            if is_l2:  # |p - q|^2 = |p|^2 - 2 (<p, q> - |q|^2 / 2), and the bracket is one product
                factors[rows, channels] = -square / 2
            longest[of_strip] = square.view(-1, BLOCK).amax(dim=1)
        return _Targets(
            features=features,
            factors=factors,
            longest=longest,
            positions=positions.transpose(1, 2).contiguous(),
            index=order.view(blocks, BLOCK),
            box=box,
            tiles=tiles,
            tile_box=torch.stack([_box_around(box[:, tile]) for tile in tiles], dim=1),
        )

    @property
    def usable(self) -> bool:
        """Whether float32 holds the products."""
        return bool(self.factors.abs().max() < GREATEST)


def _usable(problem: Problem) -> bool:
    """Whether float32 holds the squares of the sources; those of the cosine are brought to length 1."""
    if problem.distance == "cosine":
        return True
    least_and_greatest = problem.source.pixels.flatten(1).aminmax(dim=1)
    extremes = torch.stack([values.double() for values in least_and_greatest])  # autocast stacks no float16
    return bool((extremes - problem.source.origin - problem.mean).abs().max() < GREATEST)


def _search_group(
    problem: Problem, group: Tensor, targets: _Targets, product: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The chosen targets of some sources near each other, with D and D': three of (K,).

    product: where products go.
    """
    from srraw_model import kernels

    weight, is_l2 = float(problem.weight_spatial), problem.distance == "l2"
    p, position = problem.features(problem.source, group), problem.source.positions(group)
    count = len(group)
    cost, spatial = np.full(count, np.inf), np.full(count, np.inf)
    chosen = np.full(count, np.iinfo(np.int64).max)
    arrays = [t.numpy() for t in (targets.features, targets.positions, targets.index, targets.box)]
    edges = np.array([0, *(tile.stop for tile in targets.tiles)], np.int64)
    bound = torch.empty(count, len(targets.index), dtype=torch.float32)
    apart = weight * _distances_to(position, targets.tile_box)
    least = _least_distances(p, targets, is_l2, product)

    def rank(tiles: list[int]) -> None:
        kernels.rank_blocks(
            p.numpy(),
            position.numpy(),
            *arrays,
            np.array(tiles, np.int64),
            edges,
            apart.numpy(),
            bound.numpy(),
            weight,
            is_l2,
            cost,
            spatial,
            chosen,
        )

    near, *others = apart.mean(dim=0).argsort().tolist()
    bound[:, targets.tiles[near]] = least(None, targets.tiles[near])
    if (apart.amax(dim=1) > bound[:, targets.tiles[near]].amin(dim=1)).any():  # else it excludes nothing
        rank([near])
    else:
        others = [near, *others]
    useful = apart <= torch.from_numpy(cost)[:, None] + problem.tie
    for k, sources in enumerate(useful.sum(dim=0).tolist()):
        if k == near:
            continue
        if sources > SPARSE * count:
            bound[:, targets.tiles[k]] = least(None, targets.tiles[k])
        elif sources:
            few = useful[:, k].nonzero().squeeze(1)
            bound[few, targets.tiles[k]] = least(few, targets.tiles[k])
    rank(others)
    index, feature, spatial = (torch.from_numpy(v) for v in (chosen, cost - weight * spatial, spatial))
    return index, feature, spatial


def _least_distances(
    p: Tensor, targets: _Targets, is_l2: bool, buffer: Tensor
) -> Callable[[Tensor | None, slice], Tensor]:
    """Bounds of the feature distances of sources (K, C): a function of some of them and some blocks.

    It returns (sources, blocks) float32, no greater than the least distance within each block. The errors
    allowed for are those of any order of summation: a product of C terms errs by less than (C + 2) roundoffs
    of |p| |q|; the small integers that follow leave ample room for the other operations.
    """
    channels = p.shape[1]
    error = (channels + 32) * FLOAT32_ROUNDOFF + 2.1 * product_roundoff()
    p_square = p.square().sum(dim=1, keepdim=True).float()
    factors = (torch.cat([p, torch.ones_like(p[:, :1])], 1) if is_l2 else p).float()

    def least(rows: Tensor | None, blocks: slice) -> Tensor:
        mine = factors if rows is None else factors[rows]
        theirs = targets.factors[blocks.start * BLOCK : blocks.stop * BLOCK]
        product = buffer[: len(mine) * len(theirs)].view(len(mine), len(theirs))
        best = torch.mm(mine, theirs.T, out=product).view(len(mine), -1, BLOCK).amax(dim=2)
        if not is_l2:
            return best.neg_().add_(1 - error)
        square = p_square if rows is None else p_square[rows]
        squared = square - 2 * best - 2 * error * (square + targets.longest[blocks])
        return (squared.clamp_(min=0) / channels).sqrt_() * (1 - 1e-6)

    return least


def _box_around(boxes: Tensor) -> Tensor:
    return torch.stack([boxes[0].amin(), boxes[1].amax(), boxes[2].amin(), boxes[3].amax()])


def _distances_to(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (N, K) of points (N, 2) to rectangles (4, K), 0 within."""
    x, y = points[:, :1], points[:, 1:]
    dx = torch.maximum(boxes[0] - x, x - boxes[1]).clamp(min=0)
    dy = torch.maximum(boxes[2] - y, y - boxes[3]).clamp(min=0)
    return (dx.square() + dy.square()).sqrt()


def _in_threads(work: Callable[[int], T], count: int) -> list[T]:
    """work(0) to work(count - 1), each in a thread of its own, in which torch uses no further ones."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, range(count)))
    finally:
        torch.set_num_threads(threads)  # in those begun later, too


# --- patches of pixels ------------------------------------------------------------------------------------


def _search_patches(problem: Problem) -> Chosen:
    from srraw_model import kernels

    source, target, is_l2 = problem.source, problem.target, problem.distance == "l2"
    stride = source.stride
    level = problem.source.origin
    of_patches, weak = (
        [torch.zeros(2, 1, 1, dtype=torch.float64)] * 2,
        [torch.zeros(1, 1, dtype=torch.bool)] * 2,
    )
    if not is_l2:
        level, texture = _level_and_texture(problem)
        of_patches, weak = zip(
            *(_offset_and_scale(problem, grid, level, texture) for grid in (source, target)), strict=True
        )
    weak_source, weak_target = (of[::stride, ::stride].reshape(-1).nonzero().squeeze(1) for of in weak)
    if len(weak_target) > MANY * target.count:
        return search_by_tiles(problem)
    rough, slack = _rounded(of_patches, weak)
    if not math.isfinite(slack):  # beyond what float32 holds
        return search_by_tiles(problem)
    for of in (of_patches[1], rough[1]):
        of[0, weak[1]] = math.inf  # so that box sums never choose them

    dy, dx = (
        (torch.arange(theirs + mine - 1) - (mine - 1)).numpy()
        for mine, theirs in ((source.rows, target.rows), (source.columns, target.columns))
    )
    squared = np.square(dy)[:, None] + np.square(dx)
    nearest_first = np.argsort(
        squared.reshape(-1), kind="stable"
    )  # of equally near ones, the upper left first
    shifts = np.stack(np.unravel_index(nearest_first, squared.shape), axis=1)
    shifts += (int(dy[0]), int(dx[0]))
    apart = np.sqrt(squared.reshape(-1)[nearest_first]) / max(source.rows, source.columns)
    rows, columns = (length - source.patch + 1 for length in source.pixels.shape[1:])
    cost, order = np.full((rows, columns), np.inf), np.zeros((rows, columns), np.int64)
    a, b = _values(source), _values(target)

    def band(first: int, last: int) -> None:
        kernels.match_patches(
            a,
            tuple(source.pixels.shape[1:]),
            b,
            tuple(target.pixels.shape[1:]),
            len(source.pixels),
            source.patch,
            first,
            last,
            shifts * stride,
            float(problem.weight_spatial) * apart,
            problem.tie,
            is_l2,
            level.numpy(),
            *(of.reshape(2, -1).numpy() for of in (*of_patches, *rough)),
            slack,
            cost[first:last].reshape(-1),
            order[first:last].reshape(-1),
        )

    threads = min(torch.get_num_threads(), rows)
    edges = np.linspace(0, rows, threads + 1).astype(int).tolist()
    _in_threads(lambda number: band(edges[number], edges[number + 1]), threads)
    y, x = np.mgrid[: source.rows, : source.columns]
    by = shifts[order[::stride, ::stride]]
    index = torch.from_numpy(((y + by[..., 0]) * target.columns + x + by[..., 1]).reshape(-1))
    for strip in weak_source.split(matching.SOURCE_STRIP) if len(weak_source) else ():
        index[strip] = search_strip(problem, strip)[0]
    found = _chosen_patches(problem, index)
    return _rank_apart(problem, found, weak_target) if len(weak_target) else found


def _rank_apart(problem: Problem, found: Chosen, targets: Tensor) -> Chosen:
    """What is chosen where each source is compared with some more targets (K,), in float64."""
    index = found.index.clone()
    for strip in torch.arange(problem.source.count).split(matching.SOURCE_STRIP):
        p, position = problem.features(problem.source, strip), problem.source.positions(strip)
        spatial = found.spatial[strip]
        best = found.feature[strip] + problem.weight_spatial * spatial, spatial, found.index[strip]
        for block in targets.split(BLOCK):
            best = best_of_block(problem, p, position, block, best)
        index[strip] = best[2]
    return _chosen_patches(problem, index)


def _values(grid: PatchGrid) -> npt.NDArray[np.floating]:
    """The image as kernels take it, (C height width,) float32 or float64, as exact as it is."""
    dtype = grid.pixels.dtype
    exact = torch.float32 if dtype.is_floating_point and dtype.itemsize <= 4 else torch.float64
    return grid.pixels.detach().to(exact).reshape(-1).numpy()


def _chosen_patches(problem: Problem, index: Tensor) -> Chosen:
    """D and D' of the target patches (N,) that are chosen by the sources in turn."""
    _, (feature, *_) = _compared(problem, index)
    sources = torch.arange(len(index))
    return Chosen(index, torch.from_numpy(feature), problem.spatial_distances(sources, index))


def gradient_of_patches(problem: Problem, index: Tensor) -> Tensor | None:
    """The source image's gradient of the sum of all D, (C, height, width) float64, where kernels find it."""
    if problem.source.patch == 1 or not _is_compiled(problem):
        return None
    from srraw_model import pair_kernels

    pairs, (_, *shares) = _compared(problem, index)
    gradient = torch.zeros(problem.source.pixels.shape, dtype=torch.float64)
    pair_kernels.add_pairs(pairs, *shares, gradient.view(-1).numpy())
    return gradient


def _compared(problem: Problem, index: Tensor) -> tuple[Pairs, list[Floats]]:
    """Sources with their chosen targets (N,), and what `pair_kernels.compare_pairs` finds of them."""
    from srraw_model import pair_kernels

    grids, sources = (problem.source, problem.target), torch.arange(len(index))
    sizes = [n for grid in grids for n in (grid.pixels[0].numel(), grid.pixels.shape[2])]
    corners = [grid.corners(at) for grid, at in zip(grids, (sources, index), strict=True)]
    pairs = pair_kernels.Pairs(
        *(_values(grid) for grid in grids),
        np.array(sizes),
        problem.source.origin.numpy(),
        problem.mean.view(-1, problem.source.patch, problem.source.patch).numpy(),
        torch.stack(corners, dim=1).numpy(),
    )
    found = [np.empty(len(index)) for _ in range(3)]
    pair_kernels.compare_pairs(pairs, problem.distance == "l2", float(problem.no_length), *found)
    return pairs, found


def _level_and_texture(problem: Problem) -> tuple[Tensor, Tensor]:
    """The target's mean patch: its level, a mean of every channel (C,), and what is left, (1, C, n, n)."""
    mean = problem.mean.view(1, -1, problem.target.patch, problem.target.patch)
    level = problem.target.origin + mean.mean(dim=(0, 2, 3))
    return level, mean - (level - problem.target.origin)[:, None, None]


def _offset_and_scale(
    problem: Problem, grid: PatchGrid, level: Tensor, texture: Tensor
) -> tuple[Tensor, Tensor]:
    """What box sums need for the cosine of an image's patches at stride 1; and which patches are weak.

    The picture is less the level of the target's mean patch m: so what is left of m is its texture, next to
    nothing in most pictures. Of every patch p, (2, rows, columns): <p, m> - |m|^2/2 and 1 / |p - m|, 0 where
    that has no length. With these <p - m, q - m> = <p, q> - (<p, m> - |m|^2/2) - (<q, m> - |m|^2/2). What is
    flat is at least as far from m as m has texture, and never weak.
    """
    picture = (grid.pixels.double() - level[:, None, None])[None]
    rows = range(0, picture.shape[2] - grid.patch + 1, STRIP_ROWS)
    strips = [picture[:, :, y : y + STRIP_ROWS + grid.patch - 1] for y in rows]
    along = torch.cat([functional.conv2d(strip, texture)[0, 0] for strip in strips])
    square = functional.avg_pool2d(picture.square().sum(1), grid.patch, stride=1, divisor_override=1)[0]
    of_texture = texture.square().sum()
    square = (square - 2 * along + of_texture).clamp(min=0)
    least = torch.stack(
        [WEAK**2 * of_texture, FAINT**2 * problem.mean.square().sum(), 4 * problem.no_length.square()]
    )
    scale = torch.where(square > 0, square, math.inf).rsqrt()
    return torch.stack([along - of_texture / 2, scale]), square < least.amax()


def _rounded(of_patches: Sequence[Tensor], weak: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """Both images' offsets and scales in float32; and by how much that changes a cosine, at most.

    Of (<p, q> - o_p - o_q) s_p s_q, at most 1, a rounded scale changes its share; a rounded offset is scaled.
    """
    rough = [of.float() for of in of_patches]
    share, moved, greatest = [], [], []
    for of, rounded, without in zip(of_patches, rough, weak, strict=True):
        (offset, scale), (offset_32, scale_32) = (v.flatten(1) for v in (of, rounded.double()))
        counted = ~without.reshape(-1) & (scale > 0)
        if not counted.any():
            return rough, 0.0
        share.append((scale_32 / scale - 1).abs()[counted].amax())
        moved.append(((offset_32 - offset).abs() * scale)[counted].amax())
        greatest.append(scale[counted].amax())
    changed = moved[0] * greatest[1] + moved[1] * greatest[0]
    scaled = (1 + share[0]) * (1 + share[1])
    return rough, 2 * float(scaled - 1 + changed * scaled)
