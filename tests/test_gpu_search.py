"""The GPU's search chooses what brute force in float64 chooses.

Without a GPU the kernels run in Triton's interpreter, at small sizes and with small tiles. Triton comes with
torch's CUDA builds for Linux, not with those for the CPU; where it is missing, its tests are skipped.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock
from unittest.mock import patch as replaced

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import srraw_model
from srraw_model import gpu_search, matching, search
from srraw_model.cobi import contextual_bilateral_loss, match

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported, which no other test does
DEVICE = "cuda" if GPU else "cpu"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")

SMALL_TILES = {
    "BLOCK": 16,
    "BLOCK_SIDES": (4, 4),
    "TILE_SIDES": (4, 8),
    "GROUP_SIDES": (4, 4),
    "GROUP_SIDES_WIDE": (4, 4),
    "NEAR": 1,
    "SPAN": 2,
    "CHUNK": 4,
    "ROWS": 16,
    "BOUNDS": 64,  # two groups at a time, or one
}


class Operations(TorchDispatchMode):
    """The names of torch's operators that run within."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        self.names.append(operator.name())
        return operator(*arguments, **(options or {}))


@contextmanager
def kernels(**sizes):
    """All searches by the kernels, with tiles of a few positions; memory that is not written is no number."""
    empty = torch.empty

    def poisoned(*shape, **options):
        values = empty(*shape, **options)
        return values.fill_(math.nan if values.is_floating_point() else -1)

    clear_caches()
    with (
        replaced.object(search, "SMALL", 0),
        replaced.object(gpu_search, "runs_on", lambda device: True),
        replaced.multiple(gpu_search, **(SMALL_TILES | sizes)),
        replaced.object(torch, "empty", poisoned),
    ):
        yield
    clear_caches()


def clear_caches():
    gpu_search._layout.cache_clear()
    gpu_search._nearest.cache_clear()


def brute_force(source, target, weight_spatial, distance):
    """Eq. 2 of one pair (C, H, W), (C, H', W') in float64: all costs, and the indices that it chooses."""
    p, q = (values.cpu().double().flatten(1).T for values in (source, target))
    if distance == "cosine":
        p, q = p - q.mean(0), q - q.mean(0)
        length = p.norm(dim=1)[:, None] * q.norm(dim=1)
        cost = 1 - torch.where(length > 1e-14, p @ q.T / length, 0)
    else:
        cost = (p[:, None] - q).square().sum(2).sqrt() / math.sqrt(p.shape[1])
    x, y = (centres(*values.shape[1:]) for values in (source, target))
    spatial = (x[:, None] - y).square().sum(2).sqrt()
    cost = cost + weight_spatial * spatial
    tied = cost <= cost.amin(1, keepdim=True) + 1e-11
    tied_spatial = torch.where(tied, spatial, math.inf)
    nearest = tied_spatial <= tied_spatial.amin(1, keepdim=True) + 1e-11
    return cost, nearest.int().argmax(1)


def centres(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack((columns, rows), dim=2).reshape(-1, 2).double() + 0.5) / max(height, width)


def random_maps(*shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).to(DEVICE) for shape in shapes]


def assert_brute_force_agrees(source, target, weight_spatial, distance, **sizes):
    with kernels(**sizes):
        chosen = match(source, target, weight_spatial=weight_spatial, distance=distance)
    for number, (p, q) in enumerate(zip(source, target, strict=True)):
        cost, index = brute_force(p, q, weight_spatial, distance)
        assert torch.equal(chosen.index[number].cpu(), index)
        ours = chosen.feature_distance[number] + weight_spatial * chosen.spatial_distance[number]
        torch.testing.assert_close(ours.cpu(), cost.gather(1, index[:, None])[:, 0], rtol=1e-12, atol=1e-11)


