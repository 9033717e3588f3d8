"""Folders of files into sequences: what belongs together, what has no place, and that nothing is lost."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from srraw_tools import geometry, importing, shards
from srraw_tools.align import align_sequence
from srraw_tools.cli import main
from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, sha256_of
from srraw_tools.importing import clock_offset, import_sequences, plan_import
from srraw_tools.pack import pack_sequences
from srraw_tools.raw import read_raw
from srraw_tools.sequence import read_sequence

NOON = datetime(2026, 6, 1, 12)


def shoot(path, seconds, focal_mm, **settings):
    """A small raw file, taken so many seconds after noon; its values tell it from all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mosaic = np.full((16, 24), 600 + round(seconds) % 999, np.uint16)
    write_dng(path, mosaic, focal_mm=focal_mm, taken_at=NOON + timedelta(seconds=seconds), **settings)
    return path


def placed(plan):
    return [[source.path.name for source in sequence.sources] for sequence in plan.sequences]


def reasons(plan):
    return {path.name: reason for path, reason in plan.unplaced}


def run(*arguments):
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


@pytest.fixture
def card(tmp_path):
    """Two scenes in a camera's folder: the second right after the first, the third after a walk."""
    folder = tmp_path / "card" / "DCIM"
    for number, (seconds, focal) in enumerate(
        [(0, 35), (9, 70), (20, 150), (30, 35), (40, 71), (52, 151), (600, 240), (610, 100), (640, 24)], 1
    ):
        shoot(folder / f"DSC{number:04d}.dng", seconds, focal)
    return folder


def test_a_sequence_ends_with_a_pause_or_when_a_focal_length_comes_again(card, tmp_path):
    plan = plan_import([card], out=tmp_path / "out")
    assert placed(plan) == [
        ["DSC0003.dng", "DSC0002.dng", "DSC0001.dng"],
        ["DSC0006.dng", "DSC0005.dng", "DSC0004.dng"],
        ["DSC0007.dng", "DSC0008.dng", "DSC0009.dng"],
    ]
    assert plan.unplaced == ()
    assert not (tmp_path / "out").exists()


def test_what_has_no_place_is_named_with_the_reason(card, tmp_path):
    shoot(card / "DSC0010.dng", 650, 24)  # the last one again
    shoot(card / "DSC0020.dng", 5000, 50)
    (card / "notes.txt").write_text("a fine day")
    (card / "movie.mov").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(100))
    (card / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    cv2.imwrite(str(card / "screenshot.png"), np.zeros((4, 4, 3), np.uint8))
    plan = plan_import([card], out=tmp_path / "out")
    assert placed(plan)[2] == ["DSC0007.dng", "DSC0008.dng", "DSC0010.dng"]
    assert reasons(plan) == {
        "DSC0009.dng": "was shot again at once, as DSC0010.dng",
        "DSC0020.dng": "stands alone: no other shot of its scene within 60 s",
        "notes.txt": "is neither a raw file nor a picture",
        "movie.mov": "is neither a raw file nor a picture",
        "phone.heic": "is a HEIC file, and no raw file, JPEG or PNG",
        "screenshot.png": "states no time",
    }


def test_raws_keep_their_jpegs_and_everything_is_copied_with_its_hash(card, tmp_path):
    cv2.imwrite(str(card / "DSC0001.JPG"), np.zeros((4, 4, 3), np.uint8))
    before = {path: sha256_of(path) for path in card.iterdir()}
    out = tmp_path / "sequences"
    imported = list(import_sequences(plan_import([card], out=out)))
    assert [shot.problem for shot in imported] == [None] * 9
    sequence = read_sequence(out / "00001")
    assert (sequence.complete, sequence.made_by) == (True, "srraw import")
    assert [(s.file, s.jpeg, s.focal_mm) for s in sequence.shots] == [
        ("00001.dng", None, 150.0),
        ("00002.dng", None, 70.0),
        ("00003.dng", "00003.JPG", 35.0),
    ]
    assert sequence.shots[2].sha256 == sha256_of(out / "00001" / "00003.dng") == before[card / "DSC0001.dng"]
    assert sha256_of(out / "00001" / "00003.JPG") == before[card / "DSC0001.JPG"]
    assert {path: sha256_of(path) for path in card.iterdir()} == before


def test_the_same_again_copies_nothing_and_later_shots_are_added(card, tmp_path):
    out = tmp_path / "sequences"
    list(import_sequences(plan_import([card], out=out)))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    plan = plan_import([card], out=out)
    assert [sequence.status for sequence in plan.sequences] == ["present"] * 3
    assert list(import_sequences(plan)) == []
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    for number, seconds, focal in ((30, 9000, 100), (31, 9010, 25)):
        shoot(card / f"DSC{number:04d}.dng", seconds, focal)
    plan = plan_import([card], out=out)
    assert [(sequence.folder.name, sequence.status) for sequence in plan.sequences][-1] == ("00004", "new")


def test_a_shot_that_comes_too_late_for_its_sequence_is_named(card, tmp_path):
    out = tmp_path / "sequences"
    list(import_sequences(plan_import([card], out=out)))
    shoot(card / "DSC0015.dng", 645, 50)
    plan = plan_import([card], out=out)
    assert "belongs to" in reasons(plan)["DSC0015.dng"]
    assert len(placed(plan)) == 2


def test_an_interrupted_import_is_finished_by_the_next(card, tmp_path):
    out = tmp_path / "sequences"
    for number, _ in enumerate(import_sequences(plan_import([card], out=out)), 1):
        if number == 5:
            break
    assert not read_sequence(out / "00002").complete
    kept = (out / "00002" / "00001.dng").stat().st_mtime_ns
    plan = plan_import([card], out=out)
    assert [sequence.status for sequence in plan.sequences] == ["present", "begun", "new"]
    list(import_sequences(plan))
    assert all(read_sequence(folder).complete for folder in out.iterdir())
    assert (out / "00002" / "00001.dng").stat().st_mtime_ns == kept


def test_nothing_that_is_there_is_overwritten(card, tmp_path):
    out = tmp_path / "sequences"
    (out / "00001").mkdir(parents=True)
    (out / "00001" / "00001.dng").write_text("somebody's own")
    list(import_sequences(plan_import([card], out=out)))
    assert (out / "00001" / "00001.dng").read_text() == "somebody's own"
    assert [folder.name for folder in sorted(out.iterdir())] == ["00001", "00002", "00003", "00004"]
    (out / "00002" / "00002.dng").write_text("changed by hand")
    record = read_json(out / "00002" / "sequence.json")
    (out / "00002" / "sequence.json").write_text(json.dumps({**record, "complete": False}))
    result = run(card, "--out", out)
    assert result.exit_code == 1
    assert "00002.dng is there, and is another file than" in result.stderr
    assert (out / "00002" / "00002.dng").read_text() == "changed by hand"


def test_files_without_times_are_one_sequence_a_folder(tmp_path):
    for scene in ("a", "b"):
        for name in ("near.png", "far.png"):
            (tmp_path / "src" / scene).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "src" / scene / name), np.zeros((4, 4, 3), np.uint8))
    assert placed(plan_import([tmp_path / "src"], out=tmp_path / "out")) == [["far.png", "near.png"]] * 2


