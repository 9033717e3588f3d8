"""`srraw stats`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from srraw_tools.commands.options import (
    PATH,
    finish,
    jobs_option,
    json_option,
    overwrite_option,
    print_json,
    quiet_option,
)
from srraw_tools.errors import UserError
from srraw_tools.terminal import counted, print_table, with_progress

SHOWN = 12  # kinds of focal lengths, cameras or ISO that are listed


@click.command("stats")
@click.argument("path", type=PATH)
@click.option(
    "--html",
    "page",
    type=PATH,
    is_flag=False,
    flag_value=Path("stats.html"),
    metavar="[FILE.html]",
    help="Also write a page with a contact sheet, stats.html by default.",
)
@click.option(
    "--card",
    type=PATH,
    is_flag=False,
    flag_value=Path("datacard.md"),
    metavar="[FILE.md]",
    help="Also write a data card to publish with the set, datacard.md by default. One that is there, and may "
    "be filled in, stays unless --overwrite is given.",
)
@overwrite_option
@jobs_option
@json_option
@quiet_option
def stats(
    path: Path, page: Path | None, card: Path | None, overwrite: bool, jobs: int, as_json: bool, quiet: bool
) -> None:
    """Say what PATH, an srraw.h5, holds: scenes, cameras, settings, sharpness, clipping, misalignment.

    Example: srraw stats srraw.h5 --html --card
    """
    from srraw_tools import shards
    from srraw_tools.pages import check_page
    from srraw_tools.stats import measure_set, summary, write_data_card, write_stats_page

    if page is not None:
        check_page(page)
    if card is not None and card.exists() and not overwrite:
        raise UserError(f"{card} is there already.", "Give --overwrite or another name.", wrong_use=True)
    with shards.open(path) as reader:
        count, problems = len(reader.pairs), list(reader.problems)
    found = []
    measured = measure_set(path, jobs=jobs, pictures=page is not None)
    for _, result in with_progress(measured, count, "Measuring", unit="pairs", quiet=quiet or as_json):
        if isinstance(result, UserError):
            problems.append(str(result))
        else:
            found.append(result)
    found.sort(key=lambda pair: pair.name)
    told = summary(found, path)
    if page is not None:
        write_stats_page(page, path, found, problems)
    if card is not None:
        write_data_card(card, path, told)
    if as_json:
        print_json({**told, "problems": problems, "rows": [pair.record() for pair in found]})
    elif not quiet:
        _print_summary(told)
        for written, what in ((page, "the numbers and a contact sheet"), (card, "a data card to fill in")):
            if written is not None:
                click.echo(f"{written}: {what}.")
    finish(problems)


def _print_summary(told: dict[str, Any]) -> None:
    from srraw_tools.stats import quantity_rows

    pairs = f"{counted(told['pairs'], 'pair')} of {counted(told['scenes'], 'scene')}"
    click.echo(f"{pairs}, {told['megapixels']:g} megapixels of mosaic.")
    for key, name in (("cameras", "Cameras"), ("focal_lengths", "Focal lengths"), ("isos", "ISO")):
        counts = list(told[key].items())
        more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
        listed = ", ".join(f"{value} ({count})" for value, count in counts[:SHOWN])
        click.echo(click.wrap_text(f"{name}: {listed}{more}", 80, subsequent_indent="  "))
    rows = [(f"{r['zoom']}X", r["split"], str(r["scenes"]), str(r["pairs"])) for r in told["splits"]]
    print_table(("zoom", "split", ">scenes", ">pairs"), rows)
    print_table(("", ">least", ">5 %", ">median", ">95 %", ">most"), quantity_rows(told))
