"""The shooting loop, with a camera that has faults: what is kept, what is shot again, what is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gphoto2 import fake_gp

from srraw_tools.camera import CardFile, GphotoCamera
from srraw_tools.capture import Turn, capture_sequence, next_sequence, plan_shots, unfinished_sequences
from srraw_tools.checks import Expected
from srraw_tools.errors import UserError
from srraw_tools.exif import Exif
from srraw_tools.files import sha256_of
from srraw_tools.rig import find_rig
from srraw_tools.sequence import read_sequence

RIG = replace(find_rig("virtual"), settle_s=0.01)
GONE = [0, -105, -105, -105]  # after it was connected once, the camera does not come back


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr("srraw_tools.capture.RECONNECT_S", 0)


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


CALLS = ["capture", "captured", "event", "download", "set", "list"]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("call", CALLS)
def test_a_cable_that_is_plugged_in_again_costs_nothing(files, tmp_path, call, times):
    """The connection breaks at the nth time of each call; the session goes on by itself."""
    gp = fake_gp([["35.jpg"], ["150.jpg"], ["35.jpg"], ["150.jpg"]], files, **{call: [0] * times + [-7]})
    gp.shoots_what_is_set = {"35": "35.jpg", "150": "150.jpg"}
    events = shoot(gp, tmp_path / "s", turn_ring=lambda focal: setattr(gp, "ring", f"{focal:g}"))
    assert events[-1].done == 2
    assert (tmp_path / "s" / "00002.dng").read_bytes() == files["35.jpg"].read_bytes()
    assert (tmp_path / "s" / "00001.dng").read_bytes() == files["150.jpg"].read_bytes()
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["00001.dng", "00002.dng", "sequence.json"]
    assert gp.released == 2  # what was shot was found, not shot again


@pytest.mark.parametrize("call", CALLS)
def test_a_camera_that_does_not_come_back_keeps_what_was_shot(files, tmp_path, call):
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files, init=list(GONE), **{call: [0, -7]})
    gp.shoots_what_is_set = {"35": "35.jpg", "150": "150.jpg"}

    def turn(focal):
        gp.ring = f"{focal:g}"

    with pytest.raises(UserError, match="connection to the camera was lost"):
        shoot(gp, tmp_path / "s", turn_ring=turn)
    assert not (tmp_path / "s" / "sequence.json").is_file() or not read_sequence(tmp_path / "s").complete
    resume = (tmp_path / "s").is_dir()
    assert shoot(gp, tmp_path / "s", resume=resume, turn_ring=turn)[-1].done == 2
    assert gp.released == 2
    assert (tmp_path / "s" / "00002.dng").read_bytes() == files["35.jpg"].read_bytes()


def test_a_backup_is_a_second_copy_of_everything(files, tmp_path):
    shoot(fake_gp([["35.jpg", "b.jpg"], ["150.jpg"]], files), tmp_path / "s", backup=tmp_path / "usb")
    first, second = (
        {p.name: p.read_bytes() for p in folder.iterdir()}
        for folder in (tmp_path / "s", tmp_path / "usb" / "s")
    )
    assert first == second
    assert set(first) == {"00001.dng", "00002.dng", "00002.JPG", "sequence.json"}
    with pytest.raises(UserError, match="not empty"):
        shoot(fake_gp([["35.jpg"]], files), tmp_path / "other" / "s", backup=tmp_path / "usb")


def test_what_the_backup_missed_is_copied_when_the_sequence_is_resumed(files, tmp_path, monkeypatch):
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    with monkeypatch.context() as patched:
        patched.setattr("srraw_tools.making.shutil.copyfile", no_space)
        with pytest.raises(UserError, match=r"Cannot write .*usb"):
            shoot(gp, tmp_path / "s", backup=tmp_path / "usb", delete_on_card=True)
    assert gp.deleted == []  # what has no second copy stays on the card
    shoot(gp, tmp_path / "s", backup=tmp_path / "usb", resume=True)
    assert len(list((tmp_path / "usb" / "s").glob("*.dng"))) == 2


def no_space(source, target):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_noticed_before_the_shutter(files, tmp_path, monkeypatch):
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    with monkeypatch.context() as patched:
        patched.setattr("srraw_tools.making.ROOM_BYTES", 1 << 60)
        with pytest.raises(UserError, match="is full"):
            shoot(gp, tmp_path / "s")
    assert gp.released == 0
    assert shoot(gp, tmp_path / "s", resume=True)[-1].done == 2


def test_a_setting_that_does_not_take_is_an_error(files, tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.camera_settings.READ_BACK_S", 0.01)
    gp = fake_gp([["35.jpg"]], files)
    gp.stubborn["f-number"] = "f/2.8"
    with pytest.raises(UserError, match=r"did not take f-number = f/20; it stays at f/2\.8"):
        shoot(gp, tmp_path / "s")


def test_a_stale_file_is_not_taken_for_a_new_shot(files, tmp_path):
    gp = fake_gp([["35.jpg"], ["35.jpg"]], files)
    events = shoot(gp, tmp_path / "s", rig=replace(RIG, ring="person"))
    assert any("earlier file again" in f.what for e in events for f in e.findings)
    assert events[-1].done == 1


def test_no_raw_says_to_set_the_image_quality(files, tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.making.LATE_S", 0.01)
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
    monkeypatch.setattr("srraw_tools.making.LATE_S", 0.5)
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
        "srraw_tools.making.read_exif", lambda path: Exif(taken_at=seconds[path.stat().st_size])
    )
    seconds = {104: "2026-01-01T00:00:01", files["35.jpg"].stat().st_size: "2026-01-01T00:00:03.21"}
    shoot(fake_gp([["35.jpg", "b.jpg"], ["150.jpg"]], files), tmp_path / "s")
    assert not list((tmp_path / "s").glob("*.JPG"))


def test_a_copy_that_differs_from_what_the_camera_sent_is_no_copy(files, tmp_path, monkeypatch):
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: write(self, bytes(data)[:-1] + b"?"))
    with pytest.raises(UserError, match="damaged"):
        shoot(fake_gp([["35.jpg"]], files), tmp_path / "s", delete_on_card=True)
    assert not list((tmp_path / "s").glob("*.dng"))


def test_a_shot_whose_program_was_killed_before_it_was_written_down_is_taken_up(files, tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(UserError):
        shoot(fake_gp([["35.jpg"]], files, capture=[-7], init=list(GONE)), folder)
    shutil.copyfile(files["35.jpg"], folder / "00002.dng")  # whole, and not in sequence.json
    shutil.copyfile(files["35.jpg"], folder / "00001.dng")  # the wrong focal length: shot again
    (folder / ".capture" / "00.part").write_bytes(b"II*")  # its transfer was cut short
    events = shoot(fake_gp([["150.jpg"]], files), folder, resume=True)
    assert [event.kind for event in events] == ["present", "turn", "set", "taken", "shot", "finished"]
    assert events[-1].done == 2
    assert sorted(p.name for p in folder.iterdir()) == ["00001.dng", "00002.dng", "sequence.json"]


def test_a_file_that_changed_since_it_was_shot_is_not_overwritten(files, tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(UserError):
        shoot(fake_gp([["35.jpg"]], files, capture=[0, -7], init=list(GONE)), folder)
    (folder / "00002.dng").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"00002\.dng is not the file that was shot"):
        shoot(fake_gp([["35.jpg"], ["150.jpg"]], files), folder, resume=True)
    assert (folder / "00002.dng").read_bytes() == b"mine"


def test_a_person_may_keep_a_shot_and_the_finding_stays_on_record(files, tmp_path):
    gp = fake_gp([["150.jpg"], ["150.jpg"]], files)
    events = shoot(gp, tmp_path / "s", attended=True)
    assert [event.kept for event in events if event.kind == "shot"] == [True, True]
    sequence = read_sequence(tmp_path / "s")
    assert sequence.complete
    assert "150 mm instead of 35 mm" in sequence.notes["findings"]["35"][0]


def test_a_good_shot_that_is_shot_again_in_vain_is_still_there(files, tmp_path):
    """The last shot once more; the camera hands over an earlier file, and nobody wants a third try."""
    gp = fake_gp([["35.jpg"], ["35.jpg"], ["150.jpg"]], files)
    wishes = [None, Turn.AGAIN, None, None]
    rig = replace(RIG, ring="person")
    events = shoot(gp, tmp_path / "s", rig=rig, turn_ring=lambda focal: wishes.pop(0), delete_on_card=True)
    shots = [(event.focal_mm, event.kept) for event in events if event.kind == "shot"]
    assert shots == [(35, True), (35, False), (150, True)]
    sequence = read_sequence(tmp_path / "s")
    assert sequence.complete
    assert sequence.notes["findings"] == {}
    assert sha256_of(tmp_path / "s" / "00002.dng") == sequence.shots[1].sha256


def test_a_jpeg_of_the_shot_before_goes_with_it(files, tmp_path):
    gp = fake_gp([["35.jpg", "b.jpg"], ["35b.jpg"], ["150.jpg"]], files)
    other = tmp_path / "35b.dng"
    other.write_bytes(files["35.jpg"].read_bytes() + bytes(2))  # another file of the same focal length
    gp.files["35b.jpg"] = other
    wishes = [None, Turn.AGAIN, None, None]
    folder, usb = tmp_path / "s", tmp_path / "usb"
    shoot(gp, folder, turn_ring=lambda focal: wishes.pop(0), backup=usb)
    names = ["00001.dng", "00002.dng", "sequence.json"]
    for place in (folder, usb / "s"):
        assert sorted(path.name for path in place.iterdir()) == names
        assert (place / "00002.dng").read_bytes() == other.read_bytes()
    assert read_sequence(folder).shots[1].jpeg is None


class Left(Exception):
    """A person has enough."""


@pytest.mark.parametrize("shots", [0, 1])
def test_a_scene_that_was_only_looked_at_leaves_nothing_behind(files, tmp_path, shots):
    def turn(focal):
        if gp.released == shots:
            raise Left

    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    with pytest.raises(Left):
        shoot(gp, tmp_path / "s", turn_ring=turn, backup=tmp_path / "usb")
    assert (tmp_path / "s").exists() == bool(shots)
    assert (tmp_path / "usb" / "s").exists() == bool(shots)
    assert shoot(gp, tmp_path / "s", resume=bool(shots), backup=tmp_path / "usb")[-1].done == 2


def test_what_is_shot_is_not_backed_up_into_itself(files, tmp_path):
    for backup in (tmp_path, tmp_path / "s" / "usb"):
        with pytest.raises(UserError, match="Choose another"):
            shoot(fake_gp([["35.jpg"]], files), tmp_path / "s", backup=backup)
    assert not (tmp_path / "s").exists()


def test_two_sessions_do_not_shoot_into_one_sequence(files, tmp_path):
    gp = fake_gp([["35.jpg"], ["150.jpg"]], files)
    folder = tmp_path / "s"

    def turn(focal):
        assert unfinished_sequences(tmp_path) == []  # --resume does not offer it
        program = "import sys; from srraw_tools.files import is_held; from pathlib import Path; "
        program += "sys.exit(is_held(Path(sys.argv[1])))"
        held = subprocess.run([sys.executable, "-c", program, str(folder / ".capturing")], check=False)
        assert held.returncode == 1
        with pytest.raises(UserError, match="Another session shoots into"):
            shoot(fake_gp([["35.jpg"]], files), folder, resume=True)

    assert shoot(gp, folder, turn_ring=turn)[-1].done == 2
    assert not (folder / ".capturing").exists()


def test_a_shot_that_does_not_count_stays_on_the_card(files, tmp_path):
    gp = fake_gp([["150.jpg"], ["150.jpg"]], files)
    shoot(gp, tmp_path / "s", delete_on_card=True)
    assert gp.deleted == ["150.jpg"]  # the second, which is of its focal length


def test_more_files_than_a_shot_makes_are_not_even_downloaded(files, tmp_path):
    """Killed as it shot: since then somebody has shot other things with the same card."""
    folder = tmp_path / "s"
    gp = fake_gp([["35.jpg"]], files, captured=[-7], init=list(GONE))
    with pytest.raises(UserError):
        shoot(gp, folder)
    others = {f"other{number}.jpg": files["150.jpg"] for number in range(5)}
    gp = fake_gp([["35.jpg"], ["150.jpg"]], {**files, **others})
    gp.card += [CardFile("/store", name) for name in others]
    assert shoot(gp, folder, resume=True)[-1].done == 2
    assert gp.released == 2
    assert (folder / "00002.dng").read_bytes() == files["35.jpg"].read_bytes()


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


def test_the_longest_focal_length_is_the_first_file():
    plan = plan_shots(RIG.stops_mm, RIG)
    assert list(plan) == list(RIG.stops_mm)
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
