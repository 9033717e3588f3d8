"""`srraw check`: what is planted into a sequence is named, and a good one is not blamed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from srraw_tools.cli import main
from srraw_tools.files import read_json, sha256_of, write_json
from srraw_tools.inspection import check_sequence
from srraw_tools.raw import read_raw
from srraw_tools.rig import find_rig
from srraw_tools.scene_checks import clipped_shares
from srraw_tools.simulate.physics import Optics
from srraw_tools.simulate.shoot import simulate_sequence

RIG = find_rig("sony-fe-24-240")
STEADY = Optics(focal_error=0.005, shift_px=1, rotation_deg=0.1, drift_ev=0.02)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """A sequence of 24, 35, 50 and 70 mm from a camera that stands firm."""
    out = tmp_path_factory.mktemp("steady")
    focals = (24.0, 35.0, 50.0, 70.0)
    simulate_sequence(out, name="s", seed=3, focal_mm=focals, size=(352, 528), optics=STEADY)
    return out / "s"


@pytest.fixture
def sequence(steady, tmp_path):
    return shutil.copytree(steady, tmp_path / "s")


def rewritten(folder, file, change):
    """Put other sensor values into a shot, as if it had been shot so."""
    values = tifffile.memmap(folder / file)
    values[...] = np.clip(change(values.astype(float)), 0, 16383).astype(np.uint16)
    values.flush()
    del values
    described(folder, file, sha256=sha256_of(folder / file))


def described(folder, file, **facts):
    record = read_json(folder / "sequence.json")
    next(shot for shot in record["shots"] if shot["file"] == file).update(facts)
    write_json(folder / "sequence.json", record)


def found(folder):
    return {(finding.check, finding.shot) for finding in check_sequence(folder, RIG)[1]}


def test_a_good_sequence_is_not_blamed(sequence):
    assert found(sequence) == set()


def test_the_published_layout_is_checked_too(sequence):
    (sequence / "sequence.json").unlink()
    (sequence / "truth.json").unlink()
    assert found(sequence) == set()


def darker(values):
    return (values - 512) * 0.8 + 512


def turned_aside(values):
    return np.roll(values, (0, 40), axis=(0, 1))


def elsewhere(values):
    """A fifth of the picture shows what is in another corner of it."""
    changed = values.copy()
    changed[100:220, 150:410] = values[::-1, ::-1][101:221, 151:411]
    return changed


def clipped(values):
    values[::2, 1::2][:40] = 16383
    return values


@pytest.mark.parametrize(
    ("change", "check"),
    [(darker, "drift_ev"), (turned_aside, "shift"), (elsewhere, "moving"), (clipped, "clipped")],
)
def test_what_is_planted_is_named(sequence, change, check):
    rewritten(sequence, "00002.dng", change)
    assert check in {name for name, _ in found(sequence)}


def test_a_lens_that_was_elsewhere_is_seen_in_the_pictures(sequence):
    """EXIF says 50 mm where the pictures say 35."""
    described(sequence, "00003.dng", focal_mm=40.0, focal_planned=40.0)
    assert ("focal_mm", "00003.dng") in found(sequence)


@pytest.mark.parametrize(
    ("facts", "check"),
    [({"iso": 200.0}, "iso"), ({"camera": "Another"}, "camera"), ({"exposure_s": 1.0}, "exposure_s")],
)
def test_the_shot_that_differs_from_most_is_named(sequence, facts, check):
    described(sequence, "00004.dng", **facts)
    assert found(sequence) == {(check, "00004.dng")}


def test_a_stale_and_a_damaged_file_are_named(sequence):
    shutil.copyfile(sequence / "00001.dng", sequence / "00002.dng")
    assert ("file", "00002.dng") in found(sequence)
    (sequence / "00002.dng").write_bytes(b"II*\0")
    assert ("file", "00002.dng") in found(sequence)


def test_clipping_is_counted_by_colour(sequence):
    rewritten(sequence, "00001.dng", lambda values: np.full_like(values, 1000.0))
    assert clipped_shares(read_raw(sequence / "00001.dng")) == (0, 0, 0)

    def blue(values):
        values[1::2, 1::2][:, :132] = 16383  # RGGB, half of 264 columns
        return values

    rewritten(sequence, "00001.dng", blue)
    assert clipped_shares(read_raw(sequence / "00001.dng")) == (0, 0, 0.5)


def test_the_command_gives_a_table_json_and_a_status(sequence):
    good = CliRunner().invoke(main, ["check", str(sequence.parent)])
    assert good.exit_code == 0, good.output
    assert "1 sequence, 0 with findings" in good.output
    described(sequence, "00004.dng", iso=200.0)
    bad = CliRunner().invoke(main, ["check", str(sequence), "--json"])
    assert bad.exit_code == 1
    (finding,) = json.loads(bad.stdout)["findings"]
    assert (finding["check"], finding["shot"], finding["measured"]) == ("iso", "00004.dng", 200)
    assert "ISO 200" in CliRunner().invoke(main, ["check", str(sequence)]).output
