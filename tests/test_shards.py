"""The HDF5 file of pairs: what is written is read, crops line up, and nothing foreign is taken for ours."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.raw import encode_srgb
from srraw_tools.shards import Pair, PairData

OPTIONS = {"zooms": [4], "compression": "none", "split": [80, 10, 10]}


def make_pair(name="00001_4x_00006_00002", seed=0, **changes):
    rng = np.random.default_rng(seed)
    h, w, zoom = 70, 90, 4
    pair = Pair(
        name=name,
        sequence=name[:5],
        split="train",
        zoom=zoom,
        size=(h, w),
        cfa="GRBG",
        black_level=(512.0,) * 4,
        white_level=16383,
        camera_wb=(1.0, 2.0, 1.5, 1.0),
        color_matrix=np.eye(3),
        gain=(1.0, 1.1, 0.9),
        target_space="camera",
        target_cfa="RGGB",
        target_camera_wb=(2.1, 1.0, 1.0, 1.4),
        target_color_matrix=np.eye(3) * 1.0,
        crop=(10, 20, w, h),
        low_to_high=np.diag([4.2, 4.2, 1.0]),
        scale_offset=1.05,
        focal_low=35.0,
    )
    data = PairData(
        raw=rng.integers(0, 16384, (h, w)).astype(np.uint16),
        rgb=rng.integers(0, 256, (h, w, 3)).astype(np.uint8),
        target=rng.integers(0, 65536, (zoom * h, zoom * w, 3)).astype(np.uint16),
        valid=rng.integers(0, 2, (zoom * h, zoom * w)).astype(np.uint8),
    )
    return dataclasses.replace(pair, **changes), data


def write(path, *pairs, options=OPTIONS, shard=shards.new_shard):
    with shard(path, options) as add:
        for pair, data in pairs:
            add(pair, data)


@pytest.mark.parametrize("compression", shards.COMPRESSIONS)
def test_a_pair_is_read_as_it_was_written(tmp_path, compression):
    if compression == "bitshuffle":
        pytest.importorskip("hdf5plugin")
    pair, data = make_pair()
    write(tmp_path / "a.h5", (pair, data), options={**OPTIONS, "compression": compression})
    with shards.open(tmp_path / "a.h5") as reader:
        (found,) = reader.pairs
        for name, value in vars(pair).items():
            np.testing.assert_equal(getattr(found, name), value, err_msg=name)
        for name, array in vars(data).items():
            read = getattr(reader.read(found), name)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)


def test_a_crop_is_cut_in_mosaic_pixels_from_all_four(tmp_path):
    pair, data = make_pair()
    write(tmp_path / "a.h5", (pair, data))
    with shards.open(tmp_path / "a.h5") as reader:
        crop = reader.read(reader.pairs[0], (6, 8, 32, 16))
        np.testing.assert_array_equal(crop.raw, data.raw[8:24, 6:38])
        np.testing.assert_array_equal(crop.rgb, data.rgb[8:24, 6:38])
        np.testing.assert_array_equal(crop.target, data.target[32:96, 24:152])
        np.testing.assert_array_equal(crop.valid, data.valid[32:96, 24:152])
        with pytest.raises(ValueError, match="does not lie inside"):
            reader.read(reader.pairs[0], (80, 0, 32, 16))


def test_chunks_of_mosaic_and_target_line_up(tmp_path):
    write(tmp_path / "a.h5", make_pair())
    with h5py.File(tmp_path / "a.h5") as file:
        group = file["pairs/00001_4x_00006_00002"]
        for side_raw, side_target in zip(group["raw"].chunks, group["target"].chunks[:2], strict=True):
            assert side_target == 4 * side_raw


def test_the_same_pairs_give_the_same_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        write(tmp_path / name, make_pair())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_pairs_are_selected_by_zoom_and_split(tmp_path):
    names = {"00001_4x_00006_00002": ("train", 4), "00002_4x_00006_00002": ("test", 4)}
    write(tmp_path / "a.h5", *(make_pair(name, split=split) for name, (split, _) in names.items()))
    with shards.open(tmp_path / "a.h5") as reader:
        assert [p.name for p in reader.select(zoom=4, split="test")] == ["00002_4x_00006_00002"]
        assert len(reader.select()) == 2
        assert reader.select(zoom=8) == []


def test_added_shards_leave_the_first_as_it_was_and_read_alike(tmp_path):
    path = tmp_path / "srraw.h5"
    write(path, make_pair("00001_4x_00006_00002", 1))
    before = path.read_bytes()
    write(path, make_pair("00002_4x_00006_00002", 2), shard=shards.added_shard)
    write(path, make_pair("00003_4x_00006_00002", 3), shard=shards.added_shard)
    assert (tmp_path / "srraw-0001.h5").read_bytes() == before
    assert [p.name for p in shards.shard_files(path)] == ["srraw-0001.h5", "srraw-0002.h5", "srraw-0003.h5"]
    with shards.open(path) as reader, h5py.File(path) as file:
        for pair, seed in zip(reader.pairs, (1, 2, 3), strict=True):
            _, data = make_pair(pair.name, seed)
            np.testing.assert_array_equal(reader.read(pair).target, data.target)
            np.testing.assert_array_equal(file[f"/pairs/{pair.name}/raw"][:], data.raw)


def test_a_failure_while_adding_leaves_the_set_as_it_was(tmp_path):
    path = tmp_path / "srraw.h5"
    write(path, make_pair())

    def add_and_fail():
        with shards.added_shard(path, OPTIONS) as add:
            add(*make_pair("00002_4x_00006_00002"))
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="fire"):
        add_and_fail()
    assert [p.name for p in tmp_path.iterdir()] == ["srraw.h5"]
    with shards.open(path) as reader:
        assert len(reader.pairs) == 1


@pytest.mark.parametrize("how", ["missing", "truncated", "not HDF5"])
def test_a_shard_that_is_gone_is_named_and_the_rest_stays_usable(tmp_path, how):
    path, lost = tmp_path / "srraw.h5", tmp_path / "srraw-0002.h5"
    kept, data = make_pair()
    write(path, (kept, data))
    write(path, make_pair("00002_4x_00006_00002"), shard=shards.added_shard)
    if how == "missing":
        lost.unlink()
    else:
        lost.write_bytes(lost.read_bytes()[:-100_000] if how == "truncated" else b"gone")
    with shards.open(path) as reader:
        (problem,) = reader.problems
        assert "srraw-0002.h5" in problem
        assert "1 pair of" in problem
        assert [pair.name for pair in reader.pairs] == [kept.name]
        np.testing.assert_array_equal(reader.read(reader.pairs[0]).target, data.target)


def test_what_is_not_ours_is_refused_in_a_sentence(tmp_path):
    text, other, newer = tmp_path / "text.h5", tmp_path / "other.h5", tmp_path / "newer.h5"
    text.write_text("no HDF5")
    with h5py.File(other, "w") as file:
        file["images"] = [1, 2, 3]
    write(newer, make_pair())
    with h5py.File(newer, "a") as file:
        file.attrs["format_version"] = 99
    truncated = tmp_path / "truncated.h5"
    write(truncated, make_pair())
    truncated.write_bytes(truncated.read_bytes()[:-50_000])
    for path, says, status in (
        (tmp_path / "nowhere.h5", "does not exist", 2),
        (tmp_path, "is a folder", 2),
        (text, "not an HDF5 file", 1),
        (truncated, "damaged", 1),
        (other, "not one that srraw packed", 1),
        (newer, "version 99", 1),
    ):
        with pytest.raises(UserError, match=says) as caught:
            shards.open(path)
        assert caught.value.exit_code == status


def test_an_index_cannot_link_outside_its_folder(tmp_path):
    path = tmp_path / "srraw.h5"
    write(path, make_pair())
    with h5py.File(path, "a") as file:
        file["pairs"]["00009_4x_00006_00002"] = h5py.ExternalLink("/etc/passwd", "/pairs/x")
    with pytest.raises(UserError, match="outside its own folder"):
        shards.open(path)


def test_a_target_is_rendered_with_its_own_metadata_at_the_low_shots_exposure():
    pair, _ = make_pair(gain=(0.5, 1.0, 2.0))
    light = np.array([0.2, 0.3, 0.1])
    packed = np.round(light * 65535).astype(np.uint16)[None, None]
    expected = encode_srgb(light * (0.5, 1.0, 2.0) * np.array([2.1, 1.0, 1.4]))
    np.testing.assert_allclose(shards.render_target(pair, packed)[0, 0], expected, atol=1e-4)
    eight_bit = np.full((1, 1, 3), 128, np.uint8)
    same = shards.render_target(dataclasses.replace(pair, gain=(1, 1, 1), target_space="srgb"), eight_bit)
    np.testing.assert_allclose(same, 128 / 255, atol=1e-5)


def test_a_file_that_h5py_has_open_in_this_process_is_read(tmp_path):
    pair, data = make_pair()
    write(tmp_path / "a.h5", (pair, data))
    with h5py.File(tmp_path / "a.h5", "r"), shards.open(tmp_path / "a.h5") as reader:
        np.testing.assert_array_equal(reader.read(reader.pairs[0]).raw, data.raw)


@pytest.mark.parametrize("compression", shards.COMPRESSIONS)
@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from([2, 4, 8]), st.integers(0, 99))
def test_any_crop_of_a_pair_of_any_size_is_what_was_written(compression, half_height, half_width, zoom, seed):
    if compression == "bitshuffle":
        pytest.importorskip("hdf5plugin")
    rng = np.random.default_rng(seed)
    h, w = 2 * half_height, 2 * half_width
    pair, _ = make_pair(zoom=zoom, size=(h, w))
    data = PairData(
        raw=rng.integers(0, 16384, (h, w)).astype(np.uint16),
        rgb=rng.integers(0, 256, (h, w, 3)).astype(np.uint8),
        target=rng.integers(0, 65536, (zoom * h, zoom * w, 3)).astype(np.uint16),
        valid=rng.integers(0, 2, (zoom * h, zoom * w)).astype(np.uint8),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        write(path, (pair, data), options={**OPTIONS, "compression": compression})
        with shards.open(path) as reader, h5py.File(path) as file:
            for _ in range(3):
                x, y = int(rng.integers(w)), int(rng.integers(h))
                width, height = int(rng.integers(1, w - x + 1)), int(rng.integers(1, h - y + 1))
                crop = reader.read(reader.pairs[0], (x, y, width, height))
                for name, array in vars(data).items():
                    n = 1 if name in ("raw", "rgb") else zoom
                    expected = array[n * y : n * (y + height), n * x : n * (x + width)]
                    np.testing.assert_array_equal(getattr(crop, name), expected)
            for name, array in vars(data).items():
                np.testing.assert_array_equal(file["pairs"][pair.name][name][:], array)


def test_without_bitshuffles_own_decoder_hdf5_decodes(tmp_path, monkeypatch):
    pytest.importorskip("hdf5plugin")
    pair, data = make_pair()
    write(tmp_path / "a.h5", (pair, data), options={**OPTIONS, "compression": "bitshuffle"})
    monkeypatch.setattr("srraw_tools.chunks._block_decoder", lambda: None)
    with shards.open(tmp_path / "a.h5") as reader:
        for _ in range(2):
            crop = reader.read(reader.pairs[0], (6, 8, 32, 16))
            np.testing.assert_array_equal(crop.target, data.target[32:96, 24:152])
            np.testing.assert_array_equal(crop.raw, data.raw[8:24, 6:38])
