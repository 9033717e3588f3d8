"""Every page in a real browser: alone, readable by everybody, by day and night, on a phone, in true pixels.

Fonts differ between machines, so no screenshot is compared with a stored one. The pictures on the screen are
compared with those in the files, pixel by pixel, and the rest by its boxes, its colours and axe's rules.
"""

from __future__ import annotations

import base64
import math
import re
import shutil
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import make_pair, write_untrained
from test_study import folders, free_port, make, start_server  # noqa: F401
from test_study import simulated as simulated_votes

from srraw_model.cli import evaluate
from srraw_model.study.cli import study as study_command
from srraw_model.study.plan import IMAGES, read_key, read_plan
from srraw_model.study.votes import DATABASE, Votes
from srraw_tools import __version__, shards
from srraw_tools.align import align_sequence
from srraw_tools.cli import main
from srraw_tools.files import read_json, write_json

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

REPORTS = ("alignment", "stats", "evaluation", "results")
RATED = ("mailed", "served")  # what raters see
COMMANDS = dict(zip(REPORTS, ("align --report", "stats --html", "eval", "study results --html"), strict=True))
SIZES = {"phone": (390, 844), "laptop": (1280, 800)}
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LEAST_TARGET = 24  # CSS pixels of a control, WCAG 2.5.8
LINE = 3  # pixels beside the slider's line that are not looked at


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def addresses(simulated, folders, tmp_path_factory):  # noqa: F811
    """One of each page, by the commands that write them."""
    out = tmp_path_factory.mktemp("pages")
    sequence = shutil.copytree(simulated / "00001", out / "sequences" / "00001")
    align_sequence(sequence)
    record = read_json(sequence / "alignment.json")
    record["pairs"][1] |= {"status": "rejected", "reason": "the shots differ by 3.5 px"}
    write_json(sequence / "alignment.json", record)
    run(main, "align", out / "sequences", "--report", out / "alignment.html", "--quiet")

    with shards.new_shard(out / "srraw.h5", {"zooms": [4], "compression": "none"}) as add:
        for number, (size, split) in enumerate(
            [((96, 112), "test"), ((80, 96), "test"), ((48, 56), "train")]
        ):
            add(*make_pair(f"0000{number}_4x_00006_00002", size=size, split=split, seed=number))
    run(main, "stats", out / "srraw.h5", "--html", out / "stats.html", "--quiet")
    model = write_untrained(out / "model.pt", label="a model with a long name: L1, then CoBi")
    run(evaluate, out / "srraw.h5", "--models", model, "--table", 2, "--out", out / "eval", "--quiet")

    study = make(folders, out / "study", "--ties", "--all-pairs")
    run(study_command, "mail", study, "--out", out / "mail", "--raters", 1, "--quiet")
    votes = Votes(study / DATABASE)
    for vote in simulated_votes(read_plan(study), read_key(study), 6, careless=(2,)):
        if vote.position == 0:
            votes.enrol(f"{vote.number:022d}")
        votes.cast(votes.number_of(f"{vote.number:022d}"), vote.position, vote.answer, vote.seconds)
    run(study_command, "results", study, "--html", out / "results.html")

    port = free_port()
    server = start_server(study, port)
    yield {
        "alignment": (out / "alignment.html").as_uri(),
        "stats": (out / "stats.html").as_uri(),
        "evaluation": (out / "eval/metrics.html").as_uri(),
        "results": (out / "results.html").as_uri(),
        "mailed": (out / "mail/rater-0000.html").as_uri(),
        "served": f"http://127.0.0.1:{port}/",
        "study": study,
    }
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def browser():
    """A browser for each number of the screen's pixels to one of CSS, by its own flag: no emulation."""
    with playwright.sync_playwright() as started:

        @cache
        def launched(ratio):
            arguments = ["--no-sandbox", "--force-color-profile=srgb", "--window-size=700,1000"]
            arguments.append(f"--force-device-scale-factor={ratio}")
            return started.chromium.launch(executable_path=CHROMIUM, args=arguments)

        yield launched


