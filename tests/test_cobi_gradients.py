"""The gradient of CoBi flows through the chosen pairs, and is that of finite differences."""

from __future__ import annotations

from unittest.mock import patch as replaced

import pytest
import torch
from brute_force import brute_force, random_maps
from torch.nn import functional

from srraw_model import cobi
from srraw_model.cobi import contextual_bilateral_loss, contextual_bilateral_rgb_loss, match

pytestmark = pytest.mark.usefixtures("way_of_searching")


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("strip", [5, 4096])
def test_gradients_are_those_of_finite_differences(distance, strip):
    source, target = (values.requires_grad_() for values in random_maps((1, 3, 3, 4), (1, 3, 4, 3)))
    with replaced.object(cobi, "SOURCE_STRIP", strip):
        assert torch.autograd.gradcheck(
            lambda p, q: contextual_bilateral_loss(p, q, distance=distance), (source, target)
        )
        rgb = random_maps((1, 2, 5, 6), (1, 2, 6, 5), seed=1)
        assert torch.autograd.gradcheck(
            lambda p, q: contextual_bilateral_rgb_loss(p, q, patch=3, stride=2, distance=distance),
            [values.requires_grad_() for values in rgb],
        )


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_gradient_reaches_the_target_and_its_mean(distance):
    source, target = (values.requires_grad_() for values in random_maps((1, 4, 6, 6), (1, 4, 6, 6)))
    expected = torch.autograd.grad(
        brute_force(source[0], target[0], 0.1, distance)[0].amin(1).mean(), (source, target)
    )
    loss = contextual_bilateral_loss(source, target, distance=distance)
    for ours, theirs in zip(torch.autograd.grad(loss, (source, target)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    unchosen = torch.ones(36).index_fill_(0, match(source, target, distance=distance).index[0], 0).bool()
    assert unchosen.any()
    if distance == "l2":  # which has no mean
        assert expected[1][0].flatten(1)[:, unchosen].abs().max() == 0


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_gradient_of_patches_where_only_the_source_wants_one(distance, stride):
    """Other code than where the target wants one, too: here with patches that are equal, and flat ones."""
    source, target = random_maps((1, 3, 13, 12), (1, 3, 12, 13))
    source[..., :6, :6] = target[..., 6:, :6]
    source[..., 8:, 7:] = 0.3
    source.requires_grad_()

    def features(image):
        sides = [(length - 4) // stride + 1 for length in image.shape[2:]]
        return functional.unfold(image, 4, stride=stride).view(-1, *sides)

    cost, index = brute_force(features(source), features(target), 0.1, distance)
    (expected,) = torch.autograd.grad(cost.gather(1, index[:, None]).mean(), source)
    loss = contextual_bilateral_rgb_loss(source, target, 4, stride, distance=distance)
    (ours,) = torch.autograd.grad(loss, source)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    found = match(source, target, patch=4, stride=stride, distance=distance).feature_distance
    assert found.min() < 1e-12


def test_a_gradient_in_half_precision_is_rounded_once():
    """The target's has two parts, through the chosen pairs and through its mean, which may cancel."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 8, 12, 12, generator=generator).bfloat16() for _ in range(2)]
    gradients = []
    for dtype in (torch.bfloat16, torch.float64):
        source, target = (values.to(dtype, copy=True).requires_grad_() for values in maps)
        contextual_bilateral_loss(source, target).backward()
        gradients.append((source.grad.double(), target.grad.double()))
    for rounded, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=2**-8, atol=1e-12)


@pytest.mark.parametrize("patch", [1, 3])
def test_a_target_that_is_written_over_before_the_gradient_is_noticed(patch):
    source, target = torch.rand(1, 3, 12, 12, requires_grad=True), torch.rand(1, 3, 12, 12)
    loss = contextual_bilateral_rgb_loss(source, target, patch)
    target.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
