"""The noise of a sensor, from shots of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from srraw_model.noise_models import read_noise
from srraw_tools.cli import main
from srraw_tools.noise import fit_line, measure_blocks

A, B, BLACK, WHITE = 1.3, 40.0, 512.0, 16383


def plane(light, *, seed=0):
    """A colour's samples, as a sensor with this noise gives them for light above black."""
    rng = np.random.default_rng(seed)
    noisy = light + BLACK + np.sqrt(A * light + B) * rng.standard_normal(light.shape)
    return np.clip(np.rint(noisy), 0, WHITE).astype(np.uint16)


def ramp(low, high, size=512):
    return np.broadcast_to(np.linspace(low, high, size), (size, size))


def test_a_ramp_tells_the_noise():
    a, b = fit_line(measure_blocks(plane(ramp(0, 9000)), BLACK, WHITE))
    assert a == pytest.approx(A, rel=0.05)
    assert b == pytest.approx(B, abs=15)


def test_detail_does_not_pass_for_noise():
    """Nine blocks of ten hold texture as white as noise, of one to thirty times its deviation."""
    rng = np.random.default_rng(1)
    light = ramp(100, 9000, 640)
    strength = np.exp(rng.uniform(0, np.log(30), (40, 40))) * (rng.random((40, 40)) < 0.9)
    texture = rng.standard_normal(light.shape) * np.sqrt(A * light) * np.kron(strength, np.ones((16, 16)))
    a, b = fit_line(measure_blocks(plane(np.maximum(light + texture, 0)), BLACK, WHITE))
    assert a == pytest.approx(A, rel=0.1)
    assert b == pytest.approx(B, abs=60)


def test_clipped_areas_count_for_nothing():
    a, _ = fit_line(measure_blocks(plane(ramp(200, 30000)), BLACK, WHITE))
    assert a == pytest.approx(A, rel=0.08)


def test_one_brightness_or_no_smooth_area_is_no_line():
    assert fit_line(measure_blocks(plane(ramp(0, 9000, 64)), BLACK, WHITE)) is None
    checks = np.indices((512, 512)).sum(axis=0) % 2 * 4000.0 + 100
    assert fit_line(measure_blocks(plane(checks), BLACK, WHITE)) is None


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise") / "sequences"
    arguments = [
        "--count",
        "2",
        "--seed",
        "5",
        "--focal",
        "70,100,150,240",
        "--iso",
        "1600",
        "--out",
        str(folder),
    ]
    result = CliRunner().invoke(main, ["simulate", "--quiet", *arguments])
    assert result.exit_code == 0, result.output
    return folder


def test_the_command_finds_what_the_simulator_was_told(sequences, tmp_path):
    """At ISO 1600 the simulated sensor has a = 4.23, b = 161."""
    out = tmp_path / "noise.json"
    result = CliRunner().invoke(main, ["calibrate", "noise", str(sequences), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    (model,) = read_noise(out)
    assert json.loads(result.stdout)["models"] == json.loads(out.read_text())["models"]
    assert model["iso"] == 1600
    for a, b in zip(model["a"], model["b"], strict=True):
        assert a * 2000 + b == pytest.approx(4.232 * 2000 + 161.4, rel=0.1)


def test_what_is_there_stays_and_a_dry_run_writes_nothing(sequences, tmp_path):
    out = tmp_path / "noise.json"
    arguments = ["calibrate", "noise", str(sequences), "--out", str(out)]
    assert "8 shots" in CliRunner().invoke(main, [*arguments, "--dry-run"]).output
    assert not out.exists()
    out.write_text("mine")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert out.read_text() == "mine"
