"""Inner loops of the search on a CUDA GPU (Triton); gpu_search.py says how they fit together.

What all of them take:
    index: (rows,) int64, positions in a compact order (gpu_search.Layout), in which neighbours are near.
    position: (2, rows) float64, x and y of these.
    factors: (rows, WIDTH) float16, features, padded with zeros and read STEP channels at a time.
    size: (3, rows) float32: at least |feature - factor|; at least the length of either; |feature|^2 / 2.
    scalars: (5,) float64: a length that is none, the scale of l2 and its unit, weight_spatial, the roundoff
        that a sum of products may make for each product of lengths.
    nearest: (groups, tiles) int32, all tiles in the order in which a group of GROUP sources takes them;
        counts: (groups,) int32, how many it takes. A tile is two blocks of BLOCK targets.
    best: (sources, 2 tiles) float32, the greatest product with a block, at its tile's place in that order; of
        l2 the greatest <p, q> - |q|^2 / 2.
    box: (4, blocks) float64, least x, greatest x, least y, greatest y of a block's targets; block_size:
        (2, blocks) float32, the greatest of the first two of `size` within it.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import constexpr

Pointer = Value = tl.tensor

TIE = constexpr(1e-12)  # as matching.TIE
TIE_OF_WEIGHT = constexpr(1e-14)
SLACK = constexpr(1e-6)  # more than float32 loses of a bound, relative to it, and of positions of up to 1
NO_COST = constexpr(1e300)  # greater than any, and finite, so that every loop ends where no bound is left
LEAST_LENGTH = constexpr(1e-15)  # keeps the squares of lengths within float32


@triton.jit
def round_features(
    pixels: Pointer,
    plane: Value,
    channels: Value,
    index: Pointer,
    origin: Pointer,
    mean: Pointer,
    scalars: Pointer,
    factors: Pointer,
    scale: Pointer,
    size: Pointer,
    rows: Value,
    WIDTH: constexpr,
    STEP: constexpr,
    ROWS: constexpr,
    IS_L2: constexpr,
) -> None:
    """Round features to float16, and measure in float64 what that takes from them.

    Args:
        pixels: (channels, plane), the map.
        origin, mean: (channels,) float64, subtracted in turn.
        factors, size: written.
        scale: (rows,) float64, written: what the centred features were multiplied by, so that for the cosine
            they have length 1 (or 0).
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = tl.load(index + row)
    if IS_L2:
        factor = tl.zeros((ROWS,), tl.float64) + tl.load(scalars + 1)
    else:
        square = tl.zeros((ROWS,), tl.float64)
        for first in range(0, WIDTH, STEP):
            centred = _centred(pixels, plane, channels, at, origin, mean, first + tl.arange(0, STEP))
            square += tl.sum(centred * centred, 1)
        no_length = tl.load(scalars)
        has_length = square > no_length * no_length
        factor = tl.where(has_length, 1.0 / tl.sqrt(tl.where(has_length, square, 1.0)), 0.0)
    lost, kept = tl.zeros((ROWS,), tl.float64), tl.zeros((ROWS,), tl.float64)
    for first in range(0, WIDTH, STEP):
        channel = first + tl.arange(0, STEP)
        feature = _centred(pixels, plane, channels, at, origin, mean, channel) * factor[:, None]
        rounded = feature.to(tl.float32).to(tl.float16)
        tl.store(factors + row[:, None] * WIDTH + channel, rounded)
        difference = rounded.to(tl.float64) - feature
        lost += tl.sum(difference * difference, 1)
        kept += tl.sum(feature * feature, 1)
    error = tl.sqrt(lost) * (1 + SLACK)
    tl.store(scale + row, factor)
    tl.store(size + row, error.to(tl.float32))
    tl.store(size + rows + row, (tl.sqrt(kept) * (1 + SLACK) + error + LEAST_LENGTH).to(tl.float32))
    tl.store(size + 2 * rows + row, (kept / 2).to(tl.float32))


