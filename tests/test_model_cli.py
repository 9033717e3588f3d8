"""The three commands: help without torch, defaults as in Python, sentences for mistakes, signals save."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from synthetic import write_set, write_untrained

from srraw_model import cli
from srraw_model.checkpoint import load_checkpoint
from srraw_model.evaluate import prepare_evaluation
from srraw_model.options import OPTION_FIELDS
from srraw_model.train import prepare_training
from srraw_model.zoom import prepare_zoom

QUICK = ["--preset", "demo", "--crop", "16", "--batch", "1", "--l1-steps", "2"]
COMMANDS = [
    (cli.train, prepare_training, ["a.h5"]),
    (cli.evaluate, prepare_evaluation, ["a.h5"]),
    (cli.zoom, prepare_zoom, ["a.dng", "--checkpoint", "model.pt", "-o", "a.png"]),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=2, size=(48, 64))


def call(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.mark.parametrize(("command", "function", "arguments"), COMMANDS)
def test_command_and_function_have_the_same_options_and_defaults(command, function, arguments):
    given = command.make_context(command.name, arguments).params
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert all(given[option] is None for option in OPTION_FIELDS), "the preset decides"
        elif parameter.default is not inspect.Parameter.empty:
            assert given[name] == parameter.default, name
        else:
            assert name in given


@pytest.mark.parametrize("command", [command for command, *_ in COMMANDS])
def test_every_option_has_help_and_every_command_an_example(command):
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
    assert f"Example: {command.name} " in command.help


def test_help_loads_neither_torch_nor_opencv():
    code = (
        "import sys, srraw_model.cli; "
        "sys.exit(str([m for m in ('torch', 'cv2', 'h5py', 'rawpy', 'rich') if m in sys.modules] or ''))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() in ("", "[]")


def test_train_evaluate_in_order(data, tmp_path):
    run = tmp_path / "run"
    result = call(cli.train, data, *QUICK, "--steps", 3, "--out", run)
    assert result.exit_code == 0, result.output
    for said in ("CoBi_RGB alone", "2 pairs", "step 3 of 3", "Ours: L1, then CoBi_RGB, 3 steps"):
        assert said in " ".join(result.output.split())
    result = call(cli.evaluate, data, "--models", run / "model.pt", "--out", tmp_path / "eval")
    assert result.exit_code == 0, result.output
    for said in ("bicubic", "Ours: L1, then CoBi_RGB", "PSNR", "as-is", "metrics.csv"):
        assert said in result.output
    assert max(len(line) for line in result.stdout.splitlines() if str(tmp_path) not in line) <= 80
    arguments = (data, "--models", run / "model.pt", "--out", tmp_path / "eval")
    result = call(cli.evaluate, *arguments, "--json")
    assert {score["model"] for score in json.loads(result.stdout)["mean"]} == {
        "bicubic",
        "Ours: L1, then CoBi_RGB",
    }
    assert "2 of 2 pictures were evaluated before" in call(cli.evaluate, *arguments).output
    result = call(cli.evaluate, *arguments, "--split", "val")
    assert (result.exit_code, "--overwrite" in result.output) == (2, True)
    assert call(cli.evaluate, *arguments, "--split", "val", "--overwrite").exit_code == 0


def test_a_dry_run_says_what_and_writes_nothing(data, tmp_path):
    result = call(cli.train, data, "--crop", 32, "--dry-run", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "4,860,355 parameters" in result.output
    assert not (tmp_path / "run").exists()


def test_a_plan_is_for_a_terminal_of_80_columns(data, tmp_path):
    """In it options and paths stay whole, so that they can be copied."""
    arguments = (data, "--crop", 32, "--loss", "cobi", "--dry-run", "--out", tmp_path / "run")
    lines = call(cli.train, *arguments).output.splitlines()
    assert [line for line in lines if len(line) > 80 and " " in line] == []
    words = " ".join(lines).split()
    assert {f"{data},", f"{tmp_path / 'run'}.", "--download-vgg):", "--rgb-distance"} <= set(words)


@pytest.mark.parametrize(
    ("l1_steps", "says"),
    [
        (0, "4 steps: CoBi_RGB; into"),
        (1, "4 steps: the first 1 with L1, then CoBi_RGB; into"),
        (4, "4 steps: L1; into"),
        (9, "4 steps: L1; into"),
    ],
)
def test_a_plan_tells_the_losses_that_there_will_be(data, tmp_path, l1_steps, says):
    arguments = ("--steps", 4, "--l1-steps", l1_steps, "--crop", 16, "--dry-run", "--out", tmp_path / "run")
    told = " ".join(call(cli.train, data, *arguments).output.split())
    assert says in told
    assert ("CoBi_RGB alone" in told) == (l1_steps < 4)


def test_a_plan_and_what_was_reached_are_told_to_other_programs(data, tmp_path):
    run, tiny = tmp_path / "run", ["--channels", 8, "--blocks", 1, "--validation-crops", 1]
    arguments = (data, *QUICK, *tiny, "--steps", 3, "--out", run, "--json")
    plan = json.loads(call(cli.train, *arguments, "--dry-run").stdout)
    assert not run.exists()
    assert (plan["data"], plan["out"], plan["step"]) == (str(data), str(run), 0)
    assert plan["pairs"] == ["00001_4x_00006_00002", "00002_4x_00006_00002"]
    assert plan["losses"] == {"L1": 2, "CoBi_RGB": 1}
    assert (plan["options"]["crop"], plan["options"]["leave_out"]) == (16, [])
    assert (plan["run"]["validation_crops"], plan["run"]["fine_tune"]) == (1, None)
    assert any("CoBi_RGB alone" in note for note in plan["notes"])
    done = call(cli.train, *arguments)
    assert done.stderr == ""
    model = str(run / "model.pt")
    assert json.loads(done.stdout) == {"model": model, "label": "Ours: L1, then CoBi_RGB", "step": 3}
    more = call(cli.train, data, "--fine-tune", model, "--dry-run", "--json", "--out", tmp_path / "fine")
    assert json.loads(more.stdout)["run"]["fine_tune"] == model
    both = call(cli.train, *arguments, "--print-config", "--overwrite")
    assert (both.exit_code, "exclude each other" in both.output) == (2, True)


def test_a_photograph_is_zoomed_and_not_replaced_unasked(shared_data, tmp_path):
    model, out = write_untrained(tmp_path / "model.pt"), tmp_path / "out.png"
    photo = shared_data / "raw/gopro_Fusion_GPBK7066.dng"
    arguments = (photo, "--checkpoint", model, "--crop", "100,100,48,32", "-o", out)
    plan = call(cli.zoom, *arguments, "--dry-run", "--json")
    record = json.loads(plan.stdout)
    assert (record["width"], record["height"], record["bits"], out.exists()) == (192, 128, 16, False)
    assert record["scratch_bytes"] == 192 * 128 * 6
    assert "192 x 128" in call(cli.zoom, *arguments, "--dry-run").output
    result = call(cli.zoom, *arguments)
    assert result.exit_code == 0, result.output
    assert "192 x 128, 16 bits, 4X by untrained" in result.output
    result = call(cli.zoom, *arguments)
    assert (result.exit_code, "--overwrite" in result.output) == (2, True)
    assert call(cli.zoom, *arguments, "--overwrite").exit_code == 0


def test_mistakes_are_sentences_with_the_right_status(data, tmp_path):
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    for command, arguments, says, status in (
        (cli.train, [tmp_path / "none.h5"], "does not exist", 2),
        (cli.train, [data, "--zoom", 8], "holds no 8X pairs", 2),
        (cli.train, [data, "--zoom", 3], "Invalid value", 2),
        (cli.train, [text], "not an HDF5 file", 1),
        (cli.train, [data, "--resume", "--out", tmp_path / "run"], "no run to resume", 2),
        (cli.train, [data, "--vgg-weights", tmp_path / "none.pth", "--out", tmp_path / "run"], "exist", 2),
        (cli.train, [data, "--vgg-weights", tmp_path, "--out", tmp_path / "run"], "is a folder", 2),
        (cli.train, [data, "--seed", "9" * 40, "--out", tmp_path / "run"], "A seed of 999", 2),
        (cli.train, [data, "--learning-rate", "nan", "--out", tmp_path / "run"], "learning rate of nan", 2),
        (cli.evaluate, [data, "--models", text], "not a checkpoint", 1),
        (cli.evaluate, [data, "--models", "x.pt,", "--out", tmp_path / "eval"], "x.pt does not exist", 2),
        (cli.evaluate, [data, "--models", ",x.pt"], "--models is empty", 2),
        (cli.zoom, [text, "--checkpoint", text, "-o", tmp_path / "a.png"], "not a checkpoint", 1),
        (cli.zoom, [text, "--checkpoint", text, "-o", "a.png", "--crop", "1,2"], "four whole numbers", 2),
    ):
        result = call(command, *arguments)
        assert result.exit_code == status, result.output
        assert says in result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_from_there(data, tmp_path, number, status):
    run = tmp_path / "run"
    code = "from srraw_model.cli import train; train()"
    arguments = [str(data), *QUICK, "--steps", "100000", "--save-every", "1", "--out", str(run)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while not (run / "model.pt").exists():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "go on with --resume" in errors
    assert "Traceback" not in errors
    step = load_checkpoint(run / "model.pt").step
    assert f"Saved step {step} " in errors
    more = call(cli.train, data, "--steps", step + 2, "--out", run, "--resume")
    assert more.exit_code == 0, more.output
    assert load_checkpoint(run / "model.pt").step == step + 2
