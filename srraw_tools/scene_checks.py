"""What the pictures of a sequence must satisfy together: pure functions that return findings.

EXIF can be coarse or wrong; the pictures have the last word. Each shot is reduced to a small picture, and
registered to the next longer one. What changes from link to link is told from what one shot alone has: the
links add up to one number a shot (its magnification against EXIF, its exposure), and the median of those is
taken for right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry, starts
from srraw_tools.checks import Finding
from srraw_tools.gain import fit_gain
from srraw_tools.raw import RawImage, half_size_rgb
from srraw_tools.registration import Registration, register
from srraw_tools.rig import Rig
from srraw_tools.sequence import Shot

CHECK_SIDE = 528  # pixels of a small picture's longer side: enough for a fiftieth of the frame and a degree
BLOCK = 16  # pixels of a small picture, side of the blocks that may move
SAME = 0.5  # correlation of a block with the same place in the other shot, below which something moved
SINCE_THE_FIRST = "shoot the whole sequence again, with the tripod fast and the light steady"
CONTRAST = 0.02  # deviation of square roots of light in a block, below which there is nothing to compare


@dataclass(frozen=True)
class View:
    """A shot as the checks look at it.

    Attributes:
        rgb: (h, w, 3) float32 white-balanced linear light, black 0 and white 1, of CHECK_SIDE at most.
        clipped: share of the pixels of R, G, B that are at the sensor's white.
    """

    shot: Shot
    rgb: npt.NDArray[np.float32]
    clipped: tuple[float, float, float]

    @property
    def light(self) -> npt.NDArray[np.float32]:
        """Luminance (R + 2G + B)/4, (h, w)."""
        return (self.rgb @ np.array([0.25, 0.5, 0.25], np.float32)).astype(np.float32)


def view_of(shot: Shot, raw: RawImage) -> View:
    """Reduce a shot to what the checks need."""
    rgb = half_size_rgb(raw)
    factor = CHECK_SIDE / max(rgb.shape[:2])
    if factor < 1:
        rgb = np.stack([starts.resized(channel, factor)[0] for channel in np.moveaxis(rgb, -1, 0)], axis=-1)
    return View(shot, rgb, clipped_shares(raw))


def clipped_shares(raw: RawImage) -> tuple[float, float, float]:
    """The share of red, green and blue pixels that are at the sensor's white."""
    white = raw.white_level - max(1, round(0.002 * raw.white_level))  # noise of the converter
    shares: dict[str, list[float]] = {"R": [], "G": [], "B": []}
    for position, colour in enumerate(raw.cfa):
        plane = raw.mosaic[position // 2 :: 2, position % 2 :: 2]
        shares[colour].append(cv2.countNonZero(cv2.inRange(plane, white, 65535)) / plane.size)
    red, green, blue = (sum(values) / len(values) for values in shares.values())
    return red, green, blue


def check_clipping(clipped: tuple[float, float, float], rig: Rig, file: str | None = None) -> list[Finding]:
    """Findings of the colours (R, G, B) of which more than the rig's share is at the sensor's white."""
    found = []
    limit = rig.checks["clipped"]
    for colour, share in zip(("red", "green", "blue"), clipped, strict=True):
        if share > limit:
            what = f"{share:.1%} of the {colour} pixels are clipped; at most {limit:.1%} may be"
            remedy = "shorten the exposure of the whole sequence"
            found.append(Finding("clipped", what, remedy, share, limit, file))
    return found


def linked(low: View, high: View) -> Registration:
    """Register a shot to the next longer one."""
    ratio = _focal(high.shot) / _focal(low.shot)
    expected = starts.centred_start(low.rgb.shape[:2], high.rgb.shape[:2], ratio)
    return register(low.light, high.light, expected, names=(low.shot.file, high.shot.file))


def check_scene(
    views: Sequence[View], rig: Rig, link: Callable[[View, View], Registration] = linked
) -> list[Finding]:
    """Compare the pictures of a sequence with each other.

    Magnification against EXIF's focal lengths; exposure in the common field; shift and rotation; blocks that
    do not move with the others; sharpness against the neighbour. Shots without a focal length are left out.

    Args:
        link: registers neighbours; given by one that has done so before.
    """
    views = sorted((v for v in views if v.shot.focal_nominal), key=lambda view: view.shot.focal_nominal)
    if not views:
        return []
    by_phone = [view for view in views if view.shot.focal_planned in rig.phone_mm]
    if by_phone:  # two devices look from two places, and each has an exposure of its own
        rest = [view for view in views if view.shot.focal_planned not in rig.phone_mm]
        alone = replace(rig, phone_mm=())
        return check_scene(by_phone, alone, link) + check_scene(rest, alone, link)
    links = [link(low, high) for low, high in pairwise(views)]
    findings = []
    for (low, high), link in zip(pairwise(views), links, strict=True):
        if link.link is None or (link.reason and link.softer_px == 0):
            what = f"it cannot be aligned to {low.shot.file}: {link.reason}"
            remedy = "look at both, and shoot the sequence again if the scene has changed"
            findings.append(Finding("scene", what, remedy, shot=high.shot.file))
            continue
        findings += _of_link(low, high, link, rig)
    if all(link.link is not None for link in links):
        findings += _of_focals(views, links, rig) + _of_exposures(views, links, rig)
        findings += _of_sharpness(views, links, rig)
    return findings


def check_closing(first: View, closing: View, rig: Rig) -> list[Finding]:
    """Compare the first focal length at the end of a sequence with itself at its beginning.

    The steps between neighbours may each be small; what they came to shows here: a tripod that crept, light
    that drifted, a scene that is not the same any more.
    """
    link, file = linked(first, closing), closing.shot.file
    if link.link is None or (link.reason and link.softer_px == 0):
        what = f"it cannot be aligned to {first.shot.file}, the first shot: {link.reason}"
        remedy = "look at both, and shoot the sequence again if the scene has changed"
        return [Finding("scene", what, remedy, shot=file)]
    found = [replace(finding, remedy=SINCE_THE_FIRST) for finding in _of_link(first, closing, link, rig)]
    ev = -math.log2(fit_gain(first.rgb, closing.rgb, link.low_to_high)[1])
    if abs(ev) > rig.checks["drift_ev"]:
        what = f"the light is {abs(ev):.2f} EV {'brighter' if ev > 0 else 'darker'} than at the first shot"
        found.append(Finding("drift_ev", what, SINCE_THE_FIRST, ev, rig.checks["drift_ev"], file))
    return found


def _focal(shot: Shot) -> float:
    return shot.focal_mm or shot.focal_nominal


def _of_link(low: View, high: View, link: Registration, rig: Rig) -> list[Finding]:
    limits, found, file = rig.checks, [], high.shot.file
    height, width = low.rgb.shape[:2]
    _, rotation = geometry.scale_and_rotation(link.low_to_high)
    centre = np.array([(high.rgb.shape[1] - 1) / 2, (high.rgb.shape[0] - 1) / 2])
    looks_at = geometry.apply(np.linalg.inv(link.low_to_high), centre[None])[0]
    shift = math.dist(looks_at, ((width - 1) / 2, (height - 1) / 2)) / width
    if shift > limits["shift"]:
        what = f"the camera moved by {shift:.1%} of the width of {low.shot.file}"
        found.append(Finding("shift", what, "fasten the tripod", shift, limits["shift"], file))
    degrees = abs(math.degrees(rotation))
    if degrees > limits["rotation_deg"]:
        what = f"the camera turned by {degrees:.1f} degrees against {low.shot.file}"
        found.append(Finding("rotation_deg", what, "fasten the head", degrees, limits["rotation_deg"], file))
    moving = _moving(low, high, link)
    if moving > limits["moving"]:
        what = f"{moving:.0%} of the scene moved since {low.shot.file}"
        remedy = "wait for wind and people, then shoot the sequence again"
        found.append(Finding("moving", what, remedy, moving, limits["moving"], file))
    return found


def _moving(low: View, high: View, link: Registration) -> float:
    """The share of blocks of the common field that show something else, of those that show anything."""
    scale, _ = geometry.scale_and_rotation(link.low_to_high)
    a = np.sqrt(np.clip(low.light, 0, 1))
    blurred = cv2.GaussianBlur(np.sqrt(np.clip(high.light, 0, 1)), (0, 0), 0.5 * scale)
    size = a.shape[::-1]
    inverse = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    b = cv2.warpPerspective(blurred, link.low_to_high, size, flags=inverse)
    seen = cv2.warpPerspective(np.ones_like(blurred), link.low_to_high, size, flags=inverse)
    # Noise and what the two lenses resolve differently is no movement.
    a, b = cv2.GaussianBlur(a, (0, 0), 1.0), cv2.GaussianBlur(b, (0, 0), 1.0)
    ones = np.ones((BLOCK, BLOCK)) / BLOCK**2

    def mean(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return cv2.filter2D(image, cv2.CV_32F, ones)[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK]

    variance_a, variance_b = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    deviation = np.sqrt(np.maximum(np.maximum(variance_a, variance_b), 0))  # of nothing it may be just below
    compared = (mean(seen) > 0.999) & (deviation > CONTRAST)
    if compared.sum() < 10:
        return 0.0
    correlation = (mean(a * b) - mean(a) * mean(b)) / np.sqrt(np.maximum(variance_a * variance_b, 1e-12))
    return float(np.mean(correlation[compared] < SAME))


def _of_focals(views: Sequence[View], links: Sequence[Registration], rig: Rig) -> list[Finding]:
    steps = []
    for (low, high), link in zip(pairwise(views), links, strict=True):
        scale, _ = geometry.scale_and_rotation(link.low_to_high)
        width = high.rgb.shape[1] / low.rgb.shape[1]
        steps.append(math.log(scale / width / (_focal(high.shot) / _focal(low.shot))))
    found = []
    for view, off in zip(views, _off_the_median(steps), strict=True):
        if abs(math.expm1(off)) > rig.focal_tolerance:
            told, seen = _focal(view.shot), _focal(view.shot) * math.exp(off)
            what = f"{told:g} mm was really {seen:.3g} mm, as the pictures show"
            limit = told * (1 + math.copysign(rig.focal_tolerance, off))
            remedy = "turn the ring and shoot it again"
            found.append(Finding("focal_mm", what, remedy, seen, limit, view.shot.file))
    return found


def _of_exposures(views: Sequence[View], links: Sequence[Registration], rig: Rig) -> list[Finding]:
    steps = []
    for (low, high), link in zip(pairwise(views), links, strict=True):
        gains = fit_gain(low.rgb, high.rgb, link.low_to_high)
        steps.append(-math.log2(gains[1]))
    limit = rig.checks["drift_ev"]
    found = []
    for view, off in zip(views, _off_the_median(steps), strict=True):
        if abs(off) > limit:
            what = f"it is {abs(off):.2f} EV {'brighter' if off > 0 else 'darker'} than the others"
            remedy = "set everything by hand, wait for steady light, and shoot it again"
            found.append(Finding("drift_ev", what, remedy, off, limit, view.shot.file))
    return found


def _of_sharpness(views: Sequence[View], links: Sequence[Registration], rig: Rig) -> list[Finding]:
    """Blur that one shot has beyond its neighbour; what all links have is the lens and the sampling."""
    usual = float(np.median([link.softer_px for link in links])) if links else 0.0
    limit = rig.checks["softer_px"]
    found = {}
    for (low, high), link in zip(pairwise(views), links, strict=True):
        excess = link.softer_px - usual
        soft, sharp = (low, high) if excess > 0 else (high, low)
        if abs(excess) > limit:
            what = f"it is softer than {sharp.shot.file}"
            remedy = "focus by hand at the long end, and shoot it again"
            finding = Finding("focus", what, remedy, abs(excess), limit, soft.shot.file)
            found.setdefault(soft.shot.file, finding)
    return list(found.values())


def _off_the_median(steps: Sequence[float]) -> list[float]:
    """By how much each shot is off, from the steps between neighbours: most of the shots are right."""
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    return [float(value) for value in sums - np.median(sums)]
