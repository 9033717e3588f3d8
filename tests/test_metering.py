"""`srraw capture --meter`: as long as it may be, and nothing clips, at any focal length of any scene."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from srraw_tools.camera import CardFile, number_of
from srraw_tools.checks import Expected
from srraw_tools.cli import main
from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.metering import MARGIN_EV, MOST_SHOTS, SHARE, STEP_EV, find_exposure, headroom_ev
from srraw_tools.raw import read_raw
from srraw_tools.rig import find_rig

BLACK, WHITE, SIDE = 512, 16383, 96
FOCALS = (24.0, 70.0, 240.0)
FASTER = (f"1/{round(2 ** (n / 3))}" for n in range(36, 3, -1))
THIRDS = (*FASTER, "1/2", "1", "2", "4", "8", "15", "30")
RIG = replace(find_rig("sony-fe-24-240"), settle_s=0.0)


class Meterable:
    """A camera before a scene: uniform light, and a lamp of one brightness that the lens magnifies.

    `light` is what the scene gives in a second at f/20 and ISO 100, 1 at the sensor's white, per colour.
    """

    model, serial = "Sony Alpha", None

    def __init__(self, path, light=(0.5, 0.5, 0.5), lamp=0.0, lamp_side=0.0, times=THIRDS):
        self.path, self.light, self.lamp, self.lamp_side = path, light, lamp, lamp_side
        self.settings = {"f-number": "f/8", "shutterspeed": times[len(times) // 2], "iso": "800"}
        self.offers = {
            "f-number": ("f/2.8", "f/8", "f/20", "f/22"),
            "shutterspeed": tuple(times),
            "iso": ("50", "100", "200", "400", "800"),
        }
        self.focal, self.shots = 24.0, []

    def value(self, name):
        return self.settings.get(name)

    def choices(self, name):
        return self.offers.get(name, ())

    def set_value(self, name, value):
        assert value in self.offers[name]
        self.settings[name] = value

    def new_files(self, silence_s):
        return []

    def light_at(self, focal, time_s, f_number, iso):
        """The light on the sensor, (3, SIDE, SIDE): not cut off at white."""
        exposure = time_s * (20 / f_number) ** 2 * iso / 100
        image = np.empty((3, SIDE, SIDE))
        image[:] = np.array(self.light)[:, None, None] * exposure
        half = self.lamp_side * focal / 24 / 2 * SIDE
        if self.lamp and half >= 0.5:  # a smaller one is lost in the blur of the lens
            inside = np.abs(np.arange(SIDE) - SIDE / 2 + 0.5) < half
            image[:, np.outer(inside, inside)] = self.lamp * exposure
        return image

    def shoot(self, settle_s, files=0):
        told = [number_of(self.settings[name]) for name in ("shutterspeed", "f-number", "iso")]
        self.shots.append((self.focal, *told))
        image = self.light_at(self.focal, *told)
        mosaic = np.empty((SIDE, SIDE))
        for row, column, colour in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
            mosaic[row::2, column::2] = image[colour, row::2, column::2]
        values = np.clip(np.rint(BLACK + mosaic * (WHITE - BLACK)), 0, WHITE).astype(np.uint16)
        write_dng(self.path, values, black_level=BLACK, white_level=WHITE, taken_at=datetime(2026, 1, 1))
        return [CardFile("/", f"{len(self.shots)}.arw")]

    def download(self, file, path):
        path.write_bytes(self.path.read_bytes())
        return ""


def meter(camera, expected=None):
    return find_exposure(
        camera, RIG, FOCALS, expected or Expected(), lambda focal: setattr(camera, "focal", focal)
    )


def clipped_share(camera, found, focal):
    image = camera.light_at(focal, found.exposure_s, found.f_number, found.iso)
    return max((colour >= 1).mean() for colour in image)


@settings(max_examples=40, deadline=None)
@given(
    level=st.floats(-6, 6),
    colours=st.tuples(*[st.floats(0.1, 1)] * 3),
    lamp_ev=st.floats(0, 5),
    lamp_side=st.floats(0, 0.3),
    every=st.integers(1, 4),
)
def test_nothing_clips_at_any_focal_length_and_no_longer_time_would_do(
    tmp_path_factory, level, colours, lamp_ev, lamp_side, every
):
    light = tuple(2.0**level * colour for colour in colours)
    path = tmp_path_factory.getbasetemp() / "meter.dng"
    camera = Meterable(path, light, 2.0 ** (level + lamp_ev), lamp_side, THIRDS[::every])
    found = meter(camera)
    chosen = found.expected
    assert chosen.f_number == 20
    assert 100 <= chosen.iso <= 400
    assert found.shots <= 2 * MOST_SHOTS
    for focal in FOCALS:
        assert clipped_share(camera, chosen, focal) <= SHARE
    times = sorted(number_of(choice) for choice in camera.choices("shutterspeed"))
    longer = [time for time in times if time > chosen.exposure_s]
    if longer:  # the next one would leave less than the margin, at the longest or in a field of the shortest
        brightest = max(
            camera.light_at(focal, longer[0], 20, chosen.iso).max() for focal in (FOCALS[0], FOCALS[-1])
        )
        assert math.log2(brightest) > -MARGIN_EV - 0.01


def test_a_lamp_that_only_the_long_end_resolves_has_the_last_word(tmp_path):
    plain = meter(Meterable(tmp_path / "a.dng", (0.1, 0.1, 0.1)))
    lamp = Meterable(tmp_path / "a.dng", (0.1, 0.1, 0.1), lamp=1.6, lamp_side=0.009)
    found = meter(lamp)
    assert found.expected.exposure_s < plain.expected.exposure_s / 8
    assert clipped_share(lamp, found.expected, 240.0) == 0


def test_a_small_lamp_counts_by_its_share_of_the_longest_field(tmp_path):
    """A fortieth of the side is less than SHARE of the shortest frame, and a sixteenth of the longest."""
    camera = Meterable(tmp_path / "a.dng", (0.01, 0.01, 0.01), lamp=0.3, lamp_side=1 / 40)
    camera.shoot(0)
    raw = read_raw(camera.path)
    lost = headroom_ev(raw) - headroom_ev(raw, (1.0, 0.1))
    assert lost == pytest.approx(math.log2(0.3 / 0.01), abs=0.01)
    camera.lamp = 1.0  # beyond white
    camera.shoot(0)
    assert headroom_ev(read_raw(camera.path), (1.0, 0.1)) == -STEP_EV


@pytest.mark.parametrize("colour", range(3))
def test_the_brightest_colour_decides(tmp_path, colour):
    light = [0.05, 0.05, 0.05]
    light[colour] = 0.8
    chosen = meter(Meterable(tmp_path / "a.dng", tuple(light))).expected
    assert 0.8 * chosen.exposure_s * chosen.iso / 100 <= 2**-MARGIN_EV


def test_in_the_dark_the_iso_rises_to_400_and_no_further(tmp_path):
    assert meter(Meterable(tmp_path / "a.dng", (2e-3,) * 3)).expected == Expected(20, 30, 400)
    assert meter(Meterable(tmp_path / "a.dng", (0.012,) * 3)).expected == Expected(20, 30, 200)
    kept = meter(Meterable(tmp_path / "a.dng", (2e-3,) * 3), Expected(iso=100)).expected
    assert kept == Expected(20, 30, 100)


def test_what_cannot_be_metered_is_said_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"too bright: even 1/4096 s would clip"):
        meter(Meterable(tmp_path / "a.dng", (1e4,) * 3))
    with pytest.raises(UserError, match=r"f/20 or smaller, not f/8") as caught:
        meter(Meterable(tmp_path / "a.dng"), Expected(f_number=8))
    assert caught.value.exit_code == 2
    camera = Meterable(tmp_path / "a.dng")
    camera.offers["shutterspeed"] = ()
    with pytest.raises(UserError, match="does not let a computer set its exposure time"):
        meter(camera)
    jpeg = Meterable(tmp_path / "a.dng")
    jpeg.download = lambda file, path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    with pytest.raises(UserError, match="made no raw file"):
        meter(jpeg)


@pytest.mark.parametrize("seed", range(10))
def test_light_that_changes_does_not_keep_it_for_ever(tmp_path, seed):
    camera, rng = Meterable(tmp_path / "a.dng"), np.random.default_rng(seed)
    real = camera.light_at
    camera.light_at = lambda *told: real(*told) * 2 ** rng.uniform(-4, 8)
    with suppress(UserError):  # a sentence, or an exposure that was good when it was tried
        assert meter(camera).expected.exposure_s in [time for _, time, *_ in camera.shots]
    assert len(camera.shots) <= 2 * MOST_SHOTS


@pytest.mark.parametrize("start", ["1/4096", "30"])
@pytest.mark.parametrize("level", [2e-4, 1e-2, 1.0, 100.0, 2000.0])
def test_it_finds_its_way_from_anywhere_in_few_shots(tmp_path, start, level):
    camera = Meterable(tmp_path / "a.dng", (level,) * 3)
    camera.settings["shutterspeed"] = start
    chosen = meter(camera).expected
    assert level * chosen.exposure_s * chosen.iso / 100 <= 2**-MARGIN_EV
    assert len(camera.shots) <= 8


@pytest.mark.parametrize("more", [("--exposure", "1"), ("--watch", "."), ("--virtual", ".")])
def test_meter_excludes_what_makes_no_sense_with_it(more):
    done = CliRunner().invoke(main, ["capture", "--meter", *more])
    assert done.exit_code == 2
    assert "--meter needs a tethered camera" in done.output


def test_a_plan_says_what_will_be_metered(tmp_path):
    done = CliRunner().invoke(
        main, ["capture", "--meter", "--rig", "sony-fe-24-240", "--dry-run", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "metered" in done.output
