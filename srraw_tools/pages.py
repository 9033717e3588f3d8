"""HTML pages from templates/: one look, each page a single file that asks nothing of any network."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srraw_tools import __version__
from srraw_tools.errors import UserError
from srraw_tools.files import replacing

if TYPE_CHECKING:
    from jinja2 import Template


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all, with the day on which it was written.

    Args:
        template: a file of templates/, which extends base.html.
        values: what the template shows; whatever is text is escaped.

    Raises:
        UserError: it cannot be written.
    """
    stream = _template(template).stream(version=__version__, date=_today(), **values)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        stream.enable_buffering(100)
        stream.dump(file)


def render_page(template: str, **values: Any) -> str:
    """A page as text; arguments as in `write_page`."""
    return _template(template).render(version=__version__, date=_today(), **values)


def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("srraw_tools"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["data_uri"] = webp_uri
    return environment.get_template(name)


def _today() -> str:
    """The day in UTC, or that of SOURCE_DATE_EPOCH, by which the same page can be written again."""
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))


def check_page(out: Path) -> None:
    """Raises UserError where no page can be written to `out`."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"{out} is no name of a page.", "Name one that ends in .html, or give no name.", wrong_use=True
        )
    if out.is_dir() or not out.absolute().parent.is_dir():
        problem = "is a folder" if out.is_dir() else f"cannot be made: {out.parent} does not exist"
        raise UserError(f"{out} {problem}.", "Name a file such as page.html.", wrong_use=True)


def webp_uri(data: bytes) -> str:
    """A WebP picture as an address that holds it."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()
