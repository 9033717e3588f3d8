"""Tables of an evaluation: every file says the same, intervals hold what they claim, nothing is guessed."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import write_set, write_untrained

from srraw_model.baselines import LapSRN, ThenBicubic
from srraw_model.cli import evaluate
from srraw_model.evaluate import Score, evaluate_models, known_scores, prepare_evaluation
from srraw_model.tables import (
    bootstrapped,
    cells_of,
    paper_columns,
    paper_table,
    protocol_of,
    rows_of,
    unlisted_models,
    write_tables,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "srraw.h5", train=1, test=3, size=(48, 64))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_untrained(tmp_path_factory.mktemp("run") / "model.pt")


@pytest.fixture(scope="module")
def evaluation(data, checkpoint):
    return prepare_evaluation(data, models=[checkpoint])


@pytest.fixture(scope="module")
def scores(evaluation):
    return list(evaluate_models(evaluation))


def test_the_files_say_the_same_and_state_the_protocol(evaluation, scores, tmp_path):
    table, csv_file, page = write_tables(evaluation, scores, tmp_path / "eval")
    text = table.read_text()
    for said in ("as-is", "data range 1", "8-bit sRGB", "LPIPS was not computed", "split 'test', 3 pairs"):
        assert said in text
        assert said.replace("'", "&#39;") in page.read_text()
    with open(csv_file, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows[-2:]] == ["mean", "mean"]
    for score, row in zip(scores, rows, strict=False):
        assert (row["pair"], row["model"], row["sequence"]) == (score.pair, score.model, score.sequence)
        assert float(row["psnr_db"]) == score.psnr_db
        assert f"{score.psnr_db:.2f} | {score.ssim:.4f} | - |" in text
    record = json.loads((tmp_path / "eval/metrics.json").read_text())
    for mean, row, printed in zip(record["mean"], rows[-2:], rows_of(scores), strict=True):
        assert mean["mean"]["psnr_db"]["value"] == float(row["psnr_db"]) == printed.means["psnr_db"].value
        for limit in ("low", "high"):
            told = row[f"psnr_db_{limit}"]
            assert (float(told) if told else None) == mean["mean"]["psnr_db"][limit]
        assert (row["lpips"], row["lpips_low"]) == ("", "")
        assert cells_of(printed)[1] in text


def score(model, sequence, psnr_db, pair=None):
    return Score(pair or f"{sequence}-pair", sequence, model, psnr_db, psnr_db / 100, None)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """95 % intervals of the mean over 30 sequences of 3 pairs whose levels differ by sequence."""
    rng = np.random.default_rng(3)
    sequences = [str(number) for number in range(30) for _ in range(3)]
    holds = 0
    for _ in range(200):
        levels = np.repeat(rng.normal(25, 3, 30), 3) + rng.normal(0, 0.5, 90)
        found = bootstrapped(levels.tolist(), sequences)
        holds += found.low <= 25 <= found.high
    assert 0.89 <= holds / 200 <= 0.98


def test_pairs_of_a_scene_count_as_one():
    """Three equal pairs of each sequence tell no more than one of each."""
    one = bootstrapped([20.0, 24.0, 30.0, 27.0], ["a", "b", "c", "d"])
    three = bootstrapped([20.0, 24.0, 30.0, 27.0] * 3, ["a", "b", "c", "d"] * 3)
    assert (one.value, one.low, one.high) == pytest.approx((three.value, three.low, three.high))


def test_a_single_sequence_has_no_interval():
    assert bootstrapped([20.0, 21.0], ["a", "a"]).high == math.inf
    assert bootstrapped([20.0, 21.0], ["a", "a"]).told(2) == "20.50"


def test_differences_are_taken_pair_by_pair():
    """Scenes that differ by 20 dB hide a gain of 1 dB in the means, not in the differences."""
    levels = {"a": 20.0, "b": 30.0, "c": 40.0, "d": 22.0}
    rows = rows_of(
        [score("bicubic", name, level) for name, level in levels.items()]
        + [score("ours", name, level + 1) for name, level in levels.items()]
    )
    over = rows[1].over_bicubic["psnr_db"]
    assert (over.value, over.low, over.high) == pytest.approx((1, 1, 1))
    assert rows[1].means["psnr_db"].low < rows[0].means["psnr_db"].high


def test_a_papers_table_has_every_row_and_guesses_none(evaluation, scores):
    first = paper_table(evaluation, rows_of(scores), 1)
    assert [row[0] for row in first][:7] == [
        "Bicubic",
        "SRGAN (a)",
        "SRResNet (a)",
        "LapSRN (a)",
        "Johnson (a)",
        "ESRGAN (a)",
        "Ours",
    ]
    told = {row[0]: row[1] for row in first}
    assert [name for name, cell in told.items() if cell != "not trained"] == ["Bicubic", "Ours"]
    assert paper_columns(evaluation) == ("system", "PSNR dB", "SSIM", "LPIPS")
    second = {row[0]: row[1] for row in paper_table(evaluation, rows_of(scores), 2)}
    assert second["Ours-syn-raw"] == "not trained"
    assert second["Ours"] == told["Ours"]


def test_a_row_says_what_the_paper_does_not_mean_by_it(evaluation, scores):
    lapsrn, ours = "lapsrn 4X, then bicubic", "Ours, fine-tuned: L1"
    by_other = ThenBicubic(LapSRN(zoom=2, depth=1), 4)
    networks = {lapsrn: by_other, ours: evaluation.networks["untrained"]}
    unusual = replace(
        evaluation, networks=networks, systems={lapsrn: ("lapsrn", "a"), ours: ("raw", "")}, zoom=4
    )
    named = [replace(score, model=model) for score in scores[:1] for model in (lapsrn, ours)]
    titles = [row[0] for row in paper_table(unusual, rows_of(named), 1)]
    assert f"LapSRN (a): {lapsrn}" in titles
    assert f"Ours: {ours}" in titles
    assert unlisted_models(unusual, 2) == [lapsrn]
    assert unlisted_models(unusual, 1) == []


def test_without_intervals_the_protocol_says_why(evaluation):
    assert "In brackets: 95 % intervals" in protocol_of(replace(evaluation, sequences=2))
    alone = protocol_of(replace(evaluation, sequences=1))
    assert "one sequence, which tells no interval" in alone
    assert "In brackets" not in alone


def test_models_are_named_in_lists_one_by_one_or_by_a_file_with_a_comma(tmp_path, data):
    odd = write_untrained(tmp_path / "a,b.pt")
    other = write_untrained(tmp_path / "c.pt", seed=1)
    arguments = [
        str(data),
        "--models",
        str(odd),
        "--models",
        f"bicubic,{other}",
        "--out",
        str(tmp_path / "e"),
    ]
    result = CliRunner().invoke(evaluate, [*arguments, "--dry-run", "--json"])
    assert json.loads(result.stdout)["models"] == ["bicubic", "untrained", "untrained, c"]


def test_the_papers_numbers_stand_beside_ours_on_its_own_set_only(evaluation, scores):
    on_srraw = replace(evaluation, published=True)
    rows = {row[0]: row[-3:] for row in paper_table(on_srraw, rows_of(scores), 1)}
    assert rows["Ours"] == ("26.88", "0.781", "0.19")
    assert rows["ESRGAN (a)"] == ("22.12", "0.603", "0.311")
    assert rows["ESRGAN (b)"] == ("-", "-", "-")
    assert not evaluation.published


def test_two_models_of_a_system_are_told_apart(data, checkpoint, tmp_path):
    other = write_untrained(tmp_path / "other.pt", seed=1)
    both = prepare_evaluation(data, models=[checkpoint, other])
    rows = paper_table(both, rows_of(list(evaluate_models(both))), 2)
    assert [row[0] for row in rows][-2:] == ["Ours: untrained", "Ours: untrained, other"]
    (tmp_path / "run").mkdir()
    third = write_untrained(tmp_path / "run" / "model.pt", seed=2)
    fourth = write_untrained(tmp_path / "elsewhere.pt", seed=3).rename(tmp_path / "run" / "run.pt")
    all_four = prepare_evaluation(data, models=[checkpoint, other, third, fourth])
    assert list(all_four.networks)[-2:] == ["untrained, run", f"untrained, run, {fourth}"]


def test_the_command_shows_what_will_happen_and_keeps_what_is_done(data, checkpoint, tmp_path):
    out = tmp_path / "eval"
    arguments = [str(data), "--models", str(checkpoint), "--out", str(out)]
    shown = CliRunner().invoke(evaluate, [*arguments, "--dry-run"])
    assert shown.exit_code == 0
    assert "6 pictures of 3 pairs, 0 of them known" in shown.output
    plan = json.loads(CliRunner().invoke(evaluate, [*arguments, "--dry-run", "--json"]).stdout)
    assert (plan["models"], len(plan["pairs"]), plan["known"]) == (["bicubic", "untrained"], 3, 0)
    assert not out.exists()
    result = CliRunner().invoke(evaluate, [*arguments, "--table", "2"])
    assert result.exit_code == 0, result.output
    assert "not trained" in result.output
    assert max(len(line) for line in result.output.splitlines() if "│" in line or "─" in line) <= 80
    page = (out / "metrics.html").read_text()
    assert page.count("data:image/webp") == 9  # of each of 3 pairs: target, bicubic, model
    assert "http://" not in page
    assert "https://" not in page
    evaluation = prepare_evaluation(data, models=[checkpoint])
    assert len(known_scores(evaluation, out)) == 6


def test_an_interrupted_evaluation_keeps_the_pairs_that_were_done(data, checkpoint, tmp_path, monkeypatch):
    out, calls = tmp_path / "eval", []
    from srraw_model import evaluate as module

    made = module.target_picture

    def target(pair, loaded):
        calls.append(pair.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(pair, loaded)

    monkeypatch.setattr(module, "target_picture", target)
    arguments = [str(data), "--models", str(checkpoint), "--out", str(out), "--quiet"]
    assert CliRunner().invoke(evaluate, arguments).exit_code != 0
    assert len(known_scores(prepare_evaluation(data, models=[checkpoint]), out)) == 4  # of two pairs
    monkeypatch.setattr(module, "target_picture", made)
    assert CliRunner().invoke(evaluate, arguments).exit_code == 0
    assert len(known_scores(prepare_evaluation(data, models=[checkpoint]), out)) == 6
