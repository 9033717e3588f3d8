"""Sequence folders: ours, the published layout, and what is wrong with the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.sequence import (
    NOMINAL_MM,
    Sequence,
    Shot,
    choose_pairs,
    find_sequences,
    read_sequence,
    sequence_name,
    write_sequence,
)


def sequence_of(focals):
    shots = tuple(Shot(f"{i:05d}.dng", f) for i, f in enumerate(sorted(focals, reverse=True), 1))
    return Sequence(Path("x"), "x", shots)


def focal_pairs(sequence, zoom):
    return [(low.focal_nominal, high.focal_nominal) for low, high in choose_pairs(sequence, zoom)]


def test_the_seven_focal_lengths_give_the_papers_pairs():
    sequence = sequence_of(NOMINAL_MM)
    assert focal_pairs(sequence, 4) == [(24, 100), (35, 150), (50, 240)]
    assert focal_pairs(sequence, 8) == [(35, 240)]


@given(st.lists(st.floats(20, 300), min_size=1, max_size=9, unique=True), st.sampled_from([2, 4, 8]))
def test_no_pair_is_out_of_range_and_no_high_is_used_twice(focals, zoom):
    pairs = focal_pairs(sequence_of(focals), zoom)
    assert all(0.83 <= high / low / zoom <= 1.21 for low, high in pairs)
    highs = [high for _, high in pairs]
    assert len(highs) == len(set(highs))


@pytest.mark.parametrize(("exif", "nominal"), [(157, 150), (40, 40), (36.5, 35), (239, 240), (300, 300)])
def test_exif_is_snapped_to_a_usual_focal_length_within_8_percent(exif, nominal):
    assert Shot("a.dng", focal_mm=exif).focal_nominal == nominal


def test_the_plan_decides_over_exif():
    assert Shot("a.dng", focal_planned=35, focal_mm=40).focal_nominal == 35
    assert Shot("a.dng").focal_nominal is None


def test_a_sequence_is_read_as_it_was_written(tmp_path):
    shot = Shot(
        "00001.dng", 150, 151.2, 20.0, 0.01, 100.0, "Maker Body", "Lens", "2026-01-01T00:00:00", sha256="a"
    )
    plain = Sequence(
        tmp_path, tmp_path.name, (shot,), (35.0, 150.0), False, "srraw capture", {"rig": "virtual"}
    )
    waiting = replace(plain, closing_planned=True)
    closed = replace(waiting, closing=replace(shot, file="closing.dng"))
    for written in (plain, waiting, closed):
        write_sequence(written)
        assert read_sequence(tmp_path) == written


@pytest.fixture
def published(tmp_path):
    """A scene in the published layout: raw files alone, the longest focal length first."""
    folder = tmp_path / "train" / "00134"
    folder.mkdir(parents=True)
    for i, focal in enumerate((240, 157, 35), 1):
        write_dng(
            folder / f"{i:05d}.dng",
            np.full((64, 96), 600, np.uint16),
            black_level=512,
            white_level=16383,
            focal_mm=focal,
            f_number=20,
            exposure_s=0.02,
            iso=100,
        )
    return folder


def test_the_published_layout_is_read_from_exif(published):
    sequence = read_sequence(published)
    assert sequence.complete
    assert sequence.name == "train-00134"
    assert [shot.focal_mm for shot in sequence.shots] == [240, 157, 35]
    assert focal_pairs(sequence, 4) == [(35, 150)]


def test_sequences_are_found_at_every_level(published):
    for path in (published, published.parent, published.parent.parent):
        assert find_sequences([path]) == [published]


def test_sequence_names_tell_published_splits_apart(tmp_path):
    assert sequence_name(tmp_path / "train" / "00001") != sequence_name(tmp_path / "test" / "00001")


def described(**changes):
    record = {"format": "srraw-sequence", "version": 1, "planned_mm": [], "complete": True, "shots": []}
    return json.dumps(record | changes)


def test_a_missing_and_an_empty_folder_are_wrong_use(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as caught:
            find_sequences([path])
        assert caught.value.exit_code == 2
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('{"format": "other"}', "not a description"),
        ('{"format": "srraw-sequence", "version": 9}', "version 9"),
        ('{"format": "srraw-sequence", "version": 1}', "damaged"),
        (described(shots=[{"file": "00001.dng", "camera": 7}]), "camera of 00001.dng is 7"),
        (described(shots=[{"file": "00001.dng", "sha256": ["a"]}]), "sha256 of 00001.dng"),
        (described(shots=[{"file": "00001.dng", "iso": "100"}]), "iso of 00001.dng"),
        (described(shots=[7]), "damaged"),
        (described(planned_mm=["far"]), "damaged"),
        (described(planned_mm=[float("nan")]), "damaged"),
        ('{"format": "srraw-sequence", "shots": ' + "[" * 100_000, "not JSON"),
        ('{"format": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_a_damaged_description_is_one_sentence(tmp_path, text, says):
    (tmp_path / "sequence.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_sequence(tmp_path)


def test_no_path_from_the_description_leaves_the_folder(tmp_path):
    record = {"format": "srraw-sequence", "version": 1, "planned_mm": [], "complete": True}
    record["shots"] = [{"file": "../secret.dng"}]
    (tmp_path / "sequence.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="own folder"):
        read_sequence(tmp_path)
