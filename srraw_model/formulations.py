"""Other losses by the name of contextual and bilateral, for those who compare; the paper's is in cobi.py.

Both look at all N x M pairs, not at the chosen ones alone, and so does their gradient. They are worked out in
strips of rows of that matrix, each anew for the gradient: memory grows with N + M, time with N M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from srraw_model.matching import PatchGrid, Problem, problems

STRIP_ELEMENTS = 4_000_000  # of the matrix that are held at a time
BANDWIDTH = 0.5  # h of both
CONTEXTUAL_LEAST = 1e-5  # added to the least distance, by Mechrez et al.
RELEASED_LEAST = 1e-3  # and by the released code
RELEASED_EXTENT = 255.0  # of its coordinates, and of the pixels that it compares by L2

# Of some rows' features (K, C) and places (K, 2), their similarities to all columns (K, columns).
Similarities = Callable[[Tensor, Tensor], Tensor]


def contextual_loss(
    source: Tensor, target: Tensor, *, weight_spatial: float = 0.1, distance: str = "cosine"
) -> Tensor:
    """The contextual loss with a bilateral term.

    Mechrez, Talmi, Zelnik-Manor, "The Contextual Loss for Image Transformation with Non-Aligned Data", ECCV
    2018, Eq. 1-4, for sources i and targets j, with h = 0.5 and e = 1e-5:

        d_ij = D(p_i, q_j) + weight_spatial * D'(i, j)
        w_ij = exp((1 - d_ij / (min over k of d_ik + e)) / h)
        CX_ij = w_ij / sum over k of w_ik
        loss = -log(mean over j of max over i of CX_ij), averaged over the batch

    D and D' are those of Eq. 2 of the paper. D' is added to D before it is made relative: there both have
    the meaning that they have in Eq. 2, and a far target is far for a source, whatever it is like.

    Args and errors as cobi.contextual_bilateral_loss.
    """
    losses = []
    for problem in problems(source, target, 1, 1, weight_spatial, distance):
        p, q, x, y = _all_features(problem)

        def similarities(
            p: Tensor, x: Tensor, q: Tensor = q, y: Tensor = y, problem: Problem = problem
        ) -> Tensor:
            far = _distances(p, q, problem.distance) + problem.weight_spatial * _euclidean(x, y)
            return _relative(far, CONTEXTUAL_LEAST)

        losses.append(-_greatest_by_column(similarities, p, x, len(q)).mean().log())
    return torch.stack(losses).mean().to(torch.promote_types(source.dtype, torch.float32))


def released_loss(
    source: Tensor, target: Tensor, *, weight_spatial: float = 0.5, distance: str = "cosine"
) -> Tensor:
    """By the formula of the code published with the paper, but of whole maps.

    Zhang, Chen, Ng, Koltun, CX/CSFlow.py of github.com/ceciliavision/zoom-learn-zoom. For predictions i and
    targets j, features centred by the mean of the predictions, h = 0.5 and e = 1e-3:

        d_ji = (1 - cos(q_j, p_i)) / 2, or |255 (q_j - p_i)|^2 with distance="l2"
        c_ji = r_ji / sum over k of r_jk, r_ji = exp((1 - d_ji / (min over k of d_jk + e)) / h)
        s_ji likewise of squared distances between coordinates (255 row / H, 255 column / W)
        loss = -log(mean over i of max over j of (1 - w) c_ji + w s_ji), averaged over the batch

    The least distance between coordinates is 0, so that s_ji is the identity where the maps are of one size:
    from w = 0.5 every prediction's best match is the target in its own place, whatever that shows.

    Left out is what that code does before (CX/CX_helper.py): it cuts maps into quarters, draws 63 x 63
    positions of a quarter that has more, and takes the number of a draw for its place. It also centres by the
    mean over the batch, here every element has its own. At its commit 33e2dcd coordinates lack the factor
    255: there s of 63 x 63 positions is no identity, but 0.16 in the own place and 0.10 beside it.

    Args and errors as cobi.contextual_bilateral_loss; weight_spatial is w, from 0 to 1.
    """
    losses = []
    for similarities, q, y, predictions in _released(source, target, weight_spatial, distance):
        losses.append(-_greatest_by_column(similarities, q, y, predictions).mean().log())
    return torch.stack(losses).mean().to(torch.promote_types(source.dtype, torch.float32))


@torch.no_grad()
def released_match(
    source: Tensor, target: Tensor, *, weight_spatial: float = 0.5, distance: str = "cosine"
) -> Tensor:
    """(B, N): the target whose similarity `released_loss` takes for each prediction; the first of equals.

    Args and errors as `released_loss`.
    """
    chosen = []
    for similarities, q, y, predictions in _released(source, target, weight_spatial, distance):
        greatest = torch.full((predictions,), -1.0, dtype=q.dtype, device=q.device)
        index = torch.zeros(predictions, dtype=torch.int64, device=q.device)
        for rows in torch.arange(len(q), device=q.device).split(max(1, STRIP_ELEMENTS // predictions)):
            value, place = similarities(q[rows], y[rows]).max(dim=0)
            better = value > greatest
            greatest, index = torch.where(better, value, greatest), torch.where(better, rows[place], index)
        chosen.append(index)
    return torch.stack(chosen)


def _released(
    source: Tensor, target: Tensor, weight_spatial: float, distance: str
) -> Iterator[tuple[Similarities, Tensor, Tensor, int]]:
    """Of every batch element: rows of the similarities as a function of targets and where they lie; the
    targets (M, C); their places; the number of predictions, which are the columns."""
    if weight_spatial > 1:
        raise ValueError(f"Of the released formulation weight_spatial is a share, not {weight_spatial}.")
    for problem in problems(target, source, 1, 1, weight_spatial, distance):  # its rows are the targets
        q, p, *_ = _all_features(problem)
        y, x = (_coordinates(grid) for grid in (problem.source, problem.target))

        def similarities(
            q: Tensor, y: Tensor, p: Tensor = p, x: Tensor = x, problem: Problem = problem
        ) -> Tensor:
            if problem.distance == "l2":
                far = _distances(q, p, "l2").square() * (p.shape[1] * RELEASED_EXTENT**2)
            else:
                far = _distances(q, p, "cosine") / 2
            near = _relative(_euclidean(y, x).square(), RELEASED_LEAST)
            w = problem.weight_spatial
            return (1 - w) * _relative(far, RELEASED_LEAST) + w * near

        yield similarities, q, y, len(p)


def _all_features(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Directions (N, C) of the sources and (M, C) of the targets, differentiable, and their positions."""
    grids = problem.source, problem.target
    mean = problem.target.mean(problem.target.values)
    index = [torch.arange(grid.count, device=mean.device) for grid in grids]
    directions = [problem.directions(grid.features(at), mean) for grid, at in zip(grids, index, strict=True)]
    positions = [grid.positions(at) for grid, at in zip(grids, index, strict=True)]
    return directions[0], directions[1], positions[0], positions[1]


