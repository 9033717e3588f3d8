"""PSNR and SSIM are scikit-image's with Wang's settings, LPIPS is v0.1; masks leave invalid pixels out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.overrides import TorchFunctionMode

from srraw_model import metrics
from srraw_model.metrics import load_lpips, psnr, ssim, valid_rectangle
from srraw_tools.errors import UserError


def pictures(height, width, channels=3, noise=0.1, data_range=1.0, seed=0):
    """A smooth picture and a noisy copy, (C, H, W) float64 in [0, data_range]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    phases = random.uniform(0, 6, (channels, 1, 1))
    picture = 0.5 + 0.4 * np.sin(rows / 5 + phases) * np.cos(columns / 7 - phases)
    noisy = np.clip(picture + random.normal(0, noise, picture.shape), 0, 1)
    return picture * data_range, noisy * data_range


def reference_ssim(image, reference, data_range, **options):
    return structural_similarity(
        image,
        reference,
        data_range=data_range,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        **options,
    )


def as_batch(*images):
    return [torch.tensor(np.ascontiguousarray(image))[None] for image in images]


@pytest.mark.parametrize("size", [(11, 11), (12, 31), (64, 48)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noise", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_and_ssim_agree_with_scikit_image(size, channels, noise, data_range):
    reference, image = pictures(*size, channels, noise, data_range)
    ours = [metric(*as_batch(image, reference), data_range=data_range).item() for metric in (psnr, ssim)]
    theirs = peak_signal_noise_ratio(reference, image, data_range=data_range)
    assert ours[0] == pytest.approx(theirs, abs=1e-9)
    assert ours[1] == pytest.approx(reference_ssim(image, reference, data_range), abs=1e-9)


def test_psnr_and_ssim_agree_on_unrelated_and_on_flat_images():
    random = np.random.default_rng(1)
    for image, reference in [
        (random.random((3, 20, 20)), random.random((3, 20, 20))),
        (np.zeros((3, 20, 20)), np.ones((3, 20, 20))),
        (np.full((3, 20, 20), 0.3), random.random((3, 20, 20))),
    ]:
        assert ssim(*as_batch(image, reference)).item() == pytest.approx(
            reference_ssim(image, reference, 1.0), abs=1e-9
        )
        theirs = peak_signal_noise_ratio(reference, image, data_range=1.0)
        assert psnr(*as_batch(image, reference)).item() == pytest.approx(theirs, abs=1e-9)


def test_equal_images_are_perfect():
    (image,) = as_batch(pictures(16, 16)[0])
    assert psnr(image, image).item() == math.inf
    assert ssim(image, image).item() == 1


def test_there_is_one_value_per_image_and_float32_loses_nothing_but_its_input():
    pairs = [pictures(20, 24, seed=seed, noise=0.02 * (seed + 1)) for seed in range(3)]
    reference, image = (torch.tensor(np.stack(images)) for images in zip(*pairs, strict=True))
    for metric in (psnr, ssim):
        values = metric(image, reference)
        assert values.dtype == torch.float64
        for i in range(3):
            assert values[i] == metric(image[i : i + 1], reference[i : i + 1])[0]
        torch.testing.assert_close(metric(image.float(), reference.float()), values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", [11, 73, 74, 75, 203])
@pytest.mark.parametrize("masked", [False, True])
def test_bands_change_nothing(monkeypatch, height, masked):
    reference, image = as_batch(*pictures(height, 30))
    valid = torch.from_numpy(np.random.default_rng(0).random((1, 1, height, 30)) > 0.002) if masked else None
    banded = [metric(image, reference, valid=valid) for metric in (psnr, ssim)]
    monkeypatch.setattr(metrics, "BAND_ROWS", height)
    for metric, value in zip((psnr, ssim), banded, strict=True):
        torch.testing.assert_close(value, metric(image, reference, valid=valid), rtol=0, atol=1e-12)


class LargestFloat64(TorchFunctionMode):
    """Notes the largest float64 tensor that is made, in values."""

    largest = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            self.largest = max(self.largest, made.numel())
        return made


def test_a_large_picture_is_never_whole_in_float64():
    image, reference = torch.rand(2, 1, 3, 1000, 40)
    for metric in (psnr, ssim):
        with LargestFloat64() as made:
            metric(image, reference)
        assert 0 < made.largest <= 3 * 40 * (metrics.BAND_ROWS + 10)


def test_invalid_pixels_do_not_count_whatever_they_hold():
    reference, image = as_batch(*pictures(40, 50))
    valid = torch.ones(1, 1, 40, 50, dtype=torch.uint8)
    valid[..., :7, :] = 0
    valid[..., 44:] = 0
    spoilt = torch.where(valid.bool(), reference, torch.nan)
    inside = (..., slice(7, 40), slice(0, 44))
    for metric in (psnr, ssim):
        expected = metric(image[inside], reference[inside])
        torch.testing.assert_close(metric(image, spoilt, valid=valid), expected, rtol=0, atol=1e-12)
        assert metric(image, reference) != expected


def test_a_hole_costs_ssim_the_windows_that_see_it():
    reference, image = as_batch(*pictures(40, 40))
    valid = torch.ones(1, 1, 40, 40)
    valid[..., 20, 20] = 0
    _, similarity = reference_ssim(image[0].numpy(), reference[0].numpy(), 1.0, full=True)
    counted = np.ones((40, 40), bool)
    counted[15:26, 15:26] = False
    expected = similarity[:, 5:-5, 5:-5][:, counted[5:-5, 5:-5]].mean()
    assert ssim(image, reference, valid=valid).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_what_cannot_be_measured_is_refused(metric):
    image = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="same shape"):
        metric(image, torch.zeros(1, 3, 16, 17))
    with pytest.raises(ValueError, match="same shape"):
        metric(image[0], image[0])
    with pytest.raises(ValueError, match="mask must have the shape"):
        metric(image, image, valid=torch.ones(1, 3, 16, 16))
    with pytest.raises(ValueError, match="no valid pixel"):
        metric(image, image, valid=torch.zeros(1, 1, 16, 16))


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="11 x 11 pixels"):
        ssim(torch.zeros(1, 3, 10, 40), torch.zeros(1, 3, 10, 40))
    valid = torch.zeros(1, 1, 40, 40)
    valid[..., 10:20, :] = 1
    with pytest.raises(ValueError, match="one window"):
        ssim(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 40), valid=valid)


