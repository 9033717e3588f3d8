"""A small server for raters on a network: a page, its pictures, and votes that are on the disk at once."""

from __future__ import annotations

import math
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srraw_model.study.pages import study_page
from srraw_model.study.plan import IMAGE_NAME, IMAGES, Plan, Trial, read_plan, trials_of
from srraw_model.study.votes import ANSWERS, DATABASE, LONGEST_S, SAME, TOKEN, Votes
from srraw_tools.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST_BODY = 1000  # bytes of a vote
COOKIE = "srraw_study_rater"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
NEVER = {"Cache-Control": "no-store"}


def study_app(study: Path) -> Starlette:
    """The application that serves a study.

    GET /               a new rater, or the one that this browser was
    GET /r/TOKEN        the page of a rater, who goes on where they stopped
    GET /r/TOKEN/trial  the trial at that place, as JSON
    POST /r/TOKEN/vote  {"position", "answer", "seconds"}: keeps the vote, and gives the next trial
    GET /images/NAME    a picture

    Raises:
        UserError: no study, its votes cannot be kept, or the server's library is missing.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
        from starlette.responses import RedirectResponse as Redirect
        from starlette.routing import Route
    except ImportError as error:
        raise UserError("Serving needs Starlette and Uvicorn.", "pip install 'srraw[study]'") from error
    study = Path(study)
    plan = read_plan(study)
    votes = Votes(study / DATABASE)
    page = study_page(plan)
    shown = {name for c in (*plan.comparisons, *plan.checks, *plan.practice) for name in (*c.images, c.input)}
    trials: dict[int, tuple[Trial, ...]] = {}

    def enter(request: Request) -> Response:
        token = request.cookies.get(COOKIE, "")
        if votes.number_of(token) is None:
            token = secrets.token_urlsafe(16)
            votes.enrol(token)
        # A relative address, so that the server may lie behind another's path.
        answer = Redirect(f"r/{token}", status_code=303, headers=NEVER)
        answer.set_cookie(COOKIE, token, max_age=31536000, httponly=True, samesite="strict")
        return answer

    def rater(request: Request) -> Response:
        if number_of(request) is None:
            return PlainTextResponse("Nobody has this address. Ask who invited you for another.", 404)
        return HTMLResponse(page, headers=NEVER)

    def trial(request: Request) -> Response:
        number = number_of(request)
        if number is None:
            return JSONResponse({"error": "unknown rater"}, 404)
        return JSONResponse(state_of(number), headers=NEVER)

    async def vote(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                return JSONResponse({"error": "no vote"}, 413)
        answered = _answer_in(body, plan)
        if answered is None:
            return JSONResponse({"error": "no vote"}, 400)
        return await run_in_threadpool(keep, request, *answered)

    def keep(request: Request, position: int, answer: str, seconds: float) -> Response:
        number = number_of(request)
        if number is None:
            return JSONResponse({"error": "unknown rater"}, 404)
        if position > votes.position_of(number) or position >= len(trials_for(number)):
            return JSONResponse({"error": "not this one yet"}, 409)
        votes.cast(number, position, answer, seconds)
        return JSONResponse(state_of(number), headers=NEVER)

    def image(request: Request) -> Response:
        name = request.path_params["name"]
        if not IMAGE_NAME.fullmatch(name) or name not in shown:
            return PlainTextResponse("There is no such picture.", 404)
        return FileResponse(study / IMAGES / name, headers=FOREVER)

    def number_of(request: Request) -> int | None:
        token = request.path_params["token"]
        return votes.number_of(token) if TOKEN.fullmatch(token) else None

    def trials_for(number: int) -> tuple[Trial, ...]:
        if number not in trials:
            trials[number] = trials_of(plan, number)
        return trials[number]

    def state_of(number: int) -> dict[str, Any]:
        own, position = trials_for(number), votes.position_of(number)
        following = own[position + 1 : position + 2]
        return {
            "position": position,
            "total": len(own),
            "trial": trial_record(own[position]) if position < len(own) else None,
            "following": [name for t in following for name in (t.left, t.right, t.input) if name],
        }

    return Starlette(
        routes=[
            Route("/", enter),
            Route("/r/{token}", rater),
            Route("/r/{token}/trial", trial),
            Route("/r/{token}/vote", vote, methods=["POST"]),
            Route("/images/{name}", image),
        ]
    )


def trial_record(trial: Trial) -> dict[str, Any]:
    """What a page is told of a trial: that it is for practice, but not whether it is a check."""
    return {
        "practice": trial.kind == "practice",
        "left": trial.left,
        "right": trial.right,
        "input": trial.input,
    }


def _answer_in(body: bytes, plan: Plan) -> tuple[int, str, float] | None:
    import json

    try:
        record = json.loads(body)
        position, answer, seconds = record["position"], record["answer"], float(record["seconds"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if type(position) is not int or position < 0 or not math.isfinite(seconds):
        return None
    if answer not in ANSWERS or (answer == SAME and not plan.ties):
        return None
    return position, answer, min(max(seconds, 0.0), LONGEST_S)
