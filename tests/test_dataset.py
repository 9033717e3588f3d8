"""Training crops: aligned after every flip and phase, the same for a seed and a number, never invalid."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import CFAS, COLOR_MATRIX, WB, make_pair, mosaic_of, write_set

from srraw_model.dataset import MIN_VALID, Crops, crop_numbers
from srraw_model.losses import render_srgb
from srraw_model.network import bilinear_demosaic, upsampled
from srraw_tools import shards
from srraw_tools.errors import UserError

OPTIONS = {"zooms": [4], "compression": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=4, size=(64, 80))


def write_smooth(path, cfa):
    """A pair whose colours change linearly over the frame, so that a shift by one pixel shows."""
    pair, _ = make_pair("00001_4x_00006_00002", cfa=cfa, size=(40, 48))
    h, w = pair.size

    def camera_rgb(zoom):
        y, x = ((np.arange(zoom * n) + 0.5) / zoom - 0.5 for n in (h, w))
        x, y = np.meshgrid(x, y)
        return np.stack([0.1 + 0.004 * x, 0.2 + 0.004 * y, 0.3 - 0.002 * x + 0.001 * y], axis=-1)

    data = shards.PairData(
        raw=mosaic_of(camera_rgb(1), cfa),
        rgb=np.zeros((h, w, 3), np.uint8),
        target=np.round(camera_rgb(4) * 65535).astype(np.uint16),
        valid=np.ones((4 * h, 4 * w), np.uint8),
    )
    with shards.new_shard(path, OPTIONS) as add:
        add(dataclasses.replace(pair, gain=(1.0, 1.0, 1.0)), data)
    return path


@pytest.mark.parametrize("cfa", CFAS)
def test_mosaic_and_target_stay_aligned_whatever_the_phase_and_the_turn(tmp_path, cfa):
    """Demosaiced, upsampled and rendered, the input of a smooth scene is its target."""
    crops = Crops(write_smooth(tmp_path / "a.h5", cfa), zoom=4, crop=16)
    for number in range(16):
        sample = crops[number]
        rgb = upsampled(bilinear_demosaic(sample.input[None]), 4)
        shown = render_srgb(rgb, sample.camera_wb[None], sample.color_matrix[None], for_loss=False)[0]
        inner = slice(12, -12)
        torch.testing.assert_close(
            shown[:, inner, inner], sample.target[:, inner, inner], atol=2e-3, rtol=0, msg=f"{number}"
        )
    assert sample.camera_wb.tolist() == list(WB)
    np.testing.assert_allclose(sample.color_matrix, COLOR_MATRIX, rtol=1e-6)


def test_all_eight_turns_occur(tmp_path):
    crops = Crops(write_smooth(tmp_path / "a.h5", "GRBG"), zoom=4, crop=16)
    turns = set()
    for number in range(64):
        _, rows, columns = np.gradient(crops[number].target.numpy())
        # Red rises along x, green along y: which way they rise now tells the turn.
        slopes = [(rows[c].mean(), columns[c].mean()) for c in (0, 1)]
        turns.add(tuple((int(np.argmax(np.abs(s))), s[np.argmax(np.abs(s))] > 0) for s in slopes))
    assert len(turns) == 8


def test_a_number_and_a_seed_give_the_same_crop_in_any_process(data):
    one, again, other = (Crops(data, zoom=4, crop=32, seed=seed) for seed in (3, 3, 4))
    for number in (0, 7, 1000):
        for a, b in zip(one[number], pickle.loads(pickle.dumps(again))[number], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one[0].input, other[0].input)
    assert not torch.equal(one[0].input, one[4].input)


@pytest.mark.parametrize("how", ["fork", "spawn"])
@pytest.mark.parametrize("compression", ["none", "bitshuffle"])
def test_worker_processes_read_the_same_crops(tmp_path, how, compression):
    if compression == "bitshuffle":
        pytest.importorskip("hdf5plugin")
    path = write_set(tmp_path / "a.h5", train=3, size=(64, 80), compression=compression)
    crops = Crops(path, zoom=4, crop=16)
    crops[0]  # opens the file before the fork
    loader = torch.utils.data.DataLoader(
        crops, batch_size=2, sampler=crop_numbers(3, 9), num_workers=2, multiprocessing_context=how
    )
    for first, batch in zip((3, 5, 7), loader, strict=True):
        expected = torch.stack([crops[first].input, crops[first + 1].input])
        assert torch.equal(batch.input, expected)


@given(st.integers(1, 8), st.integers(0, 50), st.integers(0, 50))
def test_ranks_share_the_crops_and_go_on_in_the_middle_of_a_round(ranks, begun, more):
    first, last = ranks * begun, ranks * (begun + more)
    shares = [crop_numbers(first, last, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert [number for step in zip(*shares, strict=True) for number in step] == list(range(first, last))


def test_a_rank_that_does_not_exist_or_an_uneven_share_is_refused():
    for first, last, rank, ranks in ((0, 8, 2, 2), (0, 8, -1, 2), (0, 7, 0, 2), (1, 8, 0, 2)):
        with pytest.raises(ValueError, match="even share"):
            crop_numbers(first, last, rank=rank, ranks=ranks)


def test_a_damaged_chunk_is_never_trained_on(tmp_path):
    path = write_set(tmp_path / "a.h5", train=1, val=0, test=0, size=(64, 80))
    contents = bytearray(path.read_bytes())
    middle = len(contents) // 2  # of the target, by far the largest
    contents[middle : middle + 30_000] = bytes(30_000)
    path.write_bytes(contents)
    crops = Crops(path, zoom=4, crop=48)
    with pytest.raises(UserError, match=r"target is not what was written.*srraw verify"):
        list(map(crops.__getitem__, range(50)))


def test_every_pair_comes_once_in_a_round(data):
    crops = Crops(data, zoom=4, crop=32)
    seen = []
    crops._cut = lambda pair, _rng: (seen.append(pair.name), Crops._cut(crops, pair, _rng))[1]
    for number in range(8):
        crops[number]
    assert sorted(set(seen[:4])) == sorted(set(seen[4:8])) == [pair.name for pair in crops.pairs]


def test_invalid_targets_are_left_out(tmp_path):
    pair, data = make_pair("00001_4x_00006_00002", size=(64, 96))
    data.valid[:, : 4 * 60] = 0
    with shards.new_shard(tmp_path / "a.h5", OPTIONS) as add:
        add(pair, data)
    crops = Crops(tmp_path / "a.h5", zoom=4, crop=32)
    for number in range(10):
        assert crops[number].valid.mean() >= MIN_VALID


def test_data_without_any_valid_crop_are_refused(tmp_path):
    pair, data = make_pair("00001_4x_00006_00002", size=(64, 96))
    data.valid[:] = 0
    with shards.new_shard(tmp_path / "a.h5", OPTIONS) as add:
        add(pair, data)
    with pytest.raises(UserError, match="smaller --crop"):
        Crops(tmp_path / "a.h5", zoom=4, crop=32)[0]


@pytest.mark.parametrize(
    ("crop", "says"),
    [
        (16, ""),
        (32, "1 of 3 pairs of the split 'train' is not larger than a crop of 32 x 32"),
        (48, "2 of 3 pairs of the split 'train' are not larger than a crop of 48 x 48"),
    ],
)
def test_pairs_that_no_crop_fits_into_are_said_to_be_left_out(tmp_path, crop, says):
    with shards.new_shard(tmp_path / "a.h5", OPTIONS) as add:
        for number, size in enumerate([(64, 80), (48, 80), (32, 80)]):
            add(*make_pair(f"{number + 1:05d}_4x_00006_00002", size=size))
        add(*make_pair("00004_4x_00006_00002", size=(20, 20), split="test"))
    crops = Crops(tmp_path / "a.h5", zoom=4, crop=crop)
    assert crops.note == (f"{says} mosaic pixels, and left out." if says else "")
    assert len(crops.pairs) == {16: 3, 32: 2, 48: 1}[crop]


def test_what_is_missing_is_said_with_what_to_do(data, tmp_path):
    only_train = write_set(tmp_path / "train.h5", train=1, val=0, test=0, size=(40, 40))
    for arguments, says in (
        ({"path": data, "zoom": 8}, "holds no 8X pairs; it holds 4X"),
        ({"path": only_train, "zoom": 4, "split": "test"}, "--split-file"),
        ({"path": data, "zoom": 4, "crop": 64}, "of the split 'train' of .* smaller --crop"),
        ({"path": tmp_path / "nowhere.h5", "zoom": 4}, "does not exist"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            Crops(**arguments)
        assert caught.value.exit_code == 2
