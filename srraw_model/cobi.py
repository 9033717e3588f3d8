"""The contextual bilateral loss (CoBi), exact, at full resolution, in O(N + M) memory.

Zhang, Chen, Ng, Koltun, "Zoom to Learn, Learn to Zoom", CVPR 2019, Eq. 2, for source features p_i and
target features q_j:

    CoBi(P, Q) = mean over i of min over j of ( D(p_i, q_j) + weight_spatial * D'(i, j) )

D with distance="cosine": 1 - <p, q> / (|p| |q|), both centred by the target's mean feature; 1 where a centred
feature has no length. D with distance="l2": |p - q| / sqrt(C).
D': the Euclidean distance of the two positions ((column + 1/2) / max(H, W), (row + 1/2) / max(H, W)), each in
its own map. weight_spatial=0 is the contextual loss, Eq. 1.

Only the chosen pairs carry a gradient, that of their D. The search is exact in two steps: a float32 pass
bounds the cost of every source position in every block of targets; the few blocks that the bounds do not
exclude are then ranked in float64. Equal costs go to the smaller D', then to the lower index. The largest
array is a tile of the cost matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from srraw_model.formulations import contextual_loss, released_loss
from srraw_model.matching import Problem, problems
from srraw_model.search import gradient_of_patches, search

SOURCE_STRIP = 1024  # source features held at a time
OTHERS = {"contextual": contextual_loss, "released": released_loss}


@dataclass(frozen=True)
class Matches:
    """The target position that Eq. 2 chooses for every source position; positions count row by row.

    Attributes:
        index: (B, N) int64, row * W' + column in the target's map.
        feature_distance: (B, N) float64, D of the chosen pair.
        spatial_distance: (B, N) float64, D' of the chosen pair, unweighted.
    """

    index: Tensor
    feature_distance: Tensor
    spatial_distance: Tensor


@dataclass(frozen=True)
class MatchingStatistics:
    """How evenly the targets are used (the paper reports 43.7 % one-to-one with CX, 93.9 % with CoBi).

    Attributes:
        one_to_one: share of the M targets that exactly one source chose.
        identity: share of the N sources that chose the target of their own index. Where this is high, it
            explains the one-to-one matches, and they say nothing.
    """

    one_to_one: float
    identity: float


def contextual_bilateral_loss(
    source: Tensor,
    target: Tensor,
    *,
    weight_spatial: float = 0.1,
    distance: str = "cosine",
    formulation: str = "paper",
) -> Tensor:
    """CoBi between two feature maps, Eq. 2, averaged over the batch.

    Args:
        source: (B, C, H, W), the prediction's features.
        target: (B, C, H', W'), the features to match; height and width may differ from the source's.
        weight_spatial: weight of D', at least 0.
        distance: "cosine" or "l2".
        formulation: "paper" is Eq. 2; "contextual" and "released" are formulations.contextual_loss and
            formulations.released_loss, for those who compare.

    Returns:
        A scalar in the source's precision (at least float32), differentiable with respect to the source and,
        where it requires a gradient, to the target and its mean.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or an unknown option.
    """
    if formulation == "paper":
        return _loss(source, target, 1, 1, weight_spatial, distance)
    if formulation not in OTHERS:
        raise ValueError(f"CoBi has no formulation {formulation!r}; there are paper, {', '.join(OTHERS)}.")
    return OTHERS[formulation](source, target, weight_spatial=weight_spatial, distance=distance)


def contextual_bilateral_rgb_loss(
    image: Tensor,
    target: Tensor,
    patch: int = 10,
    stride: int = 1,
    *,
    weight_spatial: float = 0.1,
    distance: str = "cosine",
) -> Tensor:
    """CoBi with patches of pixels as features: CoBi_RGB(n) of Eq. 3 with n = `patch`.

    Equals `contextual_bilateral_loss` on the maps of all patches, (H - patch) // stride + 1 rows and columns
    likewise, but gathers the patches tile by tile.

    Args:
        image: (B, 3, H, W), the prediction, commonly rendered sRGB in [0, 1]. Other channel counts work too.
        target: (B, 3, H', W'), in the same domain.
        patch: side of a patch, in pixels.
        stride: step between neighbouring patches, in pixels.
        weight_spatial: weight of D', at least 0.
        distance: "cosine" or "l2".

    Returns:
        A scalar, as `contextual_bilateral_loss`.

    Raises:
        ValueError: as `contextual_bilateral_loss`, and for an image smaller than a patch.
    """
    return _loss(image, target, patch, stride, weight_spatial, distance)


def match(
    source: Tensor,
    target: Tensor,
    *,
    patch: int = 1,
    stride: int = 1,
    weight_spatial: float = 0.1,
    distance: str = "cosine",
) -> Matches:
    """The pairs that Eq. 2 chooses, without gradient.

    Args:
        source: (B, C, H, W), features, or pixels whose patches are compared.
        target: (B, C, H', W').
        patch: side of a patch, in positions; 1 compares the maps as they are.
        stride: step between neighbouring patches.
        weight_spatial: weight of D', at least 0.
        distance: "cosine" or "l2".

    Raises:
        ValueError: as the losses.
    """
    with torch.no_grad():
        found = [search(p) for p in problems(source, target, patch, stride, weight_spatial, distance)]
    columns = ((one.index, one.feature, one.spatial) for one in found)
    return Matches(*(torch.stack(column) for column in zip(*columns, strict=True)))


def matching_statistics(
    source: Tensor,
    target: Tensor,
    *,
    patch: int = 1,
    stride: int = 1,
    weight_spatial: float = 0.1,
    distance: str = "cosine",
) -> MatchingStatistics:
    """Counts how the matching uses the targets, over the whole batch. Arguments and errors as in `match`."""
    matches = match(
        source, target, patch=patch, stride=stride, weight_spatial=weight_spatial, distance=distance
    )
    targets = math.prod((length - patch) // stride + 1 for length in target.shape[2:])
    chosen = torch.stack([torch.bincount(index, minlength=targets) for index in matches.index])
    own = torch.arange(matches.index.shape[1], device=matches.index.device)
    return MatchingStatistics(
        one_to_one=(chosen == 1).double().mean().item(),
        identity=(matches.index == own).double().mean().item(),
    )


def _loss(
    source: Tensor, target: Tensor, patch: int, stride: int, weight_spatial: float, distance: str
) -> Tensor:
    losses = [
        _ChosenCost.apply(problem.source.pixels, problem.target.pixels, problem)
        for problem in problems(source, target, patch, stride, weight_spatial, distance)
    ]
    return torch.stack(losses).mean().to(torch.promote_types(source.dtype, torch.float32))


class _ChosenCost(torch.autograd.Function):
    """Mean cost of the chosen pairs; which they are has no gradient, what they cost has.

    The features of the pairs are gathered anew for the gradient rather than kept.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor, problem: Problem) -> Tensor:
        found = search(problem)
        ctx.problem = problem
        # The images too, so that writing over one before the gradient is taken is noticed.
        ctx.save_for_backward(found.index, source, target)
        return found.feature.mean() + problem.weight_spatial * found.spatial.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        problem, (index, *_) = ctx.problem, ctx.saved_tensors
        of_each = of_loss / len(index)
        grids = problem.source, problem.target
        wanted = ctx.needs_input_grad[:2]
        if wanted == (True, False) and (of_sum := gradient_of_patches(problem, index)) is not None:
            return problem.source.as_image(of_sum.mul_(of_each)), None, None
        of_source, of_target = (
            grid.no_gradient(once=grid is problem.source) if want else None
            for grid, want in zip(grids, wanted, strict=True)
        )
        of_mean = torch.zeros_like(problem.mean)
        for strip in torch.arange(len(index), device=index.device).split(SOURCE_STRIP):
            mine, theirs = (problem.source, strip), (problem.target, index[strip])
            of_p = problem.gradient(*mine, *theirs).mul_(of_each)
            if of_source is not None:
                problem.source.add_gradient(of_source, strip, of_p)
            if of_target is not None:
                of_q = problem.gradient(*theirs, *mine).mul_(of_each)
                problem.target.add_gradient(of_target, index[strip], of_q)
                of_mean -= of_p.add_(of_q).sum(dim=0)  # D is of p - m and q - m
        if of_target is not None:
            problem.target.add_gradient_of_mean(of_target, of_mean)
        images = [
            None if gradient is None else grid.as_image(gradient)
            for grid, gradient in zip(grids, (of_source, of_target), strict=True)
        ]
        return *images, None
