"""Fill shapes into an image of labels, exactly: a sample belongs to a shape when its centre lies inside.

Shapes become spans (row, first column, last column) in painter's order, and spans are filled. OpenCV's own
drawing widens every shape by half a sample, which would make thin things as wide as the shot is short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LONG_SPAN = 256  # samples; longer spans are cheaper to fill one by one


@dataclass(frozen=True)
class Polygons:
    """Polygons of several contours each (even-odd), in painter's order.

    Attributes:
        points: (n, 2) vertices (x, y), contour after contour.
        next_point: (n,) index of the vertex that closes each edge.
        polygon: (n,) number of the polygon that a vertex belongs to, ascending.
        labels: (polygons,) uint16.
    """

    points: npt.NDArray[np.float64]
    next_point: npt.NDArray[np.int64]
    polygon: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint16]


def join(shapes: list[tuple[list[npt.NDArray[np.float64]], int]]) -> Polygons:
    """Put shapes, each a list of contours (n, 2) and a label, into one list of polygons."""
    contours = [contour for shape, _ in shapes for contour in shape]
    sizes = np.array([len(contour) for contour in contours], np.int64)
    ends = np.cumsum(sizes)
    following = np.arange(1, sizes.sum() + 1)
    following[ends - 1] = ends - sizes
    owner = np.repeat(np.arange(len(shapes)), [len(shape) for shape, _ in shapes])
    return Polygons(
        np.concatenate(contours) if contours else np.empty((0, 2)),
        following,
        np.repeat(owner, sizes),
        np.array([label for _, label in shapes], np.uint16),
    )


def fill_polygons(labels: npt.NDArray[np.uint16], polygons: Polygons) -> None:
    """Fill polygons whose vertices are samples of `labels` (h, w); parts outside are cut off."""
    height, width = labels.shape
    start, end = polygons.points, polygons.points[polygons.next_point]
    # An edge crosses the rows ceil(y0) <= y < y1.
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(low), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high), 0, height).astype(np.int64)
    edge, row = _expand(first, last)
    slope = (end[:, 0] - start[:, 0]) / np.where(high > low, end[:, 1] - start[:, 1], 1)
    x = start[edge, 0] + slope[edge] * (row - start[edge, 1])
    owner = polygons.polygon[edge]
    order = np.lexsort((x, row, owner))
    column = np.clip(np.ceil(x[order]), 0, width).astype(np.int64)
    row, owner = row[order], owner[order]
    # Even-odd: of the sorted crossings of a row, the first enters, the second leaves, and so on.
    _fill_spans(labels, row[::2], column[::2], column[1::2], polygons.labels[owner[::2]])


def fill_leaves(
    labels: npt.NDArray[np.uint16],
    centres: npt.NDArray[np.float64],
    pixels_to_leaf: npt.NDArray[np.float64],
    lit: npt.NDArray[np.uint16],
    shaded: npt.NDArray[np.uint16],
) -> None:
    """Fill many small leaves, each |v| <= 1 - u^2 in its own coordinates; halves differ in tone.

    Args:
        centres: (n, 2) in samples of `labels`.
        pixels_to_leaf: (n, 2, 2) linear maps of a distance in samples to (u, v).
        lit, shaded: (n,) labels of the halves v < 0 and v >= 0.
    """
    height = labels.shape[0]
    (p, q), (r, s) = pixels_to_leaf[:, 0].T, pixels_to_leaf[:, 1].T
    # y = (p v - r u) / determinant is greatest on the outline v = 1 - u^2, within or at its tip.
    along, across = np.abs([r, p]) / np.abs(p * s - q * r)
    reach = np.where(along < 2 * across, across + along**2 / (4 * across), along)
    first = np.clip(np.ceil(centres[:, 1] - reach), 0, height).astype(np.int64)
    last = np.clip(np.floor(centres[:, 1] + reach) + 1, 0, height).astype(np.int64)
    leaf, row = _expand(first, last)
    p, q, r, s = p[leaf], q[leaf], r[leaf], s[leaf]
    y = row - centres[leaf, 1]
    # On a row, u = p x + q y and v = r x + s y: v <= 1 - u^2 and -v <= 1 - u^2 are quadratics
    # p^2 x^2 + (2 p q y +- r) x + (q^2 y^2 +- s y - 1) <= 0, whose common interval is the span.
    a = np.maximum(p * p, 1e-12)
    b, c = 2 * p * q * y, q * q * y * y - 1
    b_up, c_up, b_down, c_down = b + r, c + s * y, b - r, c - s * y
    up, down = b_up * b_up - 4 * a * c_up, b_down * b_down - 4 * a * c_down
    inside = (up > 0) & (down > 0)
    up, down = np.sqrt(np.maximum(up, 0)), np.sqrt(np.maximum(down, 0))
    x_first = np.maximum(-b_up - up, -b_down - down) / (2 * a)
    x_last = np.minimum(-b_up + up, -b_down + down) / (2 * a)
    # The midrib v = 0 parts the span; on which side the lit half lies depends on the sign of r.
    rib = np.clip(-s * y / np.where(np.abs(r) < 1e-9, 1e-9, r), x_first, np.maximum(x_first, x_last))
    keep = inside & (x_last > x_first)
    leaf, row, x = leaf[keep], row[keep], centres[leaf[keep], 0]
    ends = [np.ceil(x + v[keep]) for v in (x_first, rib, x_last)]
    ends = [np.clip(end, 0, labels.shape[1]).astype(np.int64) for end in ends]
    left_is_lit = r[keep] > 0
    left = np.where(left_is_lit, lit[leaf], shaded[leaf])
    right = np.where(left_is_lit, shaded[leaf], lit[leaf])
    # Interleaved, so that the order of the leaves stays the order of painting.
    _fill_spans(
        labels,
        np.repeat(row, 2),
        np.stack([ends[0], ends[1]], 1).ravel(),
        np.stack([ends[1], ends[2]], 1).ravel(),
        np.stack([left, right], 1).ravel(),
    )


def leaf_outlines(
    centres: npt.NDArray[np.float64],
    scene_to_leaf: npt.NDArray[np.float64],
    lit: npt.NDArray[np.uint16],
    shaded: npt.NDArray[np.uint16],
) -> Polygons:
    """The same leaves as polygons, two halves each: for large ones under distortion."""
    u = np.linspace(-1, 1, 17)
    half = np.concatenate([np.stack([u, u**2 - 1], 1), [[0.5, 0.0], [0.0, 0.0], [-0.5, 0.0]]])
    halves = np.stack([half, half * (1, -1)])  # v < 0 and v > 0
    leaf_to_scene = np.linalg.inv(scene_to_leaf)
    points = np.einsum("nij,hkj->nhki", leaf_to_scene, halves) + centres[:, None, None]
    number = np.arange(2 * len(centres))
    size = len(half)
    following = number[:, None] * size + np.roll(np.arange(size), -1)
    return Polygons(
        points.reshape(-1, 2),
        following.ravel(),
        np.repeat(number, size),
        np.stack([lit, shaded], 1).ravel(),
    )


def _expand(
    first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For ranges first <= value < last: (the range's number, the value) of all their members, in order."""
    count = np.maximum(last - first, 0)
    number = np.repeat(np.arange(len(first)), count)
    value = np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
    return number, value


def _fill_spans(
    labels: npt.NDArray[np.uint16],
    row: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    values: npt.NDArray[np.uint16],
) -> None:
    """Write values into columns first <= x < last of rows, in order: later spans cover earlier ones."""
    keep = last > first
    row, first, last, values = row[keep], first[keep], last[keep], values[keep]
    is_long = last - first > LONG_SPAN
    start = 0
    # Runs of short spans are scattered at once; NumPy keeps the last of repeated assignments.
    for stop in [*np.flatnonzero(is_long), len(row)]:
        if stop > start:
            base = row[start:stop] * labels.shape[1]
            number, index = _expand(base + first[start:stop], base + last[start:stop])
            labels.reshape(-1)[index] = values[start:stop][number]
        if stop < len(row):
            labels[row[stop], first[stop] : last[stop]] = values[stop]
        start = stop + 1
