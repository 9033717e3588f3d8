"""Which target every source position chooses: what is compared, and the exact search in plain torch.

    argmin over j of D(p_i, q_j) + weight_spatial * D'(i, j)          (Eq. 2; cobi.py has the definitions)

`search_by_tiles` runs on any device. It is exact in two steps: a float32 pass bounds the cost of every source
position in every block of targets; the few blocks that the bounds do not exclude are then ranked in float64.
Equal costs go to the smaller D', then to the lower index. The largest array is a tile of the cost matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SOURCE_STRIP = 4096  # source features held at a time
CHANNEL_STRIP = 2**18  # values of a map that are held in float64 at a time
SOURCE_TILE = 512  # rows of a cost tile
TARGET_TILE = 4096  # columns of a cost tile
BLOCK = 128  # targets that share a lower bound, and are ranked together

TIE = 1e-12  # costs, and spatial distances, that differ by less are equal
TIE_OF_WEIGHT = 1e-14  # so are costs, by this times the weight: it multiplies D', and what that is rounded by
NO_LENGTH = 1e-13  # a centred feature shorter than this, relative to the target's features, is only rounding

FLOAT32_ROUNDOFF = 2.0**-24
# What a matrix product may round its float32 factors to: TF32 with "high", bfloat16 with "medium".
PRODUCT_ROUNDOFF = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}


@dataclass(frozen=True)
class Chosen:
    """What a search found for every source position: three of (N,).

    Attributes:
        index: int64, the target.
        feature, spatial: float64, D and D' of it.
    """

    index: Tensor
    feature: Tensor
    spatial: Tensor


@dataclass(frozen=True)
class PatchGrid:
    """The n x n patches of one image, gathered on demand; a feature map is the case n = 1.

    Attributes:
        pixels: (C, height, width), the image.
        origin: (C,) float64, subtracted from every pixel in float64.
    """

    pixels: Tensor
    origin: Tensor
    patch: int
    stride: int

    @property
    def rows(self) -> int:
        return (self.pixels.shape[1] - self.patch) // self.stride + 1

    @property
    def columns(self) -> int:
        return (self.pixels.shape[2] - self.patch) // self.stride + 1

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def features(self, index: Tensor) -> Tensor:
        """(K,) positions -> (K, C n^2) float64."""
        if self._is_map:
            return self._rows_of_features.index_select(0, index).double().sub_(self.origin)
        pixel = self._pixels_of(index)
        samples = self.pixels.reshape(-1).index_select(0, pixel.reshape(-1)).reshape(pixel.shape)
        return samples.double().sub_(self.origin.repeat_interleave(self.patch**2))

    @cached_property
    def _rows_of_features(self) -> Tensor:
        """A map as (N, C), so that a feature lies in one place."""
        return self.pixels.reshape(len(self.pixels), -1).T.contiguous()

    @property
    def values(self) -> Tensor:
        """The image less its origin, (C, height, width) float64."""
        return self.pixels.double() - self.origin[:, None, None]

    def _pixels_of(self, index: Tensor) -> Tensor:
        """Where the samples of patches (K,) lie in the flat image, (K, C n^2)."""
        channels, height, width = self.pixels.shape
        plane, side = (torch.arange(n, device=index.device) for n in (channels, self.patch))
        offset = plane[:, None, None] * (height * width) + side[:, None] * width + side
        return self.corners(index)[:, None] + offset.reshape(1, -1)

    def corners(self, index: Tensor) -> Tensor:
        """Where patches (K,) begin in a plane of the image, (K,)."""
        row, column = index // self.columns, index % self.columns
        return (row * self.pixels.shape[2] + column) * self.stride

    def no_gradient(self, *, once: bool) -> Tensor:
        """Zeros to which `add_gradient` adds: rows of features (N, C) of a map, else an image.

        once: to every position of a map only once, so that nothing is summed and float64 gains nothing.
        """
        shape = (self.count, len(self.pixels)) if self._is_map else self.pixels.shape
        dtype = self.pixels.dtype if once and self._is_map else torch.float64
        return torch.zeros(shape, dtype=dtype, device=self.pixels.device)

    def add_gradient(self, gradient: Tensor, index: Tensor, of_features: Tensor) -> None:
        """The adjoint of `features`, of (K,) positions and (K, C n^2)."""
        if self._is_map:
            gradient.index_add_(0, index, of_features.to(gradient.dtype))
        else:
            gradient.view(-1).index_add_(0, self._pixels_of(index).reshape(-1), of_features.reshape(-1))

    def add_gradient_of_mean(self, gradient: Tensor, of_mean: Tensor) -> None:
        """The adjoint of `mean`, of (C n^2,)."""
        if self._is_map:
            gradient += of_mean / self.count
            return
        of_rows = self._averaging(self.rows, self.pixels.shape[1])
        of_columns = self._averaging(self.columns, self.pixels.shape[2])
        gradient += of_rows.T @ of_mean.view(-1, self.patch, self.patch) @ of_columns

    def as_image(self, gradient: Tensor) -> Tensor:
        """What was added, (C, height, width), in the image's precision."""
        gradient = gradient.to(self.pixels.dtype)
        return gradient.T.reshape(self.pixels.shape) if self._is_map else gradient

    @property
    def _is_map(self) -> bool:
        return self.patch == 1 and self.stride == 1

    def positions(self, index: Tensor) -> Tensor:
        """(K,) positions -> (K, 2) normalised x and y, as D' takes them."""
        column_row = torch.stack((index % self.columns, index // self.columns), dim=1)
        return (column_row.double() + 0.5) / max(self.rows, self.columns)

    def mean(self, pixels: Tensor) -> Tensor:
        """Mean over all positions of the features of `pixels`, an image of this size: (channels,).

        Every sample of a patch sees its own rectangle of the image, so the mean is a product with a matrix
        that averages the rows which it sees, and another for the columns.
        """
        of_rows = self._averaging(self.rows, pixels.shape[1])
        of_columns = self._averaging(self.columns, pixels.shape[2])
        return (of_rows @ pixels @ of_columns.T).reshape(-1)

    def mean_and_square(self) -> tuple[Tensor, Tensor]:
        """Mean over all positions of the features, (C n^2,) float64, and of their squared length, ()."""
        # A few channels at a time in float64; a GPU has the room, and would wait for every launch.
        plane = self.pixels[0].numel()
        together = len(self.pixels) if self.pixels.is_cuda else max(1, CHANNEL_STRIP // plane)
        means, squares = [], []
        for pixels, origin in zip(self.pixels.split(together), self.origin.split(together), strict=True):
            values = pixels.double() - origin[:, None, None]
            means.append(self.mean(values))
            squares.append(self.mean(values.square_()).sum())
        return torch.cat(means), torch.stack(squares).sum()

    def _averaging(self, positions: int, length: int) -> Tensor:
        line, within = (torch.arange(n, device=self.pixels.device) for n in (length, self.patch))
        seen = line - within[:, None]
        inside = (seen >= 0) & (seen < positions * self.stride) & (seen % self.stride == 0)
        return inside.double() / positions

    def tiles(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rectangles of the grid of at most TARGET_TILE positions: their index (K,), rows and columns."""
        width = min(self.columns, TARGET_TILE)
        height = max(1, TARGET_TILE // width)
        device = self.pixels.device
        for rows in torch.arange(self.rows, device=device).split(height):
            for columns in torch.arange(self.columns, device=device).split(width):
                yield (rows[:, None] * self.columns + columns).reshape(-1), rows, columns


@dataclass(frozen=True)
class Problem:
    """One batch element: two grids and the distance between their features."""

    source: PatchGrid
    target: PatchGrid
    weight_spatial: float
    distance: str
    mean: Tensor  # (C,) the target's mean feature
    no_length: Tensor  # () a centred feature of at most this length has no direction

    @property
    def tie(self) -> float:
        """Costs that differ by less are equal."""
        return max(TIE, TIE_OF_WEIGHT * self.weight_spatial)

    def features(self, grid: PatchGrid, index: Tensor) -> Tensor:
        """(K, C) float64, centred; of length 1 (or 0) where the distance is the cosine's."""
        centred = grid.features(index).sub_(self.mean)  # in place: new memory costs more than the sum
        return centred if self.distance == "l2" else centred.mul_(self._inverse_lengths(centred))

    def directions(self, features: Tensor, mean: Tensor) -> Tensor:
        """Likewise, of features (K, C) and their mean (C,); differentiable."""
        centred = features - mean
        return centred if self.distance == "l2" else centred * self._inverse_lengths(centred)

    def _inverse_lengths(self, centred: Tensor) -> Tensor:
        """(K, C) -> (K, 1) 1 / length, 0 where there is none."""
        length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        has_length = length > self.no_length
        # Never 1 / 0, whose gradient would be infinite.
        return torch.where(has_length, 1 / torch.where(has_length, length, 1.0), 0.0)

    def feature_distances(self, p: Tensor, q: Tensor) -> Tensor:
        """D (K,) of directions (K, C) and (K, C)."""
        if self.distance == "l2":
            return torch.linalg.vector_norm(p - q, dim=1) / math.sqrt(p.shape[1])
        return 1 - (p * q).sum(dim=1)

    def gradient(self, grid: PatchGrid, index: Tensor, other: PatchGrid, other_index: Tensor) -> Tensor:
        """dD/dp (K, C) of the features p of (K,) positions and q of as many of the other grid, m held fixed.

        Cosine, of directions u = (p - m) / |p - m| and v = (q - m) / |q - m|: (<u, v> u - v) / |p - m|.
        l2: (p - q) / (|p - q| sqrt(C)). Where these are not defined it is 0.
        """
        if self.distance == "l2":
            apart = grid.features(index).sub_(other.features(other_index))
            length = torch.linalg.vector_norm(apart, dim=1, keepdim=True)
            return apart.mul_(torch.where(length > 0, 1 / (length * math.sqrt(apart.shape[1])), 0.0))
        u, v = grid.features(index).sub_(self.mean), self.features(other, other_index)
        per_length = self._inverse_lengths(u)
        u.mul_(per_length)
        along = (u * v).sum(dim=1, keepdim=True)
        return u.mul_(along).sub_(v).mul_(per_length)

    def spatial_distances(self, source_index: Tensor, target_index: Tensor) -> Tensor:
        """(K,) and (K,) positions -> (K,) D'."""
        between = self.source.positions(source_index) - self.target.positions(target_index)
        return torch.linalg.vector_norm(between, dim=1)


def search_by_tiles(problem: Problem) -> Chosen:
    """The search on any device."""
    positions = torch.arange(problem.source.count, device=problem.mean.device)
    strips = [search_strip(problem, strip) for strip in positions.split(SOURCE_STRIP)]
    return Chosen(*(torch.cat(parts) for parts in zip(*strips, strict=True)))


def search_strip(problem: Problem, strip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chosen targets of the source positions `strip`, with D and D': three of (S,)."""
    p = problem.features(problem.source, strip)
    p_position = problem.source.positions(strip)

    blocks, lower, upper = [], [], []
    for index, rows, columns in problem.target.tiles():
        bounds = _bounds(problem, p, p_position, index, rows, columns)
        blocks.extend(index.split(BLOCK))
        lower.append(bounds[0])
        upper.append(bounds[1])
    lower, upper = torch.cat(lower, dim=1), torch.cat(upper, dim=1)  # (S, number of blocks)
    # Written so that a bound which overflowed to infinity or NaN excludes nothing.
    possible = ~(lower > upper.amin(dim=1, keepdim=True))

    best = torch.full_like(p[:, 0], math.inf), torch.full_like(p[:, 0], math.inf), torch.full_like(strip, -1)
    for block, sources in zip(range(len(blocks)), possible.sum(dim=0).tolist(), strict=True):
        if sources:
            row = possible[:, block].nonzero().squeeze(1)
            incumbent = tuple(values[row] for values in best)
            found = best_of_block(problem, p[row], p_position[row], blocks[block], incumbent)
            for values, new in zip(best, found, strict=True):
                values[row] = new
    cost, spatial, index = best
    return index, cost - problem.weight_spatial * spatial, spatial


def _bounds(
    problem: Problem, p: Tensor, p_position: Tensor, index: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of the least cost in every block of a target tile: two of (S, blocks), float32.

    The cosine's costs are short of their constant 1 here. The errors allowed for are those of any order of
    summation: a product of C terms errs by less than (C + 2) roundoffs of |p| |q|; the small integers that
    follow leave ample room for the handful of other operations.
    """
    q = problem.features(problem.target, index)
    q_position = problem.target.positions(index)
    column_x, row_y = q_position[: len(columns), 0], q_position[:: len(columns), 1]
    weight = problem.weight_spatial
    channels = p.shape[1]
    product_error = (channels + 32) * FLOAT32_ROUNDOFF + 2.1 * product_roundoff()
    if problem.distance == "l2":
        p, q = p / math.sqrt(channels), q / math.sqrt(channels)
        p_square, q_square = p.square().sum(dim=1), q.square().sum(dim=1)
        p_reduced, q_reduced = (((1 - product_error) * square).float() for square in (p_square, q_square))
    p32, q32 = p.float(), q.float()

    tile = torch.empty(min(len(p), SOURCE_TILE), len(index), dtype=torch.float32, device=p.device)
    least = []
    for part in torch.arange(len(p), device=p.device).split(SOURCE_TILE):
        first, last = int(part[0]), int(part[-1]) + 1
        cost = tile[: len(part)]
        x_square = (p_position[first:last, :1] - column_x).square().float()
        y_square = (p_position[first:last, 1:] - row_y).square().float()
        torch.add(
            y_square[:, :, None], x_square[:, None, :], out=cost.view(len(part), len(rows), len(columns))
        )
        cost.sqrt_()
        if problem.distance == "l2":
            feature = p_reduced[first:last, None] + q_reduced
            feature.addmm_(p32[first:last], q32.T, alpha=-2).clamp_(min=0).sqrt_()
            cost.mul_(weight).add_(feature)
        else:
            cost.addmm_(p32[first:last], q32.T, beta=weight, alpha=-1)  # in place: autocast leaves it alone
        least.append(torch.stack([block.amin(dim=1) for block in cost.split(BLOCK, dim=1)], dim=1))
    least = torch.cat(least)

    if problem.distance == "l2":
        longest = torch.stack([block.amax() for block in q_square.split(BLOCK)])
        square = (p_square[:, None] + longest).float()
        error = 32 * FLOAT32_ROUNDOFF * (weight + square.sqrt()) + problem.tie
        return least - error, least + error + (2 * product_error * square).sqrt()
    error = product_error + 32 * FLOAT32_ROUNDOFF * weight
    return least - error, least + error


def product_roundoff() -> float:
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by another of torch's switches, which hides it from this one
        precision = "medium"
    return PRODUCT_ROUNDOFF[precision]


def best_of_block(
    problem: Problem,
    p: Tensor,
    p_position: Tensor,
    block: Tensor,
    incumbent: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, D' and index of the best among the targets `block` and the incumbents: three of (R,)."""
    q = problem.features(problem.target, block)
    if problem.distance == "l2":  # differences, not products: exact for features that are equal or integers
        feature = _differences(p, q) / math.sqrt(p.shape[1])
    else:
        feature = 1 - p @ q.T
    spatial = _differences(p_position, problem.target.positions(block))
    cost = feature + problem.weight_spatial * spatial

    cost, spatial, index = (
        torch.cat((values, old[:, None]), dim=1)
        for values, old in zip((cost, spatial, block.expand(len(p), -1)), incumbent, strict=True)
    )
    tied = cost <= cost.amin(dim=1, keepdim=True) + problem.tie
    tied_spatial = torch.where(tied, spatial, math.inf)
    tied = tied_spatial <= tied_spatial.amin(dim=1, keepdim=True) + TIE
    last = torch.iinfo(index.dtype).max
    best = torch.where(tied, index, last).argmin(dim=1, keepdim=True)
    return tuple(values.gather(1, best).squeeze(1) for values in (cost, spatial, index))


def _differences(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def compact_order(grid: PatchGrid, outer: tuple[int, int], inner: tuple[int, int]) -> Tensor:
    """The positions of a grid, (N,), so that neighbours in the order are neighbours in the grid.

    Rectangle by rectangle of (rows, columns) `outer`, and within these of `inner`.
    """
    rows, columns = torch.arange(grid.rows), torch.arange(grid.columns)
    key = torch.zeros(grid.rows, grid.columns, dtype=torch.int64)
    for height, width in (outer, inner, (1, 1)):
        key = (key * grid.rows + rows[:, None] // height) * grid.columns + columns // width
        key = key.reshape(-1).unique(return_inverse=True)[1].view_as(key)  # small numbers again
    return key.reshape(-1).argsort()


def problems(
    source: Tensor, target: Tensor, patch: int, stride: int, weight_spatial: float, distance: str
) -> Iterator[Problem]:
    """Checks the arguments and sets out every batch element by itself."""
    if distance not in ("cosine", "l2"):
        raise ValueError(f"CoBi has no distance {distance!r}; there are 'cosine' and 'l2'.")
    if not (math.isfinite(weight_spatial) and weight_spatial >= 0):
        raise ValueError(f"weight_spatial must be at least 0 and finite, not {weight_spatial}.")
    if patch < 1 or stride < 1:
        raise ValueError(f"patch and stride must be at least 1, not {patch} and {stride}.")
    for name, values in (("source", source), ("target", target)):
        shape = tuple(values.shape)
        if values.ndim != 4 or 0 in shape:
            raise ValueError(f"The {name} must have the shape (batch, channels, height, width), not {shape}.")
        if min(shape[2:]) < patch:
            raise ValueError(
                f"The {name} of {shape[2]} x {shape[3]} is smaller than a patch of {patch} x {patch}."
            )
        if values.is_complex() or not torch.isfinite(values).all():
            raise ValueError(f"The {name} holds values that are not finite real numbers.")
    if source.shape[:2] != target.shape[:2]:
        raise ValueError(
            "Source and target must have the same batch size and channels, "
            f"not {tuple(source.shape[:2])} and {tuple(target.shape[:2])}."
        )
    if source.device != target.device:
        raise ValueError(
            f"The source is on {source.device}, the target on {target.device}; move one of them."
        )
    for source_pixels, target_pixels in zip(source, target, strict=True):
        # D does not change when both are shifted alike, and constant features become exactly zero.
        origin = target_pixels[:, 0, 0].detach().double()
        target_grid = PatchGrid(target_pixels, origin, patch, stride)
        with torch.no_grad():
            mean, mean_square = target_grid.mean_and_square()
        yield Problem(
            source=PatchGrid(source_pixels, origin, patch, stride),
            target=target_grid,
            weight_spatial=weight_spatial,
            distance=distance,
            mean=mean,
            no_length=NO_LENGTH * mean_square.sqrt(),
        )
