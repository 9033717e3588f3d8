"""Tables: bicubic is always there and is what it says, and every file says the same."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from unittest.mock import patch as replaced

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from synthetic import make_pair, write_set, write_untrained

from srraw_model import pictures
from srraw_model.aligned import Aligned
from srraw_model.cli import evaluate
from srraw_model.evaluate import (
    BICUBIC,
    TARGET,
    crop_file,
    detailed_crop,
    evaluate_models,
    known_scores,
    picture_of,
    prepare_evaluation,
)
from srraw_model.pictures import baseline_picture, bicubic_picture, target_picture
from srraw_model.public_weights import load_lapsrn
from srraw_model.registered import Registered
from srraw_model.tables import protocol_of, rows_of, write_tables
from srraw_tools import shards
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, sha256_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=1, test=2, size=(48, 64))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_untrained(tmp_path_factory.mktemp("run") / "model.pt")


def test_every_pair_has_bicubic_and_every_model(data, checkpoint, tmp_path):
    other = write_untrained(tmp_path / "other.pt", seed=1)
    evaluation = prepare_evaluation(data, models=[checkpoint, other])
    scores = list(evaluate_models(evaluation))
    models = ["bicubic", "untrained", "untrained, other"]
    assert [s.model for s in scores] == models * 2
    assert len({s.pair for s in scores}) == 2
    assert len({s.psnr_db for s in scores}) == 6
    assert [row.model for row in rows_of(scores)] == models


def test_bicubic_needs_no_checkpoint_and_its_numbers_are_scikit_images(data):
    with shards.open(data) as reader:
        (pair, *_) = reader.select(zoom=4, split="test")
        loaded = reader.read(pair)
    made, target = bicubic_picture(pair, loaded), target_picture(pair, loaded)
    rows, columns = np.nonzero(loaded.valid)  # a rectangle here
    inside = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    (score, *_) = evaluate_models(prepare_evaluation(data, zoom=4))
    assert score.psnr_db == pytest.approx(peak_signal_noise_ratio(target[inside], made[inside]), abs=1e-9)
    _, full = structural_similarity(
        target[inside] / 255,
        made[inside] / 255,
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert score.ssim == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


def test_bicubic_keeps_areas(data):
    """Averaged back over N x N, it is where it was: nowhere shifted by a half pixel."""
    with shards.open(data) as reader:
        (pair, *_) = reader.select(zoom=4, split="test")
        loaded = reader.read(pair)
    low = loaded.rgb.astype(np.float32)
    up = bicubic_picture(pair, loaded).astype(np.float32)
    back = cv2.resize(up, low.shape[1::-1], interpolation=cv2.INTER_AREA)
    shift, _ = cv2.phaseCorrelate(low[..., 1], back[..., 1])
    assert np.hypot(*shift) < 0.02


def test_what_is_in_the_tables_is_not_computed_again_and_more_is_added(data, checkpoint, tmp_path):
    out, other = tmp_path / "eval", write_untrained(tmp_path / "other.pt", seed=1)
    first = prepare_evaluation(data, models=[checkpoint])
    assert known_scores(first, out) == {}
    scores = list(evaluate_models(first))
    scores[0] = replace(scores[0], psnr_db=math.inf)  # as of two equal pictures; and unlike what is computed
    write_tables(first, scores, out)
    assert list(evaluate_models(first, known_scores(first, out))) == scores
    more = prepare_evaluation(data, models=[checkpoint, other])
    grown = list(evaluate_models(more, known_scores(more, out)))
    assert [score for score in grown if "other" not in score.model] == scores
    assert len(grown) == 6


def test_tables_of_something_else_are_not_replaced_unasked(data, checkpoint, tmp_path):
    out, retrained = tmp_path / "eval", tmp_path / "model.pt"
    shutil.copyfile(checkpoint, retrained)
    evaluation = prepare_evaluation(data, models=[retrained])
    write_tables(evaluation, list(evaluate_models(evaluation)), out)
    write_untrained(retrained, seed=2)
    for options, says in (
        ({"models": [retrained]}, "changed since"),
        ({"zoom": 4}, "other models"),
        ({"models": [checkpoint], "split": "train"}, "other options"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            known_scores(prepare_evaluation(data, **options), out)
        assert "--overwrite" in caught.value.hint
        assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="is a file"):
        known_scores(evaluation, retrained)
    (out / "metrics.json").unlink()
    with pytest.raises(UserError, match="do not say"):
        known_scores(evaluation, out)


def test_a_score_that_is_no_number_is_no_score(data, checkpoint, tmp_path):
    evaluation = prepare_evaluation(data, models=[checkpoint])
    scores = list(evaluate_models(evaluation))
    scores[0] = replace(scores[0], psnr_db=math.inf)
    write_tables(evaluation, scores, tmp_path)
    assert list(known_scores(evaluation, tmp_path).values()) == scores
    record = read_json(tmp_path / "metrics.json")
    record["pairs"][1]["ssim"] = "x"
    (tmp_path / "metrics.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="do not say what they are of"):
        known_scores(evaluation, tmp_path)


def test_public_weights_stand_beside_a_checkpoint(data, checkpoint, shared_data):
    lapsrn = shared_data / "weights/LapSRN_x4.mat"
    evaluation = prepare_evaluation(data, models=["bicubic", f"lapsrn:{lapsrn}", checkpoint])
    rows = {row.model: row for row in rows_of(list(evaluate_models(evaluation)))}
    assert list(rows) == ["bicubic", "lapsrn", "untrained"]
    assert rows["lapsrn"].means["psnr_db"].value > rows["untrained"].means["psnr_db"].value
    assert evaluation.hashes["lapsrn"] == sha256_of(lapsrn)


def test_a_baseline_of_less_zoom_goes_on_by_bicubic_and_says_so(tmp_path, shared_data):
    data = write_set(tmp_path / "eight.h5", train=1, test=1, size=(24, 32), zoom=8)
    evaluation = prepare_evaluation(data, models=[f"lapsrn:{shared_data / 'weights/LapSRN_x4.mat'}"], zoom=8)
    scores = list(evaluate_models(evaluation))
    assert [score.model for score in scores] == ["bicubic", "lapsrn 4X, then bicubic"]


def test_a_baselines_tiles_agree_with_the_whole(data, shared_data):
    """LapSRN sees 17 pixels around its own."""
    network = load_lapsrn(shared_data / "weights/LapSRN_x4.mat")
    with shards.open(data) as reader:
        loaded = reader.read(reader.select(zoom=4, split="test")[0])
    whole = baseline_picture(network, loaded)
    with replaced.object(pictures, "TILE", 20):
        tiled = baseline_picture(network, loaded)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_lpips_is_computed_where_weights_are_at_hand(data, shared_data):
    weights = shared_data / "weights"
    evaluation = prepare_evaluation(
        data,
        zoom=4,
        lpips_backbone=weights / "squeezenet1_1_fp16_torchvision_layout.pth",
        lpips_linear=weights / "lpips_v0.1_squeeze.pth",
    )
    assert "LPIPS v0.1 (squeeze)" in protocol_of(evaluation)
    assert all(0 < score.lpips < 1.5 for score in evaluate_models(evaluation))


def test_a_result_that_is_half_unknown_gains_no_lpips_by_that(data, shared_data, monkeypatch):
    """What flow does not know is equal in both pictures under `aligned`, and does not count."""
    weights = shared_data / "weights"
    evaluation = prepare_evaluation(
        data,
        zoom=4,
        protocol="aligned",
        lpips_backbone=weights / "squeezenet1_1_fp16_torchvision_layout.pth",
        lpips_linear=weights / "lpips_v0.1_squeeze.pth",
    )

    def known(share):
        def aligned(result, target, valid):
            counts = valid & (np.arange(valid.shape[1]) < share * valid.shape[1])
            return Aligned(result, np.where(counts[..., None], target, result), counts)

        monkeypatch.setattr("srraw_model.evaluate.align_target", aligned)
        return np.array([score.lpips for score in evaluate_models(evaluation)])

    np.testing.assert_allclose(known(0.5), known(1), rtol=0.25)


def test_the_zoom_is_the_datas_where_they_have_one(data):
    assert prepare_evaluation(data).zoom == 4


def test_what_cannot_be_evaluated_is_said(data, checkpoint, tmp_path):
    empty = write_set(tmp_path / "empty.h5", train=1, val=0, test=0, size=(32, 32))
    eight = write_untrained(tmp_path / "eight.pt", zoom=8)
    with shards.new_shard(tmp_path / "both.h5", {"zooms": [4, 8], "compression": "none"}) as add:
        for zoom in (4, 8):
            add(*make_pair(f"00001_{zoom}x_00006_00002", zoom=zoom, size=(32, 32), split="test"))
    with shards.new_shard(tmp_path / "unfilled.h5", {"zooms": [4], "compression": "none"}):
        pass
    for arguments, says in (
        ({"data": tmp_path / "both.h5"}, "4X and 8X pairs.*--zoom"),
        ({"data": tmp_path / "unfilled.h5"}, "holds no pairs"),
        ({"models": [checkpoint, ""]}, "--models is empty"),
        ({"models": ["johnson:run/model.pt"]}, "weights of 'johnson'.*esrgan:FILE, lapsrn:FILE, srgan:FILE"),
        ({"models": [eight]}, "no 8X pairs"),
        ({"models": [checkpoint, eight]}, "trained for 8X, not for 4X"),
        ({"models": [checkpoint], "zoom": 2}, "trained for 4X, not for 2X"),
        ({"models": [checkpoint], "data": empty}, "--split-file"),
        ({"models": ["lapsrn"]}, "'lapsrn:FILE'"),
        ({"models": ["lapsrn:"]}, "'lapsrn:FILE'"),
        ({"models": [f"esrgan:{checkpoint}"]}, "RRDB_ESRGAN_x4.pth"),
        ({"models": [tmp_path / "none.pt"]}, "none.pt does not exist"),
        ({"models": [checkpoint], "lpips_linear": tmp_path}, "two files"),
        ({"models": [checkpoint, checkpoint]}, "named twice"),
        ({"models": [checkpoint], "device": "cuda:7"}, "no device 'cuda:7' here"),
    ):
        with pytest.raises(UserError, match=says):
            prepare_evaluation(**{"data": data, **arguments})


def test_the_protocol_is_named_and_a_failed_registration_is_marked(data, tmp_path, monkeypatch):
    evaluation = prepare_evaluation(data, zoom=4, protocol="registered")
    assert "Protocol: registered" in protocol_of(evaluation)
    monkeypatch.setattr(
        "srraw_model.evaluate.register_result", lambda result, _, valid: Registered(result, valid, None)
    )
    scores = list(evaluate_models(evaluation))
    table, *_ = write_tables(evaluation, scores, tmp_path / "eval")
    assert "bicubic (protocol failed on 2)" in table.read_text()
    as_is = list(evaluate_models(prepare_evaluation(data, zoom=4)))
    assert [score.psnr_db for score in scores] == [score.psnr_db for score in as_is]
    with pytest.raises(UserError, match="no protocol"):
        prepare_evaluation(data, zoom=4, protocol="flow")


def test_a_pair_of_which_nothing_is_left_to_score_is_marked_or_named(data, tmp_path, monkeypatch):
    """SSIM needs a window of 11 x 11 pixels: where a protocol leaves none, the picture is scored as it is."""

    def few(result, _, valid):
        return Registered(result, valid & (np.arange(valid.shape[1]) < 5), np.eye(3))

    monkeypatch.setattr("srraw_model.evaluate.register_result", few)
    scores = list(evaluate_models(prepare_evaluation(data, zoom=4, protocol="registered")))
    assert all(score.failed and score.counted == 1 for score in scores)
    pair, arrays = make_pair("00001_4x_00006_00002", size=(48, 64), split="test")
    arrays.valid[:, 5:] = 0
    with shards.new_shard(tmp_path / "narrow.h5", {"zooms": [4], "compression": "none"}) as add:
        add(pair, arrays)
    with pytest.raises(UserError, match="has no 11 x 11 valid"):
        list(evaluate_models(prepare_evaluation(tmp_path / "narrow.h5", zoom=4)))


def test_an_interrupted_evaluation_keeps_what_was_known(data, checkpoint, tmp_path, monkeypatch):
    """A second model is added to tables that are there; ending the run loses neither old scores nor new."""
    out, other = tmp_path / "eval", write_untrained(tmp_path / "other.pt", seed=1)
    options = ["--out", str(out), "--quiet"]
    assert CliRunner().invoke(evaluate, [str(data), "--models", str(checkpoint), *options]).exit_code == 0
    asked = []

    def ended(*arguments):
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return picture_of(*arguments)

    both = [str(data), "--models", f"{checkpoint},{other}", *options]
    with monkeypatch.context() as patched:
        patched.setattr("srraw_model.evaluate.picture_of", ended)
        assert CliRunner().invoke(evaluate, both).exit_code == 1
    assert len(read_json(out / "metrics.json")["pairs"]) == 5
    assert CliRunner().invoke(evaluate, both).exit_code == 0
    assert len(read_json(out / "metrics.json")["pairs"]) == 6


def test_crops_are_kept_and_made_again_where_one_is_missing(data, checkpoint, tmp_path):
    evaluation = prepare_evaluation(data, models=[checkpoint])
    scores = list(evaluate_models(evaluation, out=tmp_path))
    names = (BICUBIC, "untrained", TARGET)
    files = {
        (pair, name): crop_file(evaluation, tmp_path, pair, name)
        for pair in evaluation.pairs
        for name in names
    }
    assert len(set(files.values())) == 6
    assert all(cv2.imread(str(file)).shape[:2] == (192, 256) for file in files.values())
    known = {(score.pair, score.model): replace(score, psnr_db=99.0) for score in scores}
    first = scores[0].pair
    files[first, "untrained"].unlink()
    again = list(evaluate_models(evaluation, known, out=tmp_path))
    assert [score.psnr_db == 99.0 for score in again] == [
        (score.pair, score.model) != (first, "untrained") for score in again
    ]
    assert files[first, "untrained"].exists()


def test_the_most_detailed_part_is_kept():
    """Of edges; noise is no detail."""
    picture = np.random.default_rng(0).integers(0, 40, (100, 140, 3)).astype(np.uint8)
    picture[:, 70:] = 0
    picture[60:80, 100:110] = 255
    picture[10:20, 80:86] = 255
    valid = np.ones((100, 140), bool)
    rows, columns = detailed_crop(picture, valid, 32)
    assert rows.start <= 60
    assert rows.stop >= 80
    assert columns.start <= 100
    valid[50:] = False
    rows, columns = detailed_crop(picture, valid, 32)
    assert rows.start <= 10
    assert 50 < columns.start <= 80
