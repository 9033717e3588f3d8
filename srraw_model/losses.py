"""What a training run minimises: rendering, Eq. 3 of the paper, and the aligned L1 of the first phase.

Networks put out linear camera RGB. Losses compare rendered sRGB: output and target are each rendered with
their own shot's white balance and matrix, the output with `for_loss=True`, the target without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from srraw_model.clock import Clock
from srraw_model.cobi import contextual_bilateral_loss, contextual_bilateral_rgb_loss
from srraw_model.curve import encode_srgb
from srraw_model.formulations import contextual_loss

PATCH_BY_ZOOM = {2: 5, 4: 10, 8: 15}  # n of CoBi_RGB(n); 10 and 15 are the paper's

CHARBONNIER = 1e-3  # LapSRN's epsilon
CONTINUED_SLOPE = 0.1  # slope of the rendering above white, where a picture is clipped


def render_srgb(camera_rgb: Tensor, camera_wb: Tensor, color_matrix: Tensor, *, for_loss: bool) -> Tensor:
    """Camera RGB to sRGB: white balance, clip, matrix, sRGB curve, clip, as `srraw_tools.raw.render_srgb`.

    With `for_loss` it is the same function in gamut, but rises everywhere, so that every pixel has a
    gradient: above 1 both clips become a slope of CONTINUED_SLOPE, below 0 nothing is clipped and the curve
    goes on with the slope 12.92 that it has at 0. Targets and metrics take `for_loss=False`.

    Args:
        camera_rgb: (B, 3, H, W), linear, black 0 and white 1.
        camera_wb: (B, 3), multipliers, green 1.
        color_matrix: (B, 3, 3), white-balanced camera RGB to linear sRGB.
        for_loss: continue the rendering where it would clip.

    Returns:
        (B, 3, H, W) sRGB, float32 at least; in [0, 1] unless `for_loss`.
    """
    camera_rgb = camera_rgb.to(torch.promote_types(camera_rgb.dtype, torch.float32))
    balanced = _limit(camera_rgb * camera_wb[:, :, None, None], for_loss)
    # Sums rather than a matrix product, which autocast or TF32 would round to ten bits or fewer.
    linear = (color_matrix[:, :, :, None, None] * balanced[:, None]).sum(dim=2)
    return _limit(encode_srgb(linear), for_loss)


def _limit(values: Tensor, for_loss: bool) -> Tensor:
    if not for_loss:
        return values.clamp(0, 1)
    return torch.where(values > 1, 1 + CONTINUED_SLOPE * (values - 1), values)


class CoBiLoss(nn.Module):
    """Eq. 3 on rendered sRGB: CoBi_RGB(n) + lambda_vgg * CoBi_VGG, the latter a plain sum over the layers.

    CoBi knows no mask: give it crops that are valid nearly throughout. A stray invalid target pixel does
    little, since no source has to choose it; a source position there is matched to its valid neighbourhood.

    Args:
        zoom: 2, 4 or 8; chooses n = 5, 10 or 15 unless `patch` is given.
        features: maps sRGB (B, 3, H, W) to {layer: (B, C, h, w)}, such as `features.load_vgg19(...)`;
            without it the loss is CoBi_RGB alone.
        weight_spatial: w_s of Eq. 2, for all parts.
        lambda_vgg: weight of CoBi_VGG.
        patch: n, the side of the RGB patches in pixels.
        patch_stride: step between the RGB patches in pixels; 1 is the paper's.
        rgb_distance: "cosine" or "l2", for the RGB patches.
        leave_out: layers of the features that are not compared; conv1_2 is nine tenths of the paper's cost.
        both_ways: of every part, the mean of CoBi(output, target), which is Eq. 2, and CoBi(target, output):
            every target has to be found, too. Eq. 2 alone takes a flat picture for better than a soft one,
            since something flat is found in most targets (docs/cobi.md).
        contextual: compare by formulations.contextual_loss instead, without its spatial term, for those who
            compare: all pairs count, not the nearest alone, and so it takes time with their number.
    """

    def __init__(
        self,
        zoom: int,
        features: nn.Module | None = None,
        *,
        weight_spatial: float = 0.1,
        lambda_vgg: float = 1.0,
        patch: int | None = None,
        patch_stride: int = 1,
        rgb_distance: str = "cosine",
        leave_out: Sequence[str] = (),
        both_ways: bool = False,
        contextual: bool = False,
    ) -> None:
        super().__init__()
        if patch is None and zoom not in PATCH_BY_ZOOM:
            raise ValueError(f"CoBi's patch is known for a zoom of 2, 4 or 8; for {zoom} state it.")
        self.features = features
        self.weight_spatial = weight_spatial
        self.lambda_vgg = lambda_vgg
        self.patch = PATCH_BY_ZOOM[zoom] if patch is None else patch
        self.patch_stride = patch_stride
        self.rgb_distance = rgb_distance
        self.leave_out = tuple(leave_out)
        self.both_ways = both_ways
        self.contextual = contextual

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts for the log.

        Args:
            output: (B, 3, H, W), rendered with `for_loss=True`.
            target: (B, 3, H, W), sRGB in [0, 1].

        Returns:
            The total, a scalar; and, detached and before lambda, `cobi_rgb`, `cobi_vgg` (with features) and
            `cobi_<layer>` for each layer.
        """
        rgb = self._rgb(output, target)
        if self.features is None:
            return rgb, {"cobi_rgb": rgb.detach()}
        wanted = self._compared(target)
        layers = {name: self._vgg(source, wanted[name]) for name, source in self._compared(output).items()}
        vgg = torch.stack(list(layers.values())).sum()
        return rgb + self.lambda_vgg * vgg, _parts(rgb, layers)

    def gradient(
        self, output: Tensor, target: Tensor, clock: Clock
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """As `forward`, with the gradient by the output: each part is done, and freed, before the next.

        So memory holds one part at a time, and the clock learns what each of them costs, forward and backward
        together: cobi_rgb, features, cobi_vgg.

        Returns:
            The total and its parts, detached; and the total's gradient, of the output's shape.
        """
        output = output.detach().requires_grad_()
        with clock("cobi_rgb"), torch.enable_grad():
            rgb = self._rgb(output, target)
            (gradient,) = torch.autograd.grad(rgb, output)
        if self.features is None:
            return rgb.detach(), {"cobi_rgb": rgb.detach()}, gradient
        with clock("features"), torch.enable_grad():
            wanted, found = self._compared(target), self._compared(output)
        layers, of_features = {}, []
        with clock("cobi_vgg"), torch.enable_grad():
            for name, source in found.items():
                source = source.detach().requires_grad_()
                layers[name] = self._vgg(source, wanted[name])
                of_features.append(self.lambda_vgg * torch.autograd.grad(layers[name], source)[0])
        with clock("features"):
            (of_output,) = torch.autograd.grad(list(found.values()), output, of_features)
        parts = _parts(rgb, layers)
        return parts["cobi_rgb"] + self.lambda_vgg * parts["cobi_vgg"], parts, gradient + of_output

    def _rgb(self, output: Tensor, target: Tensor) -> Tensor:
        if self.contextual:
            p, q = (patches_of(picture, self.patch, self.patch_stride) for picture in (output, target))
            return self._ways(partial(contextual_loss, weight_spatial=0.0, distance=self.rgb_distance), p, q)
        return self._ways(
            lambda p, q: contextual_bilateral_rgb_loss(
                p,
                q,
                self.patch,
                self.patch_stride,
                weight_spatial=self.weight_spatial,
                distance=self.rgb_distance,
            ),
            output,
            target,
        )

    def _vgg(self, source: Tensor, target: Tensor) -> Tensor:
        if self.contextual:
            return self._ways(partial(contextual_loss, weight_spatial=0.0), source, target)
        return self._ways(
            lambda p, q: contextual_bilateral_loss(p, q, weight_spatial=self.weight_spatial), source, target
        )

    def _ways(self, loss: Callable[[Tensor, Tensor], Tensor], source: Tensor, target: Tensor) -> Tensor:
        there = loss(source, target)
        return (there + loss(target, source)) / 2 if self.both_ways else there

    def _compared(self, picture: Tensor) -> dict[str, Tensor]:
        """The features of a picture that are compared, by layer."""
        found = self.features(picture)
        return {name: values for name, values in found.items() if name not in self.leave_out}


def patches_of(picture: Tensor, patch: int, stride: int) -> Tensor:
    """(B, C, H, W) -> (B, C patch patch, h, w): the patches that lie inside, `stride` pixels apart."""
    rows, columns = ((side - patch) // stride + 1 for side in picture.shape[-2:])
    return functional.unfold(picture, patch, stride=stride).unflatten(2, (rows, columns))


def _parts(rgb: Tensor, layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the log shows, detached and before lambda."""
    parts = {f"cobi_{name}": part.detach() for name, part in layers.items()}
    vgg = torch.stack(list(parts.values())).sum()
    return {"cobi_rgb": rgb.detach(), "cobi_vgg": vgg} | parts


def aligned_l1(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference over the valid pixels of each crop, averaged over the crops.

    A crop without any counts as 0. As a mean over crops it is the same for a batch and for its shares.

    Args:
        output: (B, C, H, W), sRGB.
        target: (B, C, H, W), sRGB in [0, 1].
        valid: (B, 1, H, W), 1 (or True) where the target shows the scene.
    """
    return _over_valid((output - target).abs(), valid)


def aligned_mse(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """As `aligned_l1`, of the squared difference."""
    return _over_valid((output - target).square(), valid)


def charbonnier(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """As `aligned_l1`, of sqrt(difference^2 + 1e-6), the loss of LapSRN (Lai et al., CVPR 2017, Eq. 1)."""
    return _over_valid(((output - target).square() + CHARBONNIER**2).sqrt(), valid)


def _over_valid(difference: Tensor, valid: Tensor) -> Tensor:
    mask = valid.to(difference.dtype).expand_as(difference)
    # Selected rather than multiplied: an invalid pixel may hold anything.
    total = torch.where(mask > 0, difference, 0.0).flatten(1).sum(dim=1)
    return (total / mask.flatten(1).sum(dim=1).clamp(min=1)).mean()


def perceptual_loss(output: Tensor, target: Tensor, features: nn.Module, layer: str) -> Tensor:
    """Mean squared difference of a layer's features (Johnson, Alahi, Fei-Fei, ECCV 2016, section 3.2).

    Args:
        output: (B, 3, H, W), sRGB.
        target: (B, 3, H, W), sRGB in [0, 1].
        features: as of CoBiLoss.
    """
    with torch.no_grad():
        wanted = features(target)[layer]
    return (features(output)[layer] - wanted).square().mean()
