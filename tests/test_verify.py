"""Damage anywhere in a set is named; nothing wrong is ever read silently; what is whole stays usable."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from test_shards import OPTIONS, make_pair, write

from srraw_tools import shards
from srraw_tools.cli import main
from srraw_tools.errors import UserError
from srraw_tools.verify import verify_pairs

NAMES = [f"0000{n}_4x_00006_00002" for n in (1, 2, 3)]


def make_set(folder, compression="none"):
    """An index of three shards of a pair each."""
    options = {**OPTIONS, "compression": compression}
    path = folder / "srraw.h5"
    write(path, make_pair(NAMES[0], 1), options=options)
    for seed, name in enumerate(NAMES[1:], 2):
        write(path, make_pair(name, seed), options=options, shard=shards.added_shard)
    return path


def flip(path, byte, bit=0):
    contents = bytearray(path.read_bytes())
    contents[byte] ^= 1 << bit
    path.write_bytes(contents)


def verify(path, *options):
    return CliRunner().invoke(main, ["verify", str(path), *options])


def test_a_set_that_is_whole_is_said_to_be(tmp_path):
    result = verify(make_set(tmp_path))
    assert result.exit_code == 0, result.output
    assert "3 pairs" in result.stdout
    assert "all as they were written" in result.stdout


@pytest.mark.parametrize("compression", ["none", "gzip", "bitshuffle"])
def test_a_flipped_bit_is_named_with_its_shard_pair_and_array(tmp_path, compression):
    if compression == "bitshuffle":
        pytest.importorskip("hdf5plugin")
    path = make_set(tmp_path, compression)
    shard = tmp_path / "srraw-0002.h5"
    flip(shard, shard.stat().st_size // 2, 3)  # the target is by far the largest
    result = verify(path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Failed: {shard}: pair {NAMES[1]} is damaged: chunk ")
    assert "of target is not what was written" in line
    records = [json.loads(line) for line in verify(path, "--json").stdout.splitlines()]
    assert [bool(record["damages"]) for record in records] == [False, True, False]
    with shards.open(path) as reader:
        with pytest.raises(UserError, match=r"target is not what was written.*srraw verify"):
            reader.read(reader.pairs[1])
        reader.read(reader.pairs[0])
        reader.read(reader.pairs[2])


def same(reader, seeds):
    """Whether every pair that the reader gives, reads as it was written; None where it refuses one."""
    told = [*reader.problems]
    for pair in reader.pairs:
        expected, data = make_pair(pair.name, seeds[pair.name])
        assert vars(pair).keys() == vars(expected).keys()
        for name, value in vars(expected).items():
            np.testing.assert_equal(getattr(pair, name), value)
        try:
            read = reader.read(pair)
        except UserError as error:
            told.append(str(error))
            continue
        for name, array in vars(data).items():
            np.testing.assert_array_equal(getattr(read, name), array)
    return told


WATCH = """
import sys
from pathlib import Path
from test_verify import NAMES, flip, same
from srraw_tools import shards
from srraw_tools.errors import UserError
path, number = Path(sys.argv[1]), 0
whole = path.read_bytes()
for byte, bit in zip(*[iter(map(int, sys.argv[2:]))] * 2):
    flip(path, byte, bit)
    try:
        with shards.open(path) as reader:
            same(reader, {NAMES[0]: 1})
    except UserError:
        pass
    path.write_bytes(whole)
    number += 1
