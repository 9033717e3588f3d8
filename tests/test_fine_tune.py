"""--fine-tune: the weights of another run, everything else new; what does not fit is named."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from synthetic import write_set

from srraw_model import cli
from srraw_model.checkpoint import load_checkpoint
from srraw_model.options import FINE_TUNE_RATE, FINE_TUNE_STEPS, PRESETS
from srraw_model.train import prepare_training, train
from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of

QUICK = {"crop": 16, "batch": 1, "l1_steps": 2, "save_every": 100, "validation_crops": 1, "device": "cpu"}
NETWORK = {"preset": "demo", "channels": 8, "blocks": 1, "ema": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The second sensor's set."""
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=2, size=(48, 64), seed=9, noise=0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The checkpoint of a run on the first sensor."""
    folder = tmp_path_factory.mktemp("model")
    first = write_set(folder / "srraw.h5", train=2, size=(48, 64))
    list(train(prepare_training(first, out=folder / "run", steps=4, **NETWORK, **QUICK)))
    return folder / "run/model.pt"


def test_the_weights_are_taken_over_and_all_else_is_new(data, model, tmp_path):
    """Those in use, which are the running mean; no step is counted, and the optimiser knows no gradient."""
    before = load_checkpoint(model)
    assert before.state["optimiser"]["state"]
    training = prepare_training(data, out=tmp_path / "run", fine_tune=model, ema=0.5, **QUICK)
    for network in (training.network, training.mean):
        weights = network.state_dict()
        assert all(torch.equal(weights[name], values) for name, values in before.weights.items())
    assert training.step == 0
    assert not training.optimiser.state
    assert training.options.steps == FINE_TUNE_STEPS
    assert training.options.learning_rate == FINE_TUNE_RATE * PRESETS["demo"]["learning_rate"]
    assert training.options.fine_tuned_from == sha256_of(model)


def test_it_minimises_what_the_model_did_unless_told_otherwise(data, tmp_path):
    """On crops of the same size, and without the L1 that these weights are past, whatever the preset has."""
    network = {"preset": "small", "channels": 8, "blocks": 1, "wide": 8}
    loss = {"rgb_distance": "cosine", "weight_spatial": 0.7, "lambda_vgg": 0.5, "patch_stride": 2}
    loss |= {"both_ways": False, "leave_out": ("conv2_2",), "crop": 16, "batch": 2}
    list(train(prepare_training(data, out=tmp_path / "run", steps=1, device="cpu", **network, **loss)))
    model = tmp_path / "run/model.pt"
    training = prepare_training(data, out=tmp_path / "fine", fine_tune=model)
    assert {name: getattr(training.options, name) for name in loss} == loss
    assert training.options.l1_steps == 0
    assert training.losses(training.options.steps) == {"CoBi_RGB": FINE_TUNE_STEPS}
    told = {"rgb_distance": "l2", "patch_stride": 4, "batch": 1, "l1_steps": 3}
    options = prepare_training(data, out=tmp_path / "fine", fine_tune=model, **told).options
    assert {name: getattr(options, name) for name in told} == told


def test_a_fine_tuned_run_says_so_and_is_resumed_without_the_model(data, model, tmp_path):
    out = tmp_path / "run"
    steps = train(prepare_training(data, out=out, fine_tune=model, steps=4, **QUICK))
    next(steps)
    steps.close()
    with pytest.raises(UserError, match="fine_tuned_from was"):
        prepare_training(data, out=out, resume=True, fine_tune=out / "model.pt")
    list(train(prepare_training(data, out=out, resume=True)))
    whole = tmp_path / "whole"
    list(train(prepare_training(data, out=whole, fine_tune=model, steps=4, **QUICK)))
    ours, theirs = (load_checkpoint(run / "model.pt") for run in (out, whole))
    assert ours.label == "Ours, fine-tuned: L1, then CoBi_RGB"
    assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in ours.weights)
    began = load_checkpoint(model).weights
    assert not all(torch.equal(ours.weights[name], began[name]) for name in began)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--channels", "16"], "channels is 8 there and 16 here"),
        (["--variant", "png"], "variant is raw there and png here"),
        (["--network", "paper"], "name is small there and paper here"),
    ],
)
def test_another_network_is_named_in_a_sentence(data, model, tmp_path, options, says):
    out = tmp_path / "run"
    result = CliRunner().invoke(
        cli.train, [str(data), "--fine-tune", str(model), "--out", str(out), *options]
    )
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    assert line.startswith(f"Error: {model} holds another network than is to be trained: ")
    assert says in line
    assert not out.exists()


def test_another_baseline_is_named_by_what_the_model_is(data, model, tmp_path):
    tiny = {"blocks": 1, "channels": 8, "crop": 16, "steps": 1, "device": "cpu"}
    list(train(prepare_training(data, out=tmp_path / "run", baseline="srresnet", **tiny)))
    for of, baseline, says in (
        (model, "srresnet", "is of Ours, not of SRResNet."),
        (tmp_path / "run/model.pt", "srgan", "is of SRResNet, not of SRGAN."),
    ):
        arguments = [data, "--fine-tune", of, "--baseline", baseline, "--out", tmp_path / "fine"]
        result = CliRunner().invoke(cli.train, [str(argument) for argument in arguments])
        assert result.exit_code == 2, result.output
        assert result.output.startswith(f"Error: {of} {says} Leave --baseline out: ")
    same = prepare_training(data, out=tmp_path / "fine", fine_tune=tmp_path / "run/model.pt")
    assert same.options.baseline == "srresnet"


def test_what_is_no_model_is_named(data, tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    for name, says, status in (("text.pt", "not a checkpoint", 1), ("none.pt", "does not exist", 2)):
        with pytest.raises(UserError, match=says) as caught:
            prepare_training(data, out=tmp_path / "run", fine_tune=tmp_path / name)
        assert caught.value.exit_code == status


@pytest.mark.parametrize("on_demosaic", [True, False])
def test_the_papers_network_is_taken_over_with_all_that_describes_it(data, tmp_path, on_demosaic):
    network = {"preset": "paper-4x", "channels": 8, "blocks": 1, "wide": 8, "on_demosaic": on_demosaic}
    list(train(prepare_training(data, out=tmp_path / "run", steps=1, **network, **QUICK)))
    model = tmp_path / "run/model.pt"
    assert (
        prepare_training(data, out=tmp_path / "fine", fine_tune=model, crop=16).options.on_demosaic
        is on_demosaic
    )