# --- through the interpreter, or on the GPU ---------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("weight_spatial", [0, 0.1, 1, 30])
@pytest.mark.parametrize(
    ("shape", "target_shape"),
    [((1, 5, 7, 9), (1, 5, 7, 9)), ((2, 3, 4, 13), (2, 3, 11, 6)), ((1, 1, 1, 1), (1, 1, 5, 5))],
)
def test_random_features(shape, target_shape, weight_spatial, distance):
    assert_brute_force_agrees(*random_maps(shape, target_shape), weight_spatial, distance)


@needs_triton
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("channels", [16, 17, 64, 100, 130])
def test_any_number_of_channels(channels, distance):
    """Those that fill a step of the product, those that are padded, and those of several steps."""
    assert_brute_force_agrees(*random_maps((1, channels, 4, 5), (1, channels, 5, 4)), 0.1, distance)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision(dtype):
    source, target = (values.to(dtype) for values in random_maps((1, 6, 5, 5), (1, 6, 6, 4)))
    assert_brute_force_agrees(source, target, 0.1, "cosine")


sides = st.integers(1, 4)


@needs_triton
@settings(
    max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)
@given(
    data=st.data(),
    size=st.tuples(sides, sides),
    target_size=st.tuples(sides, sides),
    channels=st.integers(1, 3),
    weight_spatial=st.sampled_from([0, 0.1, 1, 30]),
    distance=st.sampled_from(["cosine", "l2"]),
)
def test_ties_of_integer_features(data, size, target_size, channels, weight_spatial, distance):
    maps = []
    for height, width in (size, target_size):
        count = channels * height * width
        values = data.draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count))
        maps.append(torch.tensor(values, dtype=torch.float32).reshape(1, channels, height, width).to(DEVICE))
    assert_brute_force_agrees(*maps, weight_spatial, distance)


@needs_triton
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("weight_spatial", [0, 0.01])
@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-5, 1e-8])
def test_targets_that_float16_cannot_tell_apart(step, weight_spatial, distance):
    """Two features all over, with small differences, in blocks and across them: the margins cover these."""
    source, base, noise = random_maps((1, 8, 2, 3), (1, 8, 1, 1), (1, 8, 5, 8), dtype=torch.float64)
    sign = torch.ones(8, dtype=torch.float64, device=DEVICE)
    sign[::2] = -1
    target = sign * (base + step * noise)
    with kernels():
        index = match(source, target, weight_spatial=weight_spatial, distance=distance).index[0].cpu()
    cost, _ = brute_force(source[0], target[0], weight_spatial, distance)
    # Not the index: costs within 1e-12 of each other are equal, and a little more or less is roundoff.
    assert (cost.gather(1, index[:, None])[:, 0] - cost.amin(1)).max() < 3e-12


@needs_triton
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("weight_spatial", [0, 1])
def test_a_smooth_picture_and_itself_moved(weight_spatial, distance):
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    picture = torch.stack([torch.sin(0.7 * x + k * y) + 0.1 * k * x for k in range(4)])[None].to(DEVICE)
    assert_brute_force_agrees(picture[..., 1:8, 2:10], picture[..., :7, :8], weight_spatial, distance)


@needs_triton
def test_close_neighbours_far_from_the_mean():
    """Here |p|^2 + |q|^2 - 2 <p, q> cancels to noise in any single precision."""
    clusters, noise, more = random_maps((1, 4, 1, 1), (1, 4, 5, 4), (1, 4, 5, 4), dtype=torch.float64)
    sign = torch.ones(4, device=DEVICE, dtype=torch.float64)
    sign[::2] = -1
    assert_brute_force_agrees(
        300 * clusters * sign + 1e-3 * noise, 300 * clusters * sign + 1e-3 * more, 0, "l2"
    )


@needs_triton
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize(("scale", "offset"), [(1e-20, 0), (1e-5, 0), (1, 1e4), (1e13, 0), (1e30, 1e31)])
def test_scale_and_offset(scale, offset, distance):
    maps = [(offset + scale * values).float() for values in random_maps((1, 4, 5, 5), (1, 4, 4, 6))]
    weight_spatial = 0.1 if distance == "cosine" or scale > 1e-6 else 0
    with kernels():
        chosen = match(*maps, weight_spatial=weight_spatial, distance=distance)
    exact = matching.search_by_tiles(next(matching.problems(*maps, 1, 1, weight_spatial, distance)))
    assert torch.equal(chosen.index[0], exact.index)


