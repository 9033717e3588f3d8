"""CoBi is Eq. 2 to the letter: it has the pairs and values of a brute-force search in float64."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch as replaced

import numpy as np
import pytest
import torch
from brute_force import assert_brute_force_agrees, brute_force, centres, random_maps, small_tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from srraw_model import cobi, search
from srraw_model.cobi import (
    contextual_bilateral_loss,
    contextual_bilateral_rgb_loss,
    match,
    matching_statistics,
)

pytestmark = pytest.mark.usefixtures("way_of_searching")


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("weight_spatial", [0, 0.1, 1, 30])
@pytest.mark.parametrize(
    ("shape", "target_shape"),
    [
        ((2, 5, 7, 9), (2, 5, 7, 9)),
        ((1, 3, 4, 13), (1, 3, 11, 6)),
        ((1, 1, 1, 1), (1, 1, 5, 5)),
        ((3, 2, 6, 6), (3, 2, 1, 1)),
        ((1, 16, 40, 40), (1, 16, 33, 47)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_and_value_are_those_of_brute_force(shape, target_shape, weight_spatial, distance, dtype):
    source, target = random_maps(shape, target_shape, dtype=dtype)
    assert_brute_force_agrees(source, target, weight_spatial, distance)


sides = st.integers(1, 7)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    size=st.tuples(sides, sides),
    target_size=st.tuples(sides, sides),
    channels=st.integers(1, 4),
    weight_spatial=st.sampled_from([0, 0.1, 1]),
    distance=st.sampled_from(["cosine", "l2"]),
    tile=st.sampled_from([2, 5, 4096]),
)
def test_ties_of_integer_features_go_to_the_nearest_then_to_the_first(
    data, size, target_size, channels, weight_spatial, distance, tile
):
    maps = []
    for height, width in (size, target_size):
        count = channels * height * width
        values = data.draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count))
        maps.append(torch.tensor(values, dtype=torch.float32).reshape(1, channels, height, width))
    # Small tiles, so that ties lie across the borders of blocks, tiles and strips.
    with small_tiles(SOURCE_STRIP=2 * tile, SOURCE_TILE=tile, TARGET_TILE=2 * tile, BLOCK=tile):
        assert_brute_force_agrees(*maps, weight_spatial, distance)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(sides, sides),
    target_size=st.tuples(sides, sides),
    weight_spatial=st.sampled_from([0.01, 0.1, 1, 30]),
    distance=st.sampled_from(["cosine", "l2"]),
    tile=st.sampled_from([2, 5, 4096]),
    apart=st.sampled_from([0, 1e-10, 1e-7]),
    seed=st.integers(0, 10**6),
)
def test_where_distance_in_the_map_makes_up_for_likeness_no_target_is_left_out_too_soon(
    size, target_size, weight_spatial, distance, tile, apart, seed
):
    """For one source all targets cost the same but for `apart`, so that every bound is nearly reached.

    What a target gains by lying near it loses by being unlike. The other sources see the same targets from
    elsewhere, where the far ones win.
    """
    generator = np.random.default_rng(seed)
    rows, columns = target_size
    place = centres(*size)[generator.integers(size[0] * size[1])]
    if distance == "l2":
        far = (centres(rows, columns) - place).norm(dim=1)
    else:
        far = (centres(2 * rows, columns) - place).norm(dim=1)[rows * columns :]
    unlike = weight_spatial * (far.max() - far)
    if distance == "cosine":
        unlike = 0.5 * unlike / max(weight_spatial, 1)  # a cosine's distance is at most 2
        weight_spatial = 0.5 * weight_spatial / max(weight_spatial, 1)
    unlike = unlike + apart * torch.from_numpy(generator.uniform(0, 1, len(far)))
    if distance == "l2":
        source, target = torch.zeros(1, 1, *size).double(), unlike.view(1, 1, rows, columns)
    else:
        angle = torch.arccos(1 - unlike)
        half = torch.stack((angle.cos(), angle.sin())).view(1, 2, rows, columns)
        source = torch.tensor([1.0, 0.0]).double().view(1, 2, 1, 1).expand(1, 2, *size).contiguous()
        # The same once more, turned round and above, brings the mean to zero and cannot win.
        target = torch.cat((-half, half), dim=2)
    cost, expected = brute_force(source[0], target[0], weight_spatial, distance)
    with small_tiles(SOURCE_STRIP=2 * tile, SOURCE_TILE=tile, TARGET_TILE=2 * tile, BLOCK=tile):
        chosen = match(source, target, weight_spatial=weight_spatial, distance=distance).index[0]
    least = cost.amin(1)
    assert (cost.gather(1, chosen[:, None])[:, 0] - least).max() < 1e-11
    clear = (cost <= least[:, None] + 1e-11).sum(1) == 1 if apart else torch.ones(len(cost)).bool()
    assert torch.equal(chosen[clear], expected[clear])


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    weight_spatial=st.sampled_from([0.01, 1, 30]),
    tile=st.sampled_from([1, 2, 5]),
    less=st.sampled_from([1e-10, 1e-6]),
    seed=st.integers(0, 10**6),
)
def test_the_farthest_target_that_can_win_does(size, weight_spatial, tile, less, seed):
    """One target, far from a source, is so like it that it costs a little less than the nearest one."""
    place, winner = np.random.default_rng(seed).choice(size[0] * size[1], 2, replace=False).tolist()
    where = centres(*size)
    limit = weight_spatial * float((where[place] - where[winner]).norm()) + less
    unlike = torch.full((1, 1, size[0] * size[1]), limit, dtype=torch.float64)
    unlike[..., winner] = 0
    target = unlike.view(1, 1, *size)
    with small_tiles(SOURCE_STRIP=2 * tile, SOURCE_TILE=tile, TARGET_TILE=2 * tile, BLOCK=tile):
        chosen = match(torch.zeros_like(target), target, weight_spatial=weight_spatial, distance="l2")
    assert chosen.index[0, place] == winner


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("weight_spatial", [0, 0.1])
def test_differences_that_float32_cannot_see_decide(distance, weight_spatial):
    """A thousand targets within 1e-8 of the best one: the float64 minimum is still found."""
    source, noise = random_maps((1, 8, 6, 6), (1, 8, 40, 40))
    nearly_equal = source.mean(dim=(2, 3), keepdim=True) + 1e-9 * noise
    target = torch.cat((nearly_equal, -nearly_equal), dim=3)
    cost, _ = brute_force(source[0], target[0], weight_spatial, distance)
    index = match(source, target, weight_spatial=weight_spatial, distance=distance).index[0]
    excess = cost.gather(1, index[:, None])[:, 0] - cost.amin(1)
    assert excess.max() < 3e-12
    if weight_spatial == 0:
        in_float32 = cost.float().argmin(1)
        assert (cost.gather(1, in_float32[:, None])[:, 0] - cost.amin(1)).max() > 1e-9


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize(("scale", "offset"), [(1e-5, 0), (1, 1e4), (1e18, 0), (1e30, 1e31)])
def test_scale_and_offset_of_the_features_do_not_blur_the_search(distance, scale, offset):
    source, target = (offset + scale * values for values in random_maps((1, 4, 9, 9), (1, 4, 8, 12)))
    source, target = source.float(), target.float()
    index = torch.stack([brute_force(source[0], target[0], 0.1, distance)[1]])
    assert torch.equal(match(source, target, distance=distance).index, index)


@pytest.mark.parametrize("exponent", [-100, 100])
def test_the_cosine_does_not_depend_on_scale_even_where_squares_leave_float32(exponent):
    source, target = random_maps((1, 4, 9, 9), (1, 4, 8, 12), dtype=torch.float32)
    scaled = match(source * 2.0**exponent, target * 2.0**exponent)
    assert torch.equal(scaled.index, match(source, target).index)


def test_close_neighbours_far_from_the_mean_are_told_apart():
    """In float32 |p|^2 + |q|^2 - 2 <p, q> cancels to noise here."""
    clusters, noise, more = random_maps((1, 8, 1, 1), (1, 8, 12, 12), (1, 8, 12, 12))
    sign = torch.ones(12).index_fill_(0, torch.arange(0, 12, 2), -1)
    source, target = (300 * clusters * sign + 1e-3 * values for values in (noise, more))
    with small_tiles(TARGET_TILE=32, BLOCK=4):
        for weight_spatial in (0, 1e-4):
            assert_brute_force_agrees(source, target, weight_spatial, "l2")


@contextmanager
def in_this_thread():
    """The searching threads' work, done here: what watches torch's operations watches one thread only."""
    with replaced.object(
        search, "_in_threads", lambda work, count: [work(number) for number in range(count)]
    ):
        yield


class RoundedProducts(TorchDispatchMode):
    """Rounds the factors of float32 products as the hardware may, which not every machine does."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if (
            function in (torch.ops.aten.addmm_.default, torch.ops.aten.mm.out)
            and args[-1].dtype == torch.float32
        ):
            *first, p, q = args
            args = (*first, *(factor.to(self.dtype).float() for factor in (p, q)))
            self.products += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_products_in_bfloat16_change_nothing_where_torch_is_allowed_them(distance):
    source, target = random_maps((1, 32, 20, 20), (1, 32, 20, 20), dtype=torch.float32)
    exact = match(source, target, distance=distance)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with in_this_thread(), RoundedProducts(torch.bfloat16) as rounded:
            assert torch.equal(match(source, target, distance=distance).index, exact.index)
        assert rounded.products
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_search_leaves_torch_its_threads():
    maps = random_maps((1, 8, 12, 12), (1, 8, 12, 12))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with small_tiles(BLOCK=8):
            match(*maps)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_autocast_changes_nothing(dtype, distance):
    source, target = (values.to(dtype) for values in random_maps((1, 32, 20, 20), (1, 32, 20, 20)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = match(source, target, distance=distance)
    assert torch.equal(inside.index, match(source, target, distance=distance).index)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_features_without_length_have_distance_one_and_no_nan(value, distance):
    """Constant maps: after centring the target's features are zero."""
    constant = torch.full((1, 3, 5, 5), value)
    (other,) = random_maps((1, 3, 5, 5), dtype=torch.float32)
    for source, target in [(constant, constant), (other, constant), (constant, other)]:
        source, target = source.clone().requires_grad_(), target.clone().requires_grad_()
        loss = contextual_bilateral_loss(source, target, distance=distance)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(source.grad).all()
        assert torch.isfinite(target.grad).all()
        if distance == "cosine" and target.data_ptr() != other.data_ptr() and torch.equal(target, constant):
            chosen = match(source, target)
            assert torch.equal(chosen.feature_distance, torch.ones(1, 25, dtype=torch.float64))
            assert torch.equal(chosen.index, torch.arange(25)[None])  # then the position alone decides


@pytest.mark.parametrize("weight_spatial", [1e4, 1e6])
@pytest.mark.parametrize(("distance", "value"), [("l2", 0.0), ("l2", 1.0), ("cosine", 1.0)])
@pytest.mark.parametrize(("size", "target_size"), [((5, 7), (10, 14)), ((9, 9), (18, 18))])
def test_ties_are_ties_however_much_the_distance_in_the_map_weighs(
    size, target_size, weight_spatial, distance, value
):
    """Of constant maps the nearest decide; of a map twice as fine four are, and the first of them counts."""
    source, target = torch.full((1, 2, *size), value), torch.zeros(1, 2, *target_size)
    rows, columns = (2 * torch.arange(length) for length in size)
    expected = (rows[:, None] * target_size[1] + columns).reshape(1, -1)
    found = match(source, target, weight_spatial=weight_spatial, distance=distance)
    assert torch.equal(found.index, expected)


@pytest.mark.parametrize("greatest", [1e12, 1e19, 1e30])
def test_a_source_that_float32_cannot_square_finds_its_target(greatest):
    source, target = random_maps((1, 4, 20, 20), (1, 4, 20, 20))
    source, target = greatest * source, 1e7 * target
    index = match(source, target, weight_spatial=0, distance="l2").index[0]
    cost, _ = brute_force(source[0], target[0], 0, "l2")
    excess = cost.gather(1, index[:, None])[:, 0] - cost.amin(1)
    assert (excess <= 1e-15 * cost.amin(1)).all()


def test_one_zero_feature_among_others():
    source, target = random_maps((1, 3, 6, 6), (1, 3, 6, 6))
    target[..., 0, 0] = 0
    target[..., 1, :] -= target.mean(dim=(2, 3), keepdim=True)[..., 0] * 6  # mean zero: (0, 0) has no length
    source[..., 2, 2] = 0
    assert target.mean(dim=(2, 3)).abs().max() < 1e-15
    source.requires_grad_()
    for weight_spatial in (0, 0.1, 10):
        assert_brute_force_agrees(source.detach(), target, weight_spatial, "cosine")
    chosen = match(source, target)
    assert chosen.feature_distance[0, 14] == 1
    contextual_bilateral_loss(source, target).backward()
    assert torch.isfinite(source.grad).all()
    assert source.grad[..., 2, 2].abs().max() == 0


def test_it_is_averaged_over_the_batch_and_keeps_the_precision_of_its_input():
    source, target = random_maps((3, 4, 6, 5), (3, 4, 5, 6))
    single = [contextual_bilateral_loss(source[i : i + 1], target[i : i + 1]) for i in range(3)]
    whole = contextual_bilateral_loss(source, target)
    torch.testing.assert_close(whole, torch.stack(single).mean())
    assert whole.dtype == torch.float64
    assert contextual_bilateral_loss(source.float(), target.float()).dtype == torch.float32
    half = source.half().requires_grad_()
    loss = contextual_bilateral_loss(half, target.half())
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.float16


def test_without_spatial_weight_it_is_blind_to_position_and_with_much_of_it_to_everything_else():
    source, _ = random_maps((1, 4, 8, 8), (1, 4, 8, 8))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = source.flatten(2)[..., order].reshape(source.shape)
    assert contextual_bilateral_loss(source, shuffled, weight_spatial=0) < 1e-12
    assert torch.equal(match(source, shuffled, weight_spatial=0).index[0][order], torch.arange(64))
    assert torch.equal(match(source, shuffled, weight_spatial=100).index[0], torch.arange(64))


def test_matching_statistics_count_one_to_one_matches_and_the_identity():
    (maps,) = random_maps((2, 8, 6, 6))
    same = matching_statistics(maps, maps)
    assert (same.one_to_one, same.identity) == (1, 1)
    rolled = matching_statistics(maps, maps.roll(1, dims=3), weight_spatial=0)
    assert (rolled.one_to_one, rolled.identity) == (1, 0)
    # Every source equals one target, so 1 of 36 targets is chosen, by 36 sources.
    crowded = matching_statistics(maps[:1, :, :1, :1].expand(1, 8, 6, 6), maps[:1], weight_spatial=0)
    assert (crowded.one_to_one, crowded.identity) == (0, 1 / 36)
    patches = matching_statistics(maps, maps, patch=3, stride=2)
    assert (patches.one_to_one, patches.identity) == (1, 1)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > 0:
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_no_array_is_larger_than_a_tile(distance):
    image, target = random_maps((1, 3, 47, 47), (1, 3, 48, 46), dtype=torch.float32)
    image.requires_grad_()
    with (
        replaced.object(cobi, "SOURCE_STRIP", 256),
        small_tiles(SOURCE_STRIP=256, SOURCE_TILE=64, TARGET_TILE=512, BLOCK=64),
        in_this_thread(),
        LargestTensor() as largest,
    ):
        contextual_bilateral_rgb_loss(image, target, patch=8, distance=distance).backward()
    patches = 40 * 40 * 192
    assert largest.elements <= max(64 * 512, 512 * 192) < patches


def test_sixteen_thousand_positions_run_in_bounded_memory():
    """The cost matrix alone would take 1 GB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    program = """
import re, torch
from srraw_model.cobi import contextual_bilateral_loss
def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
torch.manual_seed(0)
def step(side):
    source = torch.rand(1, 16, side, side, requires_grad=True)
    contextual_bilateral_loss(source, torch.rand(1, 16, side, side)).backward()
step(66)  # more than one strip, so that all code is loaded
before = peak_mb()
step(128)
print(peak_mb() - before)
"""
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.zeros(4, 5, 5)}, "source must have the shape"),
        ({"target": torch.zeros(1, 3, 0, 5)}, "target must have the shape"),
        ({"target": torch.zeros(1, 4, 5, 5)}, "same batch size and channels"),
        ({"source": torch.zeros(2, 3, 5, 5)}, "same batch size and channels"),
        ({"target": torch.full((1, 3, 5, 5), math.nan)}, "target holds values that are not finite"),
        ({"source": torch.full((1, 3, 5, 5), math.inf)}, "source holds values that are not finite"),
        ({"weight_spatial": -1}, "weight_spatial must be at least 0"),
        ({"weight_spatial": math.nan}, "weight_spatial must be at least 0"),
        ({"distance": "l1"}, "there are 'cosine' and 'l2'"),
        ({"formulation": "approximate"}, "there are paper, contextual, released"),
        ({"formulation": "released", "weight_spatial": 2}, "is a share"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(change, message):
    arguments = {"source": torch.zeros(1, 3, 5, 5), "target": torch.zeros(1, 3, 5, 5)} | change
    with pytest.raises(ValueError, match=message):
        contextual_bilateral_loss(arguments.pop("source"), arguments.pop("target"), **arguments)


def test_another_default_precision_changes_nothing():
    source, target = torch.randn(2, 1, 16, 12, 12).unbind()
    expected = match(source, target)
    torch.set_default_dtype(torch.float64)
    try:
        found = match(source, target)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.index, expected.index)
