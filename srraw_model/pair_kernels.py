"""Compiled loops over the chosen pairs of patches (Numba): what they cost, and the gradient of that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from srraw_model.kernels import F, Floats, Image, Integers, U, compiled


class Pairs(NamedTuple):
    """Patches p of an image and q of another, n x n.

    Attributes:
        a, b: (C H W,) the two images.
        sizes: (4,) pixels of a plane of a, of its width, and of b likewise.
        origin, mean: (C,) and (C, n, n), taken off every patch in turn.
        corners: (K, 2) where p and q begin in the planes of a and b.
    """

    a: Image
    b: Image
    sizes: Integers
    origin: Floats
    mean: Floats
    corners: Integers


@compiled
def compare_pairs(
    pairs: Pairs,
    is_l2: bool,
    no_length: float,
    distance: Floats,
    of_p: Floats,
    of_q: Floats,
) -> None:
    """D of pairs of patches p and q; and what its gradient is made of, dD/dp = of_p p - of_q q, centred.

    Cosine: of_q = 1 / (|p| |q|), of_p = <p, q> / (|p|^3 |q|). l2: both 1 / (|p - q| sqrt(C n^2)). Where these
    are not defined they are 0.

    Args:
        distance, of_p, of_q: (K,), written here.
    """
    a, b, origin, mean, corners = pairs.a, pairs.b, pairs.origin, pairs.mean, pairs.corners
    a_plane, a_width, b_plane, b_width = pairs.sizes
    channels, patch = len(mean), U(mean.shape[2])
    norm = np.sqrt(mean.size)
    products = np.empty((3, patch))
    p_square, q_square, product = products[0], products[1], products[2]
    for k in range(len(corners)):
        products[:] = 0.0
        for c in range(channels):
            off = origin[c]
            for y in range(mean.shape[1]):
                here = U(corners[k, 0] + c * a_plane + y * a_width)
                there = U(corners[k, 1] + c * b_plane + y * b_width)
                middle = mean[c, y]
                if is_l2:
                    for x in range(patch):
                        product[x] += ((F(a[here + x]) - off) - (F(b[there + x]) - off)) ** 2
                else:
                    for x in range(patch):
                        p, q = F(a[here + x]) - off - middle[x], F(b[there + x]) - off - middle[x]
                        p_square[x] += p * p
                        q_square[x] += q * q
                        product[x] += p * q
        if is_l2:
            length = np.sqrt(product.sum())
            distance[k] = length / norm
            of_p[k] = of_q[k] = 1 / (length * norm) if length > 0 else 0.0
        else:
            p_length, q_length = np.sqrt(p_square.sum()), np.sqrt(q_square.sum())
            per_p = 1 / p_length if p_length > no_length else 0.0
            per_q = 1 / q_length if q_length > no_length else 0.0
            cosine = product.sum() * per_p * per_q
            distance[k], of_p[k], of_q[k] = 1 - cosine, cosine * per_p * per_p, per_p * per_q


@compiled
def add_pairs(
    pairs: Pairs,
    of_p: Floats,
    of_q: Floats,
    gradient: Floats,
) -> None:
    """Add of_p p - of_q q, as `compare_pairs` has them, to a gradient of image a, (C H W,)."""
    a, b, origin, mean, corners = pairs.a, pairs.b, pairs.origin, pairs.mean, pairs.corners
    a_plane, a_width, b_plane, b_width = pairs.sizes
    for k in range(len(corners)):
        mine, less = of_p[k], of_p[k] - of_q[k]  # no difference of what is nearly equal
        for c in range(len(mean)):
            off = origin[c]
            for y in range(mean.shape[1]):
                here = U(corners[k, 0] + c * a_plane + y * a_width)
                there = U(corners[k, 1] + c * b_plane + y * b_width)
                middle = mean[c, y]
                for x in range(U(mean.shape[2])):
                    p, q = F(a[here + x]) - off - middle[x], F(b[there + x]) - off - middle[x]
                    gradient[here + x] += mine * (p - q) + less * q