@needs_triton
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_constant_features(value, distance):
    constant = torch.full((1, 3, 4, 4), value, device=DEVICE)
    (other,) = random_maps((1, 3, 4, 4))
    for source, target in [(constant, constant), (other, constant), (constant, other)]:
        for weight_spatial in (0, 0.1):
            with kernels():
                chosen = match(source, target, weight_spatial=weight_spatial, distance=distance)
            exact = matching.search_by_tiles(
                next(matching.problems(source, target, 1, 1, weight_spatial, distance))
            )
            assert torch.equal(chosen.index[0], exact.index)
            if distance == "cosine" and target is constant:
                assert (chosen.feature_distance == 1).all()


@needs_triton
@pytest.mark.parametrize("weight_spatial", [1e4, 1e6])
def test_ties_are_ties_however_much_the_distance_in_the_map_weighs(weight_spatial):
    """Of a map twice as fine four targets are the nearest, and the first of them counts."""
    source, target = torch.ones(1, 2, 3, 5, device=DEVICE), torch.zeros(1, 2, 6, 10, device=DEVICE)
    rows, columns = (2 * torch.arange(length) for length in (3, 5))
    with kernels():
        chosen = match(source, target, weight_spatial=weight_spatial, distance="l2")
    assert torch.equal(chosen.index.cpu(), (rows[:, None] * 10 + columns).reshape(1, -1))


@needs_triton
def test_one_feature_without_length_among_others():
    source, target = random_maps((1, 3, 5, 5), (1, 3, 5, 5), dtype=torch.float64)
    target[..., 0, 0] = 0
    target[..., 1, :] -= target.mean(dim=(2, 3), keepdim=True)[..., 0] * 5  # mean zero: (0, 0) has no length
    source[..., 2, 2] = 0
    for weight_spatial in (0, 0.1, 10):
        assert_brute_force_agrees(source, target, weight_spatial, "cosine")


@needs_triton
def test_a_stride_takes_every_second_position():
    source, target = random_maps((1, 3, 9, 8), (1, 3, 8, 11))
    with kernels():
        chosen = match(source, target, stride=2)
        of_parts = match(source[..., ::2, ::2], target[..., ::2, ::2])
    assert torch.equal(chosen.index, of_parts.index)


@needs_triton
def test_tiles_too_far_to_win_are_not_multiplied():
    """What they leave unwritten, which is NaN here, changes no choice."""
    source, target = random_maps((1, 3, 4, 40), (1, 3, 4, 40))
    shares = {}
    for weight_spatial in (0, 300):
        products = []
        with kernels(BOUNDS=2**20):
            poisoned = torch.empty

            def remembered(*shape, products=products, poisoned=poisoned, **options):
                values = poisoned(*shape, **options)
                products.append(values)
                return values

            with replaced.object(torch, "empty", remembered):
                chosen = match(source, target, weight_spatial=weight_spatial)
        assert torch.equal(
            chosen.index[0].cpu(), brute_force(source[0], target[0], weight_spatial, "cosine")[1]
        )
        shares[weight_spatial] = products[-1].isfinite().double().mean().item()
    assert shares[0] == 1
    assert shares[300] < 0.7


