"""Losses: the toolkit's rendering with a gradient for every pixel, Eq. 3, and an L1 of valid pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from srraw_model.clock import Clock
from srraw_model.cobi import contextual_bilateral_loss, contextual_bilateral_rgb_loss
from srraw_model.features import load_vgg19
from srraw_model.losses import CONTINUED_SLOPE, CoBiLoss, aligned_l1, render_srgb
from srraw_tools import raw

# A camera's matrix as in a file: balanced camera RGB to linear sRGB, rows summing to 1.
COLOR_MATRIX = torch.tensor([[1.8, -0.7, -0.1], [-0.2, 1.6, -0.4], [0.0, -0.6, 1.6]], dtype=torch.float64)
IDENTITY = torch.eye(3, dtype=torch.float64)[None]
NEUTRAL = torch.ones(1, 3, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    camera_rgb=arrays(np.float32, (2, 5, 4, 3), elements=st.floats(-0.5, 2, width=32)),
    camera_wb=arrays(np.float32, (2, 3), elements=st.floats(0.25, 4, width=32)),
    color_matrix=arrays(np.float32, (2, 3, 3), elements=st.floats(-2, 2, width=32)),
)
def test_rendering_is_that_of_the_toolkit(camera_rgb, camera_wb, color_matrix):
    ours = render_srgb(
        torch.tensor(camera_rgb).permute(0, 3, 1, 2),
        torch.tensor(camera_wb),
        torch.tensor(color_matrix),
        for_loss=False,
    )
    for rendered, *shot in zip(ours, camera_rgb, camera_wb, color_matrix, strict=True):
        theirs = raw.render_srgb(*shot)
        # Near black the curve magnifies float32's rounding by 12.92.
        np.testing.assert_allclose(rendered.permute(1, 2, 0).numpy(), theirs, rtol=0, atol=2e-5)


def test_for_a_loss_it_is_the_same_in_gamut():
    camera_rgb = (
        torch.rand(1, 3, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.6
    )
    shot = torch.tensor([[1.5, 1.0, 1.3]]), COLOR_MATRIX[None]
    clipped = render_srgb(camera_rgb, *shot, for_loss=False)
    continued = render_srgb(camera_rgb, *shot, for_loss=True)
    in_gamut = (clipped > 0) & (clipped < 1)
    assert 0.3 < in_gamut.float().mean() < 0.99
    assert torch.equal(continued[in_gamut], clipped[in_gamut])
    assert not torch.equal(continued, clipped)


@pytest.mark.parametrize("camera_wb", [[1.0, 1.0, 1.0], [2.2, 1.0, 1.6]])
def test_for_a_loss_every_pixel_has_a_gradient(camera_wb):
    grey = torch.linspace(-2, 3, 501, dtype=torch.float64).expand(1, 3, 1, 501).clone().requires_grad_()
    rendered = render_srgb(grey, torch.tensor([camera_wb]), COLOR_MATRIX[None], for_loss=True)
    assert torch.isfinite(rendered).all()
    (slope,) = torch.autograd.grad(rendered.sum(), grey)
    assert torch.isfinite(slope).all()
    # Without the matrix, which mixes channels, the rendering rises strictly in every channel.
    rendered = render_srgb(grey, torch.tensor([camera_wb]), IDENTITY, for_loss=True)
    (slope,) = torch.autograd.grad(rendered.sum(), grey)
    assert slope.min() > 1e-3
    assert (rendered.diff(dim=3) > 0).all()


def test_the_continuation_has_the_stated_slopes():
    light = torch.tensor([-1.0, -0.01, 0.0, 0.001], dtype=torch.float64).expand(1, 3, 1, 4)
    dark = render_srgb(light, NEUTRAL, IDENTITY, for_loss=True)
    torch.testing.assert_close(dark, 12.92 * light)
    # Above white the balanced light goes on with the small slope, and so does what the curve makes of it.
    over = render_srgb(torch.full((1, 3, 1, 1), 2.0).double(), NEUTRAL, IDENTITY, for_loss=True)
    encoded = 1.055 * (1 + CONTINUED_SLOPE) ** (1 / 2.4) - 0.055
    torch.testing.assert_close(over[0, 0, 0, 0].item(), 1 + CONTINUED_SLOPE * (encoded - 1))


def test_rendering_has_the_gradient_of_finite_differences():
    camera_rgb = (
        torch.rand(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 3 - 1
    )
    wb = torch.tensor([[2.0, 1.0, 1.4], [1.1, 1.0, 2.1]], dtype=torch.float64)
    matrices = torch.stack((COLOR_MATRIX, COLOR_MATRIX.T))
    assert torch.autograd.gradcheck(
        lambda light: render_srgb(light, wb, matrices, for_loss=True), camera_rgb.requires_grad_()
    )


def test_half_precision_light_is_rendered_in_single():
    light = torch.full((1, 3, 2, 2), 0.2, dtype=torch.bfloat16)
    assert render_srgb(light, NEUTRAL.float(), IDENTITY.float(), for_loss=True).dtype == torch.float32


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(2, 3, 32, 32, generator=generator) for _ in range(2)]


@pytest.mark.parametrize(("zoom", "patch"), [(2, 5), (4, 10), (8, 15)])
def test_without_features_it_is_cobi_rgb_with_the_patch_of_the_zoom(pictures, zoom, patch):
    total, parts = CoBiLoss(zoom, patch_stride=3, weight_spatial=0.2)(*pictures)
    assert total == contextual_bilateral_rgb_loss(*pictures, patch, 3, weight_spatial=0.2)
    assert parts == {"cobi_rgb": total}
    assert not parts["cobi_rgb"].requires_grad


class TwoLayers(nn.Module):
    def forward(self, image):
        return {"first": image * 2 - image.flip(3), "second": nn.functional.avg_pool2d(image, 2) ** 2}


def test_eq_3_adds_lambda_times_the_sum_over_the_layers(pictures):
    output, target = pictures
    output.requires_grad_()
    total, parts = CoBiLoss(4, TwoLayers(), lambda_vgg=0.5, patch=4, patch_stride=4)(output, target)
    layers = TwoLayers()
    vgg = [
        contextual_bilateral_loss(layers(output)[name], layers(target)[name]) for name in ("first", "second")
    ]
    rgb = contextual_bilateral_rgb_loss(output, target, 4, 4)
    torch.testing.assert_close(total, rgb + 0.5 * sum(vgg))
    assert set(parts) == {"cobi_rgb", "cobi_vgg", "cobi_first", "cobi_second"}
    torch.testing.assert_close(parts["cobi_vgg"], parts["cobi_first"] + parts["cobi_second"])
    total.backward()
    assert output.grad.abs().sum() > 0
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("features", [None, TwoLayers()])
def test_part_by_part_it_has_the_value_and_gradient_of_the_whole(pictures, features):
    output, target = pictures
    loss = CoBiLoss(4, features, lambda_vgg=0.5, patch=4, patch_stride=4)
    total, parts = loss(output.requires_grad_(), target)
    total.backward()
    clock = Clock(torch.device("cpu"))
    with torch.no_grad():  # it takes the gradient itself
        again, same_parts, gradient = loss.gradient(output, target, clock)
    torch.testing.assert_close(again, total.detach())
    torch.testing.assert_close(same_parts, parts)
    torch.testing.assert_close(gradient, output.grad)
    assert not again.requires_grad
    assert set(clock.seconds) == ({"cobi_rgb", "features", "cobi_vgg"} if features else {"cobi_rgb"})
    assert min(clock.seconds.values()) > 0


def test_both_ways_is_the_mean_of_the_loss_and_of_its_exchange(pictures):
    output, target = pictures
    options = {"patch": 4, "patch_stride": 4}
    there, back = (CoBiLoss(4, TwoLayers(), **options)(*pair)[0] for pair in (pictures, pictures[::-1]))
    output.requires_grad_()
    total, _ = CoBiLoss(4, TwoLayers(), both_ways=True, **options)(output, target)
    torch.testing.assert_close(total.detach(), (there + back) / 2)
    total.backward()
    _, _, gradient = CoBiLoss(4, TwoLayers(), both_ways=True, **options).gradient(
        output, target, Clock(torch.device("cpu"))
    )
    torch.testing.assert_close(gradient, output.grad)


def test_only_both_ways_a_soft_picture_is_better_than_a_flat_one(shared_data):
    """Eq. 2 finds for every source a target that resembles it, and flat ones find a flat target."""
    photo = cv2.imread(str(shared_data / "set5/img_003_SRF_4_HR.png"))[:128, :128].astype(np.float32) / 255
    flat = np.broadcast_to(np.median(photo.reshape(-1, 3), axis=0), photo.shape)
    target, soft, grey = (
        torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
        for picture in (photo, cv2.GaussianBlur(photo, (0, 0), 2), flat)
    )
    features = load_vgg19(shared_data / "weights" / "vgg_normalised_conv3_1.pth")
    one, both = (
        CoBiLoss(4, features, patch_stride=4, rgb_distance="l2", leave_out=["conv1_2"], both_ways=ways)
        for ways in (False, True)
    )
    assert one(grey, target)[0] < one(soft, target)[0]
    assert both(grey, target)[0] > both(soft, target)[0]


def test_layers_that_are_left_out_are_not_compared(pictures):
    whole, parts = CoBiLoss(4, TwoLayers(), patch_stride=4)(*pictures)
    total, fewer = CoBiLoss(4, TwoLayers(), patch_stride=4, leave_out=["first"])(*pictures)
    assert set(fewer) == {"cobi_rgb", "cobi_vgg", "cobi_second"}
    torch.testing.assert_close(total, whole - parts["cobi_first"])


def test_with_real_vgg_features_a_step_along_the_gradient_lowers_it(shared_data):
    features = load_vgg19(shared_data / "weights" / "vgg_normalised_conv3_1.pth")
    generator = torch.Generator().manual_seed(4)
    target = nn.functional.interpolate(
        torch.rand(1, 3, 8, 8, generator=generator), scale_factor=4, mode="bicubic"
    )
    output = (target + 0.1 * torch.randn(target.shape, generator=generator)).requires_grad_()
    loss = CoBiLoss(2, features, patch_stride=2)
    before, parts = loss(output, target)
    assert {"cobi_conv1_2", "cobi_conv2_2", "cobi_conv3_1"} < set(parts)
    before.backward()
    with torch.no_grad():
        after, _ = loss(output - 1e-3 * output.grad / output.grad.abs().max(), target)
    assert after < before
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_a_zoom_without_a_known_patch_needs_one(pictures):
    with pytest.raises(ValueError, match="2, 4 or 8"):
        CoBiLoss(3)
    assert CoBiLoss(3, patch=7).patch == 7


def test_l1_sees_valid_pixels_only():
    output = torch.zeros(2, 3, 4, 4, requires_grad=True)
    target = torch.full((2, 3, 4, 4), 0.5)
    valid = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    valid[0, 0, 1, 2] = 1
    valid[1, 0, 3] = 1
    target[0, :, 1, 2] = 1
    target[~valid.bool().expand_as(target)] = torch.nan
    loss = aligned_l1(output, target, valid)
    assert loss == (1 + 0.5) / 2  # the mean over crops, each over its own pixels
    loss.backward()
    assert torch.equal(output.grad != 0, valid.bool().expand_as(output))
    nothing = aligned_l1(output, target, torch.zeros_like(valid))
    assert nothing == 0
    assert nothing.requires_grad
