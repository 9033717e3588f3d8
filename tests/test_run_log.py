"""The log of a run: TensorBoard's events hold what log.jsonl does, also of a run that was interrupted."""

from __future__ import annotations

import json
import sys

import pytest
from synthetic import write_set

from srraw_model.train import prepare_training, train
from srraw_tools.errors import UserError

QUICK = {"preset": "demo", "channels": 8, "blocks": 1, "crop": 16, "batch": 1, "l1_steps": 11}
QUICK |= {"save_every": 5, "validation_crops": 1, "tensorboard": True, "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=2, size=(48, 64))


def scalars(run):
    """{name: {step: value}} of the events in a run's folder, as TensorBoard shows them."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_what_the_log_holds(data, tmp_path):
    """Also of a run whose log is further than its checkpoint, as a killed one's may be."""
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    training = prepare_training(data, out=run, steps=20, **QUICK)
    for record in train(training):
        if record.step == 10:
            saved = (run / "model.pt").read_bytes()
        if record.step == 15:
            break
    (run / "model.pt").write_bytes(saved)  # as if killed: the log knows more than the checkpoint
    list(train(prepare_training(data, out=run, resume=True)))  # told nothing: it is logged as it began

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    shown = scalars(run)
    assert {name: list(steps) for name, steps in shown.items() if name.startswith("loss")} == {
        "loss/L1": [5, 10],
        "loss/CoBi": [15, 20],
        "loss/cobi_rgb": [15, 20],
    }
    for name, of_line in (
        ("validation/psnr_db", "validation_db"),
        ("learning_rate", "learning_rate"),
        ("gradient_norm", "gradient_norm"),
        ("seconds", "seconds"),
    ):
        wanted = {line["step"]: line[of_line] for line in lines}
        assert shown[name] == pytest.approx(wanted, rel=1e-6), name
    wanted = {line["step"]: line["cost"]["network"] for line in lines}
    assert shown["seconds/network"] == pytest.approx(wanted, rel=1e-6)

    list(train(prepare_training(data, out=run, overwrite=True, steps=5, **QUICK)))
    assert list(scalars(run)["seconds"]) == [5], "of another run in its place nothing is left"


def test_json_lines_are_the_default(data, tmp_path):
    list(train(prepare_training(data, out=tmp_path, steps=1, **QUICK | {"tensorboard": False})))
    assert (tmp_path / "log.jsonl").exists()
    assert not (tmp_path / "tensorboard").exists()


def test_without_the_package_a_sentence_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'srraw\[tensorboard\]'") as caught:
        prepare_training(data, out=tmp_path / "run", steps=1, **QUICK)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()
