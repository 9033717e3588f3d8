"""`srraw-study`: parse, call, print."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srraw_tools import __version__
from srraw_tools.commands.options import (
    PATH,
    json_option,
    models_option,
    overwrite_option,
    print_json,
    quiet_option,
)
from srraw_tools.errors import SystemErrorsToldInGroup, UserError
from srraw_tools.terminal import counted, print_table, with_progress

if TYPE_CHECKING:
    from srraw_model.study.results import Results

KEEP_ALIVE_S = 120
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
STUDY = click.argument("study", type=PATH)


@click.group("srraw-study", cls=SystemErrorsToldInGroup, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="srraw")
def study() -> None:
    """A blind A/B study: raters see two results of a scene side by side and say which is better.

    make writes it; serve shows it to raters on a network, or mail writes a file for each; merge joins the
    votes that mailed files gave; results tells who is preferred, and how surely.
    """


@study.command("make")
@click.argument("data", type=PATH, required=False)
@models_option(
    "As srraw-eval takes them; bicubic is always there. The first is compared with each of the others."
)
@click.option("--folder", "folders", multiple=True, metavar="NAME=DIR", help="Pictures of a method; repeat.")
@click.option("--inputs", type=PATH, help="With --folder: what the pictures were made from.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Whose pairs of DATA are shown.",
)
@click.option("--images", type=click.IntRange(1), default=100, show_default=True, help="Scenes of a set.")
@click.option("--side", type=click.IntRange(64), default=512, show_default=True, help="Of a picture, in px.")
@click.option("--title", default="Which is better?", show_default=True, help="Of the page.")
@click.option("--question", help="What raters are asked.  [default: Which image has the better quality?]")
@click.option("--ties", is_flag=True, help="Let them answer 'the same'.")
@click.option("--all-pairs", is_flag=True, help="Compare every method with every other.")
@click.option("--per-rater", type=click.IntRange(1), help="Comparisons that each is shown.  [default: all]")
@click.option("--checks", type=click.IntRange(0, 1000), default=6, show_default=True, help="Obvious pairs.")
@click.option(
    "--repeats", type=click.IntRange(0, 1000), default=4, show_default=True, help="Pairs shown twice."
)
@click.option(
    "--practice", type=click.IntRange(0, 1000), default=2, show_default=True, help="Pairs to begin with."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of who sees what.")
@click.option("--out", type=PATH, default=Path("study"), show_default=True, help="Folder of the study.")
@overwrite_option
@quiet_option
def make(
    data: Path | None,
    models: tuple[str, ...],
    folders: tuple[str, ...],
    inputs: Path | None,
    split: str,
    images: int,
    side: int,
    question: str | None,
    out: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Write a study of models on the pairs in DATA, or of folders of pictures of the same names.

    Example: srraw-study make srraw.h5 --models ours.pt,syn.pt --out study
    """
    from srraw_model.evaluate import prepare_evaluation
    from srraw_model.study.make import QUESTION, make_study, scenes_of_folders, scenes_of_set
    from srraw_model.study.plan import read_plan

    if (data is None) == (not folders):
        raise UserError("Nothing to compare.", "Give DATA and --models, or --folder twice.", wrong_use=True)
    if data is not None:
        evaluation = prepare_evaluation(data, models=models, split=split)
        scenes, total = scenes_of_set(evaluation, count=images, side=side), min(images, len(evaluation.pairs))
    else:
        named = dict(folder.partition("=")[::2] for folder in folders)
        if len(named) != len(folders) or not all(named.values()) or not all(named):
            raise UserError("--folder takes NAME=DIR, each name once.", wrong_use=True)
        chosen = {name: Path(path) for name, path in named.items()}
        scenes = scenes_of_folders(chosen, inputs)
        first = next(iter(chosen.values()))
        total = sum(1 for _ in first.iterdir()) if first.is_dir() else 0
    made = make_study(scenes, out, question=question or QUESTION, **options)
    count = sum(1 for _ in with_progress(made, total, "Making pictures", unit="scenes", quiet=quiet))
    if not quiet:
        plan = read_plan(out)
        click.echo(f"{out}: {count} scenes, {len(plan.comparisons)} comparisons, {plan.per_rater} a rater.")
        click.echo(f"Keep {out / 'key.json'} from the raters. Next: srraw-study serve {out}")


