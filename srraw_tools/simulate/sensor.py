"""A camera's sensor: from radiance to the numbers of a mosaic, with noise, and its colour data."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from srraw_tools.simulate.physics import Sensor

# What makes a grey card grey in daylight, and balanced filters' colours to linear sRGB (rows sum to 1).
DAYLIGHT_WB = (2.05, 1.0, 1.55)
CAMERA_TO_SRGB = np.array([[1.72, -0.62, -0.10], [-0.18, 1.52, -0.34], [0.03, -0.47, 1.44]])
FULL_WELL_ISO100 = 60000.0  # electrons at white, ISO 100


def camera_from_srgb() -> npt.NDArray[np.float64]:
    """The map (3, 3) of linear sRGB radiance to what the filters pass; grey 1 gives green 1."""
    return np.linalg.inv(CAMERA_TO_SRGB) / np.array(DAYLIGHT_WB)[:, None]


def colour_data(sensor: Sensor) -> tuple[tuple[float, float, float], npt.NDArray[np.float64]]:
    """White balance (R, G, B; green 1) and camera_to_srgb (3, 3) as a calibration of this sensor finds them.

    Crosstalk mixes the colours of the mosaic: red and blue have four green neighbours, green two of each.
    """
    x = sensor.crosstalk
    mixing = np.array([[1 - x, x, 0], [x / 2, 1 - x, x / 2], [0, x, 1 - x]])
    seen = mixing @ camera_from_srgb()
    grey = seen.sum(axis=1)
    balance = grey[1] / grey
    camera_to_srgb = np.linalg.inv(seen / grey[:, None])
    return (float(balance[0]), 1.0, float(balance[2])), camera_to_srgb


def aperture_kernel(samples: int, sigma_px: float, sensor: Sensor) -> npt.NDArray[np.float64]:
    """The weight of every sample for one pixel: lens blur, anti-aliasing filter and aperture, along one axis.

    The point spread is a Gaussian, split in two by the filter, integrated over the sensitive part of the
    pixel and over each sample.

    Args:
        samples: samples per pixel, even; pixel i is centred on sample (i + 1/2) samples - 1/2.
        sigma_px: standard deviation of the lens's blur in pixels.

    Returns:
        An even number of weights, symmetric, whose sum is 1; the pixel's centre lies in their middle.
    """
    sigma = max(sigma_px, 1e-3)
    half_width = sensor.fill_factor / 2
    reach = math.ceil((half_width + sensor.aa_filter_px / 2 + 4 * sigma) * samples)
    edges = np.arange(-reach, reach + 1) / samples

    def integral(x: float) -> float:  # of the Gaussian's cumulative distribution
        return x * 0.5 * (1 + math.erf(x / (sigma * math.sqrt(2)))) + sigma / math.sqrt(
            2 * math.pi
        ) * math.exp(-0.5 * (x / sigma) ** 2)

    weights = np.zeros(2 * reach)
    for split in (-sensor.aa_filter_px / 2, sensor.aa_filter_px / 2):
        for edge, sign in ((-half_width, 1), (half_width, -1)):
            cumulative = np.array([integral(x - split - edge) for x in edges])
            weights += sign * np.diff(cumulative)
    return weights / weights.sum()


def digitise(
    light: npt.NDArray[np.float32], sensor: Sensor, rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    """Turn the light of every pixel (H, W), 1 at saturation, into sensor values: photons, noise, 14 bits."""
    electrons_at_white = FULL_WELL_ISO100 * 100 / sensor.iso
    charge = light * np.float32(electrons_at_white)
    if sensor.crosstalk:
        charge = _share(charge, sensor.crosstalk)
    if sensor.shot_noise:
        charge = rng.poisson(np.maximum(charge, 0)).astype(np.float32)
    charge += sensor.read_noise_e * rng.standard_normal(charge.shape, np.float32)
    values = sensor.black_level + charge * ((sensor.white_level - sensor.black_level) / electrons_at_white)
    return np.clip(np.rint(values), 0, sensor.white_level).astype(np.uint16)


def _share(charge: npt.NDArray[np.float32], part: float) -> npt.NDArray[np.float32]:
    """Give part of every pixel's charge to its four neighbours; the pattern goes on beyond the frame."""
    padded = np.pad(charge, 1, mode="reflect")
    neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (1 - part) * charge + part / 4 * neighbours
