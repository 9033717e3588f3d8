"""The page that a person judges alignments by: whole in one file, honest, and readable by everybody."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from srraw_tools import geometry
from srraw_tools.align import align_sequence
from srraw_tools.alignment import read_alignment
from srraw_tools.cli import main
from srraw_tools.comparison import BUDGET_BYTES, DETAIL_PX, Light, compare, flow_colours, read_light
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, write_json
from srraw_tools.flow import read_flow
from srraw_tools.report import error_counts, picture_sequence, reason_counts, report_alignments

TEMPLATES = Path(__file__).parents[1] / "srraw_tools" / "templates"


class Page(HTMLParser):
    """What a page refers to, its pairs' attributes in order, and its pictures by their description."""

    def __init__(self, path):
        super().__init__()
        self.references, self.pairs, self.pictures = [], [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.references += [found[name] for name in ("src", "href", "action", "srcset") if name in found]
        if tag == "article":
            self.pairs.append(found)
        if tag == "img":
            self.pictures.append((found["alt"], decoded(base64.b64decode(found["src"].split(",", 1)[1]))))


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def aligned(simulated, tmp_path_factory):
    """Two aligned sequences, of the second of which one pair is rejected."""
    folder = Path(shutil.copytree(simulated, tmp_path_factory.mktemp("aligned") / "sequences"))
    for sequence in sorted(folder.iterdir()):
        align_sequence(sequence)
    path = folder / "00002" / "alignment.json"
    record = read_json(path)
    record["pairs"][1] |= {"status": "rejected", "reason": "the shots <b>differ</b> by 3.5 px"}
    write_json(path, record)
    return folder


@pytest.fixture(scope="module")
def page(aligned, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "alignment.html"
    list(report_alignments(sorted(aligned.iterdir()), out=path))
    return path


def test_a_page_needs_no_other_file_and_no_network(page):
    found = Page(page)
    assert len(found.references) > 8
    assert all(ref.startswith(("data:image/webp;base64,", "data:,", "#")) for ref in found.references)
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\((?!\"data:)", found.text)
    assert "default-src 'none'" in found.text


def test_the_rejected_come_first_and_then_the_doubtful(page):
    pairs = Page(page).pairs
    assert [pair["data-status"] for pair in pairs] == ["rejected"] + ["ok"] * 7
    errors = [float(pair["data-error"]) for pair in pairs[1:]]
    assert errors == sorted(errors, reverse=True)
    assert "8 pairs of 2 sequences: 7 ok, 1 rejected" in Page(page).text


def test_what_files_say_is_text_and_no_markup(page):
    text = Page(page).text
    assert "the shots &lt;b&gt;differ&lt;/b&gt; by 3.5 px" in text
    assert "<b>differ" not in text


def test_a_pair_takes_a_hundred_kilobytes_or_so(page):
    assert page.stat().st_size < 20_000 + 8 * BUDGET_BYTES * 4 / 3 * 1.05


def test_the_page_does_not_depend_on_who_made_the_pictures(aligned, page, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(page.stat().st_mtime)))
    list(report_alignments(sorted(aligned.iterdir(), reverse=True), out=tmp_path / "again.html", jobs=2))
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_pictures_of_an_aligned_pair_show_the_same_in_true_pixels(aligned):
    for shown in picture_sequence(aligned / "00001").pairs:
        whole, *details = shown.comparison.figures
        assert max(whole.size) == 344
        side = min(DETAIL_PX, shown.pair.crop[2] // 3 * shown.pair.zoom)
        assert [figure.size for figure in details] == [(side, side)] * 3
        for figure in shown.comparison.figures:
            short, long = (decoded(figure.pictures[name]).astype(float) for name in ("short", "long"))
            assert short.shape == long.shape == (*figure.size, 3)
            soft = cv2.GaussianBlur(long, (0, 0), shown.pair.zoom / 2)
            assert np.corrcoef(short[8:-8, 8:-8].ravel(), soft[8:-8, 8:-8].ravel())[0, 1] > 0.8
        assert shown.comparison.flow_px < 0.2 * shown.pair.zoom
        assert shown.comparison.flow_share > 0.6


def test_a_map_that_is_off_shows_in_flow_and_difference(aligned):
    folder = aligned / "00001"
    pair = read_alignment(folder / "alignment.json")[1]
    low, high = read_light(folder / pair.low), read_light(folder / pair.high)
    off = replace(pair, low_to_high=(geometry.translation(6, 0) @ np.array(pair.low_to_high)).tolist())
    right, wrong = compare(low, high, pair), compare(low, high, off)
    assert wrong.flow_px == pytest.approx(6, abs=0.7)
    spread = [decoded(one.figures[0].pictures["difference"]).astype(float).std() for one in (right, wrong)]
    assert spread[1] > 1.5 * spread[0]


def test_the_pairs_own_flow_is_shown_where_it_has_one(aligned, tmp_path):
    folder = Path(shutil.copytree(aligned / "00001", tmp_path / "00001"))
    align_sequence(folder, flow=True)
    for shown in picture_sequence(folder).pairs:
        flow = read_flow(folder / shown.pair.flow, shown.pair.crop)
        lengths = np.linalg.norm(flow.shift_px, axis=-1)[flow.mask]
        scale, _ = geometry.scale_and_rotation(shown.pair.low_to_high)
        assert shown.comparison.flow_px == pytest.approx(float(np.median(lengths)) * scale)


def test_two_exposures_are_shown_at_one(aligned):
    folder = aligned / "00001"
    pair = read_alignment(folder / "alignment.json")[0]
    low, high = read_light(folder / pair.low), read_light(folder / pair.high)
    dark = replace(high, rgb=(high.rgb * np.float32(0.25)).astype(np.uint16))
    figures = compare(low, dark, replace(pair, gain=tuple(4 * g for g in pair.gain))).figures
    short, long = (decoded(figures[0].pictures[name]).astype(float).mean() for name in ("short", "long"))
    assert long == pytest.approx(short, rel=0.1)


def noise(size, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 65536, (*size, 3)).astype(np.uint16)
    luminance = (rgb.mean(axis=2) / 65535).astype(np.float32)
    return Light(rgb, luminance, (2.0, 1.0, 1.5), np.eye(3), "a camera")


def test_pictures_of_noise_keep_the_budget(aligned):
    pair = read_alignment(aligned / "00001" / "alignment.json")[0]
    comparison = compare(noise((352, 528), 1), noise((352, 528), 2), pair)
    pictures = [data for figure in comparison.figures for data in figure.pictures.values()]
    assert len(pictures) == 16
    assert sum(map(len, pictures)) <= BUDGET_BYTES


@pytest.mark.parametrize("value", [0, 65535])
def test_black_and_white_frames_have_pictures_too(aligned, value):
    pair = read_alignment(aligned / "00001" / "alignment.json")[0]
    flat = replace(
        noise((352, 528), 1),
        rgb=np.full((352, 528, 3), value, np.uint16),
        luminance=np.full((352, 528), value / 65535, np.float32),
    )
    assert len(compare(flat, flat, pair).figures) == 4


def test_without_a_common_field_the_whole_frames_are_shown(aligned):
    folder = aligned / "00001"
    pair = read_alignment(folder / "alignment.json")[0]
    low, high = read_light(folder / pair.low), read_light(folder / pair.high)
    for crop in (None, (0, 0, 9000, 9000)):
        (figure,) = compare(low, high, replace(pair, crop=crop, status="rejected", reason="none")).figures
        assert set(figure.pictures) == {"short", "long"}


def test_flow_is_coloured_by_direction_and_length():
    flow = np.array([[(1, 0), (-1, 0), (0, 0), (0.5, 0), (0, 1)]], np.float32)
    colours = flow_colours(flow, np.array([[True, True, True, True, False]]))[0]
    np.testing.assert_array_equal(colours[0], [255, 0, 0])
    np.testing.assert_array_equal(colours[1], [0, 255, 255])
    np.testing.assert_array_equal(colours[2], [255, 255, 255])
    np.testing.assert_allclose(colours[3], [255, 128, 128], atol=1)
    np.testing.assert_array_equal(colours[4], [128, 128, 128])


def test_the_summary_counts_every_pair_once(aligned):
    pairs = read_alignment(aligned / "00002" / "alignment.json")
    odd = [replace(pairs[0], expected_error_px=error) for error in (None, 0.0, 0.05, 2.0, 1e9)]
    rows = {name: (ok, bad) for name, ok, bad in error_counts([*odd, replace(odd[0], status="rejected")])}
    assert sum(ok + bad for ok, bad in rows.values()) == 6
    assert rows["not known"] == (1, 1)
    assert rows["0–0.05 px"] == (1, 0)
    assert rows["0.05–0.1 px"] == (1, 0)
    assert rows["2 px or more"] == (2, 0)
    reasons = ["off by 2.5 px", "off by 13 px", "a sky", None]
    assert reason_counts([replace(pairs[0], reason=r) for r in reasons]) == [("off by … px", 2), ("a sky", 1)]


# --- failures ---------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_costs_the_pictures_of_its_own_pairs(aligned, tmp_path):
    folder = Path(shutil.copytree(aligned / "00001", tmp_path / "00001"))
    (folder / "00001.dng").write_bytes((folder / "00001.dng").read_bytes()[:90_000])
    (_, report), (_, missing) = report_alignments(
        [folder, tmp_path / "nowhere"], out=tmp_path / "page.html", failures=["The moon is missing."]
    )
    assert [shown.problem is None for shown in report.pairs] == [False, False, True, True]
    assert isinstance(missing, UserError)
    text = Page(tmp_path / "page.html").text
    assert "The moon is missing." in text
    assert "nowhere" in text
    assert text.count("There are no pictures") == 2


def srraw(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_writes_the_page_beside_what_it_prints(sequences, monkeypatch):
    monkeypatch.chdir(sequences.parent)
    result = srraw("align", "sequences", "--zoom", "8", "--report")
    assert result.exit_code == 0, result.stderr
    assert "alignment.html" in result.stdout
    assert len(Page(sequences.parent / "alignment.html").pairs) == 2
    (sequences / "00001" / "sequence.json").write_text("{")
    result = srraw("align", "sequences", "--zoom", "8", "--report", "other.html", "--json")
    assert result.exit_code == 1
    assert "00001" in Page(sequences.parent / "other.html").text.split("What could not be done")[1]
    assert len(Page(sequences.parent / "other.html").pairs) == 1


@pytest.mark.parametrize(
    ("page", "says"),
    [("sequences", "no name of a page"), ("a/b.html", "cannot be made"), ("folder.html", "is a folder")],
)
def test_a_page_that_cannot_be_written_is_told_before_the_work(sequences, monkeypatch, page, says):
    monkeypatch.chdir(sequences.parent)
    Path("folder.html").mkdir()
    result = srraw("align", "--report", page, "sequences")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not list(sequences.glob("*/alignment.json"))


# --- for everybody ----------------------------------------------------------------------------------------


def luminance_of(colour):
    """Relative luminance, WCAG 2.2."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def themes():
    css = (TEMPLATES / "look.css").read_text(encoding="utf-8")
    day, night = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in css.split("@media", 2)[:2]
    )
    return {"day": day, "night": night}


@pytest.mark.parametrize("theme", ["day", "night"])
@pytest.mark.parametrize(
    ("ink", "ground", "least"),
    [
        *((ink, ground, 4.5) for ink in ("ink", "faint", "link") for ground in ("paper", "card")),
        ("paper", "ink", 4.5),
        ("ok-ink", "ok-card", 4.5),
        ("bad-ink", "bad-card", 4.5),
        *((mark, "card", 3.0) for mark in ("line", "bar", "bar-bad")),  # WCAG 1.4.11
    ],
)
def test_colours_have_the_contrast_of_wcag_aa(theme, ink, ground, least):
    colours = themes()[theme]
    lights = sorted(luminance_of(colours[name]) + 0.05 for name in (ink, ground))
    assert lights[1] / lights[0] >= least


def test_every_control_and_picture_has_a_name(page):
    text = Page(page).text
    assert "<html lang=" in text
    for control in re.findall(r"<(?:select|input)[^>]*>", text):
        name = re.search(r'id="([^"]+)"', control)
        labelled = (name and f'<label for="{name[1]}"' in text) or 'aria-label="' in control
        assert labelled or re.search(r"<label>[^<]+" + re.escape(control), text), control
    assert all(description for description, _ in Page(page).pictures)


def test_a_browser_shows_the_pictures_and_filters(page, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    script = """<script>addEventListener("load", () => setTimeout(() => {
        const choice = document.querySelector("[name=status]");
        choice.value = "rejected";
        choice.dispatchEvent(new Event("input", { bubbles: true }));
        document.getElementById("view-1-flow").click();
        setInterval(() => {  // pictures are decoded when they come into view
          const seen = [...document.querySelectorAll("#pair-1 img")].filter(
            (image) => getComputedStyle(image).visibility === "visible" && image.naturalWidth > 0);
          document.title = seen.map((image) => image.className).join();
        }, 200);
    }, 500))</script>"""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8") + script, encoding="utf-8")
    done = subprocess.run(
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=390,844",
            "--virtual-time-budget=20000",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "<title>flow,flow,flow,flow</title>" in done.stdout
    assert "1 of 8 shown" in done.stdout