@needs_triton
def test_the_loss_and_its_gradient_are_those_of_the_other_search():
    source, target = (values.requires_grad_() for values in random_maps((1, 4, 5, 5), (1, 4, 5, 5)))
    with kernels():
        ours = contextual_bilateral_loss(source, target)
        gradients = torch.autograd.grad(ours, (source, target))
    theirs = contextual_bilateral_loss(source, target)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(gradients, torch.autograd.grad(theirs, (source, target)), strict=True):
        torch.testing.assert_close(one, other)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_cards_that_are_not_here(capability, tmp_path):
    """The interpreter accepts what the compiler does not."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compiled"] * 8


# Of shared memory that a multiprocessor has, one of them for each program that it holds.
KILOBYTES = {80: 164, 86: 100, 89: 100, 90: 228}


@needs_triton
@pytest.mark.parametrize(("capability", "kilobytes"), KILOBYTES.items())
def test_the_next_tile_is_under_way_while_one_is_multiplied(capability, kilobytes, tmp_path):
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_SCAN, str(capability)],
        cwd=root,
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4
    for _, shared, waits, registers in lines:
        assert int(shared) <= (kilobytes - 1) * 1024
        assert int(waits.split(",")[0]) > 0  # loads that may be unfinished where a tile is taken
        if capability == 90:  # two programs
            assert 2 * (int(shared) + 1024) <= kilobytes * 1024
            assert registers == "-" or int(registers) <= 65536 // (2 * 256)


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from srraw_model import gpu_kernels

WHOLE = {"plane", "source_plane", "target_plane", "channels", "rows", "tiles", "first"}
TYPES = {"index": "i64", "source_index": "i64", "target_index": "i64", "index_out": "i64"}
TYPES |= {"factors": "fp16", "source": "fp16", "target": "fp16", "nearest": "i32", "counts": "i32"}
DOUBLE = "origin mean scalars scale source_scale target_scale position source_position target_position box"
TYPES |= dict.fromkeys(DOUBLE.split() + ["feature_out", "spatial_out"], "fp64")
SIZES = dict(WIDTH=64, ROWS=32, SPAN=32, GROUP=256, BLOCK=64, CHUNK=1024)
STEPS = {"round_features": 64, "scan": 64, "reach": None, "choose": 32}
WARPS = {"scan": 8, "choose": 1}
for name, step in STEPS.items():
    for is_l2 in (False, True):
        kernel = getattr(gpu_kernels, name)
        fixed = {k: v for k, v in (SIZES | dict(STEP=step, IS_L2=is_l2)).items() if k in kernel.arg_names}
        types = {k: "i32" if k in WHOLE else "*" + TYPES.get(k, "fp32") for k in kernel.arg_names}
        types |= dict.fromkeys(fixed, "constexpr")
        values = {(kernel.arg_names.index(k),): v for k, v in fixed.items()}
        source = ASTSource(kernel, types, constexprs=values)
        target = GPUTarget("cuda", int(sys.argv[1]), 32)
        triton.compile(source, target=target, options={"num_warps": WARPS.get(name, 4)})
        print("compiled")
"""

COMPILE_SCAN = """
import re
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from srraw_model import gpu_kernels, gpu_search

capability = int(sys.argv[1])
POINTERS = {"source": "*fp16", "target": "*fp16", "target_size": "*fp32", "nearest": "*i32", "counts": "*i32"}
TYPES = POINTERS | {"best": "*fp32", "tiles": "i32", "first": "i32"}
kernel = gpu_kernels.scan
for width in (32, 64):
    for is_l2 in (False, True):
        fixed = dict(WIDTH=width, STEP=width, SPAN=32, GROUP=256, BLOCK=64, IS_L2=is_l2)
        source = ASTSource(
            kernel,
            TYPES | dict.fromkeys(fixed, "constexpr"),
            constexprs={(kernel.arg_names.index(k),): v for k, v in fixed.items()},
            attrs={(i,): [["tt.divisibility", 16]] for i, k in enumerate(kernel.arg_names) if k in POINTERS},
        )
        options = gpu_search.scan_options(width, 256, is_l2, divmod(capability, 10))
        done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        waits = re.findall(r"async_wait.*num = (\\d+)", done.asm["ttgir"])
        bound = re.search(r"\\.maxnreg (\\d+)", done.asm["ptx"])
        print("compiled", done.metadata.shared, ",".join(waits), bound[1] if bound else "-")
"""


# --- without Triton ---------------------------------------------------------------------------------------


