"""Files are whole or not there."""

from __future__ import annotations

import os
import stat

import pytest

from srraw_tools.errors import UserError
from srraw_tools.files import read_json, replacing, write_json


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": True})

    def write_and_fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_and_fail()
    assert read_json(path) == {"old": True}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_written_file_is_readable_by_others(tmp_path):
    write_json(tmp_path / "a.json", 1)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o666 & ~umask


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="Cannot write"):
        write_json(tmp_path / "nowhere" / "a.json", 1)