@pytest.fixture(scope="module")
def lpips_files(shared_data):
    weights = shared_data / "weights"
    return weights / "squeezenet1_1_fp16_torchvision_layout.pth", weights / "lpips_v0.1_squeeze.pth"


@pytest.fixture(scope="module")
def lpips(lpips_files):
    return load_lpips(*lpips_files)


def test_lpips_gives_the_published_example_value(lpips):
    """0.1008 stands in torchmetrics' documentation of learned_perceptual_image_patch_similarity, squeeze."""
    generator = torch.Generator().manual_seed(123)
    first, second = (torch.rand(10, 3, 100, 100, generator=generator) for _ in range(2))
    assert lpips(first, second).mean().item() == pytest.approx(0.1008, abs=5e-5)
    assert lpips.backbone == "squeeze"


def test_lpips_is_zero_for_equal_images_symmetric_and_rises_with_noise(lpips):
    picture, _ = as_batch(*pictures(80, 90))
    picture = picture.float()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    assert lpips(picture, picture).item() == 0
    noisy = [(picture + sigma * noise).clamp(0, 1) for sigma in (0.01, 0.03, 0.1, 0.3)]
    distances = [lpips(image, picture).item() for image in noisy]
    assert distances == sorted(distances)
    assert 0 < distances[0] < 0.1 < distances[-1]
    assert lpips(picture, noisy[2]).item() == pytest.approx(distances[2], rel=1e-5)
    both = lpips(torch.cat(noisy[:2]), picture.expand(2, -1, -1, -1))
    torch.testing.assert_close(both, torch.tensor(distances[:2]).double(), rtol=1e-4, atol=1e-7)


