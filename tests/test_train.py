"""Training: it learns, goes on exactly where it stopped, and never loses or replaces a run unasked."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace

import cv2
import pytest
import torch
from synthetic import make_pair, write_set, write_untrained

from srraw_model import features, preparing
from srraw_model.checkpoint import load_checkpoint, save_checkpoint
from srraw_model.evaluate import evaluate_models, prepare_evaluation
from srraw_model.options import KEPT, learning_rate_at
from srraw_model.tables import rows_of
from srraw_model.train import prepare_training, train
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.files import sha256_of

VGG19_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
QUICK = {"preset": "demo", "crop": 16, "batch": 2, "steps": 6, "l1_steps": 3, "save_every": 100}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", size=(72, 96))


@pytest.fixture(scope="session")
def deep_vgg(tmp_path_factory):
    """All convolutions of VGG-19 with random weights, in torchvision's layout."""
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.pth"
    generator, weights = torch.Generator().manual_seed(0), {}
    widths = [64, 64, 128, 128, *[256] * 4, *[512] * 8]
    for number, before, after in zip(VGG19_CONVOLUTIONS, [3, *widths], widths, strict=False):
        weight = torch.randn(after, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
        weights |= {f"features.{number}.weight": weight, f"features.{number}.bias": torch.zeros(after)}
    torch.save(weights, path)
    return path


def run(data, out, *, until=None, **options):
    """Train, and stop after the step `until` as a person would."""
    steps = train(prepare_training(data, out=out, **{**QUICK, **options}))
    records = []
    for record in steps:
        records.append(record)
        if record.step == until:
            break
    steps.close()
    return records


def same_weights(a, b):
    a, b = (load_checkpoint(path / "model.pt").weights for path in (a, b))
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_validation_that_fails_costs_no_training(data, tmp_path, monkeypatch):
    def failing(*arguments):
        raise UserError("A pair of val is damaged.")

    monkeypatch.setattr("srraw_model.train.write_sample", failing)
    with pytest.raises(UserError, match="val is damaged"):
        run(data, tmp_path / "run", save_every=4)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run/model.pt").step == 4
    assert run(data, tmp_path / "run", save_every=4, resume=True)[-1].step == 6


def test_a_run_leaves_a_checkpoint_a_log_and_samples(data, tmp_path):
    records = run(data, tmp_path / "run", save_every=4)
    assert [r.loss_name for r in records] == ["L1"] * 3 + ["CoBi"] * 3
    assert set(records[-1].parts) == {"cobi_rgb"}
    checkpoint = load_checkpoint(tmp_path / "run/model.pt")
    assert (checkpoint.step, checkpoint.label) == (6, "Ours: L1, then CoBi_RGB")
    assert checkpoint.trained_on["file"] == "srraw.h5"
    assert checkpoint.trained_on["pairs"] == 4
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 6
    assert lines[-1]["loss"] == records[-1].loss
    assert set(lines[-1]["cost"]) == {"data", "network", "cobi_rgb", "optimiser"}
    assert 0 < sum(lines[-1]["cost"].values()) <= lines[-1]["seconds"]
    assert set(records[0].cost) == {"data", "network", "l1", "optimiser"}
    pictures = sorted((tmp_path / "run/samples").iterdir())
    assert [p.name for p in pictures] == ["000004.png", "000006.png"]
    assert cv2.imread(str(pictures[0])).shape == (256 + 8, 4 * 256 + 3 * 8, 3)


ALL_STATE = {
    "batch": 4,
    "accumulate": 2,
    "ema": 0.9,
    "weight_decay": 0.01,
    "warmup_steps": 4,
    "schedule": "cosine",
}


@pytest.mark.parametrize("until", [1, 3, 5])
def test_an_interrupted_run_ends_in_the_same_weights_bit_for_bit(data, tmp_path, until):
    """At any step, with everything that has a state: before, at and after the change of the loss."""
    run(data, tmp_path / "whole", **ALL_STATE)
    run(data, tmp_path / "parts", until=until, **ALL_STATE)
    before = load_checkpoint(tmp_path / "parts/model.pt")
    assert before.step == until
    assert not torch.equal(before.weights["head.0.weight"], before.state["weights"]["head.0.weight"])
    rest = run(data, tmp_path / "parts", resume=True, **ALL_STATE)
    assert [r.step for r in rest] == list(range(until + 1, 7))
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("baseline", ["srgan", "lapsrn"])
def test_an_interrupted_baseline_ends_in_the_same_weights_bit_for_bit(data, tmp_path, deep_vgg, baseline):
    """A discriminator, its optimiser and batch normalisation have states too."""
    options = {"baseline": baseline, "steps": 3, "l1_steps": 1, "batch": 1, "vgg_weights": deep_vgg}
    options |= {"blocks": 1, "channels": 8, "ema": 0.9}
    run(data, tmp_path / "whole", **options)
    run(data, tmp_path / "parts", until=2, **options)
    assert ("judge" in load_checkpoint(tmp_path / "parts/model.pt").state) == (baseline == "srgan")
    run(data, tmp_path / "parts", resume=True, **options)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_parts_of_a_batch_and_the_whole_lead_to_the_same_weights(data, tmp_path):
    run(data, tmp_path / "whole", batch=4)
    run(data, tmp_path / "parts", batch=4, accumulate=4)
    a, b = (load_checkpoint(tmp_path / name / "model.pt").weights for name in ("whole", "parts"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_what_is_used_is_the_mean_of_the_weights(data, tmp_path):
    """mean <- d mean + (1 - d) weights with d = min(0.5, (1 + t)/(10 + t)), t from 0 on."""
    training = prepare_training(data, out=tmp_path / "run", **{**QUICK, "ema": 0.5})
    mean = training.network.to_samples.weight.detach().clone()
    for t, _ in enumerate(train(training)):
        decay = min(0.5, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * training.network.to_samples.weight.detach()
    kept = load_checkpoint(tmp_path / "run/model.pt").make_network().to_samples.weight
    torch.testing.assert_close(kept, mean)
    assert not torch.equal(kept, training.network.to_samples.weight)


def test_a_seed_decides_the_weights_and_touches_no_random_state(data, tmp_path):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    run(data, tmp_path / "a", seed=5, steps=2)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    run(data, tmp_path / "b", seed=5, steps=2)
    run(data, tmp_path / "c", seed=6, steps=2)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_what_a_killed_run_logged_after_its_checkpoint_is_logged_once(data, tmp_path):
    run(data, tmp_path / "run", until=4)
    log = tmp_path / "run/log.jsonl"
    log.write_text(json.dumps({"step": 4}) + "\n" + json.dumps({"step": 5}) + "\n" + '{"step": 5')
    run(data, tmp_path / "run", resume=True)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [4, 6]


def test_more_steps_may_be_asked_for_when_resuming(data, tmp_path):
    run(data, tmp_path / "run", steps=4)
    with pytest.raises(UserError, match="has done its 4 steps"):
        prepare_training(data, out=tmp_path / "run", **{**QUICK, "steps": 4}, resume=True)
    assert run(data, tmp_path / "run", steps=6, resume=True)[-1].step == 6


def test_a_resumed_run_takes_its_options_from_the_checkpoint(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    unusual = {"seed": 5, "learning_rate": 2e-3, "rgb_distance": "cosine"}
    run(data, whole, **unusual)
    run(data, parts, until=2, **unusual)
    rest = train(prepare_training(data, out=parts, resume=True, device="cpu", save_every=7))
    assert [record.step for record in rest] == [3, 4, 5, 6]
    assert same_weights(whole, parts)


def test_a_resumed_run_is_saved_and_validated_as_before_unless_told_otherwise(data, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "summary_writer", lambda: None)
    out, kept = tmp_path / "run", {"save_every": 2, "validation_crops": 3, "tensorboard": True}
    run(data, out, until=1, **QUICK | {"save_every": 2, "validation_crops": 3})
    before = load_checkpoint(out / "model.pt")
    save_checkpoint(out / "model.pt", replace(before, options=before.options | kept))

    def resumed(**told):
        training = prepare_training(data, out=out, resume=True, **told)
        return {name: getattr(training.run, name) for name in KEPT}

    assert resumed() == kept
    told = {"save_every": 7, "validation_crops": 0, "tensorboard": False}
    assert resumed(**told) == told
    assert resumed(save_every=7) == kept | {"save_every": 7}
    save_checkpoint(out / "model.pt", replace(before, options=before.options | {"save_every": "often"}))
    with pytest.raises(UserError, match="does not say how its run began"):
        resumed()


def test_a_checkpoint_that_does_not_say_how_it_was_saved_is_resumed(data, tmp_path):
    """As those from before these options were kept."""
    out = tmp_path / "run"
    run(data, out, until=1, save_every=2)
    before = load_checkpoint(out / "model.pt")
    assert before.options["save_every"] == 2
    options = {name: value for name, value in before.options.items() if name not in KEPT}
    save_checkpoint(out / "model.pt", replace(before, options=options))
    assert prepare_training(data, out=out, resume=True).run.save_every == 500


def test_a_run_with_vgg_weights_is_resumed_with_the_same(data, tmp_path, shared_data):
    weights = shared_data / "weights/vgg_normalised_conv3_1.pth"
    out = tmp_path / "run"
    run(data, out, until=1, steps=2, vgg_weights=weights)
    with pytest.raises(UserError, match="Give the same --vgg-weights"):
        prepare_training(data, out=out, resume=True)
    assert prepare_training(data, out=out, resume=True, vgg_weights=weights).step == 1


def test_a_checkpoint_that_does_not_say_how_its_run_began_is_not_resumed(data, tmp_path):
    write_untrained(tmp_path / "model.pt")
    with pytest.raises(UserError, match="does not say how its run began"):
        prepare_training(data, out=tmp_path, resume=True)


def test_a_run_is_neither_replaced_nor_mixed_unasked(data, tmp_path):
    out = tmp_path / "run"
    run(data, out, steps=2)
    before = (out / "model.pt").read_bytes()
    other = write_set(tmp_path / "other.h5", train=2, size=(72, 96))
    for options, says in (
        ({}, "holds a run already"),
        ({"resume": True, "overwrite": True}, "exclude"),
        ({"resume": True, "zoom": 8}, "trained for 4X, not for 8X"),
        ({"resume": True, "seed": 9}, "seed was 0 and is 9"),
        (
            {"resume": True, "learning_rate": 1e-4, "crop": 32},
            "crop was 16 and is 32, learning_rate was 0.001",
        ),
        ({"resume": True, "data": other}, "other pairs"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            prepare_training(**{"data": data, "out": out, **QUICK, **options})
        assert caught.value.exit_code == 2
        assert (out / "model.pt").read_bytes() == before
    assert len(run(data, out, overwrite=True)) == 6


def test_pictures_that_are_no_samples_stay(data, tmp_path):
    out = tmp_path / "run"
    run(data, out, steps=2)
    for name in ("2024-cat.png", "1².png", "000099.png"):
        (out / "samples" / name).write_bytes(b"")
    run(data, out, steps=1, overwrite=True)
    left = {picture.name for picture in (out / "samples").iterdir()}
    assert left == {"000001.png", "2024-cat.png", "1².png"}


def test_pairs_that_are_left_out_and_a_val_without_any_are_told(tmp_path):
    sizes = [(48, 64, "train"), (24, 64, "train"), (24, 64, "val")]
    with shards.new_shard(tmp_path / "small.h5", {"zooms": [4], "compression": "none"}) as add:
        for number, (height, width, split) in enumerate(sizes):
            add(*make_pair(f"{number + 1:05d}_4x_00006_00002", size=(height, width), split=split))
    none = write_set(tmp_path / "none.h5", train=1, val=0, test=0, size=(48, 64))

    def notes(path, **told):
        training = prepare_training(path, out=tmp_path / "run", **QUICK | {"loss": "l1"} | told)
        return training.notes, training.validation

    left_out = (
        "1 of 2 pairs of the split 'train' is not larger than a crop of 32 x 32 mosaic pixels, and left out."
    )
    no_val = (
        f"No 4X pair of the split 'val' of {tmp_path}/small.h5 is larger than a crop of 32 x 32 mosaic pixels"
    )
    only = ": only the loss is logged."
    assert notes(tmp_path / "small.h5", crop=32) == ((left_out, no_val + only), None)
    assert notes(tmp_path / "small.h5", crop=32, validation_crops=0) == ((left_out,), None)
    assert notes(tmp_path / "small.h5", crop=16)[0] == ()
    assert notes(none) == ((f"The split 'val' of {none} holds no 4X pair{only}",), None)


def test_more_workers_than_cores_are_told_once(data, tmp_path, monkeypatch):
    """In a sentence, and not by the warnings of torch's loader."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0})
    training = prepare_training(data, out=tmp_path / "run", **QUICK | {"workers": 2, "loss": "l1"})
    assert training.notes == ("2 processes that read crops share 1 core: fewer may be faster.",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = train(training)
        next(steps)
        steps.close()
    assert not prepare_training(data, out=tmp_path / "one", **QUICK | {"workers": 1, "loss": "l1"}).notes


@pytest.mark.parametrize("options", [{}, {"baseline": "lapsrn", "blocks": 1, "channels": 8}])
def test_what_is_compiled_is_what_a_step_calls(data, tmp_path, monkeypatch, options):
    called = []

    def compiled(function, **_):
        return lambda *given: called.append(function) or function(*given)

    monkeypatch.setattr(torch, "compile", compiled)
    steps = train(prepare_training(data, out=tmp_path / "run", **QUICK | options | {"compile": True}))
    next(steps)
    assert len(called) == 1
    steps.close()


def test_bad_options_are_said_in_a_sentence(data, tmp_path):
    (tmp_path / "file").write_text("")
    for options, says in (
        ({"preset": "huge"}, "there are paper-4x, paper-8x, small, demo"),
        ({"zoom": 8}, "holds no 8X pairs"),
        ({"crop": 17}, "not even"),
        ({"learning_rate": 5.0}, "learning rate"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"seed": 10**30}, "A seed of 1000"),
        ({"seed": -1}, "seed"),
        ({"steps": 10**30}, "steps"),
        ({"steps": 0}, "steps"),
        ({"batch": 10**9}, "batch"),
        ({"l1_steps": -1}, "L1"),
        ({"crop": 0}, "not even and at least 16"),
        ({"workers": 10**6}, "--workers"),
        ({"save_every": 0}, "--save-every"),
        ({"rgb_distance": "miles"}, "no rgb_distance 'miles'"),
        ({"device": "meta"}, "no device 'meta'"),
        ({"device": "cuda:99"}, "torch finds cpu"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"resume": True}, "no run to resume"),
        ({"out": tmp_path / "file"}, "is a file"),
        ({"vgg_weights": tmp_path / "none.pth"}, "does not exist"),
        ({"vgg_weights": tmp_path / "none.pth", "download_vgg": True}, "exclude each other"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            prepare_training(**{"data": data, "out": tmp_path / "run", **QUICK, **options})
        assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_only_layers_that_there_are_can_be_left_out(data, deep_vgg, tmp_path):
    for left_out in (("conv9_9",), ("conv1_2", "conv2_2", "conv3_2")):
        options = {**QUICK, "vgg_weights": deep_vgg, "leave_out": left_out}
        with pytest.raises(UserError, match="They are conv1_2, conv2_2, conv3_2"):
            prepare_training(data, out=tmp_path / "run", **options)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(data, tmp_path):
    training = prepare_training(data, out=tmp_path / "run", **{**QUICK, "save_every": 2})
    steps = train(training)
    assert [next(steps).step, next(steps).step] == [1, 2]
    with torch.no_grad():
        training.network.to_samples.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="lower --learning-rate"):
        next(steps)
    checkpoint = load_checkpoint(tmp_path / "run/model.pt")
    assert checkpoint.step == 2
    assert all(values.isfinite().all() for values in checkpoint.weights.values())


def test_without_vgg_weights_it_says_that_it_trains_on_rgb_alone(data, tmp_path):
    (note,) = prepare_training(data, out=tmp_path / "run", **QUICK).notes
    assert "CoBi_RGB alone" in note
    assert "--vgg-weights" in note


def test_vgg_features_take_part(data, tmp_path, shared_data):
    weights = shared_data / "weights/vgg_normalised_conv3_1.pth"
    (record,) = run(data, tmp_path / "run", steps=1, l1_steps=0, vgg_weights=weights)
    assert {"cobi_rgb", "cobi_vgg", "cobi_conv1_2"} < set(record.parts)
    assert {"features", "cobi_vgg"} < set(record.cost)
    assert load_checkpoint(tmp_path / "run/model.pt").label == "Ours: CoBi_RGB + CoBi_VGG"


def test_vgg_is_fetched_where_that_is_asked_for(data, tmp_path, shared_data, monkeypatch):
    weights = shared_data / "weights/vgg_normalised_conv3_1.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    public = tmp_path / f"vgg19-{sha256_of(weights)[:8]}.pth"
    public.symlink_to(weights)
    monkeypatch.setattr(features, "VGG19_URL", public.as_uri())
    training = prepare_training(data, out=tmp_path / "run", download_vgg=True, **QUICK)
    assert training.options.vgg_sha256 == sha256_of(weights)
    assert training.objectives[1].loss.features is not None


def test_the_small_preset_spares_the_costly_layer(data, tmp_path, shared_data):
    weights = shared_data / "weights/vgg_normalised_conv3_1.pth"
    options = {"preset": "small", "crop": 32, "batch": 1, "steps": 1, "l1_steps": 0, "vgg_weights": weights}
    (note,) = prepare_training(data, out=tmp_path / "run", **options).notes
    assert note == "CoBi_VGG compares conv2_2, conv3_1."
    (record,) = run(data, tmp_path / "run", **options)
    assert set(record.parts) == {"cobi_rgb", "cobi_vgg", "cobi_conv2_2", "cobi_conv3_1"}


def test_the_papers_network_trains_with_the_papers_loss(data, tmp_path):
    records = run(data, tmp_path / "run", preset="paper-4x", batch=1, steps=2, l1_steps=None)
    assert [r.loss_name for r in records] == ["CoBi", "CoBi"]
    checkpoint = load_checkpoint(tmp_path / "run/model.pt")
    assert checkpoint.label == "Ours: CoBi_RGB"
    assert sum(v.numel() for v in checkpoint.weights.values()) == 4_860_355


def test_the_learning_rate_falls_to_zero_at_the_end_of_the_demo(data, tmp_path):
    options = prepare_training(data, out=tmp_path / "run", **{**QUICK, "steps": 100}).options
    rates = [learning_rate_at(step, options) for step in (0, 50, 75, 99)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2e-5])


def test_a_minute_of_training_beats_bicubic_on_scenes_not_seen(data, tmp_path):
    run(data, tmp_path / "run", crop=32, batch=4, steps=250, l1_steps=200, save_every=1000)
    evaluation = prepare_evaluation(data, models=[tmp_path / "run/model.pt"])
    _, trained = rows_of(list(evaluate_models(evaluation)))
    assert trained.over_bicubic["psnr_db"].value > 0.3
    assert trained.over_bicubic["ssim"].value > 0.01