print(number)
"""


def test_any_flipped_bit_is_refused_or_harmless(tmp_path):
    """Metadata too: HDF5's own reading must neither crash nor give something else."""
    path = tmp_path / "a.h5"
    write(path, make_pair(NAMES[0], 1))
    rng = np.random.default_rng(5)
    contents = np.frombuffer(path.read_bytes(), np.uint8)
    # Everything that is not an array: pages without the arrays' noise, and all over the file.
    heads = [*range(0, 2000, 7), *(len(contents) - 1 - np.arange(0, 30_000, 101))]
    bytes_ = [*heads, *rng.integers(0, len(contents), 100)]
    flips = [str(value) for byte in bytes_ for value in (byte, rng.integers(8))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    command = [sys.executable, "-c", WATCH, str(path), *flips]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(bytes_)


def test_a_chunk_that_changes_places_with_another_is_found(tmp_path):
    path = tmp_path / "a.h5"
    write(path, make_pair())
    with shards.open(path) as reader:
        array = reader._chunks(reader.pairs[0])["raw"]
        first, second = int(array._offsets[0, 0]), int(array._offsets[0, 1])
        size = int(array._sizes[0, 0])
    contents = bytearray(path.read_bytes())
    one, two = contents[first : first + size], contents[second : second + size]
    contents[first : first + size], contents[second : second + size] = two, one
    path.write_bytes(contents)
    with shards.open(path) as reader:
        assert len(reader.damages(reader.pairs[0])) == 2


def test_a_missing_and_a_truncated_shard_are_named_and_the_third_is_whole(tmp_path):
    path = make_set(tmp_path)
    (tmp_path / "srraw-0002.h5").unlink()
    last = tmp_path / "srraw-0003.h5"
    last.write_bytes(last.read_bytes()[:-20_000])
    result = verify(path)
    assert result.exit_code == 1
    assert "srraw-0002.h5 does not exist" in result.stderr
    assert "srraw-0003.h5 is not an HDF5 file, or is damaged" in result.stderr
    assert "Traceback" not in result.stderr
    problems, count, pairs = verify_pairs(path)
    assert [(pair.name, pair.damages) for pair in pairs] == [(NAMES[0], ())]
    assert (len(problems), count) == (2, 1)


def test_a_shard_that_lost_its_last_byte_only_is_named_too(tmp_path):
    path = make_set(tmp_path)
    last = tmp_path / "srraw-0003.h5"
    last.write_bytes(last.read_bytes()[:-1])
    result = verify(path)
    assert result.exit_code == 1
    assert f"{last} has lost its end" in result.stderr


def test_a_shard_that_is_replaced_while_it_is_read_is_refused(tmp_path):
    path = make_set(tmp_path)
    with shards.open(path) as reader:
        shutil.copyfile(tmp_path / "srraw-0001.h5", tmp_path / "other.h5")
        os.replace(tmp_path / "other.h5", tmp_path / "srraw-0002.h5")
        with pytest.raises(UserError, match="has been replaced"):
            reader.read(reader.pairs[1])


def test_a_shard_that_vanishes_while_it_is_read_is_one_sentence(tmp_path):
    path = make_set(tmp_path)
    with shards.open(path) as reader:
        (tmp_path / "srraw-0002.h5").unlink()
        with pytest.raises(UserError, match=r"srraw-0002\.h5: pair .* cannot be read \(No such file"):
            reader.read(reader.pairs[1])


def test_more_shards_than_open_files_are_allowed_are_read(tmp_path):
    pytest.importorskip("resource", reason="limits of POSIX")
    path = tmp_path / "srraw.h5"
    names = [f"{n:05d}_4x_00006_00002" for n in range(80)]
    for n, name in enumerate(names):
        pair, data = make_pair(name, n)
        rows = {"raw": 32, "rgb": 32, "target": 128, "valid": 128}
        small = shards.PairData(**{key: getattr(data, key)[:count] for key, count in rows.items()})
        pair = dataclasses.replace(pair, size=small.raw.shape)
        write(path, (pair, small), shard=shards.added_shard if n else shards.new_shard)
    program = (
        "import resource, sys\n"
        "from srraw_tools import shards\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "with shards.open(sys.argv[1]) as reader:\n"
        "    for _ in range(2):\n"
        "        print(*(reader.read(pair).raw[0, 0] for pair in reader.pairs), *reader.problems)"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = " ".join(str(make_pair(name, n)[1].raw[0, 0]) for n, name in enumerate(names))
    assert done.stdout.splitlines() == [expected] * 2


@pytest.mark.parametrize(
    ("name", "says", "status"),
    [("nowhere.h5", "does not exist", 2), ("text.h5", "not an HDF5 file", 1)],
)
def test_what_cannot_be_verified_is_one_sentence(tmp_path, name, says, status):
    (tmp_path / "text.h5").write_text("no")
    result = verify(tmp_path / name)
    assert result.exit_code == status
    assert says in result.stderr
