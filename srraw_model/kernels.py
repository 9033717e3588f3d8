"""Compiled inner loops of the search on the CPU (Numba), each for one thread; they release the GIL.

Rows are flat arrays with unsigned offsets: only then are the loops vectorised.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from srraw_model.matching import TIE, TIE_OF_WEIGHT

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Image = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
F, U = np.float64, np.uint64
BATCH = 16  # rows of the source that are summed at a time, so that they stay in the nearest cache

compiled = njit(nogil=True, error_model="numpy", cache=True)


@compiled
def rank_blocks(
    p: Floats,
    p_position: Floats,
    q: Floats,
    q_position: Floats,
    index: Integers,
    box: Floats,
    tiles: Integers,
    edges: Integers,
    apart: Floats,
    bound: npt.NDArray[np.float32],
    weight: float,
    is_l2: bool,
    cost: Floats,
    spatial: Floats,
    chosen: Integers,
) -> None:
    """Rank targets exactly, block by block, leaving out those that cannot win.

    Args:
        p, p_position: (N, C) features and (N, 2) positions of the sources.
        q, q_position: (blocks, C, K) and (blocks, 2, K), of the targets in blocks.
        index: (blocks, K) of the targets.
        box: (4, blocks), least x, greatest x, least y, greatest y of a block's positions.
        tiles: of blocks, that are ranked; tile t has the blocks from edges[t] to before edges[t + 1].
        apart: (N, tiles), what the distance of a tile adds to the cost, at least.
        bound: (N, blocks), no greater than the least feature distance within a block; not read where `apart`
            alone leaves the tile out.
        cost, spatial, chosen: (N,) of the best so far, D' and target of it; changed here.
    """
    total, between, least = np.empty(q.shape[2]), np.empty(q.shape[2]), np.empty(len(q))
    tie = max(TIE, TIE_OF_WEIGHT * weight)
    for i in range(len(p)):
        x, y, limit = p_position[i, 0], p_position[i, 1], cost[i] + tie
        here, begin, smallest = bound[i], U(0), np.inf
        for t in tiles:
            if apart[i, t] > limit:
                continue
            for b in range(U(edges[t]), U(edges[t + 1])):
                dx = max(box[0, b] - x, x - box[1, b])
                dy = max(box[2, b] - y, y - box[3, b])
                dx, dy = dx if dx > 0.0 else 0.0, dy if dy > 0.0 else 0.0
                least[b] = here[b] + weight * np.sqrt(dx * dx + dy * dy)
            for b in range(U(edges[t]), U(edges[t + 1])):
                if least[b] < smallest:
                    begin, smallest = b, least[b]
        best = cost[i], spatial[i], chosen[i]
        if smallest <= limit:
            best = _best_of_block(
                p[i], x, y, q[begin], q_position[begin], index[begin], weight, is_l2, total, between, best
            )
        for t in tiles:
            if apart[i, t] > limit:
                continue
            for b in range(U(edges[t]), U(edges[t + 1])):
                if least[b] <= best[0] + tie and b != begin:
                    best = _best_of_block(
                        p[i], x, y, q[b], q_position[b], index[b], weight, is_l2, total, between, best
                    )
        cost[i], spatial[i], chosen[i] = best


@compiled
def _best_of_block(
    p: Floats,
    x: float,
    y: float,
    q: Floats,
    q_position: Floats,
    index: Integers,
    weight: float,
    is_l2: bool,
    total: Floats,
    between: Floats,
    best: tuple[float, float, int],
) -> tuple[float, float, int]:
    """Cost, D' and index of the best among a block's targets and the best so far."""
    cost, spatial, chosen = best
    tie = max(TIE, TIE_OF_WEIGHT * weight)
    width = U(q.shape[1])
    total[:] = 0.0
    if is_l2:
        for c in range(U(len(p))):
            for j in range(width):
                difference = q[c, j] - p[c]
                total[j] += difference * difference
        for j in range(width):
            total[j] = np.sqrt(total[j] / len(p))
    else:
        for c in range(U(len(p))):
            for j in range(width):
                total[j] += p[c] * q[c, j]
        for j in range(width):
            total[j] = 1.0 - total[j]
    possible = 0
    for j in range(width):
        dx, dy = q_position[0, j] - x, q_position[1, j] - y
        between[j] = np.sqrt(dx * dx + dy * dy)
        total[j] += weight * between[j]
        possible += total[j] <= cost + tie
    for j in range(width if possible else U(0)):
        if total[j] > cost + tie:
            continue
        # Equal costs go to the nearer target, equally near ones to the lower index.
        better = total[j] < cost - tie or between[j] < spatial - TIE
        if better or (between[j] <= spatial + TIE and index[j] < chosen):
            cost, spatial, chosen = total[j], between[j], index[j]
    return cost, spatial, chosen


@compiled
def match_patches(
    a: Image,
    a_size: tuple[int, int],
    b: Image,
    b_size: tuple[int, int],
    channels: int,
    patch: int,
    first: int,
    last: int,
    shifts: Integers,
    penalty: Floats,
    tie: float,
    is_l2: bool,
    level: Floats,
    of_a: Floats,
    of_b: Floats,
    rough_a: Singles,
    rough_b: Singles,
    slack: float,
    cost: Floats,
    order: Integers,
) -> None:
    """Find the best shift of every patch of an image, of all shifts in turn.

    The distance of two patches is a box sum over the product (or the squared difference) of the image and the
    shifted one: what a shift costs per pixel does not depend on the patch's size, but for its logarithm.
    Nothing is ever subtracted from a sum, and the order of summation is the same for all patches: so sums of
    zeros are zero, sums are as exact as floats are for their own size, and patches that are equal cost
    exactly the same.

    Args:
        a, b: (C H W,) float32 or float64, the two images; their sizes (H, W).
        patch: n, the side of a patch, at least 2.
        first, last: rows of patches of `a` that are done.
        shifts: (S, 2) of dy, dx, the better first where costs are equal.
        penalty: (S,) what a shift adds to the cost, rising.
        tie: costs that differ by less are equal.
        is_l2: distances |p - q| / sqrt(C n^2), else 1 - (<p, q> - of_a[0] - of_b[0]) of_a[1] of_b[1] of the
            images less their level.
        level: (C,) what is taken off both images.
        of_a, of_b: (2, patches).
        rough_a, rough_b: the same in float32: a search reads these arrays and the images for every shift, and
            takes its time for that. What may be better by them is found again by `of_a` and `of_b`.
        slack: by how much the distances of `rough_a` and `rough_b` are wrong, at most.
        cost, order: (patches of a,) of the best so far, what it costs and which shift it is; changed here.
    """
    a_width, b_width = a_size[1], b_size[1]
    a_columns, b_columns = a_width - patch + 1, b_width - patch + 1
    b_rows = b_size[0] - patch + 1
    pitch_most = U(a_width + 7) // U(8) * U(8)
    steps = _steps(patch)
    field = U(BATCH) * pitch_most
    batch = U(steps[:, 2].sum() + len(steps) * BATCH) * pitch_most  # where sums of lines go
    work = np.zeros(batch + U(3) * field)
    a_plane, b_plane = U(a_size[0] * a_width), U(b_size[0] * b_width)
    norm = channels * patch * patch
    worst = np.inf
    for k in range(len(shifts)):
        if penalty[k] >= worst:
            break
        dy, dx = shifts[k, 0], shifts[k, 1]
        top, bottom = max(first, -dy), min(last, b_rows - dy)
        left, right = max(0, -dx), min(a_columns, b_columns - dx)
        if top >= bottom or left >= right:
            continue
        length, wide = U(right - left), U(right - left + patch - 1)
        pitch = (wide + U(7)) // U(8) * U(8)
        for begin in range(top, bottom + patch - 1, BATCH):
            end = min(begin + BATCH, bottom + patch - 1)
            for line in range(begin, end):
                here, there = U(line * a_width + left), U((line + dy) * b_width + left + dx)
                row = U(steps[0, 2] + line - begin) * pitch
                _compare(a, here, a_plane, b, there, b_plane, channels, level, work, row, wide, is_l2)
            _add_lines(work, steps, U(end - begin), pitch, pitch_most, batch)
            y = max(begin - patch + 1, top)
            rows = end - patch + 1 - y
            if rows < 1:
                continue
            lines = batch + U(y + patch - 1 - begin) * pitch
            total, free = _add_columns(work, steps, lines, U(rows) * pitch, batch + field, field)
            for r in range(rows):
                mine, theirs = U((y + r) * a_columns + left), U((y + r + dy) * b_columns + left + dx)
                best, summed = U((y + r - first) * a_columns + left), total + U(r) * pitch
                if is_l2:
                    found = _l2(work, summed, free, cost, best, penalty[k], tie, norm, length)
                else:
                    found = _cosine(
                        work,
                        summed,
                        rough_a,
                        mine,
                        rough_b,
                        theirs,
                        cost,
                        best,
                        penalty[k],
                        tie - slack,
                        length,
                    )
                    if found:
                        _cosines(work, summed, free, of_a, mine, of_b, theirs, penalty[k], length)
                if found:
                    _keep(work, free, cost, order, best, k, tie, length)
        if k % 256 == 255:
            worst = cost.max()


@compiled
def _steps(patch: int) -> Integers:
    """How n neighbours are added in few steps: (steps, 3), rows of (radix, window, reach).

    A step adds `radix` sums of `window` neighbours each; or, where the radix is 1, one neighbour to such a
    sum. The farthest of what it adds lies `reach` away.
    """
    steps = np.zeros((128, 3), np.int64)  # more than any number takes
    k = len(steps)
    while patch > 1:
        radix = 1
        for divisor in (2, 3, 5):
            radix = divisor if patch % divisor == 0 else radix
        patch = patch - 1 if radix == 1 else patch // radix
        k -= 1
        steps[k] = radix, patch, 1 if radix == 1 else (radix - 1) * patch
    return steps[k:]


@compiled
def _compare(
    a: Image,
    here: int,
    a_plane: int,
    b: Image,
    there: int,
    b_plane: int,
    channels: int,
    level: Floats,
    work: Floats,
    row: int,
    count: int,
    is_l2: bool,
) -> None:
    """Products, or squared differences, of a line of both images, summed over the channels."""
    c = 0
    if channels >= 3:  # three at a time, so that sums are written and read again less often
        here_2, here_3 = here + a_plane, here + U(2) * a_plane
        there_2, there_3 = there + b_plane, there + U(2) * b_plane
        if is_l2:
            for x in range(count):
                red, green = F(a[here + x]) - F(b[there + x]), F(a[here_2 + x]) - F(b[there_2 + x])
                blue = F(a[here_3 + x]) - F(b[there_3 + x])
                work[row + x] = red * red + green * green + blue * blue
        else:
            first, second, third = level[0], level[1], level[2]
            for x in range(count):
                red = (F(a[here + x]) - first) * (F(b[there + x]) - first)
                green = (F(a[here_2 + x]) - second) * (F(b[there_2 + x]) - second)
                work[row + x] = red + green + (F(a[here_3 + x]) - third) * (F(b[there_3 + x]) - third)
        c = 3
    else:
        for x in range(count):
            work[row + x] = 0.0
    here += U(c) * a_plane
    there += U(c) * b_plane
    for channel in range(c, channels):
        if is_l2:
            for x in range(count):
                work[row + x] += (F(a[here + x]) - F(b[there + x])) ** 2
        else:
            off = level[channel]
            for x in range(count):
                work[row + x] += (F(a[here + x]) - off) * (F(b[there + x]) - off)
        here += a_plane
        there += b_plane


@compiled
def _add_lines(work: Floats, steps: Integers, count: int, pitch: int, pitch_most: int, out: int) -> None:
    """Sums of the last n lines, for each of `count` new ones, to `out`.

    Every step has room in `work` for the lines that it reaches back to and, behind them, a batch of new ones.
    """
    here, newest = U(steps[0, 2]) * pitch, U(steps[0, 2]) * pitch
    begin = U(0)
    for k in range(len(steps)):
        radix, window, reach = steps[k, 0], U(steps[k, 1]) * pitch, U(steps[k, 2]) * pitch
        follows, to = begin + U(steps[k, 2] + BATCH) * pitch_most, out
        if k + 1 < len(steps):
            to = follows + U(steps[k + 1, 2]) * pitch
        if radix == 1:
            _add(work, to, 2, here - reach, newest, newest, newest, newest, count * pitch)
        else:
            b, c, d, e = here - window, here - U(2) * window, here - U(3) * window, here - U(4) * window
            _add(work, to, radix, here, b, c, d, e, count * pitch)
        for x in range(reach if k else U(0)):  # what the next batch reaches back to
            work[begin + x] = work[begin + count * pitch + x]
        begin, here = follows, to
    for x in range(newest):  # of the first step last, for any step may add these
        work[x] = work[count * pitch + x]


@compiled
def _add_columns(
    work: Floats, steps: Integers, level: int, count: int, first: int, field: int
) -> tuple[int, int]:
    """Sums of n neighbours; where they begin, and where free space does; `first`: where it does now."""
    second = first + field
    total, to = level, first
    for k in range(len(steps)):
        radix, window, reach = steps[k, 0], U(steps[k, 1]), U(steps[k, 2])
        count -= reach
        if radix == 1:
            newest = level + window
            _add(work, to, 2, total, newest, newest, newest, newest, count)
        else:
            b, c, d, e = total + window, total + U(2) * window, total + U(3) * window, total + U(4) * window
            _add(work, to, radix, total, b, c, d, e, count)
        total, to = to, second if to == first else first
    return total, to


@compiled
def _add(work: Floats, to: int, terms: int, a: int, b: int, c: int, d: int, e: int, count: int) -> None:
    """The sum of the first 2, 3 or 5 rows that begin at a to e."""
    if terms == 2:
        for x in range(count):
            work[to + x] = work[a + x] + work[b + x]
    elif terms == 3:
        for x in range(count):
            work[to + x] = work[a + x] + work[b + x] + work[c + x]
    else:
        for x in range(count):
            work[to + x] = work[a + x] + work[b + x] + work[c + x] + work[d + x] + work[e + x]


@compiled
def _cosine(
    work: Floats,
    summed: int,
    of_a: Singles,
    mine: int,
    of_b: Singles,
    theirs: int,
    cost: Floats,
    best: int,
    penalty: float,
    tie: float,
    count: int,
) -> int:
    """How many cost less than the best so far."""
    a_offset, a_scale, b_offset, b_scale = of_a[0], of_a[1], of_b[0], of_b[1]
    better = 0
    for x in range(count):
        product = work[summed + x] - F(a_offset[mine + x]) - F(b_offset[theirs + x])
        value = (1.0 + penalty) - product * F(a_scale[mine + x]) * F(b_scale[theirs + x])
        better += value < cost[best + x] - tie
    return better


@compiled
def _cosines(
    work: Floats,
    summed: int,
    out: int,
    of_a: Floats,
    mine: int,
    of_b: Floats,
    theirs: int,
    penalty: float,
    count: int,
) -> None:
    """What they cost."""
    a_offset, a_scale, b_offset, b_scale = of_a[0], of_a[1], of_b[0], of_b[1]
    for x in range(count):
        product = work[summed + x] - a_offset[mine + x] - b_offset[theirs + x]
        work[out + x] = (1.0 + penalty) - product * a_scale[mine + x] * b_scale[theirs + x]


@compiled
def _l2(
    work: Floats,
    summed: int,
    out: int,
    cost: Floats,
    best: int,
    penalty: float,
    tie: float,
    norm: int,
    count: int,
) -> int:
    """The root is taken only where it may matter: D < limit where D^2 < limit^2."""
    better = 0
    for x in range(count):
        limit = max(cost[best + x] - tie - penalty, 0.0)
        better += work[summed + x] < norm * limit * limit
    if better:
        for x in range(count):
            work[out + x] = np.sqrt(max(work[summed + x], 0.0) / norm) + penalty
    return better


@compiled
def _keep(
    work: Floats,
    found: int,
    cost: Floats,
    order: Integers,
    best: int,
    shift: int,
    tie: float,
    count: int,
) -> None:
    for x in range(count):
        better = work[found + x] < cost[best + x] - tie
        cost[best + x] = work[found + x] if better else cost[best + x]
        order[best + x] = shift if better else order[best + x]
