"""A file that makes a decoder crash, hang or ask for all memory costs itself and nothing else."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from srraw_tools import isolation
from srraw_tools.align import align_sequence
from srraw_tools.cli import main
from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, write_json
from srraw_tools.pack import pack_sequences
from srraw_tools.raw import read_raw

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def crashing_x3f():
    """An X3F file whose image is to be unpacked by an empty Huffman tree, on which LibRaw 0.22 crashes."""
    head = b"FOVb".ljust(40, b"\0")
    image = bytearray(b"SECi" + struct.pack("<6I", 0, 1, 0x1E, 64, 64, 0) + bytes(1500))
    image[45] = 0x97
    properties = (b"SECp" + struct.pack("<5I", 0, 1, 0, 0, 0)).ljust(256, b"\0")
    images_at, properties_at = len(head), len(head) + len(image)
    directory = b"SECd" + struct.pack("<8I", 0, 2, images_at, 0x500, 0, properties_at, 256, 0)
    return head + bytes(image) + properties + directory + struct.pack("<I", properties_at + len(properties))


def endless_mos():
    """A TIFF whose Leaf metadata hold 60 records, each inside the one before: LibRaw 0.22 reads 2^60."""
    leaf = (b"STKP" + bytes(4) + b"x".ljust(40, b"\0") + bytes(4)) * 60
    make_at = 8 + 2 + 12 * 4 + 4
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (271, 2, 5, make_at), (34310, 7, len(leaf), make_at + 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + b"Leaf".ljust(8, b"\0") + leaf


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.dng"
    write_dng(path, np.random.default_rng(0).integers(512, 16000, (64, 96)).astype(np.uint16))
    return path


def test_a_file_on_which_libraw_crashes_is_named_and_the_next_one_is_read(good, tmp_path):
    bad = tmp_path / "bad.x3f"
    bad.write_bytes(crashing_x3f())
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"bad\.x3f is damaged: LibRaw crashed on it \(SIGSEGV\)"
        ) as caught:
            read_raw(bad)
        assert caught.value.exit_code == 1
        assert read_raw(good).size == (64, 96)


def test_a_file_that_keeps_libraw_busy_for_ever_is_given_up(good, tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "LIMIT_S", (2.0, 0.0))
    bad = tmp_path / "bad.mos"
    bad.write_bytes(endless_mos())
    with pytest.raises(UserError, match=r"bad\.mos is damaged: LibRaw was not done with it after 2 s"):
        read_raw(bad)
    assert read_raw(good).size == (64, 96)


def test_a_file_gets_no_more_memory_than_its_size_can_need(good, tmp_path, monkeypatch):
    large = tmp_path / "large.dng"
    write_dng(large, np.full((3000, 4000), 600, np.uint16))
    monkeypatch.setattr(isolation, "LIMIT_BYTES", (300_000_000, 1))
    with pytest.raises(UserError, match=r"large\.dng .*memory"):
        read_raw(large, demosaic=True)
    monkeypatch.undo()
    assert read_raw(large, demosaic=True).camera_rgb.shape == (3000, 4000, 3)


def test_what_comes_from_the_other_process_is_what_it_read(good):
    from srraw_tools import libraw

    values, (mosaic, camera_rgb) = libraw.decode(good, demosaic=True)
    raw = read_raw(good, demosaic=True)
    np.testing.assert_array_equal(raw.mosaic, mosaic)
    np.testing.assert_array_equal(raw.camera_rgb, camera_rgb)
    assert raw.black_level == values["black_level"]
    assert raw.exif.exposure_s == values["exif"]["exposure_s"] == 0.01
    raw.mosaic[0, 0] = 1  # it belongs to whoever asked for it


def test_threads_get_their_own_files(tmp_path):
    for value in range(600, 616):
        write_dng(tmp_path / f"{value}.dng", np.full((200, 300), value, np.uint16))
    found = {}

    def read(value):
        found[value] = set(np.unique(read_raw(tmp_path / f"{value}.dng").mosaic))

    threads = [threading.Thread(target=read, args=(value,)) for value in range(600, 616)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {value: {value} for value in range(600, 616)}


def test_paths_are_those_of_the_asking_process(good, tmp_path, monkeypatch):
    read_raw(good)  # the other process has begun elsewhere
    monkeypatch.chdir(tmp_path)
    assert read_raw("good.dng").size == (64, 96)
    (tmp_path / "text.dng").write_text("text")
    with pytest.raises(UserError, match=r"^text\.dng is not a raw file"):
        read_raw("text.dng")


def test_a_truncated_raw_is_one_sentence_on_stderr(tmp_path):
    path = tmp_path / "short.dng"
    write_dng(path, np.full((400, 600), 600, np.uint16))
    path.write_bytes(path.read_bytes()[:200_000])
    command = [sys.executable, "-c", "from srraw_tools.cli import main; main()", "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "truncated or damaged" in done.stderr


def test_a_crash_costs_a_sequence_its_own_pairs_and_the_batch_ends_with_1(sequences, tmp_path):
    for folder in sequences.iterdir():
        align_sequence(folder, zooms=(4,))
    (sequences / "00001" / "00003.dng").write_bytes(crashing_x3f())
    record = read_json(sequences / "00001" / "sequence.json")
    record["shots"][2]["sha256"] = hashlib.sha256(crashing_x3f()).hexdigest()
    write_json(sequences / "00001" / "sequence.json", record)
    inputs = read_json(sequences / "00001" / "alignment.json")
    inputs["inputs"].pop("00003.dng")
    write_json(sequences / "00001" / "alignment.json", inputs)
    records = list(pack_sequences(sorted(sequences.iterdir()), out=tmp_path / "a.h5", zooms=(4,)))
    failed = [record for record in records if record.status == "failed"]
    assert len(records) == 6
    assert ["00003.dng is damaged: LibRaw crashed" in record.reason for record in failed] == [True]
    result = CliRunner().invoke(main, ["align", str(sequences), "--zoom", "4", "--overwrite", "-j", "2"])
    assert result.exit_code == 1
    assert result.stderr.count("00003.dng is damaged: LibRaw crashed on it") == 1
    assert "5 pairs of 2 sequences, 0 rejected." in result.stdout
