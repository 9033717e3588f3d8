"""The documentation holds together: links, what is generated, the reference, the site that is built of it."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from documents import AT_THE_ROOT, FENCE, PAGES, ROOT, name_of, prose_of

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
REFERENCE = {
    name: page
    for page in PAGES
    for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
}


def anchors_of(page):
    """The anchors of a page's headings, as code hosts make them; a second one of the same words has -1."""
    found = []
    for heading in re.findall(
        r"^#{1,6} (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    ):
        words = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose_of(page)):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)} links to {link}, which does not exist"
        assert target.is_relative_to(ROOT), f"{name_of(page)} links out of the project: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{name_of(page)} links to {link}: no such heading"


def test_the_help_of_all_commands_is_as_it_is_now():
    # In a process of its own: click remembers the help options by which a command was first asked.
    code = "import runpy; print(runpy.run_path('docs/make_commands.py')['page'](), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
    )
    shown = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert shown == made.stdout, "a command's help has changed: python docs/make_commands.py"


@pytest.mark.parametrize("name", REFERENCE)
def test_what_the_reference_shows_exists_and_is_explained(name):
    module, _, attribute = name.rpartition(".")
    shown = getattr(importlib.import_module(module), attribute)
    assert shown.__module__ == module, f"{name} is at home in {shown.__module__}"
    text = inspect.getdoc(shown)
    assert text, name
    assert not attribute.startswith("_"), name
    assert not text.startswith(f"{attribute}("), f"{name} has no docstring of its own"


def test_every_page_of_the_reference_shows_something():
    pages = {page for page in PAGES if page.parent.name == "api" and page.name != "index.md"}
    assert pages <= set(REFERENCE.values())


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; the build fails where a page is in no menu, or a link or an argument is wrong."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return out


def test_the_site_has_every_page(site):
    for page in PAGES:
        if page.name == "README.md":
            continue
        place = page.name.lower() if page.name in AT_THE_ROOT else page.relative_to(ROOT / "docs").as_posix()
        assert (site / place.replace(".md", ".html")).is_file(), place
    assert not list(site.rglob("*.py")) + list(site.rglob("*.sh"))


def test_the_reference_shows_shapes_and_errors(site):
    text = (site / "api/losses.html").read_text(encoding="utf-8")
    assert 'id="srraw_model.cobi.contextual_bilateral_loss"' in text
    assert "(B, C, H, W), the prediction" in text
    assert "values that are not finite" in text


def test_nothing_is_fetched_from_elsewhere_when_the_site_is_read(site):
    for file in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]+",
            file.read_text(encoding="utf-8"),
        )
        assert not fetched, f"{file.name}: {fetched}"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desk", "phone"])
def test_in_a_browser_pages_fit_search_works_and_nothing_comes_from_elsewhere(address, size):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index", "api/losses", "commands", "formats", "results"):
            page.goto(f"{address}{name}.html")
            beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(beyond) <= 0, f"{name} is wider than the window"
        page.keyboard.press("/")
        page.keyboard.type("contextual_bilateral_rgb_loss")
        page.wait_for_selector("a[href*='api/losses.html']:has(mark)")
        browser.close()
    assert not errors
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
