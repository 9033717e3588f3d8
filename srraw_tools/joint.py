"""Register the shots of a sequence together: neighbours, wanted pairs, and one adjustment over all of them.

Neighbouring focal lengths see nearly the same and register best; the chain of them ties even those pairs
firmly whose common field is a small part of the shorter shot. What chain and direct pair say differently
shows in the expected error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import numpy as np

from srraw_tools import distortion, geometry, registration, starts
from srraw_tools.adjustment import Adjustment, Link, adjust, connected
from srraw_tools.distortion import Distortion, Lenses
from srraw_tools.ecc import Image
from srraw_tools.geometry import Matrix
from srraw_tools.parallax import depths
from srraw_tools.starts import WideFeatures

MAX_ERROR_PX = 0.9  # expected, above which a pair is not taken for right, unless the user says otherwise
CAUTION = 1.1  # errors that blocks and links have in common beyond what the adjustment knows of
BENT_CHAIN = 2.5  # error at the corners of the middle, over the departure of a radially distorted view
CONTRADICTION = 3.0  # deviations by which a pair says something else than its neighbours
MIN_FOLLOWING = 0.8  # of as many blocks as follow the pair's own map, that confirm the neighbours' one
MIN_AGREEING = 0.5  # share of the blocks that must follow one map
MIN_CONFIRMING = 0.35  # where it is that of the neighbours' links
FOCAL_TOLERANCE = 0.05  # between the focal length that EXIF tells and the one that the images show


@dataclass(frozen=True)
class PairRegistration:
    """How a pair lies, by all shots together; `reason` says in words why it is not to be trusted.

    score, residual_px: as registration.Registration.
    expected_error_px: root mean square over the corners of the common field, in pixels of the long shot.
    """

    low_to_high: Matrix
    score: float
    residual_px: float
    expected_error_px: float
    reason: str | None


def link_neighbours(
    images: Mapping[str, Image],
    focals: Mapping[str, float | None],
    *,
    motion: str,
    keep_scale: bool = False,
    distortions: Mapping[str, Distortion] | None = None,
) -> dict[tuple[str, str], registration.Registration]:
    """Register every shot to the next longer one.

    Args:
        images: linear luminance (H, W) by shot.
        focals: focal length in mm by shot, comparable with each other; None where it is not known. Such shots
            are tried beside those that come before and after them by name.
        motion, keep_scale: as registration.register.
        distortions: by shot, of those whose lens is calibrated; all maps are then of undistorted coordinates.
    """
    lenses = distortions or {}
    features = _features_once(images)
    known = sorted((shot for shot in images if focals[shot]), key=lambda shot: (focals[shot], shot))
    found = {
        (low, high): _register(
            images, low, high, focals[high] / focals[low], motion, keep_scale, lenses, features
        )
        for low, high in pairwise(known)
    }
    for first, second in pairwise(sorted(images)):
        if focals[first] and focals[second]:
            continue
        start = starts.anywhere(features(first), features(second), images[second].shape)
        if start is None:
            continue
        scale, _ = geometry.scale_and_rotation(start)
        low, high = (first, second) if scale >= 1 else (second, first)
        ratio = max(scale, 1 / scale)
        found[low, high] = _register(images, low, high, ratio, motion, keep_scale, lenses, features)
    return found


def focals_by_images(
    registrations: Mapping[tuple[str, str], registration.Registration],
    focals: Mapping[str, float | None],
    sizes: Mapping[str, tuple[int, int]],
) -> dict[str, float]:
    """Focal lengths that the images themselves show, in mm, of the shots that are linked.

    What EXIF tells of most of the shots sets the unit; where it tells of none, the longest is 1.
    """
    focal = {}
    for group in connected(_trusted(registrations)):
        adjustment = adjust(group, sizes, "similarity")
        relative = {s: 1 / geometry.scale_and_rotation(m)[0] for s, m in adjustment.to_reference.items()}
        units = [focals[shot] / length for shot, length in relative.items() if focals[shot]]
        unit = float(np.median(units)) if units else 1 / max(relative.values())
        focal |= {shot: unit * length for shot, length in relative.items()}
    return focal


def register_pairs(
    images: Mapping[str, Image],
    ratios: Mapping[tuple[str, str], float],
    neighbours: Mapping[tuple[str, str], registration.Registration],
    *,
    motion: str,
    keep_scale: bool = False,
    max_error_px: float = MAX_ERROR_PX,
    distortions: Mapping[str, Distortion] | None = None,
) -> dict[tuple[str, str], PairRegistration]:
    """Register the wanted pairs, adjusted together with each other and with the neighbours' links.

    Args:
        ratios: of the focal lengths of the wanted pairs (low, high).
        neighbours: from `link_neighbours`.
        max_error_px: expected error in pixels of the long shot above which a pair is rejected.
        distortions: as `link_neighbours`.
    """
    lenses = distortions or {}
    sizes = {shot: image.shape for shot, image in images.items()}
    found = dict(neighbours)
    features = _features_once(images)
    for (low, high), ratio in ratios.items():
        if (low, high) not in found:
            found[low, high] = _register(images, low, high, ratio, motion, keep_scale, lenses, features)

    def tying(links: Sequence[Link]) -> Callable[[str, str], Adjustment | None]:
        return partial(_tying, [adjust(group, sizes, motion) for group in connected(links)])

    def measured_again(low: str, high: str, by: Adjustment, settled: bool) -> registration.Registration:
        return registration.measure(
            images[low],
            images[high],
            by.low_to_high(low, high),
            motion=motion,
            names=(low, high),
            lenses=(lenses.get(low), lenses.get(high)),
            settled=settled,
        )

    others = tying(_trusted(found))
    for pair in ratios:  # one that failed by itself may be found by way of the others
        if found[pair].reason and (adjustment := others(*pair)) is not None:
            again = measured_again(*pair, adjustment, settled=False)
            if again.reason is None:
                found[pair] = again
    chain, confirmed = _trusted(neighbours), set()
    by_chain = tying(chain)
    for pair in ratios.keys() - neighbours.keys():
        adjustment, direct = by_chain(*pair), found[pair].link
        if adjustment is None or direct is None or not _contradicts(direct, adjustment, chain, sizes):
            continue
        again = measured_again(*pair, adjustment, settled=True)
        follow = 0.0 if again.link is None else again.link.surface.dominant
        if again.reason is None and follow > MIN_FOLLOWING * direct.surface.dominant:
            found[pair] = again
            confirmed.add(pair)
    links = _trusted(found)
    together = tying(links)
    return {
        pair: _judged(
            found[pair],
            together(*pair),
            sizes,
            pair,
            links,
            max_error_px,
            (lenses.get(pair[0]), lenses.get(pair[1])),
            pair in confirmed,
        )
        for pair in ratios
    }


def _register(
    images: Mapping[str, Image],
    low: str,
    high: str,
    ratio: float,
    motion: str,
    keep_scale: bool,
    distortions: Mapping[str, Distortion],
    features: Callable[[str], WideFeatures],
) -> registration.Registration:
    expected = starts.centred_start(images[low].shape, images[high].shape, ratio)
    return registration.register(
        images[low],
        images[high],
        expected,
        motion=motion,
        keep_scale=keep_scale,
        names=(low, high),
        lenses=(distortions.get(low), distortions.get(high)),
        features=lambda: (features(low), features(high)),
    )


def _features_once(images: Mapping[str, Image]) -> Callable[[str], WideFeatures]:
    """Features by shot, sought when they are first asked for, and no second time."""
    return cache(lambda shot: starts.wide_features(images[shot]))


def _trusted(found: Mapping[tuple[str, str], registration.Registration]) -> list[Link]:
    return [one.link for one in found.values() if one.link is not None and one.reason is None]


def _tying(adjustments: Sequence[Adjustment], low: str, high: str) -> Adjustment | None:
    """The adjustment that holds two shots; None where none ties them."""
    return next((a for a in adjustments if {low, high} <= set(a.to_reference)), None)


def _contradicts(
    direct: Link, chain: Adjustment, links: Sequence[Link], sizes: Mapping[str, tuple[int, int]]
) -> bool:
    """Whether a pair's own blocks say anything else than the chain of its neighbours' links."""
    pair = direct.low, direct.high
    low_to_high = chain.low_to_high(*pair)
    corners = geometry.crop_corners(geometry.view_or_frame(low_to_high, *(sizes[shot] for shot in pair)))
    alone = adjust([direct], sizes, chain.motion).error_px(*pair, corners)
    error = math.hypot(chain.error_px(*pair, corners), _bent_chain_px(links, chain, *pair))
    apart = geometry.apply(low_to_high, corners) - geometry.apply(direct.low_to_high, corners)
    return (
        math.sqrt((apart**2).sum(axis=1).mean()) > CONTRADICTION * math.hypot(alone, error)
        or direct.departure_px(low_to_high, corners) > CONTRADICTION * error
    )


def _judged(
    direct: registration.Registration,
    adjustment: Adjustment | None,
    sizes: Mapping[str, tuple[int, int]],
    pair: tuple[str, str],
    links: Sequence[Link],
    max_error_px: float,
    lenses: Lenses,
    confirmed: bool,
) -> PairRegistration:
    if direct.reason or direct.link is None or adjustment is None:
        reason = direct.reason or "too little of the picture can be measured"
        return PairRegistration(direct.low_to_high, direct.score, direct.residual_px, float("inf"), reason)
    low_to_high = adjustment.low_to_high(*pair)
    try:
        crop = distortion.even_crop_of_view(low_to_high, *(sizes[shot] for shot in pair), lenses)
    except ValueError:
        reason = "the two shots do not see a common field"
        return PairRegistration(low_to_high, direct.score, direct.residual_px, float("inf"), reason)
    corners = distortion.undistorted(lenses[0], geometry.crop_corners(crop))
    # The corners depart most, and are known least, for no block lies there: a mean of both.
    departure = math.sqrt(
        direct.link.departure_px(low_to_high) * direct.link.departure_px(low_to_high, corners)
    )
    departure = math.hypot(departure, _bent_chain_px(links, adjustment, *pair))
    low_height, low_width = sizes[pair[0]]
    centre = (low_width - 1) / 2, (low_height - 1) / 2
    parallax = depths(links, adjustment, sizes).error_px(low_to_high, corners, centre)
    parts = (
        CAUTION * adjustment.error_px(*pair, corners),
        max(departure, parallax),  # the same blocks cause both
        # Which of two maps is meant, the neighbours' links say where they confirm one.
        0.0 if confirmed else direct.link.ambiguity_px(low_to_high, corners),
    )
    error = math.hypot(*parts)
    agreeing = direct.link.surface.agreeing
    reason = None
    if agreeing < (MIN_CONFIRMING if confirmed else MIN_AGREEING):
        reason = f"only {agreeing:.0%} of the picture lies as one surface: a moving scene or parallax"
    elif error > max_error_px:
        if parallax > max(departure, error / 2):
            why = "parallax, for part of the picture lies farther than what the map follows"
        elif departure > error / 2:
            why = "distortion of the lens (srraw calibrate lens), parallax, or a motion too simple"
        else:
            why = "too little detail"
        reason = f"the expected error is {error:.1f} px: {why}"
    return PairRegistration(low_to_high, direct.score, direct.residual_px, error, reason)


def _bent_chain_px(links: Sequence[Link], adjustment: Adjustment, low: str, high: str) -> float:
    """By how much maps that do not follow their own views mislead a chain of them, in pixels of `high`.

    The best map of a distorted wide view is not that of its middle. There it is wrong in scale, which grows
    by the same ratio as the middle is enlarged: so each link counts in its own pixels.
    """
    wide = {shot: geometry.scale_and_rotation(matrix)[0] for shot, matrix in adjustment.to_reference.items()}
    between = [
        link.departure_px(link.low_to_high)
        for link in links
        if {link.low, link.high} <= set(wide)
        and (link.low, link.high) != (low, high)
        and wide[link.low] <= wide[low]
        and wide[link.high] >= wide[high]
    ]
    return BENT_CHAIN * math.hypot(*between)
