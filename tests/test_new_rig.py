"""A rig from what a camera says of itself, and hooks, through the real library's virtual camera."""

from __future__ import annotations

import json

import pytest
from test_virtual_camera import srraw

from srraw_tools.new_rig import raw_choice, rig_toml
from srraw_tools.rig import read_rig


class Body:
    """A camera that knows these settings and their choices."""

    def __init__(self, model, **choices):
        self.model, self.serial, self.known = model, None, choices

    def value(self, name):
        return self.known[name][0] if name in self.known else None

    def choices(self, name):
        return self.known.get(name, ())


CANON = Body(
    "Canon EOS R6",
    aperture=("4", "5.6", "16", "18", "20", "22"),
    shutterspeed=("1/60",),
    iso=("Auto", "100", "200", "400"),
    imageformat=("Large Fine JPEG", "RAW + Large Fine JPEG", "cRAW", "RAW"),
)


def test_a_rig_holds_the_cameras_own_names_and_words(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(rig_toml(CANON, 'my "rig"', (24, 105)))
    rig = read_rig(path)
    assert rig.name == 'my "rig"'
    assert rig.models == ("Canon EOS R6",)
    assert rig.settings == {"f_number": 20, "iso": 100, "image_format": "RAW"}
    assert rig.names["f_number"] == ("aperture",)
    assert "focal_mm" not in rig.names
    assert rig.stops_mm == (24, 35, 50, 70, 100)


def test_a_lens_that_does_not_close_to_f20_gets_its_smallest_aperture():
    assert "f_number = 16" in rig_toml(Body("X", aperture=("4", "8", "16")), "x", (10, 20))


@pytest.mark.parametrize(
    ("choices", "raw"),
    [
        (("JPEG Fine", "NEF (Raw)", "NEF+Fine"), "NEF (Raw)"),
        (("Standard", "Fine", "RAW", "RAW+JPEG"), "RAW"),
        (("RAW", "cRAW"), "RAW"),
        (("Fine", "Normal"), None),
    ],
)
def test_raw_alone_is_found_among_a_makers_words(choices, raw):
    assert raw_choice(choices) == raw


def test_a_rig_is_written_from_the_camera_checked_and_used(simulated, tmp_path):
    pytest.importorskip("gphoto2", reason="libgphoto2 does not exist for this system")
    scene = simulated / "00001"
    new = ("rigs", "new", "--lens", "24,240", "--virtual", scene)
    done = srraw(*new, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nikon DSC D750" in srraw("rigs", "check", "mine.toml", cwd=tmp_path).stdout
    assert srraw(*new, cwd=tmp_path).returncode == 2
    assert srraw("rigs", "new", "--lens", "24", cwd=tmp_path).returncode == 2
    text = (tmp_path / "mine.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('"f-number"', "7"))
    wrong = srraw("rigs", "check", "mine.toml", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "names.f_number" in wrong.stderr


def test_a_hook_is_told_of_every_step_and_a_failing_init_ends_it(simulated, tmp_path):
    pytest.importorskip("gphoto2", reason="libgphoto2 does not exist for this system")
    hook = tmp_path / "hook.sh"
    script = '#!/bin/sh\necho "$ACTION $ARGUMENT" >> hook.log\necho working\n[ "$ACTION" != "$FAIL" ]\n'
    hook.write_text(script)
    capture = ("capture", "--virtual", simulated / "00001", "--focal", "35,150", "--hook-script", hook)
    assert "chmod" in srraw(*capture, cwd=tmp_path).stderr  # it is not executable yet
    hook.chmod(0o755)
    assert srraw(*capture, cwd=tmp_path, FAIL="init").returncode == 2
    assert not (tmp_path / "sequences/00001/00001.dng").exists()
    (tmp_path / "hook.log").unlink()
    done = srraw(*capture, cwd=tmp_path, FAIL="download")
    assert done.returncode == 0, done.stderr
    assert "status 1 at download" in done.stderr
    (tmp_path / "sequences").rename(tmp_path / "before")
    told = srraw(*capture, "--json", cwd=tmp_path, FAIL="download")
    events = [json.loads(line) for line in told.stdout.splitlines()]  # without the hook's own words
    problems = [event["message"] for event in events if event["kind"] == "hook"]
    assert problems == [f"The hook {hook} ended with status 1 at download."] * 2
    said = (tmp_path / "hook.log").read_text().split("\n")
    assert said[:2] == ["init ", "start "]
    # 35 mm first; files count from the longest focal length.
    assert [line.split("/")[-1] for line in said[2:4]] == ["00002.dng", "00001.dng"]
    assert said[4] == "stop "
