"""Tethered capture as a user runs it: the real library and its virtual camera, in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from srraw_tools.raw import read_raw
from srraw_tools.sequence import read_sequence

pytest.importorskip("gphoto2", reason="libgphoto2 does not exist for this system")

FOCALS = (24.0, 35.0, 50.0, 70.0, 100.0, 150.0, 240.0)
NAMES = [f"{i:05d}.dng" for i in range(1, 8)]


def srraw(*arguments, cwd, says="", **environment):
    """Run `srraw` as a user does, with a configuration folder of its own."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(cwd / "config"), **environment}
    command = [sys.executable, "-c", "from srraw_tools.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, input=says, capture_output=True, text=True, check=False
    )


def test_a_sequence_is_shot_through_libgphoto2(simulated, tmp_path):
    done = srraw("capture", "--virtual", simulated / "00001", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "sequences" / "00001"
    sequence = read_sequence(folder)
    assert sequence.complete
    assert [shot.file for shot in sequence.shots] == NAMES
    assert [shot.focal_planned for shot in sequence.shots] == sorted(FOCALS, reverse=True)
    for shot in sequence.shots:
        data = (folder / shot.file).read_bytes()
        assert data == (simulated / "00001" / shot.file).read_bytes()
        assert shot.sha256 == hashlib.sha256(data).hexdigest()
        assert (shot.f_number, shot.exposure_s, shot.iso) == (20, 0.02, 100)
    assert sorted(p.name for p in folder.iterdir()) == [*NAMES, "sequence.json"]


ONE = ["turn", "set", "taken", "shot"]


def test_events_are_json_and_the_next_sequence_gets_the_next_number(simulated, tmp_path):
    for number in ("00001", "00002"):
        done = srraw("capture", "--virtual", simulated / "00001", "--focal", "35,150", "--json", cwd=tmp_path)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert [e["kind"] for e in events] == [*ONE, *ONE, "finished", "checked"]
        assert (tmp_path / "sequences" / number / "00001.dng").is_file()


def test_a_wrong_focal_length_is_found_and_the_sequence_stays_incomplete(simulated, tmp_path):
    """The lens stands at 40 mm where 35 was asked: EXIF of the shot tells."""
    card = tmp_path / "scene"
    shutil.copytree(simulated / "00001", card)
    record = json.loads((card / "sequence.json").read_text())
    for shot in record["shots"]:
        shot["focal_planned"] = {50.0: 35.0, 35.0: 50.0}.get(shot["focal_planned"], shot["focal_planned"])
    (card / "sequence.json").write_text(json.dumps(record))
    done = srraw("capture", "--virtual", card, "--focal", "24,35", cwd=tmp_path)
    assert done.returncode == 1
    assert "the lens was at 50 mm instead of 35 mm" in done.stderr
    assert "--resume" in done.stderr
    assert not read_sequence(tmp_path / "sequences" / "00001").complete
    # The lens is set right and the sequence finished.
    done = srraw("capture", "--virtual", simulated / "00001", "--focal", "24,35", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "shot before" in done.stdout
    assert read_sequence(tmp_path / "sequences" / "00001").complete


def test_raws_of_different_lengths_come_through_the_virtual_card(simulated, tmp_path):
    """The card's file keeps its length: shorter raws end in zeros, which no reader of raws minds."""
    scene = shutil.copytree(simulated / "00001", tmp_path / "scene")
    with open(scene / "00006.dng", "ab") as file:
        file.write(bytes(1001))
    done = srraw("capture", "--virtual", scene, "--focal", "24,35", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shot = tmp_path / "sequences" / "00001" / "00002.dng"  # 24 mm
    before = read_raw(simulated / "00001" / "00007.dng")
    assert shot.stat().st_size == (scene / "00007.dng").stat().st_size + 1001
    assert (read_raw(shot).mosaic == before.mosaic).all()
    assert read_raw(shot).exif == before.exif


def test_a_killed_session_loses_nothing_that_was_shot(simulated, tmp_path):
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    arguments = ["capture", "--virtual", str(simulated / "00001")]
    command = [sys.executable, "-c", "from srraw_tools.cli import main; main()", *arguments]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    folder = tmp_path / "sequences" / "00001"
    while len(list(folder.glob("*.dng"))) < 3 and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = read_sequence(folder)
    assert not kept.complete
    assert len(kept.shots) >= 2
    before = {shot.file: (folder / shot.file).stat().st_mtime_ns for shot in kept.shots}
    done = srraw(*arguments, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_sequence(folder).complete
    for name, modified in before.items():
        assert (folder / name).stat().st_mtime_ns == modified
    assert sorted(p.name for p in folder.iterdir()) == [*NAMES, "sequence.json"]


def test_an_existing_sequence_is_never_overwritten(simulated, tmp_path):
    arguments = ("capture", "--virtual", simulated / "00001", "--focal", "35", "--name", "wall")
    assert srraw(*arguments, cwd=tmp_path).returncode == 0
    before = (tmp_path / "sequences" / "wall" / "00001.dng").stat().st_mtime_ns
    done = srraw(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "never overwritten" in done.stderr
    assert (tmp_path / "sequences" / "wall" / "00001.dng").stat().st_mtime_ns == before


def test_a_value_that_the_camera_does_not_offer_is_refused_before_it_is_set(simulated, tmp_path):
    """Setting it would kill the process in the camera's driver."""
    done = srraw("capture", "--virtual", simulated / "00001", "--f-number", "64", cwd=tmp_path)
    assert done.returncode == 1
    assert "f-number cannot be 64" in done.stderr
    assert "f/22" in done.stderr
    assert not (tmp_path / "sequences").exists()


def test_no_camera_is_one_sentence(tmp_path):
    done = srraw("capture", cwd=tmp_path)
    if "No camera was found" not in done.stderr:
        pytest.skip("a camera is connected to this machine")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sequences").exists()


def test_a_person_is_asked_for_the_ring_and_offered_a_second_shot(simulated, tmp_path):
    """The ring stays at 35 mm: the second shot is wrong, is shot again, is wrong again, and is kept."""
    rig = srraw("rigs", "--show", "virtual", cwd=tmp_path).stdout.replace(
        'ring = "virtual"', 'ring = "person"'
    )
    (tmp_path / "mine.toml").write_text(rig)
    (tmp_path / "card").mkdir()
    shutil.copyfile(simulated / "00001" / "00006.dng", tmp_path / "card" / "x.jpg")  # at 35 mm
    arguments = ("capture", "--rig", "mine.toml", "--focal", "35,50", "--json")
    card = {"VCAMERADIR": str(tmp_path / "card")}
    done = srraw(*arguments, cwd=tmp_path, says="\n\ny\n\nn\n", **card)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Turn the ring to 50 mm") == 2
    assert done.stderr.count("Shoot it again?") == 2
    shots = [event for event in map(json.loads, done.stdout.splitlines()) if event["kind"] == "shot"]
    assert [shot["kept"] for shot in shots] == [True, False, True]
    # The same without a person: the finding is on record, the shot is missing.
    done = srraw(*arguments, "--no-input", cwd=tmp_path, **card)
    assert done.returncode == 1
    assert "50 mm to be shot" in done.stderr
    assert read_sequence(tmp_path / "sequences" / "00002").notes["findings"]["50"]
    # And where nobody is there to answer.
    done = srraw(*arguments, cwd=tmp_path, **card)
    assert done.returncode == 1
    assert "--no-input" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_shows_the_plan_and_makes_nothing(simulated, tmp_path):
    done = srraw("capture", "--rig", "virtual", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "00007" in done.stdout
    assert not (tmp_path / "sequences").exists()
