"""Networks as ONNX files: onnxruntime computes the same pixels, at any size, and the file explains itself."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic import write_untrained

from srraw_model import cli
from srraw_model.checkpoint import Checkpoint, load_checkpoint
from srraw_model.onnx_export import export_onnx
from srraw_model.variants import EncodedNetwork, make_trained
from srraw_tools.errors import UserError

NETWORKS = {
    "demo": {"name": "small", "zoom": 4, "channels": 48, "blocks": 6},
    "paper": {"name": "paper", "zoom": 4, "on_demosaic": True, "blocks": 4, "wide": 64},
    "png": {"name": "small", "zoom": 4, "variant": "png", "channels": 8, "blocks": 2},
    "syn-raw": {"name": "small", "zoom": 2, "variant": "syn-raw", "channels": 8, "blocks": 2},
    "srresnet": {"name": "srresnet", "zoom": 4, "blocks": 2},
    "lapsrn": {"name": "lapsrn", "zoom": 4, "blocks": 2, "channels": 16},
}


def untrained(sizes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make_trained(**sizes)
        for parameter in network.parameters():
            if not parameter.any():  # what starts at zero would hide the rest
                torch.nn.init.normal_(parameter, std=0.02)
    return Checkpoint("untrained", sizes, network.state_dict(), 7, {}, {}, {})


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_computes_the_same_pixels_at_two_sizes(tmp_path, name):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    checkpoint = untrained(NETWORKS[name])
    says = export_onnx(checkpoint, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map.items() >= says.items()
    assert (says["zoom"], says["steps"]) == (str(checkpoint.zoom), "7")
    network = checkpoint.make_network()
    network = network.body if isinstance(network, EncodedNetwork) else network
    channels = session.get_inputs()[0].shape[1]
    for seed, size in enumerate([(32, 20), (18, 46)]):
        values = np.random.default_rng(seed).random((1, channels, *size), np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(values)).numpy()
        made = session.run(None, {"input": values})[0]
        assert made.shape == expected.shape
        assert expected.std() > 0.01, "a picture of one colour would prove nothing"
        np.testing.assert_allclose(made, expected, atol=1e-4)


def test_the_command_writes_the_model_without_a_photograph(tmp_path):
    pytest.importorskip("onnxscript")
    model, out = write_untrained(tmp_path / "model.pt"), tmp_path / "model.onnx"
    arguments = ["--checkpoint", str(model), "--onnx", str(out)]
    planned = CliRunner().invoke(cli.zoom, [*arguments, "--dry-run"])
    assert ("4X by untrained" in planned.output, out.exists()) == (True, False)
    result = CliRunner().invoke(cli.zoom, arguments)
    assert result.exit_code == 0, result.output
    assert out.stat().st_size > 1000
    assert "linear camera RGB" in result.output
    about_the_network = result.output.splitlines()[1:]  # the first line is as long as the file's name
    assert max(len(line) for line in about_the_network) <= 80
    assert about_the_network == planned.output.splitlines()[1:]
    assert CliRunner().invoke(cli.zoom, arguments).exit_code == 2, "not replaced unasked"


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_with_json_there_is_one_object(shared_data, tmp_path, dry_run):
    pytest.importorskip("onnxscript")
    model, onnx, out = write_untrained(tmp_path / "model.pt"), tmp_path / "model.onnx", tmp_path / "a.png"
    photo = str(shared_data / "raw/gopro_Fusion_GPBK7066.dng")
    alone = ["--checkpoint", str(model), "--onnx", str(onnx), "--json", *dry_run]
    with_photo = [photo, *alone, "-o", str(out), "--crop", "100,100,48,32", "--overwrite"]
    told = json.loads(CliRunner().invoke(cli.zoom, alone).stdout)
    assert list(told) == ["onnx"]
    assert (told["onnx"]["out"], told["onnx"]["zoom"]) == (str(onnx), "4")
    record = json.loads(CliRunner().invoke(cli.zoom, with_photo).stdout)
    assert (record["out"], record["width"], record["onnx"]) == (str(out), 192, told["onnx"])
    assert (out.exists(), onnx.exists()) == (not dry_run, not dry_run)


def test_a_dry_run_finds_what_would_stop_the_export(tmp_path, monkeypatch):
    model = write_untrained(tmp_path / "model.pt")

    def planned(out):
        return CliRunner().invoke(cli.zoom, ["--checkpoint", str(model), "--onnx", str(out), "--dry-run"])

    for out, says in ((tmp_path / "a.pt", ".onnx"), (tmp_path / "none/a.onnx", "does not exist")):
        result = planned(out)
        assert (result.exit_code, says in result.output) == (2, True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = planned(tmp_path / "a.onnx")
    assert (result.exit_code, "srraw[onnx]" in result.output) == (2, True)


def test_mistakes_are_said_in_a_sentence(tmp_path, monkeypatch):
    checkpoint = load_checkpoint(write_untrained(tmp_path / "model.pt"))
    for out, says in ((tmp_path / "a.pt", r"\.onnx"), (tmp_path / "none/a.onnx", "does not exist")):
        with pytest.raises(UserError, match=says):
            export_onnx(checkpoint, out)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"srraw\[onnx\]"):
        export_onnx(checkpoint, tmp_path / "a.onnx")
    result = CliRunner().invoke(cli.zoom, ["--checkpoint", str(tmp_path / "model.pt")])
    assert (result.exit_code, "--onnx" in result.output) == (2, True)
