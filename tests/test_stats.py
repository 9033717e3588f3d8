"""What a set is said to hold is what it holds; sharpness and misalignment are what was put there."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from synthetic import draw_scene, make_pair, write_set

from srraw_tools import quality, shards
from srraw_tools.cli import main
from srraw_tools.stats import measure_set, summary


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "srraw.h5"
    return write_set(path, train=3, val=1, test=1, size=(96, 112))


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_a_shift_is_found_where_it_was_made(x, y):
    # As blurred as a lens leaves it: what is finer than the low shot's sampling would be taken for shifts.
    scene = cv2.GaussianBlur(quality.luminance(draw_scene((4 * 72, 4 * 72), 3)), (0, 0), 3)
    moved = cv2.warpAffine(
        scene, np.float32([[1, 0, x], [0, 1, y]]), scene.shape[::-1], borderMode=cv2.BORDER_REFLECT
    )
    low = quality.area_mean(scene, 4)[4:-4, 4:-4]
    found = quality.shift(low, np.ascontiguousarray(moved[16:-16, 16:-16]), 4)
    np.testing.assert_allclose(found, (x, y), atol=0.3)


def test_a_blurred_target_is_less_sharp():
    scene = quality.luminance(draw_scene((256, 256), 4))
    values = [quality.sharpness(cv2.GaussianBlur(scene, (0, 0), sigma), 4) for sigma in (0.5, 1.5, 4.0)]
    assert values[0] > 1.5 * values[1] > 3 * values[2] > 0


def test_nothing_is_measured_where_nothing_is_shown():
    grey = np.full((64, 64), 0.5, np.float32)
    assert quality.sharpness(np.full((256, 256), 0.5, np.float32), 4) is None
    assert quality.shift(grey, np.full((256, 256), 0.5, np.float32), 4) is None


def test_a_set_is_counted_and_measured(packed):
    found = [pair for _, pair in measure_set(packed)]
    told = summary(found, packed)
    assert (told["pairs"], told["scenes"]) == (5, 5)
    assert [(row["split"], row["pairs"]) for row in told["splits"]] == [("train", 3), ("val", 1), ("test", 1)]
    for pair in found:
        assert pair.misalignment_px < 1  # drawn in place
        assert 0.9 < pair.valid < 1
        assert set(pair.pictures) == {"whole", "low", "target"}


def test_clipping_is_the_share_at_white(tmp_path):
    pair, data = make_pair("00001_4x_00006_00002", size=(80, 80))
    data.raw[:8] = pair.white_level
    with shards.new_shard(tmp_path / "a.h5", {"zooms": [4], "compression": "none"}) as add:
        add(pair, data)
    ((_, found),) = measure_set(tmp_path / "a.h5", pictures=False)
    assert found.clipped == pytest.approx(0.1, abs=0.005)
    assert found.pictures == {}


def test_table_json_page_and_card_tell_the_same(packed, tmp_path):
    page, card = tmp_path / "stats.html", tmp_path / "card.md"
    arguments = ["stats", str(packed), "--html", str(page), "--card", str(card)]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    assert max(map(len, text.stdout.replace(str(tmp_path), "").splitlines())) <= 80
    told = json.loads(CliRunner().invoke(main, ["stats", str(packed), "--json"]).stdout)
    assert len(told["rows"]) == told["pairs"] == 5
    sharp = f"{told['quantities']['sharpness']['median']:.3f}"
    html, markdown = page.read_text(), card.read_text()
    for where in (text.stdout, html, markdown):
        assert sharp in where
        assert "5 pairs of 5 scenes" in where
    assert html.count("data:image/webp") == 3 * 5
    assert not re.search(r"(src|href)=\"?https?:", html)
    assert "{" not in markdown  # every number was filled in
    assert all(row["name"] in html for row in told["rows"])
    card.write_text("filled in")
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, card.read_text()) == (2, "filled in")
    assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0
    assert card.read_text() == markdown


def test_processes_measure_the_same(packed):
    one, two = (dict(measure_set(packed, jobs=jobs)) for jobs in (1, 2))
    assert {name: pair.record() for name, pair in one.items()} == {
        n: pair.record() for n, pair in two.items()
    }


def test_what_is_damaged_is_named_and_the_rest_is_told(packed, tmp_path):
    path = tmp_path / "srraw.h5"
    contents = bytearray(packed.read_bytes())
    middle = len(contents) // 2
    contents[middle : middle + 100_000] = bytes(100_000)
    path.write_bytes(contents)
    result = CliRunner().invoke(main, ["stats", str(path)])
    assert result.exit_code == 1
    assert "is not what was written" in result.stderr
    assert "4 pairs of 4 scenes" in result.stdout


def test_a_page_needs_the_name_of_a_page(packed, tmp_path):
    result = CliRunner().invoke(main, ["stats", str(packed), "--html", str(tmp_path / "x.txt")])
    assert result.exit_code == 2
    assert "no name of a page" in result.stderr
