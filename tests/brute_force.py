"""CoBi by its definition, in float64 and all pairs at once, for those that test the search."""

from __future__ import annotations

import math
from contextlib import contextmanager
from unittest.mock import patch as replaced

import torch

from srraw_model import matching, search
from srraw_model.cobi import contextual_bilateral_loss, match


@contextmanager
def small_tiles(**sizes):
    """Both ways of searching, with tiles of a few positions."""
    block = sizes["BLOCK"]
    with (
        replaced.multiple(matching, **sizes),
        replaced.multiple(search, BLOCK=block, TILE=2 * block, GROUP=2 * block, BLOCK_SIDES=(1, block)),
    ):
        yield


def brute_force(source, target, weight_spatial=0.1, distance="cosine"):
    """Eq. 2 of one pair (C, H, W), (C, H', W'): the whole cost matrix, and the indices that it chooses."""
    p, q = (values.double().flatten(1).T for values in (source, target))
    x, y = (centres(*values.shape[1:]) for values in (source, target))
    if distance == "cosine":
        p, q = p - q.mean(0), q - q.mean(0)
        length = p.norm(dim=1)[:, None] * q.norm(dim=1)
        cost = 1 - (p @ q.T / length).where(length > 1e-14, torch.tensor(0.0).double())
    else:
        cost = torch.linalg.vector_norm(p[:, None] - q, dim=2) / math.sqrt(p.shape[1])
    spatial = (x[:, None] - y).square().sum(2).sqrt()
    cost = cost + weight_spatial * spatial
    tied = cost <= cost.amin(1, keepdim=True) + 1e-11
    tied_spatial = spatial.where(tied, torch.tensor(math.inf).double())
    nearest = tied_spatial <= tied_spatial.amin(1, keepdim=True) + 1e-11
    return cost, nearest.int().argmax(1)  # argmax: the first of several


def centres(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack((columns, rows), dim=2).reshape(-1, 2).double() + 0.5) / max(height, width)


def random_maps(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def assert_brute_force_agrees(source, target, weight_spatial, distance):
    options = {"weight_spatial": weight_spatial, "distance": distance}
    expected = [brute_force(p, q, weight_spatial, distance) for p, q in zip(source, target, strict=True)]
    chosen = match(source, target, **options)
    assert torch.equal(chosen.index, torch.stack([index for _, index in expected]))
    cost = chosen.feature_distance + weight_spatial * chosen.spatial_distance
    loss = torch.stack([cost.amin(1).mean() for cost, _ in expected])
    torch.testing.assert_close(cost.mean(1), loss, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        contextual_bilateral_loss(source, target, **options).double(), loss.mean(), rtol=1e-6, atol=1e-9
    )