def _coordinates(grid: PatchGrid) -> Tensor:
    """(N, 2), from 0 on over the map, to less than 255."""
    row, column = (
        torch.arange(length, dtype=torch.float64, device=grid.pixels.device) * (RELEASED_EXTENT / length)
        for length in (grid.rows, grid.columns)
    )
    return torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=2).view(-1, 2)


def _distances(p: Tensor, q: Tensor, distance: str) -> Tensor:
    if distance == "l2":
        return _euclidean(p, q) / p.shape[1] ** 0.5
    return (1 - p @ q.T).clamp(min=0)


def _euclidean(p: Tensor, q: Tensor) -> Tensor:
    return torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist")


def _relative(far: Tensor, least: float) -> Tensor:
    """Distances (K, M) as shares of each row, by how near they are beside the row's nearest."""
    nearest = far.amin(dim=1, keepdim=True)
    return torch.softmax((1 - far / (nearest + least)) / BANDWIDTH, dim=1)


def _greatest_by_column(
    similarities: Similarities, features: Tensor, positions: Tensor, columns: int
) -> Tensor:
    """The greatest of every column (columns,) of a matrix of which a function gives strips of rows."""
    strip = max(1, STRIP_ELEMENTS // columns)

    def greatest(some: Tensor, at: Tensor) -> Tensor:
        return similarities(some, at).amax(dim=0)

    parts = [
        checkpoint(greatest, some, at, use_reentrant=False, preserve_rng_state=False)
        for some, at in zip(features.split(strip), positions.split(strip), strict=True)
    ]
    return torch.stack(parts).amax(dim=0)
