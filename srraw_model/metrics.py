"""PSNR, SSIM and LPIPS, with their protocol stated and over valid pixels only.

Every metric takes images (B, C, H, W) and optionally a mask (B, 1, H, W) of the pixels where the reference
shows the scene, and returns one value per image, (B,) float64. Nothing is clipped, resized or converted to
luma here: what is passed is what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from srraw_model.features import (
    LPIPS_BACKBONES,
    FeatureNetwork,
    fetched,
    load_lpips_backbone,
    read_weights,
)
from srraw_tools.errors import UserError

SSIM_RADIUS_PX = 5  # an 11 x 11 window
SSIM_SIGMA_PX = 1.5
LPIPS_URL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"
LPIPS_SHA256 = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "squeeze": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
}
BAND_ROWS = 64  # of an image, in float64 at once


def psnr(image: Tensor, reference: Tensor, *, data_range: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(data_range^2 / MSE), the MSE over channels and valid pixels.

    Args:
        image: (B, C, H, W); in our tables rendered sRGB, all three channels, no border cut off.
        reference: (B, C, H, W), in the same domain.
        data_range: white minus black.
        valid: (B, 1, H, W), 1 where a pixel counts; None for all.

    Returns:
        (B,) float64; infinite where both are equal.

    Raises:
        ValueError: shapes that differ, or an image without a valid pixel.
    """
    mask = _checked(image, reference, valid)
    total = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    for rows in _bands(image.shape[2]):
        x, y, counts = (values[:, :, rows] for values in (image, reference, mask))
        total += torch.where(counts, x.double() - y.double(), 0.0).square().sum(dim=(1, 2, 3))
    mse = total / (mask.sum(dim=(1, 2, 3)) * image.shape[1])
    return 10 * torch.log10(data_range**2 / mse)


def ssim(image: Tensor, reference: Tensor, *, data_range: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window 11 x 11, sigma 1.5, population covariance.

    K1 = 0.01, K2 = 0.03. The mean over channels and over the windows that lie wholly inside the image (which
    leaves a border of 5 pixels without one) and on valid pixels only. scikit-image computes the same with
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False and a data_range.

    Arguments and result as in `psnr`.

    Raises:
        ValueError: shapes that differ, an image smaller than the window, or no wholly valid window.
    """
    mask = _checked(image, reference, valid)
    window = 2 * SSIM_RADIUS_PX + 1
    if min(image.shape[2:]) < window:
        raise ValueError(f"SSIM needs images of at least {window} x {window} pixels.")
    total = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    counted = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    for rows in _bands(image.shape[2], window):
        x, y, counts = (values[:, :, rows] for values in (image, reference, mask))
        whole = nn.functional.max_pool2d((~counts).float(), window, stride=1) == 0
        similarity = _similarity(
            torch.where(counts, x.double(), 0.0), torch.where(counts, y.double(), 0.0), data_range
        )
        total += torch.where(whole, similarity, 0.0).sum(dim=(1, 2, 3))
        counted += whole.sum(dim=(1, 2, 3))
    if (counted == 0).any():
        raise ValueError("SSIM needs at least one window of 11 x 11 valid pixels.")
    return total / (counted * image.shape[1])


def _similarity(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """SSIM (Eq. 13) of every window that lies wholly inside: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    mean_x, mean_y = _gaussian(x), _gaussian(y)
    variance_x = _gaussian(x * x) - mean_x.square()
    variance_y = _gaussian(y * y) - mean_y.square()
    covariance = _gaussian(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return similarity / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))


def _bands(height: int, window: int = 1) -> Iterator[slice]:
    """Rows to take at once, so that float64 copies stay small: every window of rows lies in one band."""
    for top in range(0, height - window + 1, BAND_ROWS):
        yield slice(top, min(top + BAND_ROWS + window - 1, height))