def test_lpips_takes_a_rectangle_of_valid_pixels(lpips):
    reference, image = (values.float() for values in as_batch(*pictures(80, 90)))
    valid = torch.ones(1, 1, 80, 90)
    valid[..., :11] = 0
    spoilt = torch.where(valid.bool(), reference, torch.nan)
    assert lpips(image, spoilt, valid=valid) == lpips(image[..., 11:], reference[..., 11:])
    valid[..., 20:, :] = 0
    with pytest.raises(ValueError, match="32 x 32"):
        lpips(image, reference, valid=valid)


def test_lpips_is_averaged_over_what_counts(lpips):
    """Pixels made equal because nothing is known of them must not make the others look better."""
    reference = as_batch(*pictures(96, 96))[0].float()
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    noisy = (reference + 0.1 * noise).clamp(0, 1)
    half = torch.cat([noisy, reference], dim=3)
    target, counts = torch.cat([reference, reference], dim=3), torch.zeros(1, 1, 96, 192)
    counts[..., :96] = 1
    alone = lpips(noisy, reference).item()
    assert lpips(half, target, counts=counts).item() == pytest.approx(alone, rel=0.1)
    assert lpips(half, target).item() < 0.6 * alone
    with pytest.raises(ValueError, match="a pixel that counts"):
        lpips(half, target, valid=counts, counts=1 - counts)


def test_lpips_refuses_the_wrong_range(lpips):
    picture = torch.rand(1, 3, 40, 40)
    with pytest.raises(ValueError, match=r"sRGB in \[0, 1\]"):
        lpips(picture, 2 * picture - 1)
    with pytest.raises(ValueError, match=r"sRGB in \[0, 1\]"):
        lpips(picture * 255, picture)


def test_lpips_names_a_wrong_file_and_an_unknown_backbone(lpips_files, tmp_path):
    network, linear = lpips_files
    with pytest.raises(UserError, match="does not hold LPIPS's linear layers") as raised:
        load_lpips(network, network)
    assert str(network) in raised.value.message
    with pytest.raises(UserError, match="is not the network"):
        load_lpips(linear, linear)
    with pytest.raises(UserError, match="does not exist"):
        load_lpips(network, tmp_path / "squeeze.pth")
    with pytest.raises(ValueError, match="no backbone 'resnet'"):
        load_lpips(network, linear, backbone="resnet")


@settings(max_examples=80, deadline=None)
@given(
    top=st.integers(0, 12),
    left=st.integers(0, 12),
    bottom=st.integers(18, 30),
    right=st.integers(18, 30),
    holes=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=3),
)
def test_the_rectangle_holds_valid_pixels_only_and_all_of_them_where_they_form_one(
    top, left, bottom, right, holes
):
    valid = torch.zeros(30, 30)
    valid[top:bottom, left:right] = 1
    assert valid_rectangle(valid) == (slice(top, bottom), slice(left, right))
    for row, column in holes:
        valid[row, column] = 0
    assert valid[valid_rectangle(valid)].all()


def test_the_rectangle_of_a_turned_frame_is_close_to_the_largest():
    rows, columns = np.mgrid[:200, :300]
    turned = (
        np.abs((columns - 150) + 0.02 * (rows - 100)) < 140,
        np.abs((rows - 100) - 0.02 * (columns - 150)) < 92,
    )
    valid = torch.tensor(turned[0] & turned[1])
    rows, columns = valid_rectangle(valid)
    assert valid[rows, columns].all()
    assert (rows.stop - rows.start) * (columns.stop - columns.start) > 0.93 * valid.sum()


def test_without_a_valid_pixel_the_rectangle_is_empty():
    assert torch.zeros(5, 5)[valid_rectangle(torch.zeros(5, 5))].numel() == 0
