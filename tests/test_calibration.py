"""The distortion of a lens, found in ordinary sequences, kept in a rig and undone by alignment."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from srraw_tools import distortion, geometry
from srraw_tools.alignment import read_alignment
from srraw_tools.calibration import LensLink, fit_distortions
from srraw_tools.cli import main
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, write_json
from srraw_tools.rig import find_rig, read_rig, with_distortion
from srraw_tools.simulate.physics import Optics
from srraw_tools.simulate.shoot import point_map, read_truth, simulate_sequence

SIZE = (600, 900)
LENS = {24.0: (-0.03, 0.004), 35.0: (-0.012, 0.0), 50.0: (0.0, 0.0), 70.0: (0.006, -0.002)}


def link_of(low, high, seed, noise_px=0.05):
    """Blocks of the field that both see, through two distorted lenses, a few of them wrong."""
    rng = np.random.default_rng(seed)
    scale, size = high / low, np.array(SIZE[::-1])
    low_to_high = (
        geometry.translation(*((size - 1) / 2 + rng.normal(0, 12, 2)))
        @ geometry.similarity(scale, rng.normal(0, 0.01), 0, 0)
        @ geometry.translation(*(-(size - 1) / 2))
    )
    lenses = distortion.of_frame(*LENS[low], SIZE), distortion.of_frame(*LENS[high], SIZE)
    reach = size / scale / 2 * 0.95
    points = (size - 1) / 2 + rng.uniform(-reach, reach, (150, 2))
    found = distortion.map_points(low_to_high, lenses, points) + rng.normal(0, noise_px, points.shape)
    found[:10] += rng.uniform(-5, 5, (10, 2))
    information = np.broadcast_to(np.eye(2) / noise_px**2, (len(points), 2, 2))
    return LensLink((low, high), (SIZE, SIZE), points, found, information)


def test_pairs_of_shots_tell_how_differently_they_are_distorted():
    """What all focal lengths have in common in angles is not told: k f^2 is compared between neighbours."""
    focals = sorted(LENS)
    links = [link_of(a, b, seed) for seed in range(6) for a, b in pairwise(focals)]
    found = fit_distortions(links)
    for low, high in pairwise(focals):
        lens, truth = (
            [distortion.of_frame(*table[focal], SIZE) for focal in (low, high)] for table in (found, LENS)
        )
        fresh = link_of(low, high, 99, noise_px=1e-9)
        seen = fresh.points[10:]
        left = []
        for pair in (lens, truth):
            here, there = pair[0].undistort(seen) @ (1, 1j), pair[1].undistort(fresh.found[10:]) @ (1, 1j)
            design = np.stack([here, np.ones_like(here)], axis=1)
            left.append(np.abs(there - design @ np.linalg.lstsq(design, there, rcond=None)[0]).max())
        assert left[1] < 1e-6
        assert left[0] < 0.05  # pixels; without distortion it is more than a pixel


def test_without_distortion_next_to_none_is_found():
    straight = [link_of(50.0, 50.0, seed) for seed in range(4)]
    assert all(abs(k) < 0.01 for k in fit_distortions(straight)[50.0])


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lens")
    optics = Optics(distortion=-0.03)
    for number in (1, 2):
        simulate_sequence(
            folder, name=f"0000{number}", seed=70 + number, focal_mm=(24, 35, 50, 100), optics=optics
        )
    return folder


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_lens_is_calibrated_from_one_scene_and_another_is_aligned_through_it(sequences, tmp_path):
    rig = tmp_path / "mine.toml"
    done = run("calibrate", "lens", sequences / "00001", "--rig", "virtual", "--out", rig, "--json")
    assert done.exit_code == 0, done.output
    lens = json.loads(done.stdout)["lens"]
    assert [one["focal_mm"] for one in lens] == [24, 35, 50, 100]
    assert all(one["after_px"] < 0.3 * one["before_px"] for one in lens[:2])
    assert [row[0] for row in read_rig(rig).distortion] == [24, 35, 50, 100]

    held_out = sequences / "00002"
    out = tmp_path / "aligned"
    done = run("align", held_out, "--zoom", 4, "--rig", rig, "--out", out, "--flow")
    assert done.exit_code == 0, done.output
    (pair,) = read_alignment(out / "00002" / "alignment.json")
    assert pair.status == "ok"
    assert pair.distortion_low.k1 < -0.02
    corners = geometry.crop_corners(pair.crop)
    found = distortion.map_points(pair.low_to_high, pair.lenses, corners)
    true = point_map(read_truth(held_out), pair.low, pair.high, corners)
    assert np.linalg.norm(found - true, axis=1).mean() < 0.25

    straight = tmp_path / "straight"
    assert run("align", held_out, "--zoom", 4, "--out", straight).exit_code == 0
    (without,) = read_alignment(straight / "00002" / "alignment.json")
    assert "distortion" in without.reason
    assert "distortion_low" not in read_json(straight / "00002" / "alignment.json")["pairs"][0]


def test_a_rig_keeps_everything_but_its_old_distortion():
    text = (
        '# mine\nname = "x"\nmodels = ["X"]\n[distortion]\n"24" = [0.1, 0]\n\n[lens]\nfocal_mm = [24, 70]\n'
    )
    changed = with_distortion(text, ((35.0, -0.02, 0.001), (24.0, -0.03, 0.0)))
    assert "# mine" in changed
    assert "focal_mm = [24, 70]" in changed
    assert changed.count("[distortion]") == 1
    assert '"24" = [-0.030000, 0.000000]' in changed
    assert with_distortion(changed, ((24.0, 0.0, 0.0),)).count('"') < changed.count('"')
    with pytest.raises(UserError, match="otherwise than in a table"):
        with_distortion('name = "x"\ndistortion = {"24" = [0.1, 0]}\n', ((24.0, 0.0, 0.0),))


def test_a_lens_table_is_interpolated_over_the_logarithm_of_focal_length():
    table = ((24.0, -0.03, 0.0), (96.0, 0.01, 0.004))
    between = distortion.of_focal(table, 48.0, SIZE)
    assert between.k1 == pytest.approx(-0.01)
    assert between.k2 == pytest.approx(0.002)
    assert distortion.of_focal(table, 23.5, SIZE).k1 == -0.03
    assert distortion.of_focal(table, 20.0, SIZE) is None
    assert distortion.of_focal(table, 120.0, SIZE) is None


@pytest.mark.parametrize(
    "row", ['"24" = [0.1]', '"24" = ["a", 0]', '"wide" = [0, 0]', '"24" = [-0.9, 0]', '"0" = [0, 0]', "a = 1"]
)
def test_a_rig_of_an_impossible_distortion_is_refused(tmp_path, row):
    path = tmp_path / "x.toml"
    path.write_text(f'name = "x"\nmodels = ["X"]\n[lens]\nfocal_mm = [24, 70]\n[distortion]\n{row}\n')
    with pytest.raises(UserError, match="distortion"):
        read_rig(path)


def test_wrong_use_is_told_before_anything_is_measured(sequences, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(with_distortion(Path("capture_rigs/virtual.toml").read_text(), ((24.0, 0.0, 0.0),)))
    for arguments, told in (
        (("--rig", "virtual"), "--out"),
        (("--out", tmp_path / "new.toml"), "--rig"),
        (("--rig", own), "--overwrite"),
        (("--rig", "virtual", "--out", own), "--overwrite"),
        (("--rig", "virtual", "--out", tmp_path / "none" / "x.toml"), "cannot be a rig's file"),
        (("--rig", "nobodys"), "There is no rig"),
    ):
        done = run("calibrate", "lens", sequences, *arguments)
        assert done.exit_code == 2, arguments
        assert told in done.output
    done = run("align", sequences, "--rig", "virtual", "--dry-run")
    assert done.exit_code == 2
    assert "srraw calibrate lens" in done.output
    assert find_rig("virtual").distortion == ()


def test_two_lenses_are_not_calibrated_as_one(sequences, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    record = read_json(sequences / "00001" / "sequence.json")
    for shot in record["shots"]:
        shot["lens"] = "another lens"
    write_json(other / "sequence.json", record)
    done = run("calibrate", "lens", sequences, other)
    assert done.exit_code == 2
    assert "several lenses" in done.output


def test_one_focal_length_tells_nothing(tmp_path):
    simulate_sequence(tmp_path, name="00001", seed=1, size=(200, 300), focal_mm=(35,))
    done = run("calibrate", "lens", tmp_path)
    assert done.exit_code == 1
    assert "two focal lengths" in done.output


def test_an_alignment_of_an_impossible_distortion_is_damaged(tmp_path):
    pair = {
        "low": "1.dng",
        "high": "2.dng",
        "focal_low": 35,
        "focal_high": 150,
        "zoom": 4,
        "scale_offset": 1.07,
        "crop": [0, 0, 8, 8],
        "motion": "euclidean",
        "low_to_high": np.eye(3).tolist(),
        "gain": [1, 1, 1],
        "score": 0.9,
        "status": "ok",
        "distortion_low": {"k1": -2.0, "k2": 0.0, "centre": [4, 4], "normaliser": 5},
    }
    path = tmp_path / "alignment.json"
    write_json(path, {"format": "srraw-alignment", "version": 1, "pairs": [pair]})
    with pytest.raises(UserError, match="fold"):
        read_alignment(path)
