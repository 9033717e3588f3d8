"""A blind study: nothing tells methods apart, everybody sees their share, no vote is lost, results hold."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from synthetic import write_set, write_untrained

from srraw_model.study.cli import study as command
from srraw_model.study.make import padded_png
from srraw_model.study.plan import (
    CHECK,
    PRACTICE,
    RATED,
    REPEAT,
    Comparison,
    Plan,
    read_key,
    read_plan,
    trials_of,
)
from srraw_model.study.results import binomial_p, bradley_terry, score_rows, study_results, wilson
from srraw_model.study.serve import study_app
from srraw_model.study.votes import DATABASE, Vote, Votes, votes_of, votes_text
from srraw_tools.errors import UserError

METHODS = ("ours", "old", "bicubic")
SCENES = 6


def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Pictures of three methods, without ground truth, of different sizes by scene, and their inputs."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for scene in range(SCENES):
        size = (96 + 8 * scene, 128)
        for number, method in enumerate(METHODS):
            picture = cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), np.uint8), (0, 0), 0.5 + number)
            (folder / method).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / method / f"scene{scene}.png"), picture)
        (folder / "input").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "input" / f"scene{scene}.png"), picture[::4, ::4])
    return folder


def make(folders, out, *options):
    named = [f"--folder={method}={folders / method}" for method in METHODS]
    run("make", *named, "--inputs", folders / "input", "--out", out, "--quiet", *options)
    return out


@pytest.fixture(scope="module")
def studied(folders, tmp_path_factory):
    return make(folders, tmp_path_factory.mktemp("study") / "study", "--ties")


# --- the design -------------------------------------------------------------------------------------------


def some_plan(comparisons, per_rater, repeats=2, seed=0):
    pairs = tuple(
        Comparison((f"{2 * i:016x}.png", f"{2 * i + 1:016x}.png"), None) for i in range(comparisons)
    )
    check = (Comparison((f"{999:016x}.png", f"{998:016x}.png"), None),)
    return Plan("id", "t", "q", False, seed, per_rater, repeats, pairs, check * 2, check)


@given(st.integers(1, 30), st.data())
def test_everybody_sees_their_share_and_both_sides_are_equally_frequent(comparisons, data):
    per_rater = data.draw(st.integers(1, comparisons))
    raters = data.draw(st.integers(1, 12))
    plan = some_plan(comparisons, per_rater, seed=data.draw(st.integers(0, 9)))
    seen, lefts = Counter(), Counter()
    for rater in range(raters):
        trials = trials_of(plan, rater)
        assert trials == trials_of(plan, rater)
        rated = [trial for trial in trials if trial.kind == RATED]
        pairs = [frozenset((trial.left, trial.right)) for trial in rated]
        assert len(set(pairs)) == len(pairs) == per_rater
        seen.update(pairs)
        lefts.update(trial.left for trial in rated)
    counts = [seen[frozenset(c.images)] for c in plan.comparisons]
    assert max(counts) - min(counts) <= 1
    assert all(abs(lefts[c.images[0]] - lefts[c.images[1]]) <= 1 for c in plan.comparisons)


def test_repeats_come_later_with_the_sides_swapped_and_practice_first():
    trials = trials_of(some_plan(20, 20, repeats=5), 3)
    assert [trial.kind for trial in trials].count(REPEAT) == 5
    assert [trial.kind for trial in trials].count(CHECK) == 2
    assert trials[0].kind == PRACTICE
    for place, trial in enumerate(trials):
        if trial.kind == REPEAT:
            first = [t for t in trials[:place] if (t.left, t.right) == (trial.right, trial.left)]
            assert [t.kind for t in first] == [RATED]


# --- blindness --------------------------------------------------------------------------------------------


def test_nothing_but_the_pictures_tells_the_methods(studied, folders):
    key, files = read_key(studied), sorted((studied / "images").iterdir())
    assert {file.name for file in files} == set(key.pictures)
    by_scene = {}
    for file in files:
        scene, method = key.pictures[file.name]
        by_scene.setdefault(scene, {})[method] = file
    for scene, of in by_scene.items():
        assert set(of) == {*METHODS, "spoilt", "input"}
        assert len({file.stat().st_size for file in of.values()}) == 1
        for method in METHODS:
            np.testing.assert_array_equal(
                cv2.imread(str(of[method])), cv2.imread(str(folders / method / f"{scene}.png"))
            )
    told = (studied / "plan.json").read_text()
    assert not any(word in told for word in (*METHODS, "spoilt", "scene"))
    # Names in order of the alphabet, or of writing, follow no method.
    orders = {tuple(sorted(of, key=lambda m: of[m].name)) for of in by_scene.values()}
    assert len(orders) > 1


def test_a_padded_picture_is_the_same_picture():
    png = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))[1].tobytes()
    padded = padded_png(png, len(png) + 500)
    assert len(padded) == len(png) + 500
    np.testing.assert_array_equal(*(cv2.imdecode(np.frombuffer(p, np.uint8), 1) for p in (png, padded)))


def test_a_study_of_models_on_a_set(tmp_path):
    data = write_set(tmp_path / "srraw.h5", train=1, test=3, size=(48, 64))
    model = write_untrained(tmp_path / "model.pt")
    out = tmp_path / "study"
    said = run("make", data, "--models", model, "--out", out, "--side", 128, "--images", 2, "--practice", 0)
    assert "2 scenes, 2 comparisons, 2 a rater" in said
    key = read_key(out)
    assert key.methods == ("untrained", "bicubic")
    sizes = {method: cv2.imread(str(out / "images" / n)).shape for n, (_, method) in key.pictures.items()}
    assert sizes["untrained"] == sizes["bicubic"] == (128, 128, 3)
    assert sizes["input"] == (32, 32, 3)


def test_what_cannot_be_compared_is_said(folders, tmp_path):
    odd = tmp_path / "odd"
    shutil.copytree(folders / "ours", odd)
    (odd / "scene0.png").rename(odd / "other.png")
    small = tmp_path / "small"
    small.mkdir()
    for scene in range(SCENES):
        cv2.imwrite(str(small / f"scene{scene}.png"), np.zeros((8, 8, 3), np.uint8))
    ours = f"--folder=ours={folders / 'ours'}"
    for arguments, says, status in (
        ([ours, f"--folder=b={odd}"], "only", 2),
        ([ours, f"--folder=b={small}"], "differ in size", 1),
        ([ours, f"--folder=b={tmp_path / 'none'}"], "no folder", 2),
        ([ours, "--folder=b"], "NAME=DIR", 2),
        ([ours], "two methods or more", 2),
        ([], "Nothing to compare", 2),
    ):
        result = CliRunner().invoke(command, ["make", *arguments, "--out", str(tmp_path / "study")])
        assert (result.exit_code, says in result.output) == (status, True), result.output
    done = make(folders, tmp_path / "done")
    before = (done / "plan.json").read_text()
    again = [f"--folder={m}={folders / m}" for m in METHODS]
    result = CliRunner().invoke(command, ["make", *again, "--out", str(done)])
    assert result.exit_code == 2
    assert (done / "plan.json").read_text() == before
    pictures = sorted((done / "images").iterdir())
    result = CliRunner().invoke(
        command, ["make", *again, "--out", str(done), "--overwrite", "--per-rater", "999"]
    )
    assert "cannot be shown 999" in result.output
    assert sorted((done / "images").iterdir()) == pictures  # the old study is whole
    make(folders, done, "--overwrite")
    assert (done / "plan.json").read_text() != before
    assert not set(pictures) & set((done / "images").iterdir())


def test_a_study_takes_nobodys_place(folders, tmp_path):
    """Neither that of votes on another study nor that of somebody's photographs."""
    named = [f"--folder={m}={folders / m}" for m in METHODS]
    voted = make(folders, tmp_path / "voted")
    Votes(voted / DATABASE).close()
    photographs = tmp_path / "photographs" / "images"
    shutil.copytree(folders / "ours", photographs)
    for out, says in ((voted, "holds votes"), (photographs.parent, "not empty, and holds no study")):
        result = CliRunner().invoke(command, ["make", *named, "--out", str(out), "--overwrite"])
        assert (result.exit_code, says in result.output) == (2, True), result.output
    assert len(list(photographs.iterdir())) == SCENES
    for method in ("input", "spoilt"):
        odd = [f"--folder={method}={folders / 'old'}", named[0]]
        result = CliRunner().invoke(command, ["make", *odd, "--out", str(tmp_path / "s")])
        assert (result.exit_code, "cannot be called" in result.output) == (2, True)


