"""Rigs: those that come with srraw, and what is wrong with others."""

from __future__ import annotations

import pytest

from srraw_tools.errors import UserError
from srraw_tools.rig import find_rig, installed_files, installed_rigs, read_rig, rig_for

WHOLE = """
name = "mine"
models = ["Maker Body"]
[lens]
focal_mm = [24, 240]
[settings]
f_number = 20
[names]
f_number = ["aperture"]
"""


def test_the_promised_rigs_are_installed():
    rigs = installed_rigs()
    assert {"virtual", "sony-fe-24-240"} <= set(rigs)
    for maker in ("Nikon", "Canon"):
        assert any(rig.models[0].startswith(maker) for rig in rigs.values())
    assert all(rig.description for rig in rigs.values())
    tethered = [rig for rig in rigs.values() if rig.name != "watched-folder"]
    assert all(rig.settings["f_number"] >= 20 for rig in tethered)


@pytest.mark.parametrize(
    ("model", "serial", "name"),
    [
        ("Nikon DSC D750", "0.1", "virtual"),
        ("Nikon DSC D750", "3002145", "nikon-24-200"),
        ("Sony ILCE-7SM2 (PC Control)", None, "sony-fe-24-240"),
        ("Canon EOS R5", "1", "canon-rf-24-240"),
    ],
)
def test_the_camera_chooses_its_rig(model, serial, name):
    assert rig_for(model, serial).name == name


def test_an_unknown_camera_is_told_how_to_go_on():
    with pytest.raises(UserError, match="--rig FILE"):
        rig_for("Leica Q3", None)


def test_a_rig_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE)
    rig = find_rig(str(path))
    assert (rig.name, rig.lens_mm, rig.names["f_number"]) == ("mine", (24, 240), ("aperture",))
    with pytest.raises(UserError, match="no rig 'yours'"):
        find_rig("yours")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("name = ", "nom = "), "'nom' is no key"),
        (('name = "mine"', ""), "'name' is missing"),
        (("[24, 240]", "[240, 24]"), "shortest and the longest"),
        (("[24, 240]", "24"), "shortest and the longest"),
        (("f_number = 20", "f_number = -1"), "settings.f_number"),
        (("f_number = 20", "shutter = 1"), "settings.shutter"),
        (('["aperture"]', '"aperture"'), "list of words"),
        (("[lens]", "[lens"), "not TOML"),
        (("[lens]\nfocal_mm = [24, 240]", "lens = 3"), "must be a table"),
        (("[24, 240]", "[24, 240]\nstops_mm = [24, 300]"), "focal lengths that the lens has"),
        (("[names]", "[tolerances]\nfocal = 0\n[names]"), "positive numbers"),
        (("[names]", "[timing]\nwait = 1\n[names]"), "'timing.wait' is no key"),
        (("[lens]", 'ring = "robot"\n[lens]'), "'ring' is 'robot'"),
        (("[names]", "[timing]\nsettle_s = 600\n[names]"), "longer than 60 s"),
        (("[names]", "[tolerances]\nfocal = 1.5\n[names]"), "is a share, and must be below 1"),
        (("[names]", "[checks]\nclipped = 5\n[names]"), "is a share, and must be below 1"),
        (("f_number = 20", "f_number = " + "9" * 5000), "not TOML"),
        (("f_number = 20", "f_number = " + "[" * 10_000), "not TOML"),
    ],
)
def test_what_is_wrong_with_a_rig_is_named(tmp_path, change, says):
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE.replace(*change))
    with pytest.raises(UserError, match=says) as caught:
        read_rig(path)
    assert caught.value.exit_code == 2


def test_without_a_wish_the_papers_focal_lengths_are_shot_as_far_as_the_lens_goes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE.replace("[24, 240]", "[28, 105]"))
    assert read_rig(path).stops_mm == (35, 50, 70, 100)
    assert read_rig(path).setting_tolerance == 0.04
    assert find_rig("nikon-24-200").stops_mm[-1] == 200


def test_the_toml_of_an_installed_rig_can_be_adapted(tmp_path):
    for file, text in installed_files().items():
        (tmp_path / file).write_text(text)
        rig = read_rig(tmp_path / file)
        assert rig == installed_rigs()[rig.name]
        assert file == f"{rig.name}.toml"
