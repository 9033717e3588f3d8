"""The stage from sequences to alignment.json, against the truth of simulated sequences."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from srraw_tools import geometry
from srraw_tools.align import align_sequence, align_sequences
from srraw_tools.alignment import read_alignment
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, write_json


def errors_px(folder):
    """Mean corner error of every pair against truth.json, in pixels of the long shot."""
    truth = {(p["low"], p["high"]): p["low_to_high"] for p in read_json(folder / "truth.json")["pairs"]}
    pairs = read_alignment(folder / "alignment.json")
    return [geometry.corner_error_px(p.low_to_high, truth[p.low, p.high], p.crop) for p in pairs]


def put_into_place(folder, name, content):
    """Replace a shot's file as if it had been shot so."""
    (folder / name).write_bytes(content)
    record = read_json(folder / "sequence.json")
    for shot in record["shots"]:
        if shot["file"] == name:
            shot["sha256"] = hashlib.sha256(content).hexdigest()
    write_json(folder / "sequence.json", record)


def test_simulated_pairs_are_registered_to_half_a_pixel(sequences):
    for folder in sorted(sequences.iterdir()):
        aligned = align_sequence(folder)
        assert [(p.zoom, p.low, p.high) for p in aligned.pairs] == [
            (4, "00007.dng", "00003.dng"),
            (4, "00006.dng", "00002.dng"),
            (4, "00005.dng", "00001.dng"),
            (8, "00006.dng", "00001.dng"),
        ]
        assert all(pair.status == "ok" for pair in aligned.pairs)
        assert max(errors_px(folder)) < 0.5


def test_the_file_says_what_the_formats_promise(sequences):
    folder = sequences / "00001"
    align_sequence(folder)
    record = read_json(folder / "alignment.json")
    assert (record["format"], record["version"]) == ("srraw-alignment", 1)
    for pair in record["pairs"]:
        matrix = np.array(pair["low_to_high"])
        assert matrix[2].tolist() == [0, 0, 1]
        scale, _ = geometry.scale_and_rotation(matrix)
        assert pair["scale_offset"] == pytest.approx(scale / pair["zoom"])
        assert pair["scale_offset_nominal"] == pytest.approx(
            pair["focal_high"] / pair["focal_low"] / pair["zoom"]
        )
        assert tuple(pair["crop"]) == geometry.even_crop_of_view(matrix, (352, 528), (352, 528))
        np.testing.assert_allclose(pair["gain"], 1, atol=0.1)
        assert -1 <= pair["score"] <= 1


def test_the_nominal_scale_is_kept_when_asked_for(sequences):
    aligned = align_sequence(sequences / "00001", zooms=(4,), nominal_scale=True)
    for pair in aligned.pairs:
        assert pair.scale_offset == pytest.approx(pair.scale_offset_nominal, rel=1e-6)


