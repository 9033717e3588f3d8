"""Raters in a real browser: by click and by key, after a reload, two at once, on a phone, offline."""

from __future__ import annotations

import json
import shutil

import pytest
from test_study import folders, free_port, make, run, start_server  # noqa: F401 - a fixture among them

from srraw_model.study.plan import read_plan, trials_of
from srraw_model.study.votes import votes_of

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

SIZES = {"desk": (1920, 1080), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(folders, tmp_path):  # noqa: F811
    study, port = make(folders, tmp_path / "study", "--ties"), free_port()
    server = start_server(study, port)
    yield study, f"http://127.0.0.1:{port}/"
    server.kill()
    server.wait()


def visit(browser, address, size="desk"):
    """A rater of their own: what a browser keeps is theirs alone. Trouble on the page fails the test."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=size == "phone")
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    page.goto(address)
    page.click("#begin")
    ready(page)
    return page


def ready(page):
    page.wait_for_selector("#answers button:not([disabled]), #end:not([hidden])")


def at_position(page, number):
    page.wait_for_selector(f"#where:text-matches('\\\\b{number} of')")


def position(page):
    return int(page.inner_text("#where").split()[-3])


def test_votes_by_click_and_by_key_and_after_a_reload(browser, served):
    study, address = served
    page = visit(browser, address)
    assert page.inner_text("h1") == "Which image has the better quality?"
    assert position(page) == 1
    page.click("text=Left >> nth=-1")
    ready(page)
    assert position(page) == 2
    for key, count in (("ArrowRight", 3), ("ArrowDown", 4)):
        page.keyboard.press(key)
        at_position(page, count)
        ready(page)
    page.reload()
    page.click("#begin")
    ready(page)
    assert position(page) == 4
    total = len(trials_of(read_plan(study), 0))
    for count in range(4, total + 1):
        page.keyboard.press("ArrowLeft")
        if count < total:
            at_position(page, count + 1)
            ready(page)
    page.wait_for_selector("#end:not([hidden])")
    assert "Thank you" in page.inner_text("#end")
    votes = votes_of(study, read_plan(study))
    assert [vote.answer for vote in votes[:4]] == ["left", "right", "same", "left"]
    assert len(votes) == total
    assert page.errors == []


def test_two_raters_at_once_see_their_own_trials(browser, served):
    study, address = served
    pages = [visit(browser, address), visit(browser, address, "phone")]
    for _ in range(3):
        for page, key in zip(pages, ("ArrowLeft", "ArrowRight"), strict=True):
            before = position(page)
            page.keyboard.press(key)
            at_position(page, before + 1)
            ready(page)
    votes = votes_of(study, read_plan(study))
    assert [(vote.number, vote.answer) for vote in votes] == [(0, "left")] * 3 + [(1, "right")] * 3
    assert [page.errors for page in pages] == [[], []]


@pytest.mark.parametrize("size", SIZES)
def test_both_pictures_move_together_in_true_pixels_and_everything_is_in_view(browser, served, size):
    _, address = served
    page = visit(browser, address, size)
    transforms = "['left','right'].map(id => document.querySelector('#' + id + ' img').style.transform)"
    left, right = page.evaluate(transforms)
    assert left == right
    assert "scale(1)" in left  # of a screen with one device pixel to a CSS pixel
    page.hover("#left")
    page.mouse.wheel(0, -300)
    page.mouse.down()
    box = page.query_selector("#left").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 30)
    page.mouse.up()
    again = page.evaluate(transforms)
    assert again[0] == again[1] != left
    width, height = SIZES[size]
    for selector in ("#left", "#right", "#input", "[data-answer=left]", "[data-answer=right]"):
        box = page.query_selector(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1  # noqa: PT018
        assert box["y"] >= 0 and box["y"] + box["height"] <= height + 1  # noqa: PT018
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.answer") == "left"


def test_the_page_and_its_pictures_tell_nothing(browser, served):
    _, address = served
    page = visit(browser, address)
    seen = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("response", lambda response: seen.append(json.dumps(dict(response.headers))))
    page.keyboard.press("ArrowLeft")
    ready(page)
    everything = page.content() + "".join(seen)
    assert not any(word in everything for word in ("bicubic", "spoilt", "scene1", "key.json"))


def test_a_mailed_page_needs_no_network_and_gives_its_votes_as_a_file(browser, folders, tmp_path):  # noqa: F811
    study = make(
        folders, tmp_path / "study", "--per-rater", 3, "--repeats", 0, "--checks", 1, "--practice", 0
    )
    run("mail", study, "--out", tmp_path / "mail", "--first", 5)
    page = visit(browser, (tmp_path / "mail/rater-0005.html").as_uri())
    for count in range(4):
        if count == 2:
            page.reload()
            page.click("#begin")
            ready(page)
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"#progress[value='{(count + 1) / 4:g}']", state="attached")
        ready(page)
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / download.value.suggested_filename)
    votes = votes_of(study, read_plan(study), [tmp_path / "votes-0005.json"])
    assert [(vote.number, vote.position, vote.answer) for vote in votes] == [
        (5, p, "right") for p in range(4)
    ]
    assert page.errors == []
