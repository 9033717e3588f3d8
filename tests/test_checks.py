"""What is found wrong with a shot, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from srraw_tools.checks import Expected, check_shot, setting_text
from srraw_tools.rig import find_rig
from srraw_tools.sequence import Shot

RIG = replace(find_rig("virtual"), ring="person")
EXPECTED = Expected(f_number=20, exposure_s=1 / 60, iso=100)
SAME = {"camera": "Sony ILCE-7SM2", "lens": "FE 24-240mm F3.5-6.3 OSS"}
GOOD = Shot("00002.ARW", 150, 151.0, 20.0, 0.0167, 100, **SAME, taken_at="2026-11-23T10:00:15", sha256="b")
FIRST = Shot("00007.ARW", 24, 24.0, 20.0, 1 / 60, 100, **SAME, taken_at="2026-11-23T10:00:00", sha256="a")


def test_a_good_shot_has_no_findings():
    assert check_shot(GOOD, EXPECTED, [FIRST], RIG) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"focal_mm": 140.0}, "140 mm instead of 150 mm"),
        ({"exposure_s": 1 / 30}, "with 1/30 s, not 1/60 s as was asked"),
        ({"iso": 200}, "ISO 200, not ISO 100"),
        ({"f_number": 11.0}, "f/11, not f/20"),
        ({"camera": "Nikon D750"}, "another camera, Nikon D750"),
        ({"sha256": "a"}, "earlier file again"),
        ({"lens": "FE 50mm F1.8"}, "another lens, FE 50mm F1.8"),
        ({"digital_zoom": 1.5}, "a digital zoom of 1.5"),
        ({"taken_at": "2026-11-23T09:59:58"}, "taken at 09:59:58, before the shot that precedes it"),
    ],
)
def test_each_fault_is_named(change, says):
    (finding,) = check_shot(replace(GOOD, **change), EXPECTED, [FIRST], RIG)
    assert says in finding.what
    assert finding.remedy


@pytest.mark.parametrize(
    "change", [{"focal_mm": None, "iso": None, "exposure_s": None}, {"focal_mm": 156.0}, {"f_number": 20.4}]
)
def test_what_exif_omits_or_rounds_is_no_fault(change):
    assert check_shot(replace(GOOD, **change), EXPECTED, [FIRST], RIG) == []


def test_without_a_wish_the_first_shot_is_the_measure():
    drifted = replace(GOOD, exposure_s=1 / 30)
    assert check_shot(drifted, Expected(), [], RIG) == []
    assert len(check_shot(drifted, Expected(), [FIRST], RIG)) == 1


def test_a_smaller_aperture_than_asked_is_good_if_all_have_it():
    smaller = replace(GOOD, f_number=22.0)
    assert check_shot(smaller, EXPECTED, [replace(FIRST, f_number=22.0)], RIG) == []
    (finding,) = check_shot(smaller, EXPECTED, [FIRST], RIG)
    assert "f/22, not f/20 as the first shot" in finding.what


def test_a_finding_says_what_was_measured_and_what_would_have_passed():
    (finding,) = check_shot(replace(GOOD, focal_mm=161.0), EXPECTED, [FIRST], RIG)
    assert (finding.check, finding.measured, finding.limit) == ("focal_mm", 161.0, pytest.approx(157.5))
    assert check_shot(replace(GOOD, focal_mm=157.4), EXPECTED, [FIRST], RIG) == []


def test_a_shot_that_is_shot_again_is_not_the_one_before_it_nor_measured_by_it():
    bright = replace(GOOD, exposure_s=0.1, sha256="old", taken_at="2026-11-23T10:00:20")
    again = replace(GOOD, sha256="new", taken_at="2026-11-23T10:00:25")
    assert check_shot(again, EXPECTED, [FIRST], RIG, bright) == []
    (same,) = check_shot(replace(again, sha256="old"), EXPECTED, [FIRST], RIG, bright)
    assert "earlier file again" in same.what
    (late,) = check_shot(replace(again, taken_at="2026-11-23T10:00:17"), EXPECTED, [FIRST], RIG, bright)
    assert "before the shot that precedes it" in late.what


def test_a_sequence_that_is_resumed_with_another_exposure_is_not_mixed():
    (finding,) = check_shot(GOOD, Expected(exposure_s=1 / 60), [replace(FIRST, exposure_s=1 / 30)], RIG)
    assert "as the first shot" in finding.what


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("exposure_s", 0.02, "1/50 s"),
        ("exposure_s", 1.6, "1.6 s"),
        ("exposure_s", 1 / 10000, "1/10000 s"),
        ("f_number", 6.3, "f/6.3"),
        ("iso", 100, "ISO 100"),
    ],
)
def test_settings_are_written_as_photographers_write_them(name, value, text):
    assert setting_text(name, value) == text
