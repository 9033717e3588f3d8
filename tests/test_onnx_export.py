"""An exported network gives the same pixels in ONNX Runtime, at any size."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from synthetic import write_set, write_untrained

from srraw_model.checkpoint import load_checkpoint
from srraw_model.cli import zoom
from srraw_model.onnx_export import export_onnx
from srraw_model.train import prepare_training, train
from srraw_tools.errors import UserError

SYSTEMS = {
    "demo": {},
    "paper": {"network": "paper", "blocks": 1, "channels": 8, "wide": 8},
    "png": {"variant": "png"},
    "srresnet": {"baseline": "srresnet", "blocks": 1, "channels": 8},
    "syn-raw": {"variant": "syn-raw"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", size=(72, 96))


def trained(data, out, **options):
    quick = {"preset": "demo", "crop": 16, "batch": 1, "steps": 1, "l1_steps": 1}
    list(train(prepare_training(data, out=out, **{**quick, **options})))
    return out / "model.pt"


@pytest.mark.parametrize("system", ["demo", "paper", "png", "srresnet"])
def test_the_same_pixels_at_any_size(data, tmp_path, system):
    checkpoint = trained(data, tmp_path / "run", **SYSTEMS[system])
    told = export_onnx(checkpoint, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map == told
    assert told["zoom"] == "4"
    network, (given,) = load_checkpoint(checkpoint).make_network(), session.get_inputs()
    for height, width in ((24, 32), (18, 50)):
        values = torch.rand(1, given.shape[1], height, width)
        (found,) = session.run(None, {given.name: values.numpy()})
        expected = network(values).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4


def test_what_cannot_be_exported_is_said(data, tmp_path):
    with pytest.raises(UserError, match="syn-raw"):
        export_onnx(trained(data, tmp_path / "run", **SYSTEMS["syn-raw"]), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_command_exports_or_zooms_and_says_what_it_would_do(tmp_path):
    checkpoint, out = write_untrained(tmp_path / "model.pt"), tmp_path / "model.onnx"
    arguments = ["--checkpoint", str(checkpoint), "--onnx", str(out)]
    assert "would be written" in CliRunner().invoke(zoom, [*arguments, "--dry-run"]).output
    assert not out.exists()
    result = CliRunner().invoke(zoom, arguments)
    assert result.exit_code == 0, result.output
    assert "untrained, 4X" in result.output
    for wrong in (
        arguments,
        [*arguments, "photo.dng"],
        ["--checkpoint", str(checkpoint)],
        ["a.dng", *arguments],
    ):
        assert CliRunner().invoke(zoom, wrong).exit_code == 2
