"""The curve of sRGB (IEC 61966-2-1): linear up to the knee, a power above."""

from __future__ import annotations

import torch
from torch import Tensor

KNEE = 0.0031308
LINEAR_SLOPE = 12.92


def encode_srgb(linear: Tensor) -> Tensor:
    """The sRGB curve of linear light; below 0 it goes on with its slope there. Nothing is clipped."""
    power = 1.055 * _power(linear.clamp(min=KNEE), 1 / 2.4) - 0.055
    return torch.where(linear > KNEE, power, LINEAR_SLOPE * linear)


def decode_srgb(srgb: Tensor) -> Tensor:
    """Linear light of sRGB values: the inverse of `encode_srgb`."""
    knee = LINEAR_SLOPE * KNEE
    power = _power((srgb.clamp(min=knee) + 0.055) / 1.055, 2.4)
    return torch.where(srgb > knee, power, srgb / LINEAR_SLOPE)


def _power(values: Tensor, exponent: float) -> Tensor:
    """A power of positive values, the same bits wherever in a tensor a value stands.

    torch's own takes the last values of a row by another routine than the rest: a tile would differ from its
    place in the whole.
    """
    return torch.exp(exponent * torch.log(values))