def test_the_cosine_search_does_not_wait_for_the_gpu():
    """Nothing that is computed there is asked for before everything is launched."""
    maps = random_maps((1, 3, 6, 6), (1, 3, 6, 6))
    with replaced.object(srraw_model, "gpu_kernels", MagicMock(), create=True):
        for distance in ("l2", "cosine"):
            problem = next(matching.problems(*maps, 1, 1, 0.1, distance))
            gpu_search.search_maps(problem)  # what depends on sizes alone is kept
            with Operations() as operations:
                gpu_search.search_maps(problem)
            waited = "aten::_local_scalar_dense" in operations.names
            assert waited == (distance == "l2"), distance


def test_the_default_precision_of_tensors_does_not_matter():
    """To the kernels, which are compiled for what they are given."""
    maps = random_maps((1, 3, 6, 6), (1, 3, 6, 6))

    def given():
        clear_caches()
        with replaced.object(srraw_model, "gpu_kernels", MagicMock(), create=True) as recorded:
            gpu_search.search_maps(next(matching.problems(*maps, 1, 1, 0.1, "l2")))
        return [getattr(value, "dtype", None) for call in recorded.mock_calls for value in call.args]

    usual = given()
    torch.set_default_dtype(torch.float64)
    try:
        assert given() == usual
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.float16 in usual


def test_what_depends_on_sizes_is_kept_for_each_stream():
    """What one stream makes may not be there yet for another."""
    clear_caches()
    sides = (8, 8, (16, 16), (8, 8), 256, torch.device("cpu"))
    targets = (8, 8, (8, 16), (8, 8), 128, torch.device("cpu"))
    one, again, other = ((*sides, stream) for stream in (1, 1, 2))
    assert gpu_search._layout(*one) is gpu_search._layout(*again)
    assert gpu_search._layout(*one) is not gpu_search._layout(*other)
    of_streams = [gpu_search._nearest((*sides, stream), (*targets, stream), 0, 1) for stream in (1, 2)]
    assert of_streams[0] is not of_streams[1]
    clear_caches()


def test_the_cpu_and_a_gpu_without_triton_are_searched_otherwise():
    assert not gpu_search.runs_on(torch.device("cpu"))
    with replaced.object(gpu_search, "find_spec", lambda name: None):
        assert not gpu_search.runs_on.__wrapped__(torch.device("cuda"))
    maps = random_maps((1, 3, 6, 6), (1, 3, 6, 6))
    with (
        replaced.object(search, "SMALL", 0),
        replaced.object(gpu_search, "runs_on", lambda device: False),
        replaced.object(gpu_search, "search_maps", side_effect=AssertionError),
    ):
        match(*maps)


# --- on a GPU, at full size -------------------------------------------------------------------------------


def full_size_maps(kind, side=96, channels=64):
    source, target = random_maps((1, channels, side, side), (1, channels, side, side + 5))
    if kind == "structured":  # smooth, and the target moved
        smooth = torch.nn.functional.avg_pool2d(target, 9, stride=1, padding=4)
        return smooth[..., 2:-2, 5:-5] + 0.01 * source[..., 2:-2, 5:], smooth
    if kind == "tied":
        return source.round().clamp(-1, 1)[:, :3], target.round().clamp(-1, 1)[:, :3]
    return source, target


@needs_gpu
@needs_triton
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("weight_spatial", [0, 0.1, 1])
@pytest.mark.parametrize("kind", ["random", "structured", "tied"])
def test_the_gpu_chooses_what_the_cpu_chooses(kind, weight_spatial, distance):
    source, target = full_size_maps(kind)
    options = {"weight_spatial": weight_spatial, "distance": distance}
    assert gpu_search.runs_on(source.device)
    with replaced.object(search, "SMALL", 0):
        ours, theirs = match(source, target, **options), match(source.cpu(), target.cpu(), **options)
    assert torch.equal(ours.index.cpu(), theirs.index)
    torch.testing.assert_close(ours.feature_distance.cpu(), theirs.feature_distance, rtol=0, atol=1e-11)
    torch.testing.assert_close(ours.spatial_distance.cpu(), theirs.spatial_distance, rtol=0, atol=1e-12)