# --- serving ----------------------------------------------------------------------------------------------


@pytest.fixture
def served(studied, tmp_path):
    from starlette.testclient import TestClient

    folder = tmp_path / "served"
    shutil.copytree(studied, folder)
    return folder, lambda: TestClient(study_app(folder))


def test_a_rater_goes_through_all_trials_and_comes_back_where_they_stopped(served):
    folder, client_of = served
    client = client_of()
    assert "Which image has the better quality?" in client.get("/").text
    (token,) = client.cookies.values()
    total = len(trials_of(read_plan(folder), 0))
    for position in range(total):
        if position == 5:  # another visit, in the same browser
            again = client.get("/")
            assert again.url.path == f"/r/{token}"
        state = client.get(f"/r/{token}/trial").json()
        assert (state["position"], state["total"]) == (position, total)
        assert set(state["trial"]) == {"practice", "left", "right", "input"}
        assert client.get(f"/images/{state['trial']['left']}").content[:4] == b"\x89PNG"
        vote = {"position": position, "answer": "left", "seconds": 1.5}
        state = client.post(f"/r/{token}/vote", json=vote).json()
    assert state["trial"] is None
    assert len(votes_of(folder, read_plan(folder))) == total


def test_a_vote_sent_twice_counts_once_and_none_is_taken_out_of_turn(served):
    folder, client_of = served
    client = client_of()
    client.get("/")
    (token,) = client.cookies.values()
    post = lambda position, answer: client.post(  # noqa: E731
        f"/r/{token}/vote", json={"position": position, "answer": answer, "seconds": 1}
    )
    assert post(0, "left").json()["position"] == 1
    assert post(0, "right").json()["position"] == 1
    assert post(5, "left").status_code == 409
    assert [vote.answer for vote in votes_of(folder, read_plan(folder))] == ["left"]


