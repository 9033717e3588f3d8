"""A folder as a camera: files are taken when they are whole, old ones never, and checked as any shot."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from srraw_tools.camera import CameraLost, CardFile
from srraw_tools.capture import capture_sequence
from srraw_tools.checks import Expected
from srraw_tools.errors import UserError
from srraw_tools.rig import find_rig, installed_files
from srraw_tools.sequence import read_sequence
from srraw_tools.watched_folder import WatchedFolder


def later(seconds, action, *arguments):
    thread = threading.Timer(seconds, action, arguments)
    thread.start()
    return thread


def test_a_file_is_taken_when_it_is_whole_and_an_old_one_never(tmp_path):
    (tmp_path / "old.arw").write_bytes(b"old")
    camera = WatchedFolder(tmp_path)

    def write_slowly():
        with open(tmp_path / "new.arw", "wb", buffering=0) as file:
            for _ in range(5):
                file.write(b"x" * 1000)
                time.sleep(0.3)
        (tmp_path / "new.jpg").write_bytes(b"jpeg")

    later(0.3, write_slowly)
    found = camera.shoot(0.8)
    assert found == [CardFile(".", "new.arw"), CardFile(".", "new.jpg")]
    sent = camera.download(found[0], tmp_path / "copy")
    assert sent == hashlib.sha256(b"x" * 5000).hexdigest()
    assert camera.new_files(0) == [CardFile(".", "copy")]


def test_what_is_hidden_or_still_written_by_its_name_is_no_file_yet(tmp_path):
    camera = WatchedFolder(tmp_path)
    for name in (".syncing.arw", "a.arw.part", "b.tmp"):
        (tmp_path / name).write_bytes(b"x")
    assert camera.card_files() == []
    os.replace(tmp_path / "a.arw.part", tmp_path / "a.arw")
    assert camera.shoot(0) == [CardFile(".", "a.arw")]


def test_of_several_that_come_together_each_shot_gets_its_own(tmp_path):
    """A sync brings three at once, with the JPEG of one of them."""
    camera = WatchedFolder(tmp_path)
    for second, name in enumerate(("b.arw", "a.dng", "a.jpg", "c.arw")):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (1e9 + second, 1e9 + second))
    assert camera.shoot(0) == [CardFile(".", "b.arw")]
    assert camera.shoot(0) == [CardFile(".", "a.dng"), CardFile(".", "a.jpg")]
    assert camera.shoot(0) == [CardFile(".", "c.arw")]


def test_a_jpeg_that_comes_late_is_not_the_next_shot(tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.watched_folder.NO_RAW_S", 0.1)
    camera = WatchedFolder(tmp_path)
    (tmp_path / "a.dng").write_bytes(b"x")
    assert camera.shoot(0) == [CardFile(".", "a.dng")]
    (tmp_path / "a.jpg").write_bytes(b"x")
    later(1.5, (tmp_path / "b.dng").write_bytes, b"x")
    assert camera.shoot(0) == [CardFile(".", "b.dng")]


def test_pictures_without_a_raw_file_are_given_after_a_while_and_other_files_never(tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.watched_folder.NO_RAW_S", 1.0)
    camera = WatchedFolder(tmp_path)
    for name in ("notes.txt", "a.heic"):
        (tmp_path / name).write_bytes(b"x")
    assert camera.shoot(0) == [CardFile(".", "a.heic")]


def test_a_file_that_grew_after_it_was_taken_is_a_new_one(tmp_path):
    camera = WatchedFolder(tmp_path)
    (tmp_path / "a.dng").write_bytes(b"half")
    assert camera.shoot(0) == [CardFile(".", "a.dng")]
    (tmp_path / "a.dng").write_bytes(b"all of it")
    assert camera.shoot(0) == [CardFile(".", "a.dng")]


def test_hidden_folders_are_passed_over_and_others_are_looked_into(tmp_path):
    camera = WatchedFolder(tmp_path)
    for folder in (".trash", "DCIM/100"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.dng").write_bytes(b"x")
    assert camera.card_files() == [CardFile("DCIM/100", "a.dng")]


class Left(Exception):
    """A person has enough."""


def test_what_a_person_asks_for_while_a_file_is_waited_for_ends_the_waiting(tmp_path):
    camera = WatchedFolder(tmp_path)

    def leave():
        raise Left

    camera.waiting = leave
    with pytest.raises(Left):
        camera.shoot(0)


@pytest.fixture
def rig():
    rig = find_rig("watched-folder")
    return replace(rig, settle_s=0.0, checks={**rig.checks, "clipped": 0.2})


def shoot_watched(camera, folder, rig, **options):
    asked = {"turn_ring": lambda focal: None, "shoot_again": lambda findings: False, **options}
    return list(
        capture_sequence(camera, folder, rig, focal_mm=(35.0, 150.0), expected=Expected(f_number=20), **asked)
    )


def test_files_that_come_together_fill_the_sequence_where_nobody_is_asked(simulated, tmp_path, rig):
    card = tmp_path / "card"
    card.mkdir()
    camera = WatchedFolder(card)
    for second, (name, source) in enumerate((("a", "00006.dng"), ("b", "00002.dng"))):  # 35, 150 mm
        shutil.copyfile(simulated / "00001" / source, card / f"{name}.dng")
        os.utime(card / f"{name}.dng", (1e9 + second, 1e9 + second))
    assert shoot_watched(camera, tmp_path / "s", rig)[-1].done == 2


def test_where_a_person_is_asked_what_came_before_the_question_is_not_the_shot(simulated, tmp_path, rig):
    card = tmp_path / "card"
    card.mkdir()
    camera = WatchedFolder(card)
    sources = {35.0: "00006.dng", 150.0: "00002.dng"}
    shutil.copyfile(simulated / "00001/00001.dng", card / "stale.dng")

    def take(focal):
        shutil.copyfile(simulated / "00001" / sources[focal], card / f"{focal:g}.dng")

    assert shoot_watched(camera, tmp_path / "s", rig, attended=True, turn_ring=take)[-1].done == 2


def test_a_file_that_is_none_costs_no_shot_where_nobody_is_asked(simulated, tmp_path, rig):
    """A transfer that broke off is told, and the file that comes in its place is taken."""
    card = tmp_path / "card"
    card.mkdir()
    camera = WatchedFolder(card)
    whole = (simulated / "00001/00006.dng").read_bytes()
    (card / "a.dng").write_bytes(whole[:50_000])
    later(2, (card / "a.dng").write_bytes, whole)
    later(4, shutil.copyfile, simulated / "00001/00002.dng", card / "b.dng")
    events = shoot_watched(camera, tmp_path / "s", rig)
    assert events[-1].done == 2
    assert [event.kept for event in events if event.kind == "shot"] == [False, True, True]


def test_a_file_that_a_sync_brings_twice_costs_no_shot_where_nobody_is_asked(simulated, tmp_path, rig):
    card = tmp_path / "card"
    card.mkdir()
    camera = WatchedFolder(card)
    for second, (name, source) in enumerate((("a", "00006"), ("a (1)", "00006"), ("b", "00002"))):
        shutil.copyfile(simulated / "00001" / f"{source}.dng", card / f"{name}.dng")
        os.utime(card / f"{name}.dng", (1e9 + second, 1e9 + second))
    events = shoot_watched(camera, tmp_path / "s", rig)
    assert events[-1].done == 2
    assert [event.kept for event in events if event.kind == "shot"] == [True, False, True]


def test_a_folder_that_is_not_there_or_goes_is_said(tmp_path):
    with pytest.raises(UserError, match="no folder to watch"):
        WatchedFolder(tmp_path / "none")
    (tmp_path / "card").mkdir()
    camera = WatchedFolder(tmp_path / "card")
    (tmp_path / "card").rmdir()
    with pytest.raises(CameraLost, match="is gone"):
        camera.reconnect()
    with pytest.raises(CameraLost, match="cannot be read"):
        camera.download(CardFile(".", "a.arw"), tmp_path / "copy")


def test_a_sequence_from_a_folder(simulated, tmp_path):
    """Shots that a person takes one after the other, copied in as a sync does; old files lie there too."""
    card = tmp_path / "card"
    card.mkdir()
    shots = sorted((simulated / "00001").glob("*.dng"))
    shutil.copyfile(shots[0], card / "DSC00001.dng")
    command = [sys.executable, "-c", "from srraw_tools.cli import main; main()", "capture", "--watch", "card"]
    command += ["--focal", "35,150", "--no-input", "--rig", "mine.toml"]
    rig = installed_files()["watched-folder.toml"]
    (tmp_path / "mine.toml").write_text(rig + "\n[checks]\nclipped = 0.2 # simulated scenes may be bright\n")
    capture = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    by_focal = {
        shot.focal_planned: simulated / "00001" / shot.file
        for shot in read_sequence(simulated / "00001").shots
    }
    try:
        for number, focal in enumerate((35.0, 150.0), 2):
            for _ in range(200):  # until the one before has been taken
                if len(list((tmp_path / "sequences/00001").glob("*.dng"))) == number - 2:
                    break
                time.sleep(0.1)
            time.sleep(1.5)  # the camera is asked again
            shutil.copyfile(by_focal[focal], card / "arriving.part")
            os.replace(card / "arriving.part", card / f"DSC0000{number}.dng")
        said, _ = capture.communicate(timeout=60)
    finally:
        capture.kill()
    assert capture.returncode == 0, said
    sequence = read_sequence(tmp_path / "sequences/00001")
    assert [shot.focal_planned for shot in sequence.shots] == [150.0, 35.0]
    for shot in sequence.shots:
        taken = (tmp_path / "sequences/00001" / shot.file).read_bytes()
        assert taken == by_focal[shot.focal_planned].read_bytes()
    assert len(list(card.iterdir())) == 3
