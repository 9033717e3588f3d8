"""The page that a rater sees: served, or as one file to mail whose votes come back as a file."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srraw_model.study.plan import IMAGES, PRACTICE, Plan, read_plan, trials_of
from srraw_model.study.results import NO_SCORES, Results, failed_rows, preference_rows, score_rows
from srraw_tools.errors import UserError
from srraw_tools.files import replacing
from srraw_tools.pages import render_page, write_page


def study_page(plan: Plan, mailed: dict[str, Any] | None = None) -> str:
    """The page, which asks its server for trials; or holds those of `mailed` and all their pictures."""
    return render_page(
        "study.html",
        title=plan.title,
        question=plan.question,
        ties=plan.ties,
        mailed=mailed,
    )


def mail_pages(study: Path, out: Path, *, raters: int, first: int = 0) -> Iterator[Path]:
    """Write a page for each of some raters, complete in itself, to be mailed.

    Args:
        first: number of the first rater; raters of one study need different ones, also those who are served.

    Raises:
        UserError: no study, a picture is missing, or a page is there already.
    """
    plan = read_plan(study)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + raters):
        path = out / f"rater-{number:04d}.html"
        if path.exists():
            raise UserError(f"{path} is there already.", "Give another --first or --out.", wrong_use=True)
        trials = trials_of(plan, number)
        names = {name for trial in trials for name in (trial.left, trial.right, trial.input) if name}
        pictures = {name: _data_uri(study / IMAGES / name) for name in sorted(names)}
        mailed = {
            "study": plan.id,
            "rater": secrets.token_urlsafe(16),
            "number": number,
            "trials": [
                {"practice": t.kind == PRACTICE, "left": t.left, "right": t.right, "input": t.input}
                for t in trials
            ],
            "pictures": pictures,
        }
        with replacing(path) as temporary:
            temporary.write_text(study_page(plan, mailed), encoding="utf-8")
        yield path


def write_results_page(plan: Plan, results: Results, out: Path) -> None:
    """Write what a study says as a page with plots.

    Raises:
        UserError: it cannot be written.
    """
    bars = [
        (
            " over ".join(p.methods),
            100 * p.share,
            p.bootstrap and tuple(100 * bound for bound in p.bootstrap),
            tuple(100 * bound for bound in p.wilson),
        )
        for p in results.preferences
    ]
    scores = [
        (method, score, (low, high) if math.isfinite(low) else None, None)
        for method, (score, low, high) in (results.scores or {}).items()
    ]
    ends = [abs(end) for _, score, bounds, _ in scores for end in (score, *(bounds or ()))]
    reach = math.ceil(max(ends, default=1) * 1.1)
    failed = failed_rows(results)
    write_page(
        out,
        "study_results.html",
        title=f"Results: {plan.title}",
        question=plan.question,
        counted=len(results.raters) - len(failed),
        failed=failed,
        agreement=results.agreement,
        bars=bars,
        rows=preference_rows(results),
        scores=scores,
        score_rows=score_rows(results),
        no_scores=NO_SCORES,
        score_low=-reach,
        score_high=reach,
    )


def _data_uri(path: Path) -> str:
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Make the study again.") from error