@given(
    st.lists(st.integers(40, 4000), min_size=4, max_size=20, unique=True),
    st.floats(-90000, 90000),
    st.randoms(use_true_random=False),
)
def test_the_offset_of_two_clocks_is_found_in_the_times(pauses, offset, random):
    low = [NOON + timedelta(seconds=sum(pauses[:number])) for number in range(len(pauses))]
    high = [time + timedelta(seconds=offset + random.uniform(-8, 8)) for time in low]
    del high[random.randrange(len(high))]
    agreeing = sum(
        min(abs((b - a).total_seconds() - clock_offset(low, high)) for a in low) < 20 for b in high
    )
    assert agreeing == len(high)


@given(
    st.lists(st.integers(40, 4000), min_size=4, max_size=12, unique=True),
    st.floats(-90000, 90000),
    st.randoms(use_true_random=False),
)
def test_where_only_one_offset_fits_all_shots_it_is_that_one(pauses, offset, random):
    low = [NOON + timedelta(seconds=sum(pauses[:number])) for number in range(len(pauses))]
    high = [time + timedelta(seconds=offset + random.uniform(-4, 4)) for time in low]
    del high[random.randrange(len(high))]
    apart = [[(b - a).total_seconds() for a in low] for b in high]
    others = [by for row in apart for by in row if abs(by - offset) > 30]
    assume(not any(all(min(abs(d - by) for d in row) <= 60 for row in apart) for by in others))
    assert clock_offset(low, high) == pytest.approx(offset, abs=20)


@pytest.fixture
def devices(tmp_path):
    """A phone and a camera whose clock is 3600 s ahead; each has one shot that the other lacks."""
    for number, seconds in enumerate((0, 130, 400, 900, 1500)):
        if number != 1:
            shoot(tmp_path / "phone" / f"IMG_{number}.dng", seconds, 4.2, camera_model="Phone")
        if number != 3:
            shoot(tmp_path / "camera" / f"DSC_{number}.dng", 3600 + seconds + 5, 150, camera_model="SLR")
    return tmp_path / "phone", tmp_path / "camera"


def test_two_devices_are_matched_by_time_whatever_their_clocks_say(devices, tmp_path):
    plan = plan_import(low=devices[0], high=devices[1], out=tmp_path / "out")
    assert placed(plan) == [[f"DSC_{number}.dng", f"IMG_{number}.dng"] for number in (0, 2, 4)]
    assert plan.clock_offset_s == pytest.approx(3605, abs=1)
    why = "no shot of the other device lies within 60 s of it"
    assert reasons(plan) == {"IMG_3.dng": why, "DSC_1.dng": why}
    given_offset = plan_import(low=devices[0], high=devices[1], out=tmp_path / "out", clock_offset_s=3600)
    assert placed(given_offset) == placed(plan)
    list(import_sequences(plan))
    sequence = read_sequence(tmp_path / "out" / "00001")
    assert [shot.camera for shot in sequence.shots] == ["srraw SLR", "srraw Phone"]
    assert sequence.notes["clock_offset_s"] == plan.clock_offset_s