def _gaussian(values: Tensor) -> Tensor:
    """Filters with SSIM's window where it lies wholly inside: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    offset = torch.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offset / SSIM_SIGMA_PX).square())
    weights = (weights / weights.sum()).tolist()
    for dim in (2, 3):
        length = values.shape[dim] - 2 * SSIM_RADIUS_PX
        values = sum(weight * values.narrow(dim, start, length) for start, weight in enumerate(weights))
    return values


class Lpips(nn.Module):
    """LPIPS v0.1 (Zhang et al. 2018) on one backbone; the backbone's name belongs into every table."""

    def __init__(self, backbone: str, network: FeatureNetwork, linear: list[Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        self.network = network
        for number, weight in enumerate(linear):
            self.register_buffer(f"linear{number}", weight)

    @torch.no_grad()
    def forward(
        self,
        image: Tensor,
        reference: Tensor,
        *,
        valid: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """The distance of each pair, 0 for equal images.

        With `valid` it is taken on a rectangle of valid pixels (`valid_rectangle`), since a deep feature sees
        far around its pixel. With `counts` each layer's distances are averaged over these pixels alone, by
        the share that each of the layer's positions has of them.

        Args:
            image: (B, 3, H, W), sRGB in [0, 1]; scaled to [-1, 1] here, as LPIPS wants it.
            reference: (B, 3, H, W), likewise.
            valid: as in `psnr`.
            counts: likewise; what lies between pixels that count should be equal in both pictures.

        Returns:
            (B,) float64.

        Raises:
            ValueError: shapes that differ, values outside [0, 1], a rectangle under 32 pixels, or one in
                which no pixel counts.
        """
        valid = _checked(image, reference, valid)
        counts = _checked(image, reference, counts)
        distances = []
        for x, y, mask, counted in zip(image, reference, valid, counts, strict=True):
            rows, columns = valid_rectangle(mask[0])
            parts = (values[None, :, rows, columns] for values in (x, y, counted))
            distances.append(self._distance(*parts))
        return torch.cat(distances)

    def _distance(self, image: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        if not counts.any():
            raise ValueError("LPIPS needs a pixel that counts within its rectangle.")
        if min(image.shape[2:]) < 32:
            raise ValueError("LPIPS needs at least 32 x 32 valid pixels.")
        for values in (image, reference):
            if values.amin() < 0 or values.amax() > 1:
                raise ValueError("LPIPS takes sRGB in [0, 1]; clip the rendering first.")
        x, y = (self.network(2 * values.float() - 1).values() for values in (image, reference))
        total = torch.zeros(len(image), dtype=torch.float64, device=image.device)
        for number, (p, q) in enumerate(zip(x, y, strict=True)):
            difference = (_unit(p) - _unit(q)).square()
            weight = getattr(self, f"linear{number}")
            distance = (difference * weight).sum(dim=1, keepdim=True).double()
            share = nn.functional.adaptive_avg_pool2d(counts.double(), distance.shape[2:])
            total += (distance * share).sum(dim=(1, 2, 3)) / share.sum(dim=(1, 2, 3))
        return total


def _unit(features: Tensor) -> Tensor:
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def load_lpips(network_file: Path, linear_file: Path, *, backbone: str = "squeeze") -> Lpips:
    """LPIPS v0.1 from two files.

    Args:
        network_file: the backbone in torchvision's layout.
        linear_file: LPIPS's linear layers for this backbone, v0.1, as published (lin0.model.1.weight, ...).
        backbone: a name in `srraw_model.features.LPIPS_BACKBONES`.

    Raises:
        UserError: a file that is not what it should be.
        ValueError: an unknown backbone.
    """
    if backbone not in LPIPS_BACKBONES:
        raise ValueError(f"LPIPS has no backbone {backbone!r} here; there are {', '.join(LPIPS_BACKBONES)}.")
    network = load_lpips_backbone(backbone, network_file)
    hint = f"Pass {backbone}.pth of LPIPS's weights v0.1 (richzhang/PerceptualSimilarity)."
    weights = read_weights(linear_file, hint)
    with torch.no_grad():
        channels = [values.shape[1] for values in network(torch.zeros(1, 3, 64, 64)).values()]
    linear = []
    for number, count in enumerate(channels):
        weight = weights.get(f"lin{number}.model.1.weight")
        if weight is None or weight.shape != (1, count, 1, 1) or not torch.isfinite(weight).all():
            raise UserError(f"{linear_file} does not hold LPIPS's linear layers for {backbone}.", hint)
        linear.append(weight.float())
    return Lpips(backbone, network, linear).eval()


def download_lpips(backbone: str) -> tuple[Path, Path]:
    """The two files of `load_lpips` in torch.hub's cache; fetched where they are not, checked by hash.

    Raises:
        UserError: as `features.fetched`.
    """
    url, _ = LPIPS_BACKBONES[backbone]
    begins = url.rsplit("-", 1)[1].split(".")[0]
    linear = fetched(f"{LPIPS_URL}{backbone}.pth", LPIPS_SHA256[backbone], f"lpips_v0.1_{backbone}.pth")
    return fetched(url, begins), linear


def valid_rectangle(valid: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a rectangle in which every pixel is valid; empty where none is.

    The sides of the image move inwards, always the one with the largest share of invalid pixels, until none
    is left. For the invalid margins that a warp leaves, this comes close to the largest such rectangle.

    Args:
        valid: (H, W), 1 where a pixel counts.
    """
    invalid = nn.functional.pad((valid == 0).long().cpu(), (1, 0, 1, 0)).cumsum(0).cumsum(1)
    top, left, bottom, right = 0, 0, *valid.shape

    def share(top: int, left: int, bottom: int, right: int) -> float:
        count = invalid[bottom, right] - invalid[top, right] - invalid[bottom, left] + invalid[top, left]
        return count.item() / max(1, (bottom - top) * (right - left))

    while top < bottom and left < right and share(top, left, bottom, right):
        sides = (
            share(top, left, top + 1, right),
            share(bottom - 1, left, bottom, right),
            share(top, left, bottom, left + 1),
            share(top, right - 1, bottom, right),
        )
        worst = max(range(4), key=sides.__getitem__)
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return slice(top, bottom), slice(left, right)


def _checked(image: Tensor, reference: Tensor, valid: Tensor | None) -> Tensor:
    """The mask as (B, 1, H, W) bool, after the shapes have been checked."""
    if image.ndim != 4 or image.shape != reference.shape:
        raise ValueError(
            "Image and reference must have the same shape (batch, channels, height, width), not "
            f"{tuple(image.shape)} and {tuple(reference.shape)}."
        )
    shape = (image.shape[0], 1, *image.shape[2:])
    mask = torch.ones(shape, dtype=torch.bool, device=image.device) if valid is None else valid != 0
    if mask.shape != shape:
        raise ValueError(f"The mask must have the shape {shape}, not {tuple(mask.shape)}.")
    if not mask.any(dim=3).any(dim=2).all():
        raise ValueError("An image has no valid pixel to measure.")
    return mask
