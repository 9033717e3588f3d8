"""A phone and a camera on one tripod: each shoots its focal lengths, and their pairs align."""

from __future__ import annotations

import shutil
from dataclasses import replace
from threading import Timer

import numpy as np
import pytest
from click.testing import CliRunner
from fake_gphoto2 import fake_gp

from srraw_tools import geometry
from srraw_tools.align import align_sequence
from srraw_tools.camera import CardFile, GphotoCamera
from srraw_tools.capture import capture_sequence
from srraw_tools.checks import Expected
from srraw_tools.cli import main
from srraw_tools.errors import UserError
from srraw_tools.inspection import check_sequence
from srraw_tools.pair_camera import PHONE, PairCamera
from srraw_tools.rig import find_rig, read_rig, toml_of
from srraw_tools.sequence import read_sequence
from srraw_tools.simulate import lens
from srraw_tools.simulate.physics import Optics, Sensor
from srraw_tools.simulate.shoot import read_truth, simulate_sequence
from srraw_tools.watched_folder import WatchedFolder

FOCALS = (24.0, 50.0, 100.0)
RIG = replace(find_rig("phone-and-camera"), settle_s=0.01)
STEADY = Optics(focal_error=0.005, shift_px=1, rotation_deg=0.1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One scene, by a camera and by a phone of another sensor: fewer pixels, more noise, another pattern."""
    out = tmp_path_factory.mktemp("pair")
    shared = {"seed": 8, "focal_mm": FOCALS, "optics": STEADY}
    simulate_sequence(out, name="camera", size=(704, 1056), **shared)
    phone = Sensor(cfa="GBRG", iso=400, black_level=256, crosstalk=0.1)
    simulate_sequence(out, name="phone", size=(528, 792), sensor=phone, **shared)
    return out


@pytest.fixture
def shot(scene, tmp_path, monkeypatch):
    """A sequence as capture makes it; the phone's file appears when its picture is asked for."""
    monkeypatch.setattr("srraw_tools.watched_folder.LEAST_STILL_S", 0.01)
    sync = tmp_path / "sync"
    sync.mkdir()
    (sync / "yesterday.dng").write_bytes((scene / "phone" / "00001.dng").read_bytes())
    files = {"50.jpg": scene / "camera" / "00002.dng", "100.jpg": scene / "camera" / "00001.dng"}
    camera = PairCamera(WatchedFolder(sync), GphotoCamera(fake_gp([["50.jpg"], ["100.jpg"]], files)), RIG)

    def turn(focal):
        camera.turn_to(focal)
        if focal == 24:  # a moment later a thumb is on the phone
            Timer(1.0, shutil.copyfile, (scene / "phone" / "00003.dng", sync / "IMG_2041.dng")).start()

    events = list(
        capture_sequence(
            camera,
            tmp_path / "s",
            RIG,
            focal_mm=FOCALS,
            expected=Expected(f_number=20),
            turn_ring=turn,
            shoot_again=lambda findings: False,
        )
    )
    return tmp_path / "s", events


def test_each_focal_length_comes_from_its_own_device(shot, scene):
    folder, events = shot
    assert [event.findings for event in events if event.kind == "shot"] == [(), (), ()]
    assert read_sequence(folder).complete
    assert (folder / "00003.dng").read_bytes() == (scene / "phone" / "00003.dng").read_bytes()
    assert (folder / "00001.dng").read_bytes() == (scene / "camera" / "00001.dng").read_bytes()


def test_another_sensor_at_the_short_end_is_no_fault_and_its_pairs_align(shot, scene):
    folder, _ = shot
    assert check_sequence(folder, RIG)[1] == []
    alignment = align_sequence(folder, zooms=(4,))
    (pair,) = alignment.pairs
    assert (pair.low, pair.high, pair.status) == ("00003.dng", "00001.dng", "ok")
    # Where the phone's pixels lie in the camera's picture, the simulator knows: both looked at one scene.
    points = np.array([[300.0, 220.0], [396.0, 264.0], [480.0, 310.0]])
    low, high = imaging(scene / "phone", "00003.dng"), imaging(scene / "camera", "00001.dng")
    truth = lens.scene_to_pixels(high, lens.pixels_to_scene(low, points))
    assert np.abs(geometry.apply(np.array(pair.low_to_high), points) - truth).max() < 1


def imaging(folder, file):
    truth = read_truth(folder)
    shot = next(shot for shot in truth["shots"] if shot["file"] == file)
    return lens.Imaging(
        size=tuple(truth["size"]),
        focal_mm=shot["focal_true"],
        rotation_deg=shot["rotation_deg"],
        shift_px=tuple(shot["shift_px"]),
    )


def test_a_file_is_fetched_and_deleted_where_it_lies(scene, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "IMG_1.dng").write_bytes(b"phone")
    camera = PairCamera(WatchedFolder(tmp_path), GphotoCamera(fake_gp([["b.jpg"]], {})), RIG)
    (file,) = camera.card_files()
    assert file == CardFile(f"{PHONE}.", "IMG_1.dng")
    camera.download(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"phone"
    camera.delete(file)
    assert not (tmp_path / "IMG_1.dng").exists()
    assert camera.value("f-number") == "f/2.8"
    camera.turn_to(24.0)
    assert camera.value("f-number") is None  # a phone's settings are its own


def test_the_rig_of_a_pair_needs_the_phones_folder(tmp_path):
    done = CliRunner().invoke(main, ["capture", "--rig", "phone-and-camera", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "a phone shoots 24 mm. Give the folder" in done.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("line", "says"),
    [("stops_mm = [24, 50, 100, 240]", "not all"), ("stops_mm = [30]", "some of the focal lengths")],
)
def test_a_phone_has_some_of_the_focal_lengths(tmp_path, line, says):
    toml = toml_of("phone-and-camera")
    head, _, tail = toml.partition("[phone]")
    rest = tail.partition("\n[settings]")[2]
    (tmp_path / "r.toml").write_text(f"{head}[phone]\n{line}\n\n[settings]{rest}")
    with pytest.raises(UserError, match=says):
        read_rig(tmp_path / "r.toml")


def test_a_pupil_that_moves_is_told_as_a_distance(tmp_path):
    rig = toml_of("sony-fe-24-240").replace(
        "focal_mm = [24, 240]", "focal_mm = [24, 240]\npupil_shift_mm = 270", 1
    )
    (tmp_path / "r.toml").write_text(rig)
    done = CliRunner().invoke(main, ["capture", "--rig", str(tmp_path / "r.toml"), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "pupil moves by 270 mm: what is nearer than 270 m" in done.output
    (tmp_path / "r.toml").write_text(rig.replace("= 270", "= -1"))
    with pytest.raises(UserError, match="pupil_shift_mm"):
        read_rig(tmp_path / "r.toml")
