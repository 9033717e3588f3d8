"""Checkpoints: what is saved is loaded, and nothing else is taken for one."""

from __future__ import annotations

import errno
import pickle
import struct
import zipfile
from unittest.mock import patch as replaced

import pytest
import torch
from synthetic import write_untrained

from srraw_model.checkpoint import load_checkpoint
from srraw_tools.errors import UserError


def test_a_loaded_network_is_the_saved_one(tmp_path):
    path = write_untrained(tmp_path / "model.pt", zoom=2, seed=5)
    checkpoint = load_checkpoint(path, zoom=2)
    network = checkpoint.make_network()
    for name, values in network.state_dict().items():
        assert torch.equal(values, checkpoint.weights[name])
    assert not network.training
    assert (checkpoint.zoom, checkpoint.label) == (2, "untrained")


def test_loading_leaves_the_random_state_alone(tmp_path):
    path = write_untrained(tmp_path / "model.pt")
    before = torch.random.get_rng_state()
    load_checkpoint(path).make_network()
    assert torch.equal(before, torch.random.get_rng_state())


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file was executed')",)


def test_what_is_no_checkpoint_of_ours_is_refused_in_a_sentence(tmp_path):
    good = write_untrained(tmp_path / "model.pt")
    contents = torch.load(good, weights_only=True)
    files = {
        name: tmp_path / f"{name}.pt"
        for name in ("text", "bomb", "tensors", "newer", "torn", "misfit", "nan")
    }
    files["text"].write_text("no checkpoint")
    files["bomb"].write_bytes(pickle.dumps(_Bomb()))
    torch.save({"conv.weight": torch.zeros(3)}, files["tensors"])
    torch.save({**contents, "format_version": 99}, files["newer"])
    files["torn"].write_bytes(good.read_bytes()[:2000])
    torch.save({**contents, "network": {**contents["network"], "channels": 9}}, files["misfit"])
    wrong = {name: torch.full_like(values, torch.nan) for name, values in contents["weights"].items()}
    torch.save({**contents, "weights": wrong}, files["nan"])
    for name, says in (
        ("nan", "not finite"),
        ("text", "is not a checkpoint"),
        ("bomb", "is not a checkpoint"),
        ("tensors", "is not a checkpoint"),
        ("newer", "version 99"),
        ("torn", "damaged"),
        ("misfit", "do not fit"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            load_checkpoint(files[name])
        assert caught.value.exit_code == 1
    for path, says in ((tmp_path / "none.pt", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=says) as caught:
            load_checkpoint(path)
        assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="trained for 4X, not for 8X"):
        load_checkpoint(good, zoom=8)


@pytest.mark.parametrize("kept", [0.01, 0.43, 0.7, 0.999])
def test_a_truncated_file_is_called_damaged_with_the_remedy(tmp_path, kept):
    good = write_untrained(tmp_path / "model.pt").read_bytes()
    torn = tmp_path / "torn.pt"
    torn.write_bytes(good[: int(kept * len(good))])
    with pytest.raises(UserError, match="damaged") as caught:
        load_checkpoint(torn)
    assert caught.value.hint.startswith("Give the model.pt")


def test_bytes_that_have_changed_are_found_wherever_they_lie(tmp_path):
    path = write_untrained(tmp_path / "model.pt")
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    for record in records:
        name_and_extra = sum(struct.unpack_from("<HH", good, record.header_offset + 26))
        at = record.header_offset + 30 + name_and_extra + record.file_size // 2
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(UserError, match="is damaged: its bytes") as caught:
            load_checkpoint(path)
        assert caught.value.hint
    path.write_bytes(good)
    load_checkpoint(path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    path = write_untrained(tmp_path / "model.pt")
    refused = PermissionError(errno.EACCES, "Permission denied")
    with (
        replaced("builtins.open", side_effect=refused),
        pytest.raises(UserError, match=r"Cannot read .*model.pt: Permission denied\.") as caught,
    ):
        load_checkpoint(path)
    assert caught.value.hint
