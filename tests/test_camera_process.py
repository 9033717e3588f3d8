"""The camera in its own process: crashes and hangs of a driver are errors, and the session goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from srraw_tools.camera import CameraLost
from srraw_tools.camera_process import CameraProcess
from srraw_tools.capture import capture_sequence
from srraw_tools.checks import Expected
from srraw_tools.errors import UserError
from srraw_tools.rig import find_rig
from srraw_tools.sequence import read_sequence

HERE = Path(__file__).parent

# What a driver does at the first call of one name; a file remembers that it was done.
DRIVER = """
import os, sys, signal, time
sys.path.insert(0, {here!r})
from pathlib import Path
from fake_gphoto2 import FakeCamera, fake_gp
from srraw_tools.camera_process import serve

name, fault, done = {name!r}, {fault!r}, Path({done!r})
original = getattr(FakeCamera, name)
def faulty(self, *arguments):
    if not done.exists():
        done.touch()
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    return original(self, *arguments)
setattr(FakeCamera, name, faulty)
gp = fake_gp([], dict(a=Path({raw!r})))
gp.shoots_what_is_set, gp.ring = dict(only="a"), "only"
serve(gp)
"""

CALLS = ["init", "get_single_config", "set_single_config", "capture", "wait_for_event", "file_get"]


def driver(tmp_path, simulated, name, fault):
    raw = str(simulated / "00001" / "00006.dng")
    done = str(tmp_path / "done")
    return [
        sys.executable,
        "-c",
        DRIVER.format(here=str(HERE), name=name, fault=fault, done=done, raw=raw),
    ]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_a_driver_that_crashes_or_hangs_is_replaced(simulated, tmp_path, monkeypatch, name, fault):
    monkeypatch.setattr("srraw_tools.capture.RECONNECT_S", 0)
    monkeypatch.setattr("srraw_tools.camera_process.OTHER_LIMIT_S", 2.0)
    command = driver(tmp_path, simulated, name, fault)
    limits = dict.fromkeys(("connect", "shoot", "download", "new_files"), 2.0)
    if name in ("init", "get_single_config"):  # called before there is a session that could go on
        with pytest.raises(CameraLost, match="crashed at 'connect'" if fault == "crash" else "in time"):
            CameraProcess(command, limits)
        CameraProcess(command, limits).close()
        return
    camera = CameraProcess(command, limits)
    (tmp_path / "s").mkdir()
    if name == "set_single_config":
        with pytest.raises(CameraLost):
            camera.set_value("f-number", "f/20")
        camera.reconnect()
    arguments = {"turn_ring": lambda focal: None, "shoot_again": lambda findings: False}
    events = list(
        capture_sequence(
            camera,
            tmp_path / "s",
            find_rig("virtual"),
            focal_mm=(35.0,),
            expected=Expected(f_number=20),
            **arguments,
        )
    )
    camera.close()
    assert ("lost" in [event.kind for event in events]) == (name != "set_single_config")
    assert read_sequence(tmp_path / "s").complete


def test_a_full_disk_in_the_other_process_is_a_sentence(simulated, tmp_path):
    camera = CameraProcess(driver(tmp_path, simulated, "exit", "crash"))
    (file,) = camera.shoot(0.01)
    with pytest.raises(UserError, match="Cannot write the download"):
        camera.download(file, tmp_path / "no" / "such" / "folder")
    assert camera.value("f-number") == "f/2.8"  # the session goes on
    camera.close()


def test_what_is_no_setting_and_what_is_null_has_no_value(simulated, tmp_path):
    camera = CameraProcess(driver(tmp_path, simulated, "exit", "crash"))
    assert camera.value("no-such-setting") is None
    assert camera.choices("f-number") == ("f/2.8", "f/20")
    with pytest.raises(UserError, match="cannot set f-number"):
        camera.set_value("f-number", "f/64")
    camera.close()
    with pytest.raises(CameraLost, match="not connected"):
        camera.value("f-number")
