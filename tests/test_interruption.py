"""A run that is stopped or killed as programs are, from outside: nothing is lost, nothing comes out other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from synthetic import write_set

from srraw_model import cli
from srraw_model.checkpoint import load_checkpoint

COMMAND = [sys.executable, "-m", "srraw_model.train"]
QUICK = ["--preset", "demo", "--channels", "8", "--blocks", "1", "--crop", "16", "--batch", "2"]
QUICK += ["--l1-steps", "10", "--ema", "0.9", "--validation-crops", "1", "--device", "cpu"]

# Starts the command again and again, each time killed at a random moment about when it saves, until all 24
# steps are saved; prints the steps that it finds saved.
KILLING = """
import os, random, signal, sys, time
from pathlib import Path
import cv2, srraw_model.search, srraw_model.train, torch._dynamo  # once, not after every kill
from srraw_model.checkpoint import load_checkpoint
from srraw_model.cli import train

out, *arguments = sys.argv[1:]
moments, step, again = random.Random(0), 0, []
while step < 24:
    child = os.fork()
    if not child:
        try:
            train([*arguments, "--quiet", "--out", out, *again])
        except SystemExit as end:
            os._exit(end.code)
    ended = 0
    while not ended and not Path(out, f"samples/{step + 2:06d}.png").exists():
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        time.sleep(moments.uniform(0, 0.08))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("it failed")
    step, again = load_checkpoint(Path(out, "model.pt")).step, ["--resume"]
    print(step)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=3, size=(48, 64))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of 24 steps without an interruption."""
    out = tmp_path_factory.mktemp("whole")
    here(data, *QUICK, "--steps", "24", "--save-every", "2", "--overwrite", "--out", out)
    return out


def here(*arguments):
    """The same command in this process, which spares the start of another."""
    result = CliRunner().invoke(cli.train, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def weights_of(run):
    return load_checkpoint(run / "model.pt").weights


def logged(run):
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["validation_db"]) for line in lines]


def assert_same_run(a, b):
    """The same weights bit for bit, the same log, and the same pictures."""
    ours, theirs = weights_of(a), weights_of(b)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert logged(a) == logged(b)
    pictures = [{p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (a, b)]
    assert pictures[0] == pictures[1]


def test_a_run_killed_at_any_moment_goes_on_and_ends_as_if_it_had_not_been(data, whole, tmp_path):
    arguments = [data, *QUICK, "--steps", "24", "--save-every", "2"]
    done = subprocess.run(
        [sys.executable, "-c", KILLING, tmp_path / "run", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reached = [int(step) for step in done.stdout.split()]
    assert len(reached) > 2, "it was killed on the way"
    assert reached == sorted(reached)
    assert reached[-1] == 24
    assert_same_run(tmp_path / "run", whole)
    assert not [p for p in (tmp_path / "run").rglob("*") if "partial" in p.name]


def test_sigterm_to_all_of_a_jobs_processes_saves_and_the_rest_follows(data, whole, tmp_path):
    """Batch systems tell every process of a job, those that read crops too."""
    arguments = [*COMMAND, data, *QUICK, "--save-every", "2", "--workers", "2"]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*arguments, "--steps", "24", "--out", run],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while not (run / "samples/000004.png").exists():
        assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    step = load_checkpoint(run / "model.pt").step
    assert 4 <= step < 24
    assert told.splitlines()[-1] == f"Saved step {step} in {run}; go on with --resume."
    assert "Traceback" not in told
    here(data, "--out", run, "--resume", "--save-every", "2", "--validation-crops", "1")
    assert_same_run(run, whole)