def test_what_is_not_a_vote_or_nobodys_is_refused(served):
    _, client_of = served
    client = client_of()
    client.get("/")
    (token,) = client.cookies.values()
    for body in (b"", b"[]", b"{}", b'{"position": 0, "answer": "both", "seconds": 1}', b"x" * 900):
        assert client.post(f"/r/{token}/vote", content=body).status_code == 400
    good = {"position": 0, "answer": "left", "seconds": 1}
    assert client.post("/r/nobodynobody/vote", json=good).status_code == 404
    assert client.get("/r/nobodynobody").status_code == 404
    for path in ("/images/../key.json", "/images/%2e%2e%2fkey.json", "/images/0123456789abcdef.png"):
        assert client.get(path).status_code == 404
    assert client.get("/key.json").status_code == 404


def test_a_body_without_end_is_not_read(served):
    _, client_of = served
    client = client_of()
    client.get("/")
    (token,) = client.cookies.values()
    read = []

    def endless():
        for part in range(1000):
            read.append(part)
            yield b" " * 500

    assert client.post(f"/r/{token}/vote", content=endless()).status_code == 413
    deep = b'{"position": 0, "answer": "left", "seconds": ' + b"[" * 900
    assert client.post(f"/r/{token}/vote", content=deep).status_code == 400
    huge = b'{"position": 0, "answer": "left", "seconds": ' + b"9" * 400 + b"}"
    assert client.post(f"/r/{token}/vote", content=huge).status_code == 400


def test_two_hundred_raters_at_once_lose_and_double_nothing(served):
    folder, client_of = served
    app_client = client_of()
    plan = read_plan(folder)

    def rate(number):
        from starlette.testclient import TestClient

        client = TestClient(app_client.app)
        client.get("/")
        (token,) = client.cookies.values()
        for position in range(3):
            vote = {"position": position, "answer": ("left", "right")[number % 2], "seconds": 1}
            for _ in range(1 + (number + position) % 2):  # some are sent twice
                assert client.post(f"/r/{token}/vote", json=vote).status_code == 200
        return token

    with ThreadPoolExecutor(20) as pool:
        tokens = list(pool.map(rate, range(200)))
    votes = votes_of(folder, plan)
    assert len(set(tokens)) == 200
    assert Counter(vote.rater for vote in votes) == dict.fromkeys(tokens, 3)
    assert sorted({vote.number for vote in votes}) == list(range(200))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_server(folder, port):
    code = "from srraw_model.study.cli import study; study()"
    server = subprocess.Popen([sys.executable, "-c", code, "serve", str(folder), "--port", str(port)])
    for _ in range(300):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.1)
    server.kill()
    raise AssertionError("the server did not start")


