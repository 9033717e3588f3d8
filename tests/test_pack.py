"""The stage from alignments to the HDF5 file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srraw_tools import geometry, shards
from srraw_tools.align import align_sequence
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, write_json
from srraw_tools.pack import pack_sequences, plan_packing, split_of
from srraw_tools.raw import read_raw, render_srgb, to_uint8
from srraw_tools.target import warp_target


@pytest.fixture(scope="module")
def aligned_once(simulated, tmp_path_factory):
    folders = tmp_path_factory.mktemp("aligned") / "sequences"
    shutil.copytree(simulated, folders)
    for folder in folders.iterdir():
        align_sequence(folder)
    return folders


@pytest.fixture
def aligned(aligned_once, tmp_path):
    """The folders of two aligned sequences, copied for tests that change files."""
    return sorted(shutil.copytree(aligned_once, tmp_path / "sequences").iterdir())


def pack(folders, out, **options):
    return list(pack_sequences(folders, out=out, **options))


def statuses(records):
    return [record.status for record in records]


def test_pairs_hold_what_the_formats_promise(aligned, tmp_path):
    out = tmp_path / "srraw.h5"
    assert statuses(pack(aligned[:1], out)) == ["packed"] * 4
    raw = read_raw(aligned[0] / "00006.dng", demosaic=True)
    with shards.open(out) as reader:
        pair = next(p for p in reader.pairs if p.name == "00001_4x_00006_00002")
        data = reader.read(pair)
        x, y, w, h = pair.crop
        np.testing.assert_array_equal(data.raw, raw.mosaic[y : y + h, x : x + w])
        light = raw.camera_rgb[y : y + h, x : x + w] / np.float32(65535)
        assert (
            np.abs(data.rgb.astype(int) - to_uint8(render_srgb(light, raw.rgb_wb, raw.color_matrix))).max()
            <= 1
        )
        assert data.target.shape == (4 * h, 4 * w, 3)
        assert data.target.dtype == np.uint16
        assert (pair.cfa, pair.white_level, pair.iso, pair.exposure_time) == ("RGGB", 16383, 100, 0.02)
        np.testing.assert_allclose(pair.camera_wb, raw.camera_wb)
        assert pair.target_space == "camera"


def test_the_target_shows_the_same_picture_as_the_low_shot_at_its_exposure(aligned, tmp_path):
    out = tmp_path / "srraw.h5"
    pack(aligned, out, zooms=(4,))
    with shards.open(out) as reader:
        for pair in reader.pairs:
            data = reader.read(pair)
            h, w = pair.size
            target = shards.render_target(pair, data.target)
            small = target.reshape(h, 4, w, 4, 3).mean(axis=(1, 3))
            whole = data.valid.reshape(h, 4, w, 4).min(axis=(1, 3)) > 0
            low = data.rgb.astype(np.float32) / 255
            assert whole.mean() > 0.8
            assert (
                np.corrcoef(small[whole].ravel(), low[whole].ravel())[0, 1] > 0.93
            )  # the low shot aliases, the target does not
            assert abs(small[whole].mean() - low[whole].mean()) < 0.02


@given(st.floats(0.8, 1.2), st.floats(-0.05, 0.05), st.floats(-3, 3), st.floats(-3, 3))
def test_a_target_is_resampled_where_the_map_says(scale, rotation, dx, dy):
    """A plane of light is reproduced exactly by any good interpolation, wherever it is sampled."""
    height, width = 60, 80
    y, x = np.mgrid[:height, :width]
    plane = np.stack([1000 + 300 * x, 2000 + 400 * y, 5000 + 100 * x + 50 * y], -1).astype(np.uint16)
    centre = geometry.translation(width / 2 + dx, height / 2 + dy)
    target_to_high = centre @ geometry.similarity(scale, rotation, 0, 0) @ geometry.translation(-20, -15)
    target, valid = warp_target(plane, target_to_high, np.eye(3), (30, 40))
    points = geometry.apply(target_to_high, np.stack(np.meshgrid(np.arange(40), np.arange(30)), -1))
    u, v = points[..., 0], points[..., 1]
    expected = np.stack([1000 + 300 * u, 2000 + 400 * v, 5000 + 100 * u + 50 * v], -1)
    inside = (u > 3) & (u < width - 4) & (v > 3) & (v < height - 4)
    assert np.abs(target[inside] - expected[inside]).max() <= 0.03 * 400 + 1  # 0.03 pixels
    assert valid[(u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)].mean() > 0.99
    assert not valid[(u < -0.5) | (u > width - 0.5) | (v < -0.5) | (v > height - 0.5)].any()


def test_rejected_pairs_are_left_out(aligned, tmp_path):
    path = aligned[0] / "alignment.json"
    record = read_json(path)
    record["pairs"][0] |= {"status": "rejected", "reason": "by hand"}
    write_json(path, record)
    records = pack(aligned[:1], tmp_path / "a.h5")
    assert len(records) == 3


def test_the_same_again_changes_nothing_and_more_is_added(aligned, tmp_path):
    out = tmp_path / "srraw.h5"
    pack(aligned[:1], out)
    before = hashlib.sha256(out.read_bytes()).hexdigest()
    assert statuses(pack(aligned[:1], out)) == ["present"] * 4
    assert hashlib.sha256(out.read_bytes()).hexdigest() == before
    assert sorted(statuses(pack(aligned, out))) == ["packed"] * 4 + ["present"] * 4
    assert hashlib.sha256((tmp_path / "srraw-0001.h5").read_bytes()).hexdigest() == before
    with shards.open(out) as reader:
        assert len(reader.pairs) == 8
        assert all(reader.read(pair).raw.shape == pair.size for pair in reader.pairs)


def test_other_options_and_changed_inputs_are_refused_until_overwritten(aligned, tmp_path):
    out = tmp_path / "srraw.h5"
    pack(aligned, out)
    with pytest.raises(UserError, match="other options"):
        pack(aligned, out, target="srgb")
    path = aligned[0] / "alignment.json"
    record = read_json(path)
    record["pairs"][0]["gain"] = [2, 2, 2]
    write_json(path, record)
    with pytest.raises(UserError, match="changed since"):
        pack(aligned, out)
    pack(aligned[:1], out, target="srgb", overwrite=True)
    with shards.open(out) as reader:
        assert {p.target_space for p in reader.pairs} == {"srgb"}
        assert reader.read(reader.pairs[0]).target.dtype == np.uint8


def test_a_damaged_raw_costs_its_own_pairs(aligned, tmp_path):
    path = aligned[0] / "00001.dng"
    path.write_bytes(path.read_bytes()[:100_000])
    records = pack(aligned, tmp_path / "a.h5")
    assert sorted(statuses(records)) == ["failed"] * 2 + ["packed"] * 6
    assert all("00001.dng" in r.reason for r in records if r.status == "failed")


def test_nothing_to_pack_says_what_to_do(sequences, tmp_path):
    with pytest.raises(UserError, match="srraw align"):
        pack(sorted(sequences.iterdir()), tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_a_foreign_file_is_not_replaced(aligned, tmp_path):
    out = tmp_path / "thesis.h5"
    out.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not an HDF5 file"):
            pack(aligned, out, overwrite=overwrite)
    assert out.read_text() == "years of work"


@given(st.text("abcdef0123456789", min_size=1, max_size=8))
def test_a_sequences_split_depends_on_its_name_alone(name):
    assert split_of(name) == split_of(name)
    assert split_of(f"test-{name}", (1, 0, 0)) == "train"


def test_published_parents_decide_by_themselves(aligned, tmp_path):
    for parent in ("train", "test"):
        folder = tmp_path / parent / "00001"
        shutil.copytree(aligned[0], folder)
        plan = plan_packing([folder])
        assert {(record.split, record.name.split("_")[0]) for record in plan} == {(parent, f"{parent}-00001")}


@pytest.mark.parametrize("step", ["shot", "aligned"])
def test_files_that_changed_since_they_were_shot_or_aligned_are_not_packed(aligned, tmp_path, step):
    shutil.copyfile(aligned[1] / "00003.dng", aligned[0] / "00003.dng")
    if step == "aligned":  # nothing says what was shot
        (aligned[0] / "sequence.json").unlink()
    records = pack(aligned[:1], tmp_path / "a.h5", zooms=(4,))
    failed = [record for record in records if record.status == "failed"]
    assert len(failed) == 1
    assert f"00003.dng has changed since it was {step}" in failed[0].reason
    assert len(records) == 3


def test_no_other_file_is_taken_for_a_shard(aligned, tmp_path):
    """Files that happen to bear the names of shards are left alone, when adding and when overwriting."""
    out, others = tmp_path / "srraw.h5", [tmp_path / f"srraw-000{i}.h5" for i in (1, 2)]
    pack(aligned[:1], out, zooms=(4,))
    for other in others:
        other.write_bytes(b"somebody's own work")
    pack(aligned, out, zooms=(4,))
    with shards.open(out) as reader:
        assert len(reader.pairs) == 6
    index = tmp_path / "copy.h5"
    shutil.copyfile(out, index)
    pack(aligned[:1], out, zooms=(4,), overwrite=True)
    with shards.open(index) as reader:  # another index still finds its shards
        assert len(reader.pairs) == 6
    index.unlink()
    assert all(other.read_bytes() == b"somebody's own work" for other in others)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(aligned, tmp_path):
    """A limit on the size of files does what a full disk does."""
    out = tmp_path / "a.h5"
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
        "from srraw_tools.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "pack", str(aligned[0]), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.h5"))
    assert not list(tmp_path.glob(".a-*"))


def test_splits_come_in_the_shares_asked_for():
    splits = [split_of(f"{i:05d}", (60, 20, 20)) for i in range(5000)]
    for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert splits.count(name) / 5000 == pytest.approx(share, abs=0.02)


def test_a_split_file_decides(aligned, tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("sequence,split\n00001,test\n00002,val\n")
    plan = plan_packing(aligned, split_file=path)
    assert {(r.name[:5], r.split) for r in plan} == {("00001", "test"), ("00002", "val")}
    path.write_text("00001,test\n")
    with pytest.raises(UserError, match="00002"):
        plan_packing(aligned, split_file=path)
    path.write_text("00001,prod\n")
    with pytest.raises(UserError, match="00001,prod"):
        plan_packing(aligned, split_file=path)


SHARD_SIZE = 2_600_000  # bytes: two of the tests' pairs
SMALL = ("--zoom", "4", "--shard-size", f"{SHARD_SIZE}B")


def start_packing(folders, out, *options):
    program = "from srraw_tools.cli import main; main()"
    command = [sys.executable, "-c", program, "pack", *map(str, folders), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def pairs_in(out):
    """The names of the pairs of a set, all of which must be whole."""
    if not out.exists():
        return set()
    with shards.open(out) as reader:
        assert reader.problems == ()
        assert [reader.damages(pair) for pair in reader.pairs] == [[]] * len(reader.pairs)
        return {pair.name for pair in reader.pairs}


@pytest.fixture
def packed_once(aligned, tmp_path):
    """The files of a set of several shards that one process packed undisturbed."""
    folder = tmp_path / "once"
    folder.mkdir()
    pack(aligned, folder / "srraw.h5", zooms=(4,), shard_size=SHARD_SIZE)
    files = files_of(folder)
    assert len(files) > 2
    assert len(list(folder.iterdir())) == len(files)  # nothing else is left
    return files


def test_processes_pack_the_same_bytes(aligned, tmp_path, packed_once):
    (tmp_path / "two").mkdir()
    records = pack(aligned, tmp_path / "two" / "srraw.h5", zooms=(4,), shard_size=SHARD_SIZE, jobs=2)
    assert statuses(records) == ["packed"] * 6
    assert files_of(tmp_path / "two") == packed_once


def test_a_shard_has_the_size_that_was_asked_for(packed_once):
    for name, contents in packed_once.items():
        if name != "srraw.h5":
            assert 1_000_000 < len(contents) <= SHARD_SIZE


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_killed_at_any_moment_loses_nothing_and_goes_on(aligned, tmp_path, packed_once, jobs):
    folder = tmp_path / "killed"
    folder.mkdir()
    out, before = folder / "srraw.h5", set()
    waits = np.random.default_rng(jobs).uniform(0.5, 2.5, 4)
    for wait in waits:
        program = start_packing(aligned, out, *SMALL, "--jobs", str(jobs))
        time.sleep(wait)
        program.kill()
        program.communicate()
        now = pairs_in(out)
        assert now >= before
        before = now
    program = start_packing(aligned, out, *SMALL, "--jobs", str(jobs))
    _, told = program.communicate()
    assert program.returncode == 0, told
    assert files_of(folder) == packed_once


def test_what_a_killed_run_had_made_is_not_made_again(aligned, tmp_path, monkeypatch):
    out = tmp_path / "srraw.h5"
    records = pack_sequences(aligned, out=out, zooms=(4,))
    next(records)
    records.close()  # as an interrupt does
    assert not out.exists()
    decoded = []
    monkeypatch.setattr(
        "srraw_tools.pack.read_raw", lambda path, **how: (decoded.append(path), read_raw(path, **how))[1]
    )
    assert statuses(pack(aligned, out, zooms=(4,))) == ["packed"] * 6
    assert {path.parent for path in decoded} == {aligned[1]}


def test_a_damaged_part_of_a_killed_run_is_made_again(aligned, tmp_path):
    out = tmp_path / "srraw.h5"
    records = pack_sequences(aligned[:1], out=out, zooms=(4,))
    next(records)
    records.close()
    part = next((tmp_path / "srraw.h5.parts").rglob("*.h5"))
    contents = bytearray(part.read_bytes())
    contents[len(contents) // 2] ^= 1
    part.write_bytes(contents)
    pack(aligned[:1], out, zooms=(4,))
    assert len(pairs_in(out)) == 3


def test_two_at_once_into_one_file_are_refused(aligned, tmp_path):
    out = tmp_path / "srraw.h5"
    first = pack_sequences(aligned, out=out)
    next(first)
    with pytest.raises(UserError, match="Another 'srraw pack' is writing") as caught:
        pack(aligned, out)
    assert caught.value.exit_code == 1
    assert statuses(first) == ["packed"] * 7
    assert len(pairs_in(out)) == 8


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_one_sentence(aligned):
    with pytest.raises(UserError, match=r"Cannot write /proc/self/srraw\.h5"):
        pack(aligned, Path("/proc/self/srraw.h5"))


def test_a_full_disk_ends_the_run_at_once_and_the_next_goes_on(aligned, tmp_path, packed_once):
    """A limit on the size of files does what a full disk does: parts fit, a shard of them does not."""
    folder = tmp_path / "full"
    folder.mkdir()
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_600_000, 1_600_000));"
        "from srraw_tools.cli import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "pack",
        *map(str, aligned),
        "--out",
        folder / "srraw.h5",
        *SMALL,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_of(folder) == {}
    assert list((folder / "srraw.h5.parts").rglob("*.h5"))
    pack(aligned, folder / "srraw.h5", zooms=(4,), shard_size=SHARD_SIZE)
    assert files_of(folder) == packed_once
    assert not (folder / "srraw.h5.parts").exists()


def test_a_shard_that_a_killed_run_could_not_link_is_taken_up(aligned, tmp_path, packed_once, monkeypatch):
    """Killed between the last shard's rename and the index's."""
    out = tmp_path / "srraw.h5"

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("srraw_tools.new_shards.write_index", die)
    with pytest.raises(KeyboardInterrupt):
        pack(aligned, out, zooms=(4,), shard_size=SHARD_SIZE)
    monkeypatch.undo()
    assert (tmp_path / "srraw-0002.h5").exists()
    assert "present" in statuses(pack(aligned, out, zooms=(4,), shard_size=SHARD_SIZE))
    assert files_of(tmp_path) == packed_once


def test_an_index_that_was_lost_is_made_again_of_its_shards(aligned, tmp_path, packed_once):
    for name, contents in packed_once.items():
        if name != "srraw.h5":
            (tmp_path / name).write_bytes(contents)
    assert statuses(pack(aligned, tmp_path / "srraw.h5", zooms=(4,))) == ["present"] * 6
    assert files_of(tmp_path) == packed_once