@triton.jit
def _centred(
    pixels: Pointer, plane: Value, channels: Value, at: Value, origin: Pointer, mean: Pointer, channel: Value
) -> Value:
    """Features (positions, channels of this step) float64, zero beyond the last channel."""
    inside = channel < channels
    values = tl.load(pixels + channel.to(tl.int64) * plane + at[:, None], mask=inside & (at[:, None] >= 0))
    values = (
        values.to(tl.float64) - tl.load(origin + channel, mask=inside) - tl.load(mean + channel, mask=inside)
    )
    return tl.where(inside, values, 0.0)


@triton.jit
def scan(
    source: Pointer,
    target: Pointer,
    target_size: Pointer,
    nearest: Pointer,
    tiles: Value,
    counts: Pointer,
    first: Value,
    best: Pointer,
    WIDTH: constexpr,
    STEP: constexpr,
    SPAN: constexpr,
    GROUP: constexpr,
    BLOCK: constexpr,
    IS_L2: constexpr,
) -> None:
    """Write `best`: program (g, s) multiplies the sources of group g with SPAN tiles from first + s SPAN on.

    Args:
        source, target: factors.
    """
    group = tl.program_id(0)
    begin = first + tl.program_id(1) * SPAN
    end = tl.minimum(begin + SPAN, tl.load(counts + group))
    if begin >= end:
        return
    half_square = target_size + 2 * (2 * tiles * BLOCK)
    row = group.to(tl.int64) * GROUP + tl.arange(0, GROUP)
    sources = source + row[:, None] * WIDTH + tl.arange(0, STEP)
    p = tl.load(sources)  # for all tiles, where one step takes all channels
    for k in range(begin, end):
        place = tl.load(nearest + group * tiles + k) * (2 * BLOCK) + tl.arange(0, BLOCK)
        one = _greatest(p, sources, target, half_square, place, WIDTH, STEP, GROUP, BLOCK, IS_L2)
        two = _greatest(p, sources, target, half_square, place + BLOCK, WIDTH, STEP, GROUP, BLOCK, IS_L2)
        tl.store(best + row[:, None] * (2 * tiles) + 2 * k + tl.arange(0, 2), tl.join(one, two))


@triton.jit
def _greatest(
    p: Value,
    sources: Pointer,
    target: Pointer,
    half_square: Pointer,
    place: Value,
    WIDTH: constexpr,
    STEP: constexpr,
    GROUP: constexpr,
    BLOCK: constexpr,
    IS_L2: constexpr,
) -> Value:
    """The greatest product of every source with the targets at `place`, (GROUP,)."""
    targets = target + place.to(tl.int64)[:, None] * WIDTH + tl.arange(0, STEP)
    if WIDTH == STEP:
        product = tl.dot(p, tl.load(targets).T)
    else:
        product = tl.zeros((GROUP, BLOCK), tl.float32)
        for c in range(0, WIDTH, STEP):
            product = tl.dot(tl.load(sources + c), tl.load(targets + c).T, product)
    if IS_L2:
        product -= tl.load(half_square + place)[None, :]
    return tl.max(product, 1)