def test_two_devices_are_matched_by_name(devices, tmp_path):
    for path in [*devices[0].iterdir(), *devices[1].iterdir()]:
        path.rename(path.with_name(path.name.lower().replace("img_", "Scene").replace("dsc_", "scene")))
    plan = plan_import(low=devices[0], high=devices[1], out=tmp_path / "out", match="name")
    assert placed(plan) == [[f"scene{number}.dng", f"Scene{number}.dng"] for number in (0, 2, 4)]
    assert plan.clock_offset_s is None
    assert set(reasons(plan)) == {"Scene3.dng", "scene1.dng"}


def test_wrong_use_is_one_sentence(card, tmp_path):
    (tmp_path / "empty").mkdir()
    for options, says in (
        ({}, "or both --low and --high"),
        ({"low": card}, "or both --low and --high"),
        ({"sources": [card], "low": card, "high": card}, "or both --low and --high"),
        ({"sources": [tmp_path / "nowhere"]}, "does not exist"),
        ({"sources": [tmp_path / "empty"]}, "nothing to import"),
        ({"sources": [card], "gap_s": -1.0}, "not possible"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            plan_import(out=tmp_path / "out", **options)
        assert caught.value.exit_code == 2


def test_the_command_says_what_it_does(card, tmp_path):
    out = tmp_path / "sequences"
    dry = run(card, "--out", out, "--dry-run")
    assert dry.exit_code == 0
    assert "9 shots to import into 3 sequences" in dry.stdout
    assert max(map(len, dry.stdout.splitlines())) <= 90
    assert not out.exists()
    records = [json.loads(line) for line in run(card, "--out", out, "--json").stdout.splitlines()]
    assert (records[0]["sequence"], records[0]["status"]) == ("00001", "new")
    assert "3 were there before" in run(card, "--out", out).stdout


def test_a_simulated_shoot_comes_back_from_a_card_as_it_was(simulated, tmp_path):
    card = tmp_path / "card"
    for folder in sorted(simulated.iterdir()):
        for path in sorted(folder.glob("*.dng")):
            (card / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, card / folder.name / f"DSC0{path.name[3:]}")
    list(import_sequences(plan_import([card], out=tmp_path / "out")))
    for folder in simulated.iterdir():
        for path in folder.glob("*.dng"):
            assert sha256_of(tmp_path / "out" / folder.name / path.name) == sha256_of(path)
    aligned = align_sequence(tmp_path / "out" / "00001", zooms=(4,))
    assert [pair.status for pair in aligned.pairs] == ["ok"] * 3


def test_a_phone_and_a_camera_are_imported_aligned_and_packed(simulated, tmp_path):
    for device in ("phone", "camera"):
        (tmp_path / device).mkdir()
    shutil.copyfile(simulated / "00001" / "00002.dng", tmp_path / "camera" / "DSC_0007.dng")
    low = read_raw(simulated / "00001" / "00006.dng")
    write_dng(
        tmp_path / "phone" / "IMG_1.dng",
        low.mosaic,
        camera_wb=low.rgb_wb,
        camera_to_srgb=low.color_matrix,
        camera_model="Phone",
        focal_mm=4.2,
        taken_at=NOON,
    )
    plan = plan_import(low=tmp_path / "phone", high=tmp_path / "camera", out=tmp_path / "sequences")
    list(import_sequences(plan))
    folder = tmp_path / "sequences" / "00001"
    (pair,) = align_sequence(folder).pairs
    assert (pair.zoom, pair.low, pair.high, pair.status) == (4, "00002.dng", "00001.dng", "ok")
    assert (pair.focal_low, pair.focal_high, pair.scale_offset_nominal) == (4.2, 150, None)
    truth = {p["low"] + p["high"]: p for p in read_json(simulated / "00001" / "truth.json")["pairs"]}
    true = truth["00006.dng00002.dng"]["low_to_high"]
    assert geometry.corner_error_px(pair.low_to_high, true, pair.crop) < 0.7
    (record,) = pack_sequences([folder], out=tmp_path / "a.h5")
    with shards.open(tmp_path / "a.h5") as reader:
        assert (record.status, reader.pairs[0].target_space) == ("packed", "srgb")


def test_real_gopro_raws_have_no_scene_in_common(shared_data, tmp_path):
    plan = plan_import([shared_data / "raw"], out=tmp_path / "out", gap_s=importing.GAP_S)
    assert placed(plan) == []
    assert all("stands alone" in reason or "states no time" in reason for reason in reasons(plan).values())
