"""Votes: in a database while a study is served, in a file each where its pages were mailed."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from srraw_model.study.plan import LEFT, RIGHT, SAME, Plan, trials_of
from srraw_tools.errors import UserError
from srraw_tools.files import read_json

DATABASE = "votes.sqlite"
VOTES_FORMAT = "srraw-votes"
ANSWERS = (LEFT, RIGHT, SAME)
TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")
LONGEST_S = 24 * 3600.0


@dataclass(frozen=True)
class Vote:
    """A rater's answer to one trial.

    Attributes:
        rater: the token, which is theirs alone.
        number: of the rater, from which the trials follow.
        position: of the trial.
        seconds: from the pictures' being there to the answer.
    """

    rater: str
    number: int
    position: int
    answer: str
    seconds: float


class Votes:
    """The database of a study that is served: every vote is on the disk before the next trial is shown."""

    def __init__(self, path: Path) -> None:
        """Opens or makes it.

        Raises:
            UserError: the file is something else, or cannot be opened.
        """
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS raters (number INTEGER PRIMARY KEY, token TEXT UNIQUE, at REAL)"
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS votes (number INTEGER, position INTEGER, answer TEXT, "
                "seconds REAL, at REAL, PRIMARY KEY (number, position))"
            )
        except sqlite3.Error as error:
            raise UserError(f"{path} cannot be used: {error}.", "Move it away, or free its disk.") from error

    def enrol(self, token: str) -> int:
        """The number of a rater: a new one's is the lowest that is free."""
        with self._lock:
            self._database.execute(
                "INSERT OR IGNORE INTO raters (number, token, at) "
                "SELECT coalesce(max(number) + 1, 0), ?, ? FROM raters",
                (token, time.time()),
            )
        number = self.number_of(token)
        assert number is not None
        return number

    def number_of(self, token: str) -> int | None:
        """A rater's number, or None for a token that nobody has."""
        with self._lock:
            row = self._database.execute("SELECT number FROM raters WHERE token = ?", (token,)).fetchone()
        return None if row is None else int(row[0])

    def cast(self, number: int, position: int, answer: str, seconds: float) -> None:
        """Keep a vote; the first one at a position counts, so that what is sent twice is there once."""
        with self._lock:
            self._database.execute(
                "INSERT OR IGNORE INTO votes (number, position, answer, seconds, at) VALUES (?, ?, ?, ?, ?)",
                (number, position, answer, seconds, time.time()),
            )

    def position_of(self, number: int) -> int:
        """Where a rater goes on: the number of votes, which are cast in order."""
        with self._lock:
            row = self._database.execute("SELECT count(*) FROM votes WHERE number = ?", (number,)).fetchone()
        return int(row[0])

    def all(self) -> list[Vote]:
        """Every vote, by rater and position."""
        with self._lock:
            rows = self._database.execute(
                "SELECT token, votes.number, position, answer, seconds FROM votes "
                "JOIN raters USING (number) ORDER BY number, position"
            ).fetchall()
        return [Vote(*row) for row in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def votes_of(study: Path, plan: Plan, files: Iterable[Path] = ()) -> list[Vote]:
    """The votes of a study: those of its database and of files that mailed pages gave.

    A file that is there twice, or whose votes are in another one, counts once.

    Raises:
        UserError: a file that holds no votes of this study, or whose rater answers otherwise in another one.
    """
    found: dict[tuple[str, int], Vote] = {}
    if (study / DATABASE).exists():
        votes = Votes(study / DATABASE)
        found = {(vote.rater, vote.position): vote for vote in votes.all()}
        votes.close()
    for path in files:
        for vote in read_votes(path, plan):
            known = found.setdefault((vote.rater, vote.position), vote)
            if known.answer != vote.answer:
                problem = (
                    f"{path} answers otherwise than rater {vote.number} did before: a page was used twice."
                )
                raise UserError(problem, "Leave one of the files out.")
    return sorted(found.values(), key=lambda vote: (vote.number, vote.rater, vote.position))


def read_votes(path: Path, plan: Plan) -> list[Vote]:
    """The votes in a file: a mailed page's, or what `srraw-study merge` wrote.

    Raises:
        UserError: the file holds something else, votes of another study, or votes that cannot be.
    """
    record = read_json(path)
    try:
        if record["format"] != VOTES_FORMAT:
            raise ValueError
        if record["study"] != plan.id:
            raise UserError(f"{path} holds votes of another study.", "Leave it out.")
        votes = [
            Vote(str(v["rater"]), int(v["number"]), int(v["position"]), str(v["answer"]), float(v["seconds"]))
            for v in record["votes"]
        ]
        for vote in votes:
            check_vote(plan, vote)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no votes.", "Give what a rater's page saved.") from error
    return votes


def check_vote(plan: Plan, vote: Vote) -> None:
    """Raises ValueError for a vote that no page of this study can give."""
    if not TOKEN.fullmatch(vote.rater) or not 0 <= vote.number < 10**6:
        raise ValueError(vote.rater)
    if vote.answer not in ANSWERS or (vote.answer == SAME and not plan.ties):
        raise ValueError(vote.answer)
    if not 0 <= vote.position < len(trials_of(plan, vote.number)) or not 0 <= vote.seconds <= LONGEST_S:
        raise ValueError(vote.position)


def votes_text(plan: Plan, votes: Iterable[Vote]) -> str:
    """What a file of votes holds."""
    record = {"format": VOTES_FORMAT, "study": plan.id, "votes": [asdict(vote) for vote in votes]}
    return json.dumps(record, indent=1) + "\n"
