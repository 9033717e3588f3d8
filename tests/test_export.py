"""Exports are what other toolboxes read: names, sizes, colours and the CFA's phase."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from synthetic import CFAS, make_pair, write_set

from srraw_tools import shards
from srraw_tools.cli import main
from srraw_tools.errors import UserError
from srraw_tools.export import export_pairs
from srraw_tools.quality import seen_crop
from srraw_tools.raw import read_raw
from srraw_tools.shards import render_target


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=4, val=1, test=0, size=(64, 80))


def export(path, out, **options):
    return [record.status for record in export_pairs(path, out, **options)]


def read_png(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]


def pairs_by_their_rules(gt, lq, meta):
    """What BasicSR and traiNNer-redux make of a list: the first word of a line is a name in both folders."""
    names = [line.split(" ")[0] for line in meta.read_text().splitlines()]
    return [(gt / name, lq / name) for name in names]


def test_basicsr_finds_every_pair_by_the_list_and_by_the_folders(packed, tmp_path):
    assert export(packed, tmp_path / "out", format="basicsr") == ["exported"] * 5
    for split, count in (("train", 4), ("val", 1)):
        folder = tmp_path / "out" / "4x" / split
        found = pairs_by_their_rules(folder / "gt", folder / "lq", folder.parent / f"meta_info_{split}.txt")
        assert len(found) == count
        assert [gt for gt, _ in found] == sorted((folder / "gt").iterdir())
        assert [lq for _, lq in found] == sorted((folder / "lq").iterdir())
        for gt, lq in found:
            high, low = read_png(gt), read_png(lq)
            assert high.dtype == low.dtype == np.uint8
            assert high.shape == (4 * low.shape[0], 4 * low.shape[1], 3)  # or they refuse the pair
            small = cv2.resize(high, low.shape[1::-1], interpolation=cv2.INTER_AREA).astype(float)
            assert np.corrcoef(small.ravel(), low.ravel())[0, 1] > 0.75
    lines = (tmp_path / "out" / "4x" / "meta_info_val.txt").read_text().splitlines()
    assert lines == ["00005_4x_00006_00002.png (256,312,3)"]  # eight columns of the target are not valid


def test_dng_and_png_keep_the_mosaic_its_phase_and_the_targets_sixteen_bits(packed, tmp_path):
    export(packed, tmp_path / "out", format="dng-png", split="train")
    with shards.open(packed) as reader:
        assert {pair.cfa for pair in reader.select(split="train")} == set(CFAS)
        for pair in reader.select(split="train"):
            stem = tmp_path / "out" / "4x" / "train" / pair.name
            raw = read_raw(stem.with_suffix(".dng"))
            assert (raw.cfa, raw.white_level) == (pair.cfa, pair.white_level)
            np.testing.assert_allclose(raw.camera_wb, pair.camera_wb, rtol=1e-4)
            np.testing.assert_allclose(raw.color_matrix, pair.color_matrix, atol=1e-3)
            crop = seen_crop(reader.read(pair).valid, 4)
            data = reader.read(pair, crop)
            np.testing.assert_array_equal(raw.mosaic, data.raw)
            shown = read_png(stem.with_suffix(".png"))
            assert shown.dtype == np.uint16
            np.testing.assert_allclose(shown / 65535, render_target(pair, data.target), atol=1e-5)


def test_npz_holds_everything_as_packed(packed, tmp_path):
    export(packed, tmp_path / "out", format="npz")
    with shards.open(packed) as reader:
        for pair in reader.pairs:
            path = tmp_path / "out" / "4x" / pair.split / f"{pair.name}.npz"
            with np.load(path, allow_pickle=False) as found:
                for name, array in vars(reader.read(pair)).items():
                    np.testing.assert_array_equal(found[name], array)
                about = json.loads(str(found["about"]))
            assert about["cfa"] == pair.cfa
            assert about["gain"] == list(pair.gain)
            assert about["low_to_high"] == pair.low_to_high.tolist()


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 4), max_size=5), st.sampled_from([2, 4]))
def test_a_seen_crop_is_even_and_shows_the_scene_everywhere(holes, zoom):
    valid = np.ones((zoom * 20, zoom * 26), np.uint8)
    for x, y, width, height in holes:
        valid[y : y + height, x : x + width] = 0
    x, y, width, height = seen_crop(valid, zoom)
    assert not any(side % 2 for side in (x, y, width, height))
    assert valid[zoom * y : zoom * (y + height), zoom * x : zoom * (x + width)].all()
    if not holes:
        assert (x, y, width, height) == (0, 0, 26, 20)


def test_the_same_again_is_skipped_and_anything_else_refused(packed, tmp_path):
    out = tmp_path / "out"
    export(packed, out, format="basicsr", split="val")
    assert export(packed, out, format="basicsr") == ["present"] + ["exported"] * 4
    lines = (out / "4x" / "meta_info_train.txt").read_text().splitlines()
    assert len(lines) == 4
    with pytest.raises(UserError, match="another format"):
        export(packed, out, format="npz")
    other = write_set(tmp_path / "other.h5", train=1, val=0, test=0, seed=9, size=(64, 80))
    assert export(other, tmp_path / "more", format="npz") == ["exported"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds other files"):
            export(packed, tmp_path / "mine", format="npz", overwrite=overwrite)


def test_to_overwrite_leaves_nothing_of_another_export(packed, tmp_path):
    out = tmp_path / "out"
    export(packed, out, format="basicsr")
    (out / "4x" / "train" / "notes.txt").write_text("mine")
    other = write_set(tmp_path / "other.h5", train=1, val=0, test=0, seed=9, size=(64, 80))
    assert export(other, out, format="npz", overwrite=True) == ["exported"]
    (name,) = (out / "4x" / "train").glob("*.npz")
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert left == {"export.json", name.name, "notes.txt"}


def test_what_exif_cannot_hold_is_written_as_near_as_it_can_be(tmp_path):
    pair, data = make_pair("00001_4x_00006_00002", size=(64, 80))
    path = tmp_path / "a.h5"
    with shards.new_shard(path, {"zooms": [4], "compression": "none"}) as add:
        add(replace(pair, iso=102400.0, camera="Caméra 1"), data)
    assert export(path, tmp_path / "out", format="dng-png") == ["exported"]
    (dng,) = (tmp_path / "out").rglob("*.dng")
    assert read_raw(dng).exif.iso == 65535


def test_processes_export_the_same(packed, tmp_path):
    for jobs in (1, 2):
        assert export(packed, tmp_path / str(jobs), format="npz", jobs=jobs) == ["exported"] * 5
    for path in (tmp_path / "1").rglob("*.npz"):
        with np.load(path) as one, np.load(tmp_path / "2" / path.relative_to(tmp_path / "1")) as two:
            for name in one.files:
                np.testing.assert_array_equal(one[name], two[name])


def test_a_damaged_pair_is_named_and_costs_itself(packed, tmp_path):
    path = tmp_path / "srraw.h5"
    contents = bytearray(packed.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    result = CliRunner().invoke(main, ["export", str(path), str(tmp_path / "out"), "--format", "npz"])
    assert result.exit_code == 1
    assert "is not what was written" in result.stderr
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.h5", "out", "--format", "npz"), "does not exist"),
        (("srraw.h5", "out", "--format", "zip"), "zip"),
        (("srraw.h5", "out", "--format", "npz", "--zoom", "8"), "no such pair"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(packed, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "srraw.h5").write_bytes(packed.read_bytes())
    result = CliRunner().invoke(main, ["export", *arguments])
    assert result.exit_code == 2
    assert says in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["srraw.h5"]
