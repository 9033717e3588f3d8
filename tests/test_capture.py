"""Tethered capture: through the real library and its virtual camera, and with faults injected."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

gphoto2 = pytest.importorskip("gphoto2", reason="libgphoto2 does not exist for this system")

from srraw_tools.camera import CardFile, GphotoCamera, choice_for, connect, number_of  # noqa: E402
from srraw_tools.capture import capture_sequence, next_sequence, plan_shots  # noqa: E402
from srraw_tools.checks import Expected  # noqa: E402
from srraw_tools.errors import UserError  # noqa: E402
from srraw_tools.exif import Exif  # noqa: E402
from srraw_tools.raw import read_raw  # noqa: E402
from srraw_tools.rig import find_rig  # noqa: E402
from srraw_tools.sequence import read_sequence  # noqa: E402

RIG = find_rig("virtual")
FOCALS = (24.0, 35.0, 50.0, 70.0, 100.0, 150.0, 240.0)
NAMES = [f"{i:05d}.dng" for i in range(1, 8)]


def srraw(*arguments, cwd, says="", **environment):
    """Run `srraw` as a user does, with a configuration folder of its own."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(cwd / "config"), **environment}
    command = [sys.executable, "-c", "from srraw_tools.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, input=says, capture_output=True, text=True, check=False
    )


# --- the virtual camera: real library, real protocol ------------------------------------------------------


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


def test_events_are_json_and_the_next_sequence_gets_the_next_number(simulated, tmp_path):
    for number in ("00001", "00002"):
        done = srraw("capture", "--virtual", simulated / "00001", "--focal", "35,150", "--json", cwd=tmp_path)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert [e["kind"] for e in events] == ["set", "shot", "set", "shot", "finished"]
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


# --- faults, through a gphoto2 module that has them -------------------------------------------------------


class FakeWidget:
    def __init__(self, value, choices):
        self.value, self.choices = value, choices

    def get_value(self):
        return self.value

    def set_value(self, value):
        self.value = value

    def get_choices(self):
        return self.choices

    def get_type(self):
        return 5


class FakeCamera:
    """A camera that shoots the files it is given, and fails where it is told to."""

    def __init__(self, gp):
        self.gp = gp

    def _fail(self, call):
        codes = self.gp.faults.get(call)
        if codes:
            code = codes.pop(0)
            if code:
                raise self.gp.GPhoto2Error(code)

    def init(self):
        self._fail("init")

    def exit(self):
        self._fail("exit")

    def get_abilities(self):
        return SimpleNamespace(model="Fake")

    def get_single_config(self, name):
        if name not in self.gp.config:
            raise self.gp.GPhoto2Error(-2)
        return self.gp.config[name]

    def set_single_config(self, name, widget):
        self._fail("set")
        if name in self.gp.stubborn:
            widget.value = self.gp.stubborn[name]

    def capture(self, kind):
        self._fail("capture")
        first, *others = self.gp.shots.pop(0)
        files = [first, *others] if self.gp.announces else others
        self.gp.pending += [(self.gp.GP_EVENT_FILE_ADDED, file) for file in files]
        return first

    def wait_for_event(self, timeout_ms):
        self._fail("event")
        if self.gp.pending:
            return self.gp.pending.pop(0)
        if self.gp.delayed:
            (wait, event), *_ = self.gp.delayed
            self.gp.delayed = [(wait - 1, event)] if wait else []
            if not wait:
                return event
        return (self.gp.GP_EVENT_UNKNOWN if self.gp.chatters else self.gp.GP_EVENT_TIMEOUT, None)

    def file_get(self, folder, name, kind):
        self._fail("download")
        return SimpleNamespace(get_data_and_size=lambda: self.gp.files[name].read_bytes())

    def file_delete(self, folder, name):
        self._fail("delete")
        self.gp.deleted.append(name)


