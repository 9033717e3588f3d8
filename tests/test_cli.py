"""What a user sees who gives a command something wrong: one sentence, the right exit status, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from srraw_tools.cli import main
from srraw_tools.dng import write_dng
from srraw_tools.files import read_json, write_json

XTRANS = "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG"


def srraw(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def sentence_of(result):
    """The one line of an error; anything but a user's error would have raised."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = result.stderr.strip().splitlines()
    return lines[-1]


@pytest.fixture
def odd_files(tmp_path):
    """Things that are given to commands by mistake."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ARW").write_text("not a raw file")
    (tmp_path / "text.h5").write_text("not an HDF5 file")
    grey = np.full((120, 120), 900, np.uint16)
    write_dng(tmp_path / "xtrans.dng", grey, cfa=XTRANS)
    write_dng(tmp_path / "whole.dng", grey)
    (tmp_path / "truncated.dng").write_bytes((tmp_path / "whole.dng").read_bytes()[:9000])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["data"] = [1]
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        file.attrs["format"], file.attrs["format_version"] = "srraw", 99
    (tmp_path / "without_focal").mkdir()
    for i in (1, 2):
        write_dng(tmp_path / "without_focal" / f"{i:05d}.dng", grey, focal_mm=None)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("align", "nowhere"), 2, "does not exist"),
        (("align", "empty"), 2, "holds no sequence"),
        (("align", "whole.dng"), 2, "is a file"),
        (("align", "without_focal"), 1, "no focal length is known"),
        (("align", "without_focal", "--zoom", "3"), 2, "choose among 2, 4 and 8"),
        (("align", "without_focal", "--zoom", "x"), 2, "not a list of numbers"),
        (("align", "without_focal", "--motion", "magic"), 2, "magic"),
        (("pack", "nowhere"), 2, "does not exist"),
        (("pack", "without_focal"), 1, "srraw align"),
        (("pack", "without_focal", "--split", "a:b"), 2, "80:10:10"),
        (("pack", "without_focal", "--split-file", "nowhere.csv"), 2, "nowhere.csv"),
        (("inspect", "nowhere"), 2, "does not exist"),
        (("inspect", "text.ARW"), 1, "not a raw file"),
        (("inspect", "truncated.dng"), 1, "truncated or damaged"),
        (("inspect", "xtrans.dng"), 1, "2x2 Bayer"),
        (("inspect", "text.h5"), 1, "not an HDF5 file"),
        (("inspect", "foreign.h5"), 1, "not one that srraw packed"),
        (("inspect", "newer.h5"), 1, "version 99"),
        (("capture", "--rig", "magic"), 2, "no rig 'magic'"),
        (("capture", "--virtual", "nowhere"), 2, "nowhere"),
        (("capture", "--resume", "--out", "empty"), 2, "unfinished"),
        (("capture", "--name", "../x"), 2, "name of a sequence's folder"),
        (("capture", "--name", ""), 2, "name of a sequence's folder"),
        (("capture", "--exposure", "nan"), 2, "nan is no value"),
        (("pack", "without_focal", "--split", "nan:1:1"), 2, "80:10:10"),
        (("pack", "without_focal", "--zoom", "3"), 2, "choose among 2, 4 and 8"),
        (("pack", "without_focal", "--shard-size", "big"), 2, "no size such as 4GB"),
        (("pack", "without_focal", "--shard-size", "0GB"), 2, "not possible"),
        (("align", "without_focal", "--zoom", "3", "--dry-run"), 2, "choose among 2, 4 and 8"),
        (("align", "without_focal", "--max-error", "nan", "--dry-run"), 2, "not above 0"),
        (("align", "without_focal", "--scheduler", "foo"), 2, "no address of a scheduler"),
        (("import", "--low", "empty", "--high", "empty", "--clock-offset", "nan"), 2, "nan s ahead"),
        (("pack", "without_focal", "--jobs", "2", "--scheduler", "x"), 1, "srraw align"),
        (("stats", "nowhere.h5"), 2, "does not exist"),
        (("stats", "text.h5"), 1, "not an HDF5 file"),
        (("stats", "text.h5", "--html", "x.txt"), 2, "no name of a page"),
    ],
)
def test_a_mistake_gets_one_clear_sentence(odd_files, monkeypatch, arguments, status, says):
    monkeypatch.chdir(odd_files)
    before = sorted(path.relative_to(odd_files) for path in odd_files.rglob("*"))
    result = srraw(*arguments)
    assert says in sentence_of(result)
    assert result.exit_code == status
    assert sorted(path.relative_to(odd_files) for path in odd_files.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--focal", "35,85"), "has no shot at 85 mm"),
        (("--focal", "35,85", "--dry-run"), "has no shot at 85 mm"),
        (("--focal", "35,150", "--backup", "sequences/00001/usb"), "Choose another"),
    ],
)
def test_a_capture_that_cannot_be_is_refused_before_anything_is_made(
    simulated, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    result = srraw("capture", "--virtual", simulated / "00001", "--no-input", *arguments)
    assert result.exit_code == 2
    assert says in sentence_of(result)
    assert not list(tmp_path.iterdir())


def test_a_sequence_is_resumed_as_it_was_begun(simulated, tmp_path, monkeypatch):
    """The first shot fails its check; what is shot later is shot with the same settings, or not at all."""
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    wrong = tmp_path / "wrong"
    shutil.copytree(simulated / "00001", wrong)
    shutil.copyfile(wrong / "00001.dng", wrong / "00006.dng")  # 35 mm, which is 240 mm now
    shared = ("--no-input", "--focal", "35,150", "--exposure", "0.02")
    assert srraw("capture", "--virtual", wrong, *shared).exit_code == 1
    begun = read_json(tmp_path / "sequences/00001/sequence.json")
    assert begun["asked"]["exposure_s"] == 0.02
    right = ("capture", "--virtual", simulated / "00001", "--no-input", "--resume")
    refused = srraw(*right, "--f-number", "8")
    assert refused.exit_code == 2
    assert "was begun at f/20, not f/8" in sentence_of(refused)
    plan = json.loads(srraw(*right, "--dry-run", "--json").stdout)
    assert plan["exposure_s"] == 0.02
    assert srraw(*right).exit_code == 0
    assert read_json(tmp_path / "sequences/00001/sequence.json")["complete"]
    assert dict(os.environ) == environment  # the virtual camera's card is out again


def test_check_takes_the_thresholds_of_the_rig_that_shot(simulated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(simulated / "00001", tmp_path / "s")
    record = read_json(tmp_path / "s" / "sequence.json")
    rigs = {}
    monkeypatch.setattr(
        "srraw_tools.inspection.check_clipping", lambda clipped, rig, shot: rigs.setdefault(rig.name, ())
    )
    for named in ("virtual", "../mine.toml", 7):
        write_json(tmp_path / "s" / "sequence.json", record | {"rig": named})
        srraw("check", "s")
    assert set(rigs) == {"virtual", "sony-fe-24-240"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_what_the_system_refuses_is_a_sentence(simulated):
    command = [sys.executable, "-c", "from srraw_tools.cli import main; main()", "inspect", "--json"]
    with open("/dev/full", "w") as full:
        told = subprocess.run(
            [*command, simulated / "00001"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert told.returncode == 1
    assert told.stderr.startswith("Error: No space left on device.")
    assert "Traceback" not in told.stderr


def test_inspect_says_what_each_thing_is(sequences):
    assert "kind:            folder of sequences" in srraw("inspect", sequences).stdout
    assert srraw("align", sequences).exit_code == 0
    assert srraw("pack", sequences, "--out", sequences / "srraw.h5").exit_code == 0
    folder = sequences / "00001"
    for path, kind in (
        (folder / "00001.dng", "dng raw file"),
        (folder, "sequence"),
        (folder / "sequence.json", "sequence"),
        (folder / "alignment.json", "alignment"),
        (folder / "truth.json", "truth of a simulated sequence"),
        (sequences / "srraw.h5", "packed pairs"),
    ):
        record = json.loads(srraw("inspect", path, "--json").stdout)
        assert record["kind"] == kind
        text = srraw("inspect", path).stdout
        assert max(len(line) for line in text.splitlines()) <= 80
        assert not set("{}[]'") & set(text)  # for people, not for Python
    assert "compression none; split 80, 10, 10; target camera" in text


def test_inspect_says_that_focal_lengths_are_missing(odd_files):
    result = srraw("inspect", odd_files / "without_focal", "--json")
    assert json.loads(result.stdout)["notes"] == [
        "no focal length is known of 00001.dng, 00002.dng; 'srraw align' looks for it in the images"
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [("{}", "none that srraw describes"), ('{"format": "srraw-truth", "size": 3}', "damaged"), ("[", "JSON")],
)
def test_inspect_does_not_take_other_json_for_an_alignment(tmp_path, text, says):
    (tmp_path / "truth.json").write_text(text)
    result = srraw("inspect", tmp_path / "truth.json")
    assert result.exit_code == 1
    assert says in sentence_of(result)


def test_align_and_pack_print_tables_of_80_columns_and_json(sequences):
    result = srraw("align", sequences)
    assert result.exit_code == 0
    assert "8 pairs of 2 sequences, 0 rejected." in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    again = srraw("align", sequences, "--json")
    records = [json.loads(line) for line in again.stdout.splitlines()]
    assert [record["skipped"] for record in records] == [True, True]
    out = sequences / "srraw.h5"
    result = srraw("pack", sequences, "--out", out, "--zoom", "4")
    assert f"{out}: 6 pairs packed, 0 were there before." in result.stdout
    assert "--split-file" in result.stderr  # two sequences do not fill three splits


def test_a_dry_run_names_the_shots_whose_zoom_only_the_images_show(sequences, tmp_path):
    folder = sorted(path for path in sequences.iterdir() if path.is_dir())[0]
    record = read_json(folder / "sequence.json")
    record["shots"][0] |= {"focal_mm": None, "focal_planned": None}
    (tmp_path / "00009").mkdir()
    write_json(tmp_path / "00009" / "sequence.json", record)
    result = srraw("align", tmp_path, "--dry-run")
    assert result.exit_code == 0
    assert record["shots"][0]["file"] in result.stdout


def test_dry_runs_say_what_would_be_done_and_do_nothing(sequences):
    before = sorted(sequences.rglob("*"))
    result = srraw("align", sequences, "--dry-run", "--zoom", "8")
    assert result.stdout.splitlines()[0].endswith("00001: 8X 35-240")
    srraw("align", sequences, "--out", sequences.parent / "alignments")
    alignments = ("--alignments", sequences.parent / "alignments")
    result = srraw("pack", sequences, "--dry-run", *alignments, "--out", sequences / "a.h5")
    assert "00001_8x_00006_00001" in result.stdout
    assert sorted(sequences.rglob("*")) == before


def test_a_dry_run_prints_json_where_that_is_asked_for(simulated, sequences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    srraw("align", sequences)
    srraw("pack", sequences, "--out", "srraw.h5")
    shutil.copytree(simulated / "00001", "card")
    before = sorted(tmp_path.rglob("*"))
    told = {}
    for command, arguments in {
        "align": (sequences, "--zoom", "8"),
        "pack": (sequences, "--out", "another.h5", "--zoom", "8"),
        "export": ("srraw.h5", "exported", "--format", "npz", "--zoom", "8"),
        "simulate": ("--count", "2", "--out", "more"),
        "calibrate lens": (sequences,),
        "calibrate noise": (sequences,),
        "capture": ("--virtual", simulated / "00001"),
        "import": ("card", "--out", "imported"),
    }.items():
        result = srraw(*command.split(), *arguments, "--dry-run", "--json")
        assert result.exit_code == 0, (command, result.output)
        told[command] = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(tmp_path.rglob("*")) == before
    every = {**main.commands, **{f"calibrate {n}": c for n, c in main.commands["calibrate"].commands.items()}}
    plannable = {
        n for n, c in every.items() if {"dry_run", "as_json"} <= {option.name for option in c.params}
    }
    assert plannable == set(told)
    names = [f"{name}_8x_00006_00001" for name in ("00001", "00002")]
    pair = {"zoom": 8, "low": "00006.dng", "high": "00001.dng"}
    assert [record["pairs"] for record in told["align"]] == [[pair], [pair]]
    assert [(record["name"], record["status"]) for record in told["pack"]] == [(n, "planned") for n in names]
    assert sorted(record["name"] for record in told["export"]) == names
    assert [(record["present"], record["shots"]) for record in told["simulate"]] == [(False, 7)] * 2
    assert told["calibrate lens"] == [{"rig": None, "sequences": 2}]
    assert told["calibrate noise"] == [{"out": "noise.json", "sequences": 2, "shots": 14}]


def test_a_batch_with_a_failure_ends_with_status_1_and_keeps_the_rest(sequences):
    (sequences / "00001" / "00001.dng").write_bytes(b"II*\0 damaged")
    result = srraw("align", sequences)
    assert result.exit_code == 1
    assert "Failed:" in result.stderr
    assert "00001.dng" in result.stderr
    assert "6 pairs of 2 sequences" in result.stdout
