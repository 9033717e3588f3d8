"""Two processes under torchrun are one: same weights, one log, one checkpoint; all of them stop together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from synthetic import write_set

from srraw_model import cli
from srraw_model.checkpoint import load_checkpoint
from srraw_model.discriminator import Discriminator, discriminator_loss, generator_loss
from srraw_model.ranks import BatchNorm, Ranks, mean_over_ranks
from srraw_model.train import prepare_training, train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SMALL = {"crop": 16, "batch": 4, "steps": 5, "l1_steps": 2, "ema": 0.9, "save_every": 5, "device": "cpu"}
SMALL |= {"channels": 8, "blocks": 1}

# In every process that torchrun starts: runs that are given as JSON; then ESRGAN's discriminator.
WORK = """
import json, sys
import torch
from test_ranks import judged
from srraw_model.train import prepare_training, train

folder, *runs = sys.argv[1:]
for run in runs:
    training = prepare_training(**json.loads(run))
    assert training.ranks.count == 2
    for _ in train(training):
        pass
gradients = judged(slice(training.ranks.rank, None, 2))
training.ranks.average(list(gradients.values()))
if training.ranks.first:
    torch.save(gradients, folder + "/judged.pt")
training.ranks.leave()
"""


def judged(share):
    """Gradients of a discriminator by its relativistic losses, of some crops of four."""
    generator = torch.Generator().manual_seed(0)
    output, target = (torch.rand(4, 3, 16, 16, generator=generator)[share] for _ in range(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Discriminator(channels=4)
    loss = discriminator_loss(judge, output, target, relativistic=True)
    loss += generator_loss(judge, output, target, relativistic=True)
    loss.backward()
    return {name: values.grad for name, values in judge.named_parameters()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=3, val=2, size=(48, 64))


@pytest.fixture(scope="module")
def both(data, tmp_path_factory):
    """Folders of the same work done by one process, and by two."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {
        "ours": SMALL | {"preset": "demo", "accumulate": 2, "validation_crops": 3},
        "srresnet": SMALL | {"baseline": "srresnet", "learning_rate": 1e-3},  # with batch normalisation
    }
    one, two = folder / "one", folder / "two"
    two.mkdir()
    (folder / "work.py").write_text(WORK)
    asked = [json.dumps({"data": str(data), "out": str(two / name), **run}) for name, run in runs.items()]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [*TORCHRUN, folder / "work.py", two, *asked],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, run in runs.items():
        list(train(prepare_training(data, out=one / name, **run)))
    torch.save(judged(slice(None)), one / "judged.pt")
    return one, two


def apart(ours, theirs):
    """The distance of two state dicts as single vectors, relative to their length."""
    assert ours.keys() == theirs.keys()
    ours, theirs = (
        torch.cat([values.flatten().double() for values in state.values()]) for state in (ours, theirs)
    )
    return ((ours - theirs).norm() / ours.norm()).item()


@pytest.mark.parametrize("run", ["ours", "srresnet"])
def test_two_processes_end_in_the_weights_of_one(both, run):
    """As single vectors: a bias before a batch normalisation has no gradient but rounding, and Adam makes
    steps of that which are as long as any."""
    one, two = (load_checkpoint(folder / run / "model.pt") for folder in both)
    assert one.step == two.step == 5
    assert apart(one.weights, two.weights) < 1e-6
    assert apart(one.state["weights"], two.state["weights"]) < 1e-6


def test_two_processes_judge_as_one(both):
    one, two = (torch.load(folder / "judged.pt", weights_only=True) for folder in both)
    assert apart(one, two) < 1e-5


def test_one_log_and_one_validation_of_all_crops(both):
    """Three crops for two processes: one of them takes two."""
    one, two = ([json.loads(line) for line in (f / "ours/log.jsonl").read_text().splitlines()] for f in both)
    assert len(one) == len(two) == 1
    for name in ("loss", "gradient_norm", "validation_db"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-5), name
    assert sorted(p.name for p in both[1].glob("ours/*")) == ["log.jsonl", "model.pt", "samples"]


def test_sigterm_to_torchrun_saves_once_and_one_process_goes_on(data, tmp_path):
    arguments = ["--preset", "demo", "--channels", "8", "--blocks", "1", "--crop", "16", "--batch", "2"]
    arguments += ["--l1-steps", "2", "--save-every", "2", "--validation-crops", "2", "--device", "cpu"]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "srraw_model.train", data, *arguments, "--steps", "9999", "--out", run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (run / "samples/000002.png").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, told = process.communicate(timeout=60)
    step = load_checkpoint(run / "model.pt").step
    assert told.count(f"Saved step {step} in {run}; go on with --resume.") == 1
    assert " ".join(said.split()).count("in 2 processes.") == 1
    assert [line for line in said.splitlines() if len(line) > 80 and " " in line] == []
    whole = tmp_path / "whole"
    for out, *more in ((run, "--resume", "--save-every", "2"), (whole, *arguments)):
        again = [data, "--steps", step + 2, "--out", out, *more]
        result = CliRunner().invoke(cli.train, [str(argument) for argument in again])
        assert result.exit_code == 0, result.output
    assert apart(*(load_checkpoint(out / "model.pt").weights for out in (run, whole))) < 1e-5


def test_alone_batch_normalisation_is_torchs_own():
    values = torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    ours, torchs = BatchNorm(4), torch.nn.BatchNorm2d(4)
    assert torch.equal(ours(values), torchs(values))
    assert torch.equal(ours.running_var, torchs.running_var)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    assert mean_over_ranks(values) is values
    assert not Ranks().any(False, values.device)
    assert "WORLD_SIZE" not in os.environ