def test_a_vote_that_was_answered_survives_a_killed_server(served):
    import httpx2 as httpx

    folder, _ = served
    port = free_port()
    server = start_server(folder, port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True) as client:
            page = client.get("/").url.path
            for position in range(4):
                vote = {"position": position, "answer": "right", "seconds": 1}
                assert client.post(f"{page}/vote", json=vote).status_code == 200
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            server = start_server(folder, port)
            assert client.get(f"{page}/trial").json()["position"] == 4
    finally:
        server.kill()
        server.wait()
    assert len(votes_of(folder, read_plan(folder))) == 4


# --- mailed pages -----------------------------------------------------------------------------------------


def test_mailed_pages_are_complete_and_their_votes_join_once(studied, tmp_path):
    run("mail", studied, "--raters", 2, "--out", tmp_path / "mail")
    pages = sorted((tmp_path / "mail").iterdir())
    assert [page.name for page in pages] == ["rater-0000.html", "rater-0001.html"]
    text = pages[0].read_text()
    assert "http://" not in text
    assert not any(f'"{method}"' in text for method in (*METHODS, "spoilt"))
    plan = read_plan(studied)
    files = []
    for number in range(2):
        votes = [
            {"rater": f"token-000{number}", "number": number, "position": p, "answer": "left", "seconds": 2}
            for p in range(len(trials_of(plan, number)))
        ]
        files.append(tmp_path / f"votes-{number}.json")
        files[-1].write_text(json.dumps({"format": "srraw-votes", "study": plan.id, "votes": votes}))
    run("merge", studied, *files, files[0], "--out", tmp_path / "all.json")
    merged = votes_of(studied, plan, [tmp_path / "all.json", files[1]])
    assert len(merged) == sum(len(trials_of(plan, number)) for number in range(2))
    bad = tmp_path / "bad.json"
    for record in (
        {"format": "srraw-votes", "study": "another", "votes": []},
        {"format": "srraw-votes", "study": plan.id, "votes": [votes[0] | {"position": 10**6}]},
        {"format": "srraw-votes", "study": plan.id, "votes": [votes[0] | {"answer": "up"}]},
        [],
    ):
        bad.write_text(json.dumps(record))
        result = CliRunner().invoke(command, ["merge", str(studied), str(bad), "--out", str(tmp_path / "x")])
        assert result.exit_code == 1, result.output
        assert not (tmp_path / "x").exists()


# --- results ----------------------------------------------------------------------------------------------

STRENGTH = {"ours": 1.2, "old": 0.0, "bicubic": -0.8}


def simulated(plan, key, raters, *, careless=(), seed=0):
    """Votes of raters who prefer by Bradley-Terry strengths; careless ones answer at random."""
    rng, votes = np.random.default_rng(seed), []
    for number in range(raters):
        for position, trial in enumerate(trials_of(plan, number)):
            left, right = (key.pictures[name][1] for name in (trial.left, trial.right))
            if number in careless:
                chance = 0.5
            elif "spoilt" in (left, right):
                chance = float(right == "spoilt")
            else:
                chance = 1 / (1 + np.exp(STRENGTH[right] - STRENGTH[left]))
            answer = "left" if rng.random() < chance else "right"
            votes.append(Vote(f"rater-{number:04d}", number, position, answer, 2.0))
    return votes


@pytest.fixture(scope="module")
def round_robin(folders, tmp_path_factory):
    out = make(folders, tmp_path_factory.mktemp("robin") / "study", "--all-pairs", "--checks", 8)
    return read_plan(out), read_key(out)


def test_known_preferences_are_recovered_within_the_stated_intervals(round_robin):
    plan, key = round_robin
    covered = total = 0
    for seed in range(12):
        found = study_results(plan, key, simulated(plan, key, 20, seed=seed))
        for preference in found.preferences:
            a, b = preference.methods
            true = 1 / (1 + np.exp(STRENGTH[b] - STRENGTH[a]))
            covered += preference.wilson[0] <= true <= preference.wilson[1]
            covered += preference.bootstrap[0] <= true <= preference.bootstrap[1]
            total += 2
        mean = np.mean(list(STRENGTH.values()))
        for method, (score, low, high) in found.scores.items():
            assert score == pytest.approx(STRENGTH[method] - mean, abs=0.5)
            covered += low <= STRENGTH[method] - mean <= high
            total += 1
    assert covered / total > 0.88


