"""What a doctor finds: on trees like those of Linux, with cameras that fail, and with the virtual camera."""

from __future__ import annotations

import json
import os

import pytest
from test_virtual_camera import srraw

from srraw_tools.doctor import (
    UsbCamera,
    about_connection,
    about_folder,
    about_usb_camera,
    holders,
    usb_cameras,
)
from srraw_tools.errors import UserError


def usb(folder, name="1-2", kind="06", product="ILCE-7M3"):
    device = folder / name
    device.mkdir(parents=True)
    for file, text in (("busnum", "1"), ("devnum", "12"), ("manufacturer", "Sony"), ("product", product)):
        (device / file).write_text(text + "\n")
    (folder / f"{name}:1.0").mkdir()
    (folder / f"{name}:1.0/bInterfaceClass").write_text(kind + "\n")


def test_cameras_are_found_by_what_they_speak(tmp_path):
    usb(tmp_path)
    usb(tmp_path, "1-3", kind="03", product="a keyboard")
    (camera,) = usb_cameras(tmp_path)
    assert camera.name == "Sony ILCE-7M3"
    assert str(camera.file) == "/dev/bus/usb/001/012"
    assert usb_cameras(tmp_path / "none") == []


def test_who_holds_a_camera_is_named(tmp_path):
    file = tmp_path / "012"
    file.touch()
    for number, name, opened in (("41", "gvfsd-gphoto2", file), ("42", "bash", tmp_path / "other")):
        (tmp_path / "proc" / number / "fd").mkdir(parents=True)
        (tmp_path / "proc" / number / "comm").write_text(name + "\n")
        os.symlink(opened, tmp_path / "proc" / number / "fd" / "3")
    assert holders(file, tmp_path / "proc") == ["gvfsd-gphoto2"]
    found = list(about_usb_camera(UsbCamera("X", file), tmp_path / "proc"))
    assert [(d.what, d.state) for d in found] == [("USB", "ok"), ("held", "wrong")]
    assert "gio mount" in found[1].remedy
    missing = list(about_usb_camera(UsbCamera("X", tmp_path / "013"), tmp_path / "proc"))
    assert missing[1].what == "rights"
    assert "udev" in missing[1].remedy


class Body:
    model, serial = "Sony ILCE-7M3", None

    def __init__(self, **values):
        self.values, self.closed = values, False

    def value(self, name):
        return self.values.get(name)

    def close(self):
        self.closed = True


def test_a_camera_says_of_battery_and_clock(tmp_path):
    body = Body(batterylevel="18%", datetime="1000000000")
    found = {d.what: d for d in about_connection(lambda: body)}
    assert found["camera"].state == "ok"
    assert (found["battery"].state, found["battery"].found) == ("look", "18 %")
    assert "h off" in found["camera's clock"].found
    assert body.closed
    assert [d.what for d in about_connection(lambda: Body(batterylevel="Low"))] == ["camera"]


def test_a_camera_that_does_not_open_tells_its_remedy():
    def refuse():
        raise UserError("Another program holds the camera.", "run 'gio mount -s gphoto2'")

    (found,) = about_connection(refuse)
    assert (found.state, found.remedy) == ("wrong", "run 'gio mount -s gphoto2'")


def test_a_folder_to_be_made_is_judged_by_the_one_above(tmp_path):
    (found,) = about_folder(tmp_path / "a/b")
    assert "GB free" in found.found
    (tmp_path / "file").touch()
    (found,) = about_folder(tmp_path / "file")
    assert found.state == "wrong"


def test_the_command_with_the_virtual_camera_and_without_one(simulated, tmp_path):
    pytest.importorskip("gphoto2", reason="libgphoto2 does not exist for this system")
    done = srraw("doctor", "--virtual", simulated / "00001", "--json", cwd=tmp_path)
    found = {d["what"]: d for d in json.loads(done.stdout)}
    assert (done.returncode, found["camera"]["found"]) == (0, "Nikon DSC D750 opens")
    none = srraw("doctor", cwd=tmp_path)
    assert none.returncode == 1
    assert "No camera was found" in none.stdout
    assert max(map(len, none.stdout.splitlines())) <= 80