class FakeError(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code, self.string = code, "fault"


def fake_gp(shots, files, **faults):
    gp = SimpleNamespace(
        GPhoto2Error=FakeError,
        GP_ERROR_BAD_PARAMETERS=-2,
        GP_ERROR_NOT_SUPPORTED=-6,
        GP_WIDGET_RADIO=5,
        GP_WIDGET_MENU=6,
        GP_CAPTURE_IMAGE=0,
        GP_FILE_TYPE_NORMAL=1,
        GP_EVENT_UNKNOWN=0,
        GP_EVENT_TIMEOUT=1,
        GP_EVENT_FILE_ADDED=2,
        GP_EVENT_CAPTURE_COMPLETE=4,
        config={"f-number": FakeWidget("f/2.8", ["f/2.8", "f/20"])},
        stubborn={},
        pending=[],
        delayed=[],
        announces=True,
        chatters=False,
        deleted=[],
        files=files,
        faults=faults,
    )
    gp.shots = [[CardFile("/store", name) for name in shot] for shot in shots]
    gp.Camera = lambda: FakeCamera(gp)
    return gp


@pytest.fixture
def files(simulated, tmp_path):
    """What lies on the fake card: raws under misleading names, and a JPEG."""
    jpeg = tmp_path / "b.jpg"
    jpeg.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    raws = {"35.jpg": simulated / "00001" / "00006.dng", "150.jpg": simulated / "00001" / "00002.dng"}
    return {**raws, "b.jpg": jpeg}


def shoot(gp, folder, rig=RIG, **options):
    camera = GphotoCamera(gp)
    return list(
        capture_sequence(
            camera,
            folder,
            rig,
            focal_mm=(35.0, 150.0),
            expected=Expected(f_number=20),
            **{"turn_ring": lambda focal: None, "shoot_again": lambda findings: False, **options},
        )
    )


def test_raw_and_jpeg_are_kept_by_their_content(files, tmp_path):
    gp = fake_gp([["b.jpg", "35.jpg"], ["150.jpg", "b.jpg"]], files)
    shoot(gp, tmp_path / "s")
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert names == ["00001.JPG", "00001.dng", "00002.JPG", "00002.dng", "sequence.json"]
    assert [shot.jpeg for shot in read_sequence(tmp_path / "s").shots] == ["00001.JPG", "00002.JPG"]


def test_a_busy_camera_is_asked_again(files, tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.camera.BUSY_WAIT_S", 0.01)
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files, capture=[-110, -110, 0, 0])
    assert shoot(gp, tmp_path / "s")[-1].done == 2


@pytest.mark.parametrize(
    ("code", "says"), [(-53, "gio mount"), (-105, "PC Remote"), (-7, "cable"), (-999, "-999")]
)
def test_every_failure_to_connect_has_a_remedy(code, says):
    with pytest.raises(UserError, match=says) as caught:
        connect(fake_gp([], {}, init=[code]))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("call", ["capture", "event", "download", "set"])
def test_an_unplugged_cable_keeps_what_was_shot(files, tmp_path, call):
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    camera_calls = {"capture": [0, -7], "download": [0, -7], "set": [0, 0, -7]}
    first = shoot_until_failure(gp, tmp_path / "s", call, camera_calls.get(call))
    kept = read_sequence(tmp_path / "s")
    assert not kept.complete
    assert len(kept.shots) == first
    assert not list((tmp_path / "s").glob(".capture-*"))
    again = fake_gp([["35.jpg"], ["150.jpg"]][first:], files)
    assert shoot(again, tmp_path / "s", resume=True)[-1].done == 2
    assert read_sequence(tmp_path / "s").complete


def shoot_until_failure(gp, folder, call, codes):
    """Shoot until the cable goes at the second time of a call (events: at once); how many shots were kept."""
    gp.faults[call] = codes or [-7]
    with pytest.raises(UserError, match="connection to the camera was lost"):
        shoot(gp, folder)
    return 0 if call == "event" else 1


def test_a_setting_that_does_not_take_is_an_error(files, tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.capture.READ_BACK_S", 0.01)
    gp = fake_gp([["35.jpg"]], files)
    gp.stubborn["f-number"] = "f/2.8"
    with pytest.raises(UserError, match=r"did not take f-number = f/20; it stays at f/2\.8"):
        shoot(gp, tmp_path / "s")


def test_a_stale_file_is_not_taken_for_a_new_shot(files, tmp_path):
    gp = fake_gp([["35.jpg"], ["35.jpg"]], files)
    events = shoot(gp, tmp_path / "s")
    assert any("earlier file again" in f.what for e in events for f in e.findings)
    assert events[-1].done == 1


def test_no_raw_says_to_set_the_image_quality(files, tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.capture.LATE_S", 0.01)
    events = shoot(fake_gp([["b.jpg"], ["150.jpg"]], files), tmp_path / "s")
    (finding,) = next(event.findings for event in events if event.kind == "shot")
    assert "image quality to RAW" in finding.remedy
    assert [shot.file for shot in read_sequence(tmp_path / "s").shots] == ["00001.dng"]
    assert "no raw file" in read_sequence(tmp_path / "s").notes["findings"]["35"][0]


def test_a_cut_transfer_is_noticed_while_the_camera_stands_there_and_shot_again(files, tmp_path):
    cut = tmp_path / "cut.dng"
    cut.write_bytes(files["35.jpg"].read_bytes()[:50_000])
    gp = fake_gp([["cut.jpg"], ["35.jpg"], ["150.jpg"]], {**files, "cut.jpg": cut})
    asked = []

    def again(findings):
        asked.extend(finding.what for finding in findings)
        return True

    events = shoot(gp, tmp_path / "s", shoot_again=again)
    assert len(asked) == 1
    assert "truncated or damaged" in asked[0]
    assert events[-1].done == 2
    assert read_sequence(tmp_path / "s").notes["findings"] == {}


def test_a_raw_file_that_is_announced_late_is_waited_for(files, tmp_path, monkeypatch):
    """The JPEG is there at once; the raw comes only after the shot seems to be over."""
    monkeypatch.setattr("srraw_tools.capture.LATE_S", 0.5)
    gp = fake_gp([["b.jpg"], ["150.jpg"]], files)
    rig = replace(RIG, settle_s=0.001)
    gp.delayed = [(30, (gp.GP_EVENT_FILE_ADDED, CardFile("/store", "35.jpg")))]
    events = shoot(gp, tmp_path / "s", rig=rig)
    assert events[-1].done == 2
    assert (tmp_path / "s" / "00002.JPG").is_file()


def test_a_file_announced_before_the_release_is_not_this_shots(files, tmp_path):
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    stale = CardFile("/store", "150.jpg")
    gp.pending = [(0, None), (gp.GP_EVENT_FILE_ADDED, stale)]
    assert shoot(gp, tmp_path / "s")[-1].done == 2
    assert (tmp_path / "s" / "00002.dng").read_bytes() == files["35.jpg"].read_bytes()


def test_no_event_at_all_and_endless_chatter_are_both_survived(files, tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.camera.CHATTER_S", 0.02)
    for i, chatter in enumerate((False, True)):
        gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
        gp.announces, gp.chatters = False, chatter
        assert shoot(gp, tmp_path / f"s{i}")[-1].done == 2


def test_a_jpeg_of_another_moment_is_not_kept_with_a_raw(files, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "srraw_tools.capture.read_exif", lambda path: Exif(taken_at=seconds[path.stat().st_size])
    )
    seconds = {104: "2026-01-01T00:00:01", files["35.jpg"].stat().st_size: "2026-01-01T00:00:03.21"}
    shoot(fake_gp([["35.jpg", "b.jpg"], ["150.jpg"]], files), tmp_path / "s")
    assert not list((tmp_path / "s").glob("*.JPG"))


def test_a_copy_that_differs_from_what_the_camera_sent_is_no_copy(files, tmp_path, monkeypatch):
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: write(self, bytes(data)[:-1] + b"?"))
    with pytest.raises(UserError, match="damaged"):
        shoot(fake_gp([["35.jpg"]], files), tmp_path / "s", delete_on_card=True)
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["sequence.json"]


def test_a_shot_whose_program_was_killed_before_it_was_written_down_is_taken_up(files, tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(UserError):
        shoot(fake_gp([["35.jpg"]], files, capture=[-7]), folder)
    shutil.copyfile(files["35.jpg"], folder / "00002.dng")  # whole, and not in sequence.json
    shutil.copyfile(files["35.jpg"], folder / "00001.dng")  # the wrong focal length: shot again
    (folder / ".capture-x").mkdir()
    (folder / ".capture-x" / "half").write_bytes(b"II*")
    events = shoot(fake_gp([["150.jpg"]], files), folder, resume=True)
    assert [event.kind for event in events] == ["present", "set", "shot", "finished"]
    assert events[-1].done == 2
    assert sorted(p.name for p in folder.iterdir()) == ["00001.dng", "00002.dng", "sequence.json"]


def test_a_file_that_changed_since_it_was_shot_is_not_overwritten(files, tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(UserError):
        shoot(fake_gp([["35.jpg"]], files, capture=[0, -7]), folder)
    (folder / "00002.dng").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"00002\.dng is not the file that was shot"):
        shoot(fake_gp([["35.jpg"], ["150.jpg"]], files), folder, resume=True)
    assert (folder / "00002.dng").read_bytes() == b"mine"


def test_a_person_may_keep_a_shot_and_the_finding_stays_on_record(files, tmp_path):
    gp = fake_gp([["150.jpg"], ["150.jpg"]], files)
    events = shoot(gp, tmp_path / "s", keep_anyway=True)
    assert [event.kept for event in events if event.kind == "shot"] == [True, True]
    sequence = read_sequence(tmp_path / "s")
    assert sequence.complete
    assert "150 mm instead of 35 mm" in sequence.notes["findings"]["35"][0]


def test_autofocus_that_finds_nothing_says_to_focus_by_hand(files, tmp_path):
    with pytest.raises(UserError, match="manual focus"):
        shoot(fake_gp([["35.jpg"]], files, capture=[-1]), tmp_path / "s")


def test_the_card_is_emptied_only_when_asked(files, tmp_path):
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    shoot(gp, tmp_path / "a")
    assert gp.deleted == []
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    shoot(gp, tmp_path / "b", delete_on_card=True)
    assert gp.deleted == ["35.jpg", "150.jpg"]


# --- words and plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("f/20", 20),
        ("20", 20),
        ("1/60", 1 / 60),
        ("0.0166s", 0.0166),
        ("4/10", 0.4),
        ("0.3", 0.3),
        ("35 mm", 35),
    ],
)
def test_cameras_words_are_compared_as_numbers(word, number):
    assert number_of(word) == pytest.approx(number)


@pytest.mark.parametrize("word", ["Auto", "bulb", "1/0", ""])
def test_words_without_a_number_have_none(word):
    assert number_of(word) is None


def test_the_nearest_choice_is_taken_only_if_it_is_the_same_but_for_rounding():
    choices = ("Auto", "1/30", "0.0166s", "1/125")
    assert choice_for(choices, 1 / 60, 0.04) == "0.0166s"
    assert choice_for(choices, 1 / 80, 0.04) is None
    assert choice_for((), 1 / 60, 0.04) is None


def test_the_longest_focal_length_is_the_first_file():
    plan = plan_shots(FOCALS, RIG)
    assert list(plan) == list(FOCALS)
    assert (plan[240], plan[24]) == ("00001", "00007")


@pytest.mark.parametrize("focals", [(24.0, 24.0), (24.0, 300.0)])
def test_an_impossible_plan_is_wrong_use(focals):
    with pytest.raises(UserError) as caught:
        plan_shots(focals, RIG)
    assert caught.value.exit_code == 2


def test_numbers_go_on_after_the_last(tmp_path):
    assert next_sequence(tmp_path / "none").name == "00001"
    (tmp_path / "00007").mkdir()
    (tmp_path / "notes").mkdir()
    assert next_sequence(tmp_path).name == "00008"
