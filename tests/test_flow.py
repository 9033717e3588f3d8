"""Dense residual flow: against displacements that are known, and its file."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from srraw_tools import geometry
from srraw_tools.align import align_sequence, align_sequences
from srraw_tools.alignment import read_alignment
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, sha256_of, write_json
from srraw_tools.flow import Flow, flow_name, read_flow, residual_flow, write_flow
from srraw_tools.simulate.physics import Optics
from srraw_tools.simulate.shoot import point_map, read_truth, simulate_sequence

ZOOM = 4
LOW_SIZE = (192, 288)


def texture(size, seed):
    """Linear light of leaves and bars of all sizes, (H, W) float32."""
    rng = np.random.default_rng(seed)
    picture = np.full(size, 0.3, np.float32)
    for _ in range(size[0] * size[1] // 400):
        centre = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        axes = (int(rng.integers(3, 40)), int(rng.integers(3, 16)))
        cv2.ellipse(
            picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.02, 0.8)), -1
        )
    return picture


def seen_by_a_sensor(light, rng):
    """With noise, and under the kernel of raw.luminance."""
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    noisy = light + 0.004 * np.sqrt(light) * rng.standard_normal(light.shape).astype(np.float32)
    return cv2.sepFilter2D(noisy, cv2.CV_32F, kernel, kernel)


def pair_with(displacement_px, seed=0):
    """A low and a high shot whose low pixel p shows what the aligned high shot shows at p + displacement."""
    rng = np.random.default_rng(seed)
    high = texture((LOW_SIZE[0] * ZOOM, LOW_SIZE[1] * ZOOM), seed)
    y, x = np.indices(high.shape, np.float32)
    fine = cv2.resize(displacement_px.astype(np.float32), high.shape[::-1]) * ZOOM
    moved = cv2.remap(
        high, x + fine[..., 0], y + fine[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    low = cv2.resize(moved, LOW_SIZE[::-1], interpolation=cv2.INTER_AREA)
    return seen_by_a_sensor(low, rng), seen_by_a_sensor(high, rng)


def flow_of(low, high, gain=1.0):
    return residual_flow(low, high, geometry.scaling(ZOOM), np.eye(3), gain=gain)


def smooth_displacements():
    """Name and displacement (h, w, 2) in low pixels: still, shifted, radial as by distortion, waves."""
    y, x = np.indices(LOW_SIZE, np.float32)
    u, v = (x / LOW_SIZE[1] - 0.5) * 2, (y / LOW_SIZE[0] - 0.5) * 2
    squared = u * u + v * v
    return {
        "still": np.zeros((*LOW_SIZE, 2)),
        "shifted": np.full((*LOW_SIZE, 2), 0.6),
        "radial": np.stack([1.5 * u * squared, 1.0 * v * squared], -1),
        "waves": np.stack([np.sin(y / 25) * np.cos(x / 33), np.cos(y / 30)], -1),
    }


@pytest.mark.parametrize("name", smooth_displacements())
def test_a_smooth_displacement_is_found_to_a_tenth_of_a_low_pixel(name):
    true = smooth_displacements()[name]
    low, high = pair_with(true)
    found = flow_of(low, 0.5 * high, gain=2.0)
    error = np.linalg.norm(found.shift_px - true, axis=-1)[found.mask]
    assert found.mask.mean() > 0.9
    assert np.median(error) < 0.1
    assert np.percentile(error, 95) < 0.3


def test_what_one_shot_alone_shows_is_masked():
    low, high = pair_with(np.zeros((*LOW_SIZE, 2)))
    gone = np.s_[60:110, 90:150]
    low[gone] = texture((50, 60), 7)
    flow = flow_of(low, high)
    assert flow.mask[gone].mean() < 0.1
    elsewhere = np.ones(LOW_SIZE, bool)
    elsewhere[50:120, 80:160] = False
    assert flow.mask[elsewhere].mean() > 0.95


def test_a_nearer_thing_has_its_own_flow_and_what_it_hides_is_masked():
    true = np.zeros((*LOW_SIZE, 2))
    thing = np.s_[50:140, 90:200]
    true[thing] = (5.0, 0.0)
    low, high = pair_with(true)
    flow = flow_of(low, high)
    inner, far = np.zeros(LOW_SIZE, bool), np.ones(LOW_SIZE, bool)
    inner[62:128, 102:188] = True
    far[38:152, 75:215] = False
    error = np.linalg.norm(flow.shift_px - true, axis=-1)
    for region in (inner, far):
        assert flow.mask[region].mean() > 0.85
        assert np.median(error[region & flow.mask]) < 0.1
    doubled = np.s_[
        50:140, 200:205
    ]  # shown by the low shot's thing and by its background: one of them is wrong
    assert flow.mask[doubled].mean() < flow.mask[inner].mean() - 0.3


def test_clipped_light_and_what_the_high_shot_does_not_reach_are_masked():
    low, high = pair_with(np.zeros((*LOW_SIZE, 2)))
    low[20:60, 20:80] = 1.0
    beside = geometry.translation(-40 * ZOOM, 0) @ geometry.scaling(ZOOM)
    assert not flow_of(low, high).mask[20:60, 20:80].any()
    assert not residual_flow(low, high, beside, np.eye(3)).mask[:, :39].any()


def test_distortion_that_a_euclidean_map_leaves_is_found_in_a_simulated_sequence(tmp_path):
    optics = Optics(distortion=-0.1)
    simulate_sequence(tmp_path, name="00001", seed=5, size=(704, 1056), focal_mm=(35, 150), optics=optics)
    folder = tmp_path / "00001"
    (pair,) = align_sequence(folder, zooms=(4,), max_error_px=50.0, flow=True).pairs
    flow = read_flow(folder / pair.flow, pair.crop)
    x, y, width, height = pair.crop
    low = np.stack(np.meshgrid(np.arange(width) + x, np.arange(height) + y), -1).reshape(-1, 2)
    high = point_map(read_truth(folder), pair.low, pair.high, low)
    true = (geometry.apply(np.linalg.inv(pair.low_to_high), high) - low).reshape(height, width, 2)
    before = np.linalg.norm(true, axis=-1)[flow.mask]
    after = np.linalg.norm(true - flow.shift_px, axis=-1)[flow.mask]
    assert flow.mask.mean() > 0.75
    assert np.median(before) > 0.3
    assert np.median(after) < 0.1


# --- the file ---------------------------------------------------------------------------------------------


def test_a_file_holds_the_flow_to_a_hundredth_of_a_pixel(tmp_path):
    rng = np.random.default_rng(3)
    shift = rng.uniform(-20, 20, (30, 40, 2)).astype(np.float32)
    written = Flow(shift, rng.random((30, 40)) < 0.7, {"low": "a"})
    write_flow(tmp_path / "flow.npz", written)
    read = read_flow(tmp_path / "flow.npz", (2, 4, 40, 30))
    np.testing.assert_array_equal(read.mask, written.mask)
    assert np.abs(read.shift_px - shift)[read.mask].max() <= 1 / 128
    assert not read.shift_px[~read.mask].any()
    assert read.about == {"low": "a"}


def test_a_damaged_or_foreign_file_is_one_sentence(tmp_path):
    path = tmp_path / "flow.npz"
    crop = (0, 0, 40, 30)
    with pytest.raises(UserError, match="does not exist"):
        read_flow(path, crop)
    write_flow(path, Flow(np.zeros((30, 40, 2), np.float32), np.ones((30, 40), bool)))
    with pytest.raises(UserError, match="does not fit"):
        read_flow(path, (0, 0, 42, 30))
    whole = path.read_bytes()
    for content in (whole[:200], b"", b"text", whole[:60] + bytes(40) + whole[100:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            read_flow(path, crop)


# --- the stage --------------------------------------------------------------------------------------------


def test_align_writes_flow_beside_the_alignment_and_says_of_what(sequences):
    folder = sequences / "00001"
    pairs = align_sequence(folder, flow=True).pairs
    assert [pair.flow for pair in pairs] == [flow_name(pair.low, pair.high) for pair in pairs]
    assert read_alignment(folder / "alignment.json") == pairs
    for pair in pairs:
        flow = read_flow(folder / pair.flow, pair.crop)
        assert np.median(np.linalg.norm(flow.shift_px, axis=-1)[flow.mask]) < 0.2  # the pair is aligned
        assert flow.about["inputs"] == {name: sha256_of(folder / name) for name in (pair.low, pair.high)}
        assert flow.about["low_to_high"] == pair.low_to_high
        assert (flow.about["format"], flow.about["version"]) == ("srraw-flow", 1)


def test_flow_is_added_to_an_alignment_that_lacks_it(sequences):
    folder = sequences / "00001"
    without = align_sequence(folder, zooms=(4,))
    assert not list(folder.glob("flow_*"))
    added = align_sequence(folder, zooms=(4,), flow=True)
    assert not added.skipped
    assert [pair.low_to_high for pair in added.pairs] == [pair.low_to_high for pair in without.pairs]
    assert all((folder / pair.flow).is_file() for pair in added.pairs)
    for flow in (True, False):  # what is there is enough
        again = align_sequence(folder, zooms=(4,), flow=flow)
        assert (again.skipped, again.pairs) == (True, added.pairs)
    (folder / added.pairs[0].flow).unlink()
    assert not align_sequence(folder, zooms=(4,), flow=True).skipped
    assert (folder / added.pairs[0].flow).is_file()


def test_flow_of_an_alignment_that_is_replaced_goes_with_it(sequences):
    folder = sequences / "00001"
    align_sequence(folder, zooms=(4,), flow=True)
    align_sequence(folder, zooms=(4,), overwrite=True)
    assert not list(folder.glob("flow_*"))


def test_flow_lies_where_the_alignment_does(sequences, tmp_path):
    ((_, aligned),) = align_sequences([sequences / "00001"], zooms=(8,), flow=True, out=tmp_path / "out")
    assert (tmp_path / "out" / "00001" / aligned.pairs[0].flow).is_file()
    assert not list((sequences / "00001").glob("flow_*"))


def test_a_rejected_pair_has_no_flow(sequences):
    folder = sequences / "00001"
    pairs = align_sequence(folder, flow=True, max_error_px=1e-6).pairs
    assert [(pair.status, pair.flow) for pair in pairs] == [("rejected", None)] * 4


def test_an_alignment_that_names_a_flow_elsewhere_is_damaged(sequences):
    path = sequences / "00001" / "alignment.json"
    align_sequence(path.parent, zooms=(8,))
    record = read_json(path)
    record["pairs"][0]["flow"] = "../flow.npz"
    write_json(path, record)
    with pytest.raises(UserError, match="damaged"):
        read_alignment(path)
    assert json.loads(path.read_text())["options"]["flow"] is False
