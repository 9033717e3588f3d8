"""Files are whole or not there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

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


@pytest.fixture
def writer(tmp_path):
    """Another process in the middle of writing a.json."""
    program = (
        "import sys; from pathlib import Path; from srraw_tools.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('whole'); print('begun', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path, writer):
    others = [tmp_path / ".a-notes.json", tmp_path / "a.srraw-partial.json"]
    for other in others:
        other.write_text("somebody's own")
    writer.kill()
    writer.wait()
    assert len(os.listdir(tmp_path)) == 3
    write_json(tmp_path / "b.json", 1)
    assert sorted(os.listdir(tmp_path)) == [".a-notes.json", "a.srraw-partial.json", "b.json"]


def test_what_another_process_is_writing_stays(tmp_path, writer):
    write_json(tmp_path / "a.json", 1)
    assert len(os.listdir(tmp_path)) == 2
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "whole"