@triton.jit
def reach(
    best: Pointer,
    nearest: Pointer,
    apart: Pointer,
    tiles: Value,
    first: Value,
    position: Pointer,
    size: Pointer,
    rows: Value,
    box: Pointer,
    block_size: Pointer,
    scalars: Pointer,
    counts: Pointer,
    CHUNK: constexpr,
    GROUP: constexpr,
    IS_L2: constexpr,
) -> None:
    """Write `counts`: how many tiles of its list a group must take, by the costs within the first ones.

    Args:
        apart: (groups, tiles) float32, distances between a group and the tiles of its list.
        first: of `best`, the tiles written so far.
        position, size: of the sources.
    """
    group = tl.program_id(0)
    row = group.to(tl.int64) * GROUP + tl.arange(0, GROUP)
    x, y = _load32(position + row), _load32(position + rows + row)
    error, length = tl.load(size + row), tl.load(size + rows + row)
    half_square = tl.load(size + 2 * rows + row)
    unit, weight, roundoff = _load32(scalars + 2), _load32(scalars + 3), _load32(scalars + 4)
    blocks = 2 * tiles
    limit = tl.full((GROUP,), float("inf"), tl.float32)
    for entry in range(0, 2 * first):
        block = 2 * tl.load(nearest + group * tiles + entry // 2) + entry % 2
        most = tl.load(best + row * blocks + entry)
        block_error, block_length = tl.load(block_size + block), tl.load(block_size + blocks + block)
        margin = _margin(error, length, block_error, block_length, roundoff)
        feature = _distance(most - margin, half_square, unit, IS_L2)
        dx = tl.maximum(_load32(box + blocks + block) - x, x - _load32(box + block))
        dy = tl.maximum(_load32(box + 3 * blocks + block) - y, y - _load32(box + 2 * blocks + block))
        limit = tl.minimum(limit, feature + weight * tl.sqrt(dx * dx + dy * dy))
    greatest = tl.max(limit, 0) * (1 + SLACK) + SLACK * (1 + weight)
    count = first
    for begin in range(0, tiles, CHUNK):
        k = begin + tl.arange(0, CHUNK)
        away = weight * tl.load(apart + group * tiles + k, mask=k < tiles, other=0)
        count = tl.maximum(count, tl.max(tl.where((k < tiles) & (away <= greatest), k + 1, 0), 0))
    tl.store(counts + group, count)


@triton.jit
def _load32(pointer: Pointer) -> Value:
    return tl.load(pointer).to(tl.float32)


@triton.jit
def _margin(error: Value, length: Value, other_error: Value, other_length: Value, roundoff: Value) -> Value:
    """How far a product of factors may lie from that of their features.

    |<p, q> - <p', q'>| <= |p - p'| |q| + |p'| |q - q'|, and the summation's roundoff.
    """
    longer = tl.maximum(length, other_length)
    return error * other_length + length * other_error + roundoff * longer * longer


@triton.jit
def _distance(product: Value, half_square: Value, unit: Value, IS_L2: constexpr) -> Value:
    """D of a product <p, q>; of l2 that of <p, q> - |q|^2 / 2, with |p|^2 / 2."""
    if IS_L2:
        result = tl.sqrt(tl.maximum(2 * (half_square - product), 0.0)) * unit
    else:
        result = 1 - product
    return result


@triton.jit
def choose(
    best: Pointer,
    nearest: Pointer,
    tiles: Value,
    apart: Pointer,
    counts: Pointer,
    source_pixels: Pointer,
    source_plane: Value,
    source_index: Pointer,
    source_position: Pointer,
    source: Pointer,
    source_scale: Pointer,
    source_size: Pointer,
    rows: Value,
    target_pixels: Pointer,
    target_plane: Value,
    target_index: Pointer,
    target_position: Pointer,
    target: Pointer,
    target_scale: Pointer,
    target_size: Pointer,
    box: Pointer,
    block_size: Pointer,
    greatest: Pointer,
    channels: Value,
    origin: Pointer,
    mean: Pointer,
    scalars: Pointer,
    index_out: Pointer,
    feature_out: Pointer,
    spatial_out: Pointer,
    WIDTH: constexpr,
    STEP: constexpr,
    CHUNK: constexpr,
    GROUP: constexpr,
    BLOCK: constexpr,
    IS_L2: constexpr,
) -> None:
    """The target of every source, one a program.

    The block whose bound is least comes first, within it the target whose bound is least; that one's cost is
    computed in float64 from the map itself. So on, until no bound is as small as the best cost.

    Args:
        source_..., target_...: as in `round_features`.
        apart: (cells, 2 tiles) float32, distances between BLOCK consecutive sources and the blocks, at their
            tiles' places in `nearest`.
        greatest: (2,) float32, of `block_size`.
        index_out, feature_out, spatial_out: (positions,) int64 and float64, written: target, D and D'.
    """
    row = tl.program_id(0).to(tl.int64)
    group, cell, blocks, targets = row // GROUP, row // BLOCK, 2 * tiles, 2 * tiles * BLOCK
    exact_x, exact_y = tl.load(source_position + row), tl.load(source_position + rows + row)
    x, y = exact_x.to(tl.float32), exact_y.to(tl.float32)
    error, length = tl.load(source_size + row), tl.load(source_size + rows + row)
    half_square = tl.load(source_size + 2 * rows + row)
    exact_weight = tl.load(scalars + 3)
    tie = tl.maximum(exact_weight * TIE_OF_WEIGHT, TIE)  # as Problem.tie
    unit, weight, roundoff = _load32(scalars + 2), exact_weight.to(tl.float32), _load32(scalars + 4)
    at, p_scale = tl.load(source_index + row), tl.load(source_scale + row)

    cost = tl.full((), NO_COST, tl.float64)
    spatial = tl.full((), float("inf"), tl.float64)
    chosen = tl.full((), 2**62, tl.int64)
    entries = 2 * tl.load(counts + group)
    for first in range(0, entries, CHUNK):
        entry = first + tl.arange(0, CHUNK)
        inside = entry < entries
        if IS_L2:
            block = 2 * tl.load(nearest + group * tiles + entry // 2, mask=inside, other=0) + entry % 2
            block_error, block_length = tl.load(block_size + block), tl.load(block_size + blocks + block)
        else:  # lengths are 1 and errors much alike: one margin serves all
            block_error, block_length = tl.load(greatest), tl.load(greatest + 1)
        most = tl.load(best + row * blocks + entry, mask=inside, other=0)
        most += _margin(error, length, block_error, block_length, roundoff)
        away = tl.load(apart + cell * blocks + entry, mask=inside, other=0)
        bound = _distance(most, half_square, unit, IS_L2) + weight * away
        bound = tl.where(inside, bound, float("inf"))
        least = _least(bound, weight)
        while least <= cost + tie:
            which = first + tl.argmin(bound, 0)
            this = 2 * tl.load(nearest + group * tiles + which // 2) + which % 2
            # The cell may lie nearer to the block than this source does.
            dx = tl.maximum(_load32(box + this) - x, x - _load32(box + blocks + this))
            dy = tl.maximum(_load32(box + 2 * blocks + this) - y, y - _load32(box + 3 * blocks + this))
            dx, dy = tl.maximum(dx, 0.0), tl.maximum(dy, 0.0)
            farther = tl.sqrt(dx * dx + dy * dy) - tl.load(apart + cell * blocks + which)
            if least + weight * tl.maximum(farther, 0.0) <= cost + tie:
                place = this * BLOCK + tl.arange(0, BLOCK)
                product = _products(source + row * WIDTH, target, place, WIDTH, STEP, BLOCK)
                if IS_L2:
                    product -= tl.load(target_size + 2 * targets + place)
                target_error, target_length = (
                    tl.load(target_size + place),
                    tl.load(target_size + targets + place),
                )
                product += _margin(error, length, target_error, target_length, roundoff)
                ex = _load32(target_position + place) - x
                ey = _load32(target_position + targets + place) - y
                bound_here = _distance(product, half_square, unit, IS_L2) + weight * tl.sqrt(
                    ex * ex + ey * ey
                )
                least_here = _least(bound_here, weight)
                while least_here <= cost + tie:
                    one = this * BLOCK + tl.argmin(bound_here, 0)
                    other = tl.load(target_index + one)
                    if IS_L2:
                        feature = _difference(
                            source_pixels,
                            source_plane,
                            at,
                            target_pixels,
                            target_plane,
                            other,
                            channels,
                            WIDTH,
                            STEP,
                        )
                    else:
                        feature = 1.0 - tl.load(target_scale + one) * _product(
                            source_pixels,
                            source_plane,
                            at,
                            p_scale,
                            target_pixels,
                            target_plane,
                            other,
                            channels,
                            origin,
                            mean,
                            WIDTH,
                            STEP,
                        )
                    fx = tl.load(target_position + one) - exact_x
                    fy = tl.load(target_position + targets + one) - exact_y
                    between = tl.sqrt(fx * fx + fy * fy)
                    total = feature + exact_weight * between
                    # Equal costs go to the nearer target, equally near ones to the lower index.
                    nearer = (between < spatial - TIE) | ((between <= spatial + TIE) & (other < chosen))
                    better = (total < cost - tie) | ((total <= cost + tie) & nearer)
                    cost = tl.where(better, total, cost)
                    spatial = tl.where(better, between, spatial)
                    chosen = tl.where(better, other, chosen)
                    bound_here = tl.where(place == one, float("inf"), bound_here)
                    least_here = _least(bound_here, weight)
            bound = tl.where(entry == which, float("inf"), bound)
            least = _least(bound, weight)
    tl.store(index_out + at, chosen)
    tl.store(feature_out + at, cost - exact_weight * spatial)
    tl.store(spatial_out + at, spatial)


@triton.jit
def _least(cost: Value, weight: Value) -> Value:
    """The least of costs, and less by what float32 may have added to it."""
    return tl.min(cost, 0) * (1 - SLACK) - SLACK * (1 + weight)


@triton.jit
def _products(
    source: Pointer, target: Pointer, place: Value, WIDTH: constexpr, STEP: constexpr, BLOCK: constexpr
) -> Value:
    """Products of one source's factors with those of the targets at `place`, (BLOCK,) float32."""
    product = tl.zeros((BLOCK,), tl.float32)
    for c in range(0, WIDTH, STEP):
        channel = c + tl.arange(0, STEP)
        p = tl.load(source + channel).to(tl.float32)
        q = tl.load(target + place.to(tl.int64)[:, None] * WIDTH + channel).to(tl.float32)
        product += tl.sum(p[None, :] * q, 1)
    return product


@triton.jit
def _product(
    source: Pointer,
    source_plane: Value,
    at: Value,
    scale: Pointer,
    target: Pointer,
    target_plane: Value,
    other: Value,
    channels: Value,
    origin: Pointer,
    mean: Pointer,
    WIDTH: constexpr,
    STEP: constexpr,
) -> Value:
    """<p, q> of a source's direction and a target's centred feature."""
    product = tl.zeros((STEP,), tl.float64)
    for c in range(0, WIDTH, STEP):
        channel = c + tl.arange(0, STEP)
        inside = channel < channels
        shift, average = tl.load(origin + channel, mask=inside), tl.load(mean + channel, mask=inside)
        p = tl.load(source + channel.to(tl.int64) * source_plane + at, mask=inside).to(tl.float64)
        q = tl.load(target + channel.to(tl.int64) * target_plane + other, mask=inside).to(tl.float64)
        product += tl.where(inside, (p - shift - average) * scale * (q - shift - average), 0.0)
    return tl.sum(product, 0)


@triton.jit
def _difference(
    source: Pointer,
    source_plane: Value,
    at: Value,
    target: Pointer,
    target_plane: Value,
    other: Value,
    channels: Value,
    WIDTH: constexpr,
    STEP: constexpr,
) -> Value:
    """|p - q| / sqrt(C), of the maps' own values: exact for features that are equal."""
    square = tl.zeros((STEP,), tl.float64)
    for c in range(0, WIDTH, STEP):
        channel = c + tl.arange(0, STEP)
        inside = channel < channels
        p = tl.load(source + channel.to(tl.int64) * source_plane + at, mask=inside).to(tl.float64)
        q = tl.load(target + channel.to(tl.int64) * target_plane + other, mask=inside).to(tl.float64)
        square += tl.where(inside, (p - q) * (p - q), 0.0)
    return tl.sqrt(tl.sum(square, 0) / channels)