@study.command("serve")
@STUDY
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for the whole network.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="To listen at.")
def serve(study: Path, host: str, port: int) -> None:
    """Show a STUDY to raters. Whoever opens the address is one; votes.sqlite holds what they say.

    A rater who comes back goes on where they stopped. Ctrl-C ends it; nothing is lost.

    Example: srraw-study serve study --host 0.0.0.0 --port 8000
    """
    from srraw_model.study.serve import study_app

    app = study_app(study)
    import uvicorn

    click.echo(f"Raters go to http://{'localhost' if host == '127.0.0.1' else host}:{port}/  Ctrl-C ends.")
    # Raters look at a pair for longer than the usual 5 s; their next request finds the connection open.
    uvicorn.run(
        app, host=host, port=port, log_level="warning", access_log=False, timeout_keep_alive=KEEP_ALIVE_S
    )


@study.command("mail")
@STUDY
@click.option("--raters", type=click.IntRange(1), default=1, show_default=True, help="A page for each.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first's number.")
@click.option("--out", type=PATH, default=Path("mail"), show_default=True, help="Folder of the pages.")
@quiet_option
def mail(study: Path, raters: int, first: int, out: Path, quiet: bool) -> None:
    """Write a page for each rater of a STUDY, complete in one file, whose votes come back as a file.

    Example: srraw-study mail study --raters 10 --out mail
    """
    from srraw_model.study.pages import mail_pages

    written = list(
        with_progress(
            mail_pages(study, out, raters=raters, first=first), raters, "Writing", unit="pages", quiet=quiet
        )
    )
    if not quiet:
        click.echo(
            f"{counted(len(written), 'page')} in {out}. "
            f"What comes back: srraw-study results {study} votes-*.json"
        )


@study.command("merge")
@STUDY
@click.argument("files", nargs=-1, type=PATH)
@click.option("--out", type=PATH, default=Path("votes.json"), show_default=True, help="One file for all.")
@overwrite_option
def merge(study: Path, files: tuple[Path, ...], out: Path, overwrite: bool) -> None:
    """Join the votes of a STUDY: those it was served for, and those in FILES; each counts once.

    Example: srraw-study merge study votes-0000.json votes-0001.json --out votes.json
    """
    from srraw_model.study.plan import read_plan
    from srraw_model.study.votes import votes_of, votes_text
    from srraw_tools.files import replacing

    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already.", "Give --overwrite or another --out.", wrong_use=True)
    plan = read_plan(study)
    votes = votes_of(study, plan, files)
    with replacing(out) as temporary:
        temporary.write_text(votes_text(plan, votes), encoding="utf-8")
    click.echo(
        f"{out}: {counted(len(votes), 'vote')} of {counted(len({vote.rater for vote in votes}), 'rater')}."
    )


@study.command("results")
@STUDY
@click.argument("files", nargs=-1, type=PATH)
@click.option("--csv", "csv_file", type=PATH, help="Also write the preferences here.")
@click.option("--html", "page", type=PATH, help="Also write a page with plots here.")
@json_option
def results(
    study: Path, files: tuple[Path, ...], csv_file: Path | None, page: Path | None, as_json: bool
) -> None:
    """Tell who is preferred in a STUDY, from its own votes and those in FILES.

    Example: srraw-study results study votes-*.json --csv preferences.csv
    """
    from srraw_model.study.pages import write_results_page
    from srraw_model.study.plan import read_key, read_plan
    from srraw_model.study.results import results_record, study_results
    from srraw_model.study.votes import votes_of
    from srraw_tools.files import replacing
    from srraw_tools.pages import check_page

    if page:
        check_page(page)
    plan = read_plan(study)
    found = study_results(plan, read_key(study), votes_of(study, plan, files))
    if csv_file:
        with replacing(csv_file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            names = ("wins", "losses", "same", "share", "wilson_low", "wilson_high", "p")
            writer.writerow(("method", "over", *names))
            for p in found.preferences:
                writer.writerow((*p.methods, p.wins, p.losses, p.same, p.share, *p.wilson, p.p))
    if page:
        write_results_page(plan, found, page)
    if as_json:
        print_json(results_record(found))
        return
    _print(found)


def _print(found: Results) -> None:
    from srraw_model.study.results import NO_SCORES, failed_rows, preference_rows, score_rows

    print_table(
        ("preferred", "over", ">share", ">Wilson 95 %", ">over raters", ">votes", ">p"),
        [(*row[:6], row[7]) for row in preference_rows(found)],
    )
    if found.scores:
        print_table(
            ("method", ">Bradley-Terry score", ">95 % over raters"),
            score_rows(found),
        )
    else:
        click.echo(click.wrap_text(NO_SCORES, 80))
    if found.agreement is not None:
        click.echo(f"Two raters agree on a comparison in {found.agreement:.1%} of the cases.")
    failed = failed_rows(found)
    click.echo(f"{len(found.raters) - len(failed)} raters count; {len(failed)} failed the obvious pairs.")
    if failed:
        print_table(("failed", ">votes", ">obvious pairs", ">repeats", ">seconds"), failed)
