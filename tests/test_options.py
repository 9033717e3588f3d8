"""Options: preset, file, command line; what is misspelt is told; printed options ask for the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic import write_set

from srraw_model import cli
from srraw_model.options import (
    BASELINES,
    DECIDING,
    OPTION_FIELDS,
    PAIRS,
    PRESETS,
    RunOptions,
    checked_names,
    config_text,
    learning_rate_at,
    new_options,
    read_config,
)
from srraw_model.train import prepare_training
from srraw_tools.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=2, size=(72, 80))


def printed(*arguments):
    result = CliRunner().invoke(cli.train, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_line_goes_before_the_file_and_the_file_before_the_preset(data, tmp_path):
    config = tmp_path / "f.toml"
    config.write_text(
        'preset = "demo"\nbatch = 2\nlearning-rate = 1\nsave_every = 7\nleave_out = ["conv1_2"]\n'
    )
    with pytest.raises(UserError, match=r"learning rate of 1\.0"):
        prepare_training(data, out=tmp_path / "run", config=config)
    training = prepare_training(data, out=tmp_path / "run", config=config, learning_rate=1e-3, crop=16)
    options = training.options
    assert (options.preset, options.batch, options.crop, options.learning_rate) == ("demo", 2, 16, 1e-3)
    assert (training.run.save_every, options.leave_out) == (7, ("conv1_2",))
    assert options.l1_steps == 3000


@pytest.mark.parametrize(
    "arguments",
    [
        ["--preset", "small", "--zoom", 4, "--seed", 3],
        ["--preset", "demo", "--variant", "png", "--no-both-ways", "--leave-out", "conv1_2,conv2_2"],
        ["--preset", "demo", "--baseline", "lapsrn", "--pairs", "bicubic", "--blocks", 2, "--ema", 0.9],
        ["--loss", "cx", "--crop", 32, "--schedule", "cosine", "--fall-share", 0.25, "--channels-last"],
    ],
)
def test_what_is_printed_asks_for_the_same_run(data, tmp_path, arguments):
    text = printed(data, *arguments, "--print-config", "--out", tmp_path / "run")
    config = tmp_path / "f.toml"
    config.write_text(text)
    assert printed(data, "--config", config, "--print-config", "--out", tmp_path / "run") == text
    assert set(tomllib.loads(text)) <= set(OPTION_FIELDS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rat = 1e-4", "no option 'learning_rat'; the nearest is 'learning_rate'"),
        ("Zoom = 4", "no option 'Zoom'; the nearest is 'zoom'"),
        ("vgg_weight = 1", "the nearest is 'vgg_weights'"),
        ("fine_tuned_from = 'x'", "no option 'fine_tuned_from'; the nearest is 'fine_tune'"),
        ("steps = 'many'", "steps is a whole number, not 'many'"),
        ("steps = true", "steps is a whole number, not True"),
        ("both_ways = 1", "both_ways is true or false"),
        ("leave_out = [1]", "leave_out is a list of names"),
        ("steps = ", "is not TOML"),
        ("zoom = 3", "There is no zoom 3; there are 2, 4, 8"),
        ("variant = 'jpeg'", "there are raw, png, syn-raw, syn-calibrated"),
        ("baseline = 'lapsrn'\nloss = 'cobi'", "A baseline has its own network and loss: leave out loss"),
        ("pairs = 'bicubic'", "pairs belong to a baseline"),
        ("baseline = 'lapsrn'\nvariant = 'png'", "A variant is one of ours"),
        ("baseline = 'esrgan'\nzoom = 2", "there is none for 2X"),
        ("batch = 4\naccumulate = 3", "in 3 equal parts"),
        ("precision = 'bf16'", "bf16 is for a GPU"),
        ("ema = 1.0", "A decay of 1.0"),
        ("variant = 'syn-calibrated'", "Give --noise"),
        ("loss = 'perceptual'", "Give --vgg-weights FILE or --download-vgg"),
        ("baseline = 'esrgan'", "Give --vgg-weights FILE or --download-vgg"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(data, tmp_path, text, says):
    config = tmp_path / "f.toml"
    config.write_text(text)
    result = CliRunner().invoke(
        cli.train, [str(data), "--config", str(config), "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 2, result.output
    assert says in result.output.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_said_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not TOML"):
        read_config(tmp_path / "binary.toml")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_runs(preset):
    options = new_options({"preset": preset})
    assert options.zoom == (8 if preset == "paper-8x" else 4)
    assert checked_names(tomllib.loads(config_text(options, RunOptions())), "it")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"variant": "png", "loss": "l1", "steps": 77, "learning_rate": 3e-5},
        {"variant": "syn-raw", "leave_out": ("conv1_2", "conv2_2"), "both_ways": True},
        *({"baseline": baseline, "pairs": pairs} for baseline in BASELINES for pairs in PAIRS),
    ],
)
def test_printed_options_are_read_back_as_they_were(tmp_path, preset, given):
    options = new_options({"preset": preset, **given})
    run = RunOptions(
        vgg_weights=Path('a "quoted" vgg\\19.pth'), save_every=7, device="cpu", channels_last=False, workers=3
    )
    (tmp_path / "f.toml").write_text(config_text(options, run), encoding="utf-8")
    found = read_config(tmp_path / "f.toml")
    of_run = {name: found.pop(name) for name in list(found) if name not in DECIDING}
    assert new_options(found) == options
    assert RunOptions(**of_run) == run


def rates(steps, **given):
    options = new_options({"preset": "demo", "steps": 100, "learning_rate": 0.5, **given})
    return [learning_rate_at(step, options) for step in steps]


def test_the_learning_rate_follows_its_schedule():
    assert rates((0, 50, 99), schedule="constant") == [0.5] * 3
    assert rates((0, 3, 4, 9), schedule="constant", warmup_steps=5) == pytest.approx([0.1, 0.4, 0.5, 0.5])
    assert rates((0, 50, 75, 99), schedule="linear", fall_share=0.5) == pytest.approx([0.5, 0.5, 0.25, 0.01])
    assert rates((0, 20, 60, 100), schedule="cosine", fall_share=0.8) == pytest.approx([0.5, 0.5, 0.25, 0])
    fallen = rates((49, 50, 75, 88, 94), schedule="step", fall_share=1.0)
    assert fallen == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.03125])
