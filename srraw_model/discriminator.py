"""The discriminator of SRGAN and ESRGAN, and what it and a generator minimise against each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from srraw_model.ranks import BatchNorm, mean_over_ranks


class Discriminator(nn.Module):
    """Ledig et al. (CVPR 2017), Fig. 4: eight 3x3 convolutions, every other of stride 2; two dense layers.

    Before the dense layers the features are averaged to 6 x 6, so that crops of any size can be judged; at
    the 96 x 96 of the paper nothing is averaged.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        before = channels
        for number in range(1, 8):
            after = channels * 2 ** (number // 2)
            layers += [
                nn.Conv2d(before, after, 3, stride=1 + number % 2, padding=1, bias=False),
                BatchNorm(after),
                nn.LeakyReLU(0.2),
            ]
            before = after
        dense = [nn.Linear(36 * before, 16 * channels), nn.LeakyReLU(0.2), nn.Linear(16 * channels, 1)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6), nn.Flatten(), *dense)

    def forward(self, srgb: Tensor) -> Tensor:
        """sRGB (B, 3, H, W) in [0, 1] -> (B, 1), the logarithm of the odds that it is a photograph."""
        return self.layers(2 * srgb - 1)


def generator_loss(judge: nn.Module, output: Tensor, target: Tensor, *, relativistic: bool) -> Tensor:
    """The adversarial part of a generator's loss, a scalar.

    SRGAN: -log D(output), Eq. 6. ESRGAN, relativistic: Eq. 2 of Wang et al. (ECCV workshops 2018), which asks
    that outputs look more real than targets do on average, and the reverse; half the sum of both.

    Args:
        judge: gives a logit for each picture, as `Discriminator`.
        output: (B, 3, H, W), sRGB in [0, 1], what the generator put out.
        target: (B, 3, H, W), sRGB in [0, 1].
        relativistic: as in ESRGAN.
    """
    if not relativistic:
        return _cross_entropy(judge(output), real=True)
    of_output, of_target = judge(output), judge(target).detach()
    return (
        _cross_entropy(of_target - _mean(of_output), real=False)
        + _cross_entropy(of_output - _mean(of_target), real=True)
    ) / 2


def discriminator_loss(judge: nn.Module, output: Tensor, target: Tensor, *, relativistic: bool) -> Tensor:
    """What the discriminator minimises on outputs (detached) and targets, a scalar.

    Arguments as of `generator_loss`.
    """
    of_output, of_target = judge(output), judge(target)
    if not relativistic:
        return _cross_entropy(of_target, real=True) + _cross_entropy(of_output, real=False)
    return (
        _cross_entropy(of_target - _mean(of_output), real=True)
        + _cross_entropy(of_output - _mean(of_target), real=False)
    ) / 2


def _mean(verdicts: Tensor) -> Tensor:
    """Over the whole batch, of all processes together."""
    return mean_over_ranks(verdicts.mean())


def _cross_entropy(logits: Tensor, *, real: bool) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
