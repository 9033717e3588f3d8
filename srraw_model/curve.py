"""The curve of sRGB (IEC 61966-2-1): linear up to the knee, a power above."""

from __future__ import annotations

import torch
from torch import Tensor

KNEE = 0.0031308
LINEAR_SLOPE = 12.92


def encode_srgb(linear: Tensor) -> Tensor:
    """The sRGB curve of linear light; below 0 it goes on with its slope there. Nothing is clipped."""
    power = 1.055 * linear.clamp(min=KNEE) ** (1 / 2.4) - 0.055
    return torch.where(linear > KNEE, power, LINEAR_SLOPE * linear)


def decode_srgb(srgb: Tensor) -> Tensor:
    """Linear light of sRGB values: the inverse of `encode_srgb`."""
    knee = LINEAR_SLOPE * KNEE
    power = ((srgb.clamp(min=knee) + 0.055) / 1.055) ** 2.4
    return torch.where(srgb > knee, power, srgb / LINEAR_SLOPE)
