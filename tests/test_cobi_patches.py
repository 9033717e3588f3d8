"""CoBi of patches is CoBi of the map of patches, whatever their size, light and texture."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch as replaced

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brute_force import brute_force, centres, random_maps, small_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from srraw_model import matching, search
from srraw_model.cobi import contextual_bilateral_loss, contextual_bilateral_rgb_loss, match

pytestmark = pytest.mark.usefixtures("way_of_searching")


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize(
    ("patch", "stride", "size", "target_size"),
    [(1, 1, (8, 9), (8, 9)), (3, 1, (12, 9), (10, 14)), (4, 3, (17, 18), (18, 16)), (5, 2, (5, 5), (11, 8))],
)
def test_rgb_loss_is_the_loss_of_the_map_of_patches(distance, patch, stride, size, target_size):
    image, target = random_maps((2, 3, *size), (2, 3, *target_size))
    options = {"weight_spatial": 0.3, "distance": distance}

    def patches(image):
        height, width = ((length - patch) // stride + 1 for length in image.shape[2:])
        return F.unfold(image, patch, stride=stride).reshape(len(image), -1, height, width)

    results = []
    for gathered in (False, True):
        p, q = image.clone().requires_grad_(), target.clone().requires_grad_()
        if gathered:
            loss = contextual_bilateral_rgb_loss(p, q, patch, stride, **options)
        else:
            loss = contextual_bilateral_loss(patches(p), patches(q), **options)
        results.append((loss, *torch.autograd.grad(loss, (p, q))))
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    patch=st.integers(2, 4),
    stride=st.integers(1, 2),
    weight_spatial=st.sampled_from([0, 0.1, 1, 30]),
    distance=st.sampled_from(["cosine", "l2"]),
    seed=st.integers(0, 10**6),
)
def test_ties_of_integer_patches_go_to_the_nearest_then_to_the_first(
    size, patch, stride, weight_spatial, distance, seed
):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 2, (1, 2, *size), generator=generator).float() for _ in range(2)]
    rows, columns = ((length - patch) // stride + 1 for length in size)
    maps = [F.unfold(image, patch, stride=stride).view(-1, rows, columns) for image in images]
    expected = brute_force(*maps, weight_spatial, distance)[1]
    found = match(*images, patch=patch, stride=stride, weight_spatial=weight_spatial, distance=distance)
    assert torch.equal(found.index[0], expected)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("weight_spatial", [0, 1e-8, 0.1])
def test_ties_of_patches_that_are_no_integers_go_to_the_nearest_then_to_the_first(distance, weight_spatial):
    """Eight bits as fractions, with a saturated area, moved: what is equal must cost exactly the same."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 256, (1, 3, 40, 40), generator=generator) / 255
    target[:, :, 13:, 13:] = 1
    source, patch = target.roll((2, 3), (2, 3)), 10
    maps = [F.unfold(image.double(), patch).view(-1, 31, 31) for image in (source, target)]
    expected = brute_force(*maps, weight_spatial, distance)[1]
    found = match(source, target, patch=patch, weight_spatial=weight_spatial, distance=distance)
    assert torch.equal(found.index[0], expected)


@pytest.mark.parametrize("greatest", [1, 65535, 1e9])
@pytest.mark.parametrize("patch", [2, 7, 10, 15])
def test_what_is_nearly_equal_is_told_apart_beside_what_is_bright(greatest, patch):
    """The lower half differs by 1e-7 of what the upper half does: a sum must not keep anything of that."""
    images = random_maps((1, 3, 36, 36), (1, 3, 36, 36))
    for image in images:
        image[:, :, 18:] *= 1e-7
        image *= greatest
    side = 36 - patch + 1
    maps = [F.unfold(image, patch).view(-1, side, side) for image in images]
    cost, _ = brute_force(*maps, 0, "l2")
    index = match(*images, patch=patch, weight_spatial=0, distance="l2").index[0]
    chosen = cost.gather(1, index[:, None])[:, 0]
    assert (chosen - cost.amin(1)).max() < 1e-12 + 1e-14 * float(chosen.max())


@pytest.mark.parametrize("scale", [1e-25, 1e22, 1e30])
def test_values_that_float32_hardly_holds_change_nothing(scale):
    source, target = (scale * values.float() for values in random_maps((1, 3, 20, 20), (1, 3, 20, 20)))
    maps = [F.unfold(image.double(), 4).view(-1, 17, 17) for image in (source, target)]
    expected = brute_force(*(values / scale for values in maps), 0.1, "cosine")[1]
    assert torch.equal(match(source, target, patch=4).index[0], expected)


@pytest.mark.parametrize("contrast", [0.003, 0.1])
def test_what_is_faint_beside_the_mean_patch_is_told_apart(contrast):
    """Stripes that all patches share are taken off them all, and leave differences that float32 loses."""
    stripes = 0.5 + 0.4 * (torch.arange(60) % 2)
    source, target, change = random_maps((1, 3, 60, 60), (1, 3, 60, 60), (1, 3, 60, 30))
    target[..., 30:] = target[..., :30] + 1e-4 * change  # two that are nearly alike, for every source
    images = [(stripes + contrast * noise).float() for noise in (source, target)]
    maps = [F.unfold(image.double(), 4, stride=2).view(-1, 29, 29) for image in images]
    cost, _ = brute_force(*maps, 0)
    index = match(*images, patch=4, stride=2, weight_spatial=0).index[0]
    assert (cost.gather(1, index[:, None])[:, 0] - cost.amin(1)).max() < 1e-9


def with_flat(share, **more):
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    image[:, :, : round(32 * share)] = 1
    for (row, column), value in more.get("dots", {}).items():
        image[:, :, row, column] = value
    return image


