"""The physical options of a simulated sequence: plain numbers, and the command line's defaults."""

from __future__ import annotations

from dataclasses import dataclass

SIZE = (704, 1056)  # (height, width) of a shot


@dataclass(frozen=True)
class Optics:
    """What the lens, and the hand on its ring, do to a sequence. The defaults are the benign case: one plane.

    Attributes:
        focal_error: the true focal length lies off the nominal one by up to this fraction (uniform).
        shift_px: standard deviation per axis of the frame's shift per shot, at a width of 1056 pixels.
        rotation_deg: standard deviation of the frame's rotation per shot.
        blur_px: Gaussian blur of the lens (standard deviation, pixels), at every focal length.
        near_m: distances of further planes in front of the one at infinity; they show parallax, as the
            entrance pupil moves back by 0.27 m from the shortest to the longest focal length.
        depth_of_field: planes nearer than infinity, on which the lens is focused, are blurred.
        diffraction: blur by the aperture's Airy disc.
        distortion: k1 at the shortest focal length (barrel), passing to the opposite, less, at the longest.
        vignetting_ev: loss of light in the corner at the shortest focal length; a third at the longest.
        drift_ev: standard deviation per shot of the exposure, by shutter, diaphragm and daylight.
        f_number, exposure_s: as EXIF reports them; the diaphragm also sets depth of field and diffraction.
    """

    focal_error: float = 0.015
    shift_px: float = 12.0
    rotation_deg: float = 0.4
    blur_px: float = 0.25
    near_m: tuple[float, ...] = ()
    depth_of_field: bool = False
    diffraction: bool = False
    distortion: float = 0.0
    vignetting_ev: float = 0.0
    drift_ev: float = 0.0
    f_number: float = 20.0
    exposure_s: float = 0.02


@dataclass(frozen=True)
class Sensor:
    """A sensor. The defaults are a sound camera without an anti-aliasing filter.

    Attributes:
        cfa: Bayer pattern of the top-left 2x2 block in reading order.
        iso: 100 puts 60000 electrons at white, 200 half of them, and so on.
        read_noise_e: standard deviation in electrons.
        shot_noise: Poisson noise of the light.
        fill_factor: the part of the pixel's side that is sensitive.
        aa_filter_px: distance by which the anti-aliasing filter splits the image along x and along y.
        crosstalk: part of a pixel's charge that its four neighbours share.
        black_level, white_level: values of no light and of saturation (14 bits).
    """

    cfa: str = "RGGB"
    iso: int = 100
    read_noise_e: float = 3.0
    shot_noise: bool = True
    fill_factor: float = 1.0
    aa_filter_px: float = 0.0
    crosstalk: float = 0.0
    black_level: int = 512
    white_level: int = 16383
