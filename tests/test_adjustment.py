"""The adjustment of linked shots against maps that are known, on local shifts with known errors."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srraw_tools import geometry
from srraw_tools.adjustment import LocalShifts, adjust, connected, fit_link

SIZE = (704, 1056)


def shots(seed, focals=(24, 35, 50, 100)):
    """Maps of shots to the longest one's frame: focal lengths, rotations and shifts all a little off."""
    rng = np.random.default_rng(seed)
    centre = geometry.translation((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2)
    return {
        str(focal): centre
        @ geometry.similarity(
            focals[-1] / focal * rng.normal(1, 0.01),
            math.radians(rng.normal(0, 0.4)),
            *rng.normal(0, 12, 2),
        )
        @ np.linalg.inv(centre)
        for focal in focals
    }


def shifts(low_to_high, rng, sigma_px, wrong=0.0, bend=None):
    """Points all over the common field and where they are found, with Gaussian errors; some wrong."""
    x, y, w, h = geometry.even_crop_of_view(low_to_high, SIZE, SIZE)
    rows, columns = np.mgrid[0:8, 0:10]
    points = np.stack([x + (columns.ravel() + 0.5) * w / 10, y + (rows.ravel() + 0.5) * h / 8], axis=1)
    found = geometry.apply(low_to_high, points) + rng.normal(0, sigma_px, points.shape)
    if bend is not None:
        found += bend(found)
    moved = rng.random(len(points)) < wrong
    found[moved] += (15, -9)
    covariance = np.tile(np.eye(2) * sigma_px**2, (len(points), 1, 1))
    return LocalShifts(points, found, covariance, np.stack([rows.ravel(), columns.ravel()], axis=1))


def linked(to_reference, rng, sigma_px=0.1, **options):
    links = []
    for low, high in combinations(to_reference, 2):
        low_to_high = np.linalg.inv(to_reference[high]) @ to_reference[low]
        start = low_to_high @ geometry.translation(0.3, -0.2)
        links.append(
            fit_link(low, high, start, shifts(low_to_high, rng, sigma_px, **options), "similarity", SIZE)
        )
    return links


def errors(adjustment, to_reference):
    """True and expected error of every pair, over the corners of its common field."""
    found = []
    for low, high in combinations(to_reference, 2):
        true = np.linalg.inv(to_reference[high]) @ to_reference[low]
        crop = geometry.even_crop_of_view(true, SIZE, SIZE)
        found.append(
            (
                geometry.corner_error_px(adjustment.low_to_high(low, high), true, crop),
                adjustment.error_px(low, high, geometry.crop_corners(crop)),
            )
        )
    return np.array(found).T


def test_the_expected_error_is_the_true_one_on_average():
    true, expected = [], []
    for seed in range(30):
        maps = shots(seed)
        adjusted = adjust(linked(maps, np.random.default_rng(seed)), dict.fromkeys(maps, SIZE), "similarity")
        for values, more in zip((true, expected), errors(adjusted, maps), strict=True):
            values.extend(more)
    true, expected = np.array(true), np.array(expected)
    assert 0.6 < np.sqrt(np.mean(true**2)) / np.sqrt(np.mean(expected**2)) < 1.2
    assert np.mean(true < 2 * expected) > 0.95
    assert np.mean(true > expected / 2) > 0.6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_together_is_better_than_alone(seed):
    maps, rng = shots(seed, (24, 35, 50, 70, 100, 150, 240)), np.random.default_rng(seed)
    links = linked(maps, rng)
    together = adjust(links, dict.fromkeys(maps, SIZE), "similarity")
    alone = next(link for link in links if (link.low, link.high) == ("24", "240"))
    corners = geometry.crop_corners(geometry.even_crop_of_view(alone.low_to_high, SIZE, SIZE))
    single = adjust([alone], dict.fromkeys(("24", "240"), SIZE), "similarity")
    assert together.error_px("24", "240", corners) < 0.7 * single.error_px("24", "240", corners)


def test_blocks_that_moved_do_not_pull_the_map():
    maps, rng = shots(3), np.random.default_rng(3)
    adjusted = adjust(linked(maps, rng, wrong=0.3), dict.fromkeys(maps, SIZE), "similarity")
    true, _ = errors(adjusted, maps)
    assert true.max() < 0.1


def test_a_wrong_link_among_right_ones_counts_little_and_shows():
    maps, rng = shots(4), np.random.default_rng(4)
    links = linked(maps, rng)
    right = adjust(links, dict.fromkeys(maps, SIZE), "similarity")
    low_to_high = geometry.translation(25, 10) @ np.linalg.inv(maps["100"]) @ maps["35"]
    wrong = fit_link("35", "100", low_to_high, shifts(low_to_high, rng, 0.1), "similarity", SIZE)
    others = [link for link in links if (link.low, link.high) != ("35", "100")]
    adjusted = adjust([*others, wrong], dict.fromkeys(maps, SIZE), "similarity")
    true, _ = errors(adjusted, maps)
    assert true.max() < 0.3
    assert adjusted.contradiction > 1.5 * right.contradiction


def test_what_no_map_of_the_motion_follows_is_no_chance():
    def bend(points):  # the distortion of a lens: up to a few pixels at the corners
        from_centre = (points - (527.5, 351.5)) / 634
        return 3 * from_centre * (from_centre**2).sum(axis=1, keepdims=True)

    maps, rng = shots(5), np.random.default_rng(5)
    straight, bent = linked(maps, rng), linked(maps, rng, bend=bend)
    assert max(link.departure_px(link.low_to_high) for link in straight) < 0.05
    for link in bent:
        true = np.linalg.inv(maps[link.high]) @ maps[link.low]
        seen = geometry.apply(true, link.shifts.points)
        left = seen + bend(seen) - geometry.apply(link.low_to_high, link.shifts.points)
        assert link.departure_px(link.low_to_high) == pytest.approx(np.sqrt((left**2).sum(1).mean()), rel=0.2)


def test_links_fall_into_the_parts_that_they_tie():
    maps, rng = shots(6), np.random.default_rng(6)
    links = [link for link in linked(maps, rng) if {link.low, link.high} in ({"24", "35"}, {"50", "100"})]
    assert sorted(sorted({x.low for x in g} | {x.high for x in g}) for g in connected(links)) == [
        ["100", "50"],
        ["24", "35"],
    ]
    with pytest.raises(ValueError, match="tie"):
        adjust(links, dict.fromkeys(maps, SIZE), "similarity")


def test_a_settled_map_holds_though_as_many_blocks_lie_on_another_plane():
    maps, rng = shots(7), np.random.default_rng(7)
    low_to_high = np.linalg.inv(maps["100"]) @ maps["35"]
    flat = shifts(low_to_high, rng, 0.1)
    nearer = rng.random(len(flat.points)) < 0.55
    found = flat.found + nearer[:, None] * (flat.found - (527.5, 351.5)) * -0.01
    divided = LocalShifts(flat.points, found, flat.covariance, flat.cells)
    link = fit_link("35", "100", low_to_high, divided, "similarity", SIZE, settled=True)
    assert 0.35 < link.surface.dominant < 0.6
    corners = geometry.even_crop_of_view(low_to_high, SIZE, SIZE)
    assert geometry.corner_error_px(link.low_to_high, low_to_high, corners) < 0.5
    assert link.departure_px(link.low_to_high) == 0