def test_the_same_again_is_skipped_and_other_options_are_refused(sequences):
    folder = sequences / "00001"
    first = align_sequence(folder, zooms=(4,))
    before = (folder / "alignment.json").stat().st_mtime_ns
    again = align_sequence(folder, zooms=(4,))
    assert (again.skipped, again.pairs) == (True, first.pairs)
    assert (folder / "alignment.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="--overwrite") as caught:
        align_sequence(folder, zooms=(8,))
    assert caught.value.exit_code == 2
    assert [p.zoom for p in align_sequence(folder, zooms=(8,), overwrite=True).pairs] == [8]


def test_a_changed_input_is_refused(sequences):
    folder = sequences / "00001"
    align_sequence(folder)
    put_into_place(folder, "00003.dng", (folder / "00004.dng").read_bytes())
    with pytest.raises(UserError, match="changed since: 00003"):
        align_sequence(folder)


def test_a_shot_that_is_not_what_was_shot_costs_its_own_pairs_and_is_named(sequences):
    folder = sequences / "00001"
    original = (folder / "00003.dng").read_bytes()
    (folder / "00003.dng").write_bytes((folder / "00004.dng").read_bytes())
    aligned = align_sequence(folder)
    assert [p.high for p in aligned.pairs] == ["00002.dng", "00001.dng", "00001.dng"]
    (failure,) = aligned.failures
    assert f"{folder / '00003.dng'} has changed since it was shot" in failure
    (folder / "00003.dng").write_bytes(original)  # as the sentence says; no --overwrite is needed then
    assert len(align_sequence(folder).pairs) == 4


def test_two_different_scenes_are_rejected_and_kept_as_such(sequences):
    folder = sequences / "00001"
    put_into_place(folder, "00003.dng", (sequences / "00002" / "00003.dng").read_bytes())
    pairs = {p.high: p for p in align_sequence(folder).pairs}
    assert pairs["00003.dng"].status == "rejected"
    assert pairs["00003.dng"].reason
    assert pairs["00002.dng"].status == "ok"


def test_a_truncated_raw_costs_its_own_pairs_and_is_tried_again(sequences):
    folder = sequences / "00001"
    whole = (folder / "00001.dng").read_bytes()
    put_into_place(folder, "00001.dng", whole[:100_000])
    aligned = align_sequence(folder)
    assert [p.high for p in aligned.pairs] == ["00003.dng", "00002.dng"]
    assert len(aligned.failures) == 1
    assert "00001.dng is truncated or damaged" in aligned.failures[0]
    assert not align_sequence(folder, overwrite=True).skipped


def test_a_missing_shot_is_a_warning(sequences):
    folder = sequences / "00001"
    (folder / "00001.dng").unlink()
    aligned = align_sequence(folder)
    assert len(aligned.pairs) == 2
    assert aligned.failures == ()
    assert any("00001.dng is missing" in warning for warning in aligned.warnings)


def test_the_published_layout_needs_no_description(sequences, tmp_path):
    folder = tmp_path / "train" / "00001"
    folder.parent.mkdir()
    (sequences / "00001").rename(folder)
    (folder / "sequence.json").unlink()
    aligned = align_sequence(folder)
    assert aligned.name == "train-00001"
    assert len(aligned.pairs) == 4
    assert max(errors_px(folder)) < 0.5


def without_plan(folder, focals):
    """Rewrite sequence.json as of raws that state these focal lengths, by file, and were not planned."""
    record = read_json(folder / "sequence.json")
    for shot in record["shots"]:
        shot["focal_planned"], shot["focal_mm"] = None, focals.get(shot["file"], shot["focal_mm"])
    write_json(folder / "sequence.json", record)


def test_a_focal_length_that_exif_lacks_or_states_wrongly_is_found_in_the_images(sequences):
    folder = sequences / "00001"
    before = {(p.low, p.high) for p in align_sequence(folder).pairs}
    without_plan(folder, {"00006.dng": 40.0, "00004.dng": None})
    aligned = align_sequence(folder, overwrite=True)
    assert {(p.low, p.high) for p in aligned.pairs} == before
    assert [p.status for p in aligned.pairs] == ["ok"] * 4
    assert max(errors_px(folder)) < 0.5
    assert any("00006.dng states 40 mm; the images show 3" in warning for warning in aligned.warnings)
    assert any("00004.dng states no focal length" in warning for warning in aligned.warnings)


def test_without_any_focal_length_the_images_decide_which_shots_make_a_pair(sequences):
    folder = sequences / "00001"
    without_plan(folder, dict.fromkeys([f"{k:05d}.dng" for k in range(1, 8)]))
    aligned = align_sequence(folder)
    assert {(p.zoom, p.low, p.high) for p in aligned.pairs} >= {
        (4, "00007.dng", "00003.dng"),
        (4, "00006.dng", "00002.dng"),
    }
    assert [p.focal_low for p in aligned.pairs] == [None] * len(aligned.pairs)
    assert max(errors_px(folder)) < 0.5


def test_an_incomplete_sequence_is_named(sequences):
    path = sequences / "00001" / "sequence.json"
    write_json(path, {**read_json(path), "complete": False})
    with pytest.raises(UserError, match="incomplete"):
        align_sequence(path.parent)


def test_a_batch_goes_on_past_a_failure_in_processes_as_here(sequences):
    (sequences / "00001" / "sequence.json").write_text("{")
    folders = sorted(sequences.iterdir())
    here = dict(align_sequences(folders))
    spread = dict(align_sequences(folders, overwrite=True, jobs=2))
    for results in (here, spread):
        assert isinstance(results[folders[0]], UserError)
        assert len(results[folders[1]].pairs) == 4
    assert here[folders[1]].pairs == spread[folders[1]].pairs


def test_read_only_sequences_are_served_by_another_folder(sequences, tmp_path):
    aligned = align_sequence(sequences / "00001", out=tmp_path / "alignments")
    assert aligned.path == tmp_path / "alignments" / "00001" / "alignment.json"
    assert aligned.path.is_file()
    assert not (sequences / "00001" / "alignment.json").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "not an alignment"),
        (json.dumps({"format": "srraw-alignment", "version": 7}), "version 7"),
        (json.dumps({"format": "srraw-alignment", "version": 1, "pairs": [{}]}), "damaged"),
    ],
)
def test_a_foreign_alignment_is_one_sentence(tmp_path, text, says):
    (tmp_path / "alignment.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_alignment(tmp_path / "alignment.json")


@pytest.mark.parametrize(
    "change",
    [{"focal_low": "35"}, {"residual_px": [1]}, {"motion": 3}, {"status": "good"}, {"expected_error_px": {}}],
)
def test_values_that_no_alignment_can_have_are_damage(sequences, change):
    align_sequence(sequences / "00001", zooms=(8,))
    path = sequences / "00001" / "alignment.json"
    record = read_json(path)
    record["pairs"][0] |= change
    write_json(path, record)
    with pytest.raises(UserError, match="damaged"):
        read_alignment(path)


def test_an_alignment_names_no_file_but_its_own_as_its_flow(sequences):
    """What an alignment names as its flow is deleted when it is made anew."""
    align_sequence(sequences / "00001", zooms=(8,))
    path = sequences / "00001" / "alignment.json"
    record = read_json(path)
    for flow in ("00001.dng", "../flow_4x.npz", "flow_4x.dng"):
        record["pairs"][0]["flow"] = flow
        write_json(path, record)
        with pytest.raises(UserError, match="damaged"):
            read_alignment(path)


def test_impossible_options_are_wrong_use(simulated):
    for options in ({"zooms": (3,)}, {"zooms": ()}, {"motion": "magic"}):
        with pytest.raises(UserError) as caught:
            align_sequence(simulated / "00001", **options)
        assert caught.value.exit_code == 2


def test_photographs_as_scenes_align_too(shared_data, tmp_path):
    from srraw_tools.simulate.shoot import simulate_sequence

    photo = shared_data / "photos" / "absolute-shrubbery.jpeg"
    simulate_sequence(tmp_path, name="00001", seed=3, size=(352, 528), scene=photo)
    aligned = align_sequence(tmp_path / "00001")
    assert all(pair.status == "ok" for pair in aligned.pairs)
    assert max(errors_px(tmp_path / "00001")) < 0.5
