"""A folder as a camera: files are taken when they are whole, old ones never, and checked as any shot."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from srraw_tools.camera import CameraLost, CardFile
from srraw_tools.errors import UserError
from srraw_tools.rig import installed_files
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
                if (
                    len(list((tmp_path / "sequences/00001").glob("*.dng"))) == number - 2
                    and (tmp_path / "sequences/00001/.under-way").parent.exists()
                ):
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