@pytest.fixture
def visit(browser, addresses):
    """Open a page as a reader of one's own; what it logs, throws or asks of a network fails the test."""
    contexts, trouble = [], []

    def open_page(kind, size="laptop", *, ratio=1, clock=False, **context):
        width, height = SIZES[size]
        window = {"viewport": {"width": width, "height": height}} if ratio == 1 else {"no_viewport": True}
        context = browser(ratio).new_context(**window, has_touch=size == "phone", **context)
        contexts.append(context)
        page = context.new_page()
        own = addresses[kind].rsplit("/", 1)[0]

        def asked(request):
            if not request.url.startswith(("data:", addresses[kind], own if kind == "served" else "data:")):
                trouble.append(request.url)

        page.on("request", asked)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        if clock:
            page.clock.install(time=0)
        page.goto(addresses[kind])
        if clock:
            page.clock.pause_at(60)
        if kind in RATED:
            page.click("#begin")
            page.wait_for_selector("#answers button:not([disabled])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def on_screen(page):
    """(h, w, 3) uint8, the screen's own pixels."""
    return decoded(page.screenshot(scale="device"))


def decoded(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def shows(page, selector, picture, looked_at=True):
    """Whether the screen shows a picture (h, w, 3) in an element's box, every pixel a square of the screen's.

    Where a box falls between pixels the browser decides; it may lie one CSS pixel off.

    Args:
        looked_at: (w,) bool, the picture's columns that are compared.
    """
    ratio, box = page.evaluate("devicePixelRatio"), page.locator(selector).first.bounding_box()
    times, rest = divmod(round(box["width"] * ratio), picture.shape[1])
    assert rest == 0, f"{selector} is {box['width'] * ratio} wide, its picture {picture.shape[1]}"
    picture = picture.repeat(times, axis=0).repeat(times, axis=1)
    height, width = picture.shape[:2]
    assert round(box["height"] * ratio) == height
    screen, off = on_screen(page), math.ceil(ratio)
    left, top = round(box["x"] * ratio), round(box["y"] * ratio)
    assert off <= left <= screen.shape[1] - width - off, f"{selector} is not all in view"
    assert off <= top <= screen.shape[0] - height - off, f"{selector} is not all in view"
    looked_at = np.broadcast_to(looked_at, picture.shape[1] // times).repeat(times)
    places = [(y, x) for y in range(top - off, top + off + 1) for x in range(left - off, left + off + 1)]
    return any(
        np.array_equal(screen[y, x : x + width][looked_at], picture[0][looked_at])  # at little cost
        and np.array_equal(screen[y : y + height, x : x + width][:, looked_at], picture[:, looked_at])
        for y, x in places
    )


def in_file(page, selector):
    """(h, w, 3) uint8 of a picture in the page as the browser decodes it."""
    address = page.evaluate(
        """async (selector) => {
            const image = document.querySelector(selector), canvas = document.createElement("canvas");
            await image.decode();
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png");
        }""",
        selector,
    )
    return decoded(base64.b64decode(address.split(",")[1]))


# --- every page -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [*REPORTS, *RATED])
def test_a_page_is_for_everybody(visit, kind, size, scheme):
    page = visit(kind, size, color_scheme=scheme)
    found = axe.Axe().run(page, options={"runOnly": WCAG}).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title().endswith(" · srraw")
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.eval_on_selector_all("img", "all => all.filter(one => !one.alt).length") == 0
    for name in ("document.documentElement", "document.body"):
        assert page.evaluate(f"{name}.scrollWidth") <= SIZES[size][0]
    ground = on_screen(page)[:4, :4].mean()
    assert ground < 40 if scheme == "dark" else ground > 215
    assert_controls_can_be_hit(page, SIZES[size][0])


def assert_controls_can_be_hit(page, width):
    boxes = page.eval_on_selector_all(
        "select, button, summary, input:not([type=radio]), .choice label",
        """all => all.filter((one) => one.checkVisibility({ visibilityProperty: true })).map((one) => {
            const { left, right, width, height } = one.getBoundingClientRect();
            return [one.outerHTML, left, right, width, height];
        })""",
    )
    assert boxes or page.title().startswith("Results")
    for html, left, right, *sides in boxes:
        assert 0 <= left < right <= width, html
        assert min(sides) >= LEAST_TARGET, html


def test_reports_look_alike(visit):
    looks = []
    for kind in REPORTS:
        page = visit(kind)
        looks.append(
            page.evaluate(
                """() => ["h1", ".kind", ".card", "th", "td", "code", "footer"].map((selector) => {
                    const style = getComputedStyle(document.querySelector(selector));
                    const names = ["fontFamily", "color", "borderRadius", "paddingTop"];
                    return names.map((name) => style[name]);
                })"""
            )
        )
        left = page.evaluate("document.querySelector('h1').getBoundingClientRect().left")
        assert left == page.evaluate("document.querySelector('footer').getBoundingClientRect().left")
        footer = page.inner_text("footer")
        assert COMMANDS[kind] in footer
        assert __version__ in footer
        assert re.search(r"\d{4}-\d\d-\d\d", footer)
    assert looks == [looks[0]] * len(REPORTS)


@pytest.mark.parametrize("kind", ["stats", "evaluation", "results"])
def test_a_wide_table_moves_by_keys_under_its_first_column(visit, kind):
    page = visit(kind, "phone")
    # However narrow this machine's font is: the box is narrower.

    page.eval_on_selector(".wide", "box => { box.style.maxWidth = '12rem'; box.focus(); }")
    first = page.locator(".wide tbody th").first
    before = first.bounding_box()["x"]
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('.wide').scrollLeft > 0")
    assert first.bounding_box()["x"] == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollLeft") == 0


def test_more_contrast_is_given_where_it_is_asked_for(visit):
    colour = "getComputedStyle(document.querySelector('footer')).color"
    ink = "getComputedStyle(document.body).color"
    plain, strong = visit("results"), visit("results", contrast="more")
    assert plain.evaluate(colour) != plain.evaluate(ink)
    assert strong.evaluate(colour) == strong.evaluate(ink)


def test_on_paper_there_are_pictures_and_no_controls(visit):
    page = visit("alignment")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("form, .choice, .legend").filter(visible=True).count()
    assert page.locator("img.second").filter(visible=True).count() == page.locator("figure").count() > 8


# --- pictures ---------------------------------------------------------------------------------------------

# The figure that is looked at: a detail, in which all pictures have whole pixels; what the slider parts.
COMPARED = {"alignment": "figure:nth-child(2)", "evaluation": "figure:nth-child(1)"}
PARTED = COMPARED | {"stats": "figure:nth-child(1)"}  # these have no choice for all pairs
RATIOS = [1, 1.5, 2, 3]


class FirstPair:
    """The first pair of a page that has two pictures to compare, and one of its figures."""

    def __init__(self, page, kind):
        name = page.locator(".choice input").first.get_attribute("name")
        self.page, self.pair = page, f".pair:has([name={name}])"
        self.figure = f"{self.pair} {PARTED[kind]} .layers"
        page.wait_for_selector(f"{self.figure} img.second", state="attached")
        self.to_view()

    def to_view(self):
        self.page.eval_on_selector(self.figure, "box => box.scrollIntoView({ block: 'center' })")

    def choose(self, view):
        self.page.click(f"{self.pair} .choice label[for$='-{view}']")
        self.to_view()

    def in_file(self, view):
        return in_file(self.page, f"{self.figure} img.{view}")

    def shows(self, view):
        return shows(self.page, self.figure, self.in_file(view))

    def is_cut_at(self, share):
        """Whether the first picture is left of the slider's line, and the second right of it."""
        first, second = self.in_file("first"), self.in_file("second")
        times = second.shape[1] // first.shape[1]  # the data card's short shot has fewer, larger pixels
        first = first.repeat(times, axis=0).repeat(times, axis=1)
        column = np.arange(first.shape[1])
        at = share * len(column)
        parted = np.where((column < at)[None, :, None], first, second)
        return shows(self.page, self.figure, parted, abs(column + 0.5 - at) > LINE)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", COMPARED)
def test_a_pixel_of_a_picture_is_a_whole_number_of_the_screens(visit, kind, ratio):
    page = visit(kind, ratio=ratio)
    assert page.input_value("[name=size]") == str(round(ratio))
    pair, views = FirstPair(page, kind), ["first", "second"]
    if kind == "alignment":
        views += ["difference", "flow"]  # of fewer, larger pixels
    for view in views:
        pair.choose(view)
        assert pair.shows(view), view
    assert (pair.in_file("first") != pair.in_file("second")).mean() > 0.1
    page.select_option("[name=size]", "1")
    pair.choose("first")
    assert pair.shows("first")
    assert page.locator(pair.figure).bounding_box()["width"] * ratio == pytest.approx(
        pair.in_file("first").shape[1], abs=0.1
    )


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_contact_sheet_shows_true_pixels_of_the_target(visit, ratio):
    page = visit("stats", ratio=ratio)
    for name, times in (("A detail of it", 4), ("The same in the target", 1)):
        selector = f"img[alt='{name}']"
        page.eval_on_selector(selector, "image => image.scrollIntoView({ block: 'center' })")
        picture = in_file(page, selector)
        assert shows(page, selector, picture)
        width = page.locator(selector).first.bounding_box()["width"]
        assert width == times * picture.shape[1]
    assert page.locator(".sheet article").count() == 3
    assert page.locator(".sheet article").filter(has=page.locator("[alt='A detail of it']")).count() == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", PARTED)
def test_blink_turns_two_pictures_by_itself_by_tap_and_by_key(visit, kind, size):
    page = visit(kind, size, clock=True)
    pair = FirstPair(page, kind)
    pair.choose("blink")
    turns = []
    for _ in range(3):
        turns.append([view for view in ("first", "second") if pair.shows(view)])
        page.clock.run_for(500)
    assert turns in (
        [["first"], ["second"], ["first"]],
        [["second"], ["first"], ["second"]],
    )
    now, target = "second" if turns[0] == ["first"] else "first", page.locator(pair.figure)
    swapped = {"first": ":not(.swapped)", "second": ".swapped"}
    for turn, then in enumerate(("second", "first") if now == "first" else ("first", "second")):
        if size == "phone":
            target.tap()
        elif turn == 0:
            target.click()
        else:
            page.keyboard.press("b")
        page.wait_for_selector(pair.pair + swapped[then], state="attached")
        page.clock.run_for(5500)  # by hand from now on
        assert pair.shows(then)


def test_nothing_blinks_by_itself_where_motion_is_not_wanted(visit):
    page = visit("alignment", clock=True, reduced_motion="reduce")
    pair = FirstPair(page, "alignment")
    pair.choose("blink")
    page.clock.run_for(5500)
    assert pair.shows("first")
    page.focus(f"{pair.pair} .figures")
    page.keyboard.press("b")
    pair.to_view()
    assert pair.shows("second")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", PARTED)
def test_a_slider_parts_two_pictures_by_key_pointer_and_touch(visit, kind, size):
    page = visit(kind, size)
    pair = FirstPair(page, kind)
    pair.choose("slider")
    assert pair.is_cut_at(0.5)
    page.focus(f"{pair.pair} .cut")
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    pair.to_view()
    assert pair.is_cut_at(0.3)
    target = page.locator(pair.figure)
    box = target.bounding_box()
    place = {"x": 0.75 * box["width"], "y": 20}
    if size == "phone":
        target.tap(position=place)
    else:
        page.mouse.move(box["x"] + 5, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + place["x"], box["y"] + place["y"])
        page.mouse.up()
        page.mouse.move(box["x"] + 5, box["y"] + 5)  # let go of: the line stays
    assert pair.is_cut_at(0.75)


@pytest.mark.parametrize("kind", COMPARED)
def test_all_controls_are_reached_and_worked_by_keys(visit, kind):
    page = visit(kind)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # "Skip to the content"
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => {
                    const one = document.activeElement;
                    const style = getComputedStyle(one.type === "radio" ? one.nextElementSibling : one);
                    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
                    return [one.name || one.type || one.className || one.tagName, outlined];
                }"""
            )
        )
    own = {"alignment": ["status", "zoom", "error", "text"], "evaluation": ["left", "right"]}[kind]
    for name in (*own, "view", "size", "view-1", "view-2", "figures"):
        assert name in dict(reached), name
    assert all(outlined for name, outlined in reached if name != "BODY"), reached
    pair = FirstPair(page, kind)
    page.focus(f"{pair.pair} .choice input:checked")
    page.keyboard.press("ArrowLeft")
    assert (
        page.evaluate("document.activeElement.value") == {"alignment": "first", "evaluation": "blink"}[kind]
    )
    page.focus("[name=view]")
    page.keyboard.type("slider")
    page.wait_for_selector(f"{pair.pair} input[value=slider]:checked", state="attached")


def test_what_is_compared_is_chosen_once_for_all_pairs(visit):
    page = visit("evaluation")
    page.select_option("[name=left]", label="target")
    pair = FirstPair(page, "evaluation")
    pair.choose("first")
    assert shows(page, pair.figure, in_file(page, f"{pair.pair} [data-model='0']"))
    assert page.inner_text(f"{pair.pair} .between").startswith("target | a model")
    assert page.get_attribute(f"{pair.figure} img.first", "alt").endswith(": target")


# --- what raters see --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", RATED)
def test_raters_see_true_pixels(visit, addresses, kind, ratio):
    page = visit(kind, ratio=ratio)
    study = addresses["study"]
    names = page.evaluate("""['left', 'right'].map((side) => {
        const source = document.querySelector(`#${side} img`).src;
        return source.startsWith("data:") ? shown.trial[side] : source.split("/").pop();
    })""")
    for side, name in zip(("left", "right"), names, strict=True):
        picture = cv2.imread(str(study / IMAGES / name))[..., ::-1]
        page.eval_on_selector(f"#{side} span", "label => { label.hidden = true; }")
        assert shows(page, f"#{side} img", picture)
        width = page.locator(f"#{side} img").bounding_box()["width"]
        assert width * ratio == pytest.approx(picture.shape[1], abs=0.1)


def transforms(page):
    return page.evaluate(
        "['left', 'right'].map((id) => document.querySelector(`#${id} img`).style.transform)"
    )


def test_two_fingers_enlarge_both_pictures_on_a_phone(visit):
    page = visit("served", "phone")
    scale = "view.scale"
    before = page.evaluate(scale)
    box = page.locator("#left").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 80), ("touchEnd", None)):
        points = [] if apart is None else [{"x": x - apart / 2, "y": y}, {"x": x + apart / 2, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.wait_for_function(f"() => {scale} > {3 * before}")  # until the last move has come
    assert page.evaluate(scale) == pytest.approx(4 * before, rel=0.2)
    left, right = transforms(page)
    assert left == right
    # A tap's click comes after the tap itself.
    page.tap("#true")
    page.wait_for_function(f"() => {scale} === {before}")
    page.tap("#nearer")
    page.wait_for_function(f"() => {scale} === {2 * before}")


def test_a_rater_moves_and_enlarges_by_keys_and_no_vote_is_cast(visit):
    page = visit("mailed")
    said, before = page.inner_text("#where"), transforms(page)
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "+"):
        page.keyboard.press(key)
        after = transforms(page)
        assert after[0] == after[1] != before[0]
        before = after
    assert page.inner_text("#where") == said