FLAT_TARGETS = {
    "white": with_flat(1),
    "half saturated": with_flat(0.5),
    "a sky": with_flat(0.9),
    "white but for a dot": with_flat(1, dots={(15, 16): 0}),
    "white but for a dot, which hardly differs": with_flat(1, dots={(15, 16): 1 - 1e-6}),
    "white but for its corners": with_flat(1, dots={(0, 0): 0, (31, 31): 0.5}),
    "a ramp": torch.linspace(0, 1, 32, dtype=torch.float64).expand(1, 3, 32, 32).contiguous(),
    "a ramp whose centre is a patch": torch.arange(31.0).double().expand(1, 3, 31, 31).contiguous(),
    "faint noise beside a dot": 1e-9 * with_flat(0) + with_flat(1, dots={(3, 3): 0}),
    "dark beside a highlight": 1e-3 * with_flat(0) + 1e3 * with_flat(1, dots={(3, 3): 0}),
}


@pytest.mark.parametrize("name", FLAT_TARGETS)
@pytest.mark.parametrize(("patch", "stride"), [(3, 1), (10, 1), (5, 2)])
def test_what_is_flat_is_compared_by_box_sums_too(name, patch, stride, way_of_searching):
    """White targets and skies: neither their patches nor a picture's are left to products of all with all."""
    target = FLAT_TARGETS[name]
    noise = random_maps(target.shape)[0]
    for source in (noise, target.roll((2, 3), (2, 3)), 0.37 + 1e-4 * noise):
        origin = target[:, :, :1, :1]  # without which brute force would round too much
        scale = float((target - origin).abs().amax()) or 1
        maps = [F.unfold((image - origin) / scale, patch, stride=stride) for image in (source, target)]
        side = round(maps[0].shape[2] ** 0.5)
        products = replaced.object(search, "search_by_tiles", side_effect=AssertionError)
        for weight_spatial in (0, 0.1):
            expected, _ = brute_force(*(values.view(-1, side, side) for values in maps), weight_spatial)
            with products if way_of_searching == "compiled" else nullcontext():
                found = match(source, target, patch=patch, stride=stride, weight_spatial=weight_spatial)
            chosen = expected.gather(1, found.index[0][:, None])[:, 0]
            assert (chosen - expected.amin(1)).max() < 1e-7
            if name == "white" and weight_spatial:
                assert torch.equal(found.index[0], torch.arange(side**2))


@pytest.mark.parametrize("weight_spatial", [0, 0.1, 1])
def test_weak_patches_are_ranked_apart_exactly_and_not_all_at_once(weight_spatial, way_of_searching):
    """A ramp's patches in its middle column are its mean but for a trace, which alone tells them apart."""
    trace = random_maps((1, 2, 20, 20))[0]
    target = torch.arange(20.0).double().expand(1, 2, 20, 20) + 1e-4 * trace
    source = target.roll(3, 2)
    maps = [F.unfold(image, 4).view(-1, 17, 17) for image in (source, target)]
    cost, _ = brute_force(*maps, weight_spatial)
    strips = []

    def strip_by_strip(problem, strip):
        strips.append(len(strip))
        return matching.search_strip(problem, strip)

    tiles = {"SOURCE_STRIP": 5, "SOURCE_TILE": 5, "TARGET_TILE": 64, "BLOCK": 4}
    with small_tiles(**tiles), replaced.object(search, "search_strip", strip_by_strip):
        found = match(source, target, patch=4, weight_spatial=weight_spatial)
    assert (cost.gather(1, found.index[0][:, None])[:, 0] - cost.amin(1)).max() < 1e-10
    assert way_of_searching != "compiled" or (sum(strips) > 5 and max(strips) <= 5)


def test_a_patch_may_have_any_size(way_of_searching):
    """Patches of 383 pixels needed more room than there was; compiled so that this is seen."""
    if way_of_searching != "compiled":
        pytest.skip("compares both ways itself")
    program = """
import torch
from srraw_model import search
from srraw_model.cobi import match
torch.manual_seed(0)
source, target = torch.rand(2, 1, 1, 385, 385)
found = []
for search.SMALL in (0, float("inf")):
    found.append(match(source, target, patch=383, distance="l2", weight_spatial=0).index)
assert torch.equal(*found)
"""
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": cache},
            check=True,
        )


@settings(max_examples=25, deadline=None)
@given(
    weight_spatial=st.sampled_from([0.1, 1, 30]),
    less=st.sampled_from([1e-7, 1e-6]),
    seed=st.integers(0, 10**6),
)
def test_the_farthest_patch_that_can_win_does(weight_spatial, less, seed):
    """All patches of the target are unlike but one, which is so like that it may lie just so far off."""
    side, patch = 26, 3
    columns = side - patch + 1
    place, winner = np.random.default_rng(seed).choice(columns**2, 2, replace=False).tolist()
    (top, left), (row, column) = (divmod(at, columns) for at in (winner, place))
    if max(abs(top - row), abs(left - column)) < 2 * patch:
        return  # the patch of the same place must not overlap it
    where = centres(columns, columns)
    limit = weight_spatial * float((where[place] - where[winner]).norm()) * (1 + less)
    target = torch.full((1, 1, side, side), limit, dtype=torch.float64)
    target[..., top : top + patch, left : left + patch] = 0
    found = match(torch.zeros_like(target), target, patch=patch, weight_spatial=weight_spatial, distance="l2")
    assert found.index[0, place] == winner


def test_a_patch_must_fit_and_a_stride_must_advance():
    image = torch.zeros(1, 3, 8, 12)
    with pytest.raises(ValueError, match="smaller than a patch of 10 x 10"):
        contextual_bilateral_rgb_loss(image, image)
    with pytest.raises(ValueError, match="at least 1"):
        contextual_bilateral_rgb_loss(image, image, 4, 0)