def test_scores_that_do_not_exist_are_not_made_up(round_robin):
    """Who won every vote is infinitely stronger; who did in many draws of the raters, is by the draws."""
    plan, key = round_robin
    rank = {method: place for place, method in enumerate(("spoilt", "bicubic", "old", "ours"))}

    def votes(raters, *, odd):
        for number in range(raters):
            for position, trial in enumerate(trials_of(plan, number)):
                left, right = (rank[key.pictures[name][1]] for name in (trial.left, trial.right))
                wrong = number < odd and trial.kind == RATED
                answer = "left" if (left > right) != wrong else "right"
                yield Vote(f"rater-{number:04d}", number, position, answer, 2.0)

    certain = study_results(plan, key, list(votes(6, odd=0)))
    assert certain.scores is None
    one_odd = study_results(plan, key, list(votes(6, odd=1)))
    assert all(np.isfinite(score) for score, *_ in one_odd.scores.values())
    assert all(np.isnan(bound) for _, *bounds in one_odd.scores.values() for bound in bounds)
    assert all(row[2] == "-" for row in score_rows(one_odd))


def test_a_page_that_two_people_used_is_told(studied, tmp_path):
    plan = read_plan(studied)
    for name, answer in (("a", "left"), ("b", "right")):
        votes = [Vote("rater-0000", 0, 0, answer, 1.0)]
        (tmp_path / f"{name}.json").write_text(votes_text(plan, votes))
    assert len(votes_of(studied, plan, [tmp_path / "a.json", tmp_path / "a.json"])) == 1
    with pytest.raises(UserError, match="a page was used twice"):
        votes_of(studied, plan, [tmp_path / "a.json", tmp_path / "b.json"])


def test_those_who_did_not_look_are_told_and_do_not_count(round_robin):
    plan, key = round_robin
    careless = {3, 7}
    found = study_results(plan, key, simulated(plan, key, 10, careless=careless, seed=4))
    assert {rater.number for rater in found.raters if not rater.passed} == careless
    alone = study_results(
        plan,
        key,
        [v for v in simulated(plan, key, 10, careless=careless, seed=4) if v.number not in careless],
    )
    assert found.preferences == alone.preferences


def test_the_figures_are_those_of_the_books():
    """Against scipy where it has them, and by hand where it has not."""
    from scipy.stats import binomtest

    for wins, votes in ((0, 5), (3, 10), (81, 100), (50, 100), (7, 7)):
        test = binomtest(wins, votes)
        interval = test.proportion_ci(method="wilson")
        assert wilson(wins, votes) == pytest.approx((interval.low, interval.high), abs=1e-7)
        assert binomial_p(wins, votes) == pytest.approx(test.pvalue)
    assert binomial_p(0, 0) == 1
    scores = bradley_terry(np.array([[0.0, 30], [10, 0]]))
    assert scores[0] - scores[1] == pytest.approx(np.log(3))
    assert bradley_terry(np.array([[0.0, 30], [0, 0]])) is None


def test_results_are_printed_and_written(studied, tmp_path):
    plan, key = read_plan(studied), read_key(studied)
    files = tmp_path / "votes.json"
    votes = simulated(plan, key, 8, careless={2}, seed=1)
    record = {"format": "srraw-votes", "study": plan.id, "votes": [vars(vote) for vote in votes]}
    files.write_text(json.dumps(record))
    said = run("results", studied, files, "--csv", tmp_path / "table.csv", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "ours over bicubic" in page
    assert page.count('class="value"') == 2 + 3  # preferences and scores
    assert "7 raters count, 1 failed" in page
    assert max(map(len, said.splitlines())) <= 80
    for words in ("Bradley-Terry", "7 raters count; 1 failed", "Two raters agree"):
        assert words in said
    record = json.loads(run("results", studied, files, "--json"))
    assert [p["methods"] for p in record["preferences"]] == [["ours", "old"], ["ours", "bicubic"]]
    rows = (tmp_path / "table.csv").read_text().splitlines()
    assert rows[1].startswith("ours,old,")


def test_a_damaged_plan_is_named(studied, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(studied, folder)
    record = json.loads((folder / "plan.json").read_text())
    record["comparisons"][0]["images"][0] = "../key.json"
    (folder / "plan.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no plan"):
        read_plan(folder)
    with pytest.raises(UserError, match="holds no study"):
        read_plan(tmp_path)
    (tmp_path / DATABASE).write_text("something else, and long enough to be none of SQLite's files " * 9)
    with pytest.raises(UserError, match="cannot be used"):
        Votes(tmp_path / DATABASE)
    assert sqlite3.sqlite_version
