"""What is found wrong with a shot, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from srraw_tools.checks import Expected, check_shot
from srraw_tools.rig import find_rig
from srraw_tools.sequence import Shot

RIG = find_rig("virtual")
EXPECTED = Expected(f_number=20, exposure_s=1 / 60, iso=100)
GOOD = Shot("00002.ARW", 150, 151.0, 20.0, 0.0167, 100, "Sony ILCE-7SM2", sha256="b")
FIRST = Shot("00007.ARW", 24, 24.0, 20.0, 1 / 60, 100, "Sony ILCE-7SM2", sha256="a")


def test_a_good_shot_has_no_findings():
    assert check_shot(GOOD, EXPECTED, [FIRST], RIG) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"focal_mm": 140.0}, "140 mm instead of 150 mm"),
        ({"exposure_s": 1 / 30}, "0.0333333 s instead of 0.0166667 s"),
        ({"iso": 200}, "200 ISO"),
        ({"f_number": 11.0}, "f/11 instead of f/20"),
        ({"camera": "Nikon D750"}, "comes from a Nikon D750"),
        ({"sha256": "a"}, "earlier file again"),
    ],
)
def test_each_fault_is_named(change, says):
    (finding,) = check_shot(replace(GOOD, **change), EXPECTED, [FIRST], RIG)
    assert says in finding.what
    assert finding.remedy


@pytest.mark.parametrize(
    "change", [{"focal_mm": None, "iso": None, "exposure_s": None}, {"focal_mm": 156.0}, {"f_number": 22.0}]
)
def test_what_exif_omits_or_rounds_is_no_fault(change):
    assert check_shot(replace(GOOD, **change), EXPECTED, [FIRST], RIG) == []


def test_without_a_wish_the_first_shot_is_the_measure():
    drifted = replace(GOOD, exposure_s=1 / 30)
    assert check_shot(drifted, Expected(), [], RIG) == []
    assert len(check_shot(drifted, Expected(), [FIRST], RIG)) == 1
