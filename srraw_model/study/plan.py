"""What is shown to whom: comparisons of a study, and each rater's trials, which follow from a seed alone.

study/plan.json    what raters may know: pairs of pictures by names that tell nothing
study/key.json     what they may not: the scene and the method of every picture
study/images/      the pictures
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srraw_tools.errors import UserError
from srraw_tools.files import read_json

FORMAT, VERSION = "srraw-study", 1
PLAN_FILE, KEY_FILE, IMAGES = "plan.json", "key.json", "images"
LEFT, RIGHT, SAME = "left", "right", "same"
PRACTICE, RATED, CHECK, REPEAT = "practice", "rated", "check", "repeat"
IMAGE_NAME = re.compile(r"[0-9a-f]{16}\.png")


@dataclass(frozen=True)
class Comparison:
    """Two pictures of one scene, by file name, and the low-resolution input where there is one."""

    images: tuple[str, str]
    input: str | None


@dataclass(frozen=True)
class Plan:
    """A study as raters may know it.

    Attributes:
        ties: whether "same" is an answer.
        per_rater: rated comparisons that each is shown.
        repeats: of these shown once more, with the sides swapped.
        comparisons: those that count.
        checks: obvious ones; a rater who fails them did not look.
        practice: obvious ones at the beginning that count for nothing.
    """

    id: str
    title: str
    question: str
    ties: bool
    seed: int
    per_rater: int
    repeats: int
    comparisons: tuple[Comparison, ...]
    checks: tuple[Comparison, ...]
    practice: tuple[Comparison, ...]


@dataclass(frozen=True)
class Key:
    """What the pictures are.

    Attributes:
        pictures: by file name, the scene and the method.
        methods: in the order in which they were given; the first is compared with each of the others.
        better: of every obvious pair, the picture that is plainly better.
    """

    id: str
    methods: tuple[str, ...]
    pictures: dict[str, tuple[str, str]]
    better: frozenset[str]


@dataclass(frozen=True)
class Trial:
    """What a rater sees at one position."""

    kind: str
    left: str
    right: str
    input: str | None


def trials_of(plan: Plan, rater: int) -> tuple[Trial, ...]:
    """The trials of a rater (0, 1, ...), in their order.

    Raters go through a shuffled list of all comparisons one after the other, and over it again with the sides
    swapped: however many come, two comparisons are never rated more than once apart, and neither are the two
    sides of one. Order, checks and repeats are drawn for each rater.
    """
    count = len(plan.comparisons)
    shared = np.random.default_rng((plan.seed, 0))
    order, first_sides = shared.permutation(count), shared.integers(2, size=count)
    own = np.random.default_rng((plan.seed, 1, rater))
    rated = []
    for place in range(rater * plan.per_rater, (rater + 1) * plan.per_rater):
        number = order[place % count]
        rated.append(
            _trial(RATED, plan.comparisons[number], bool((first_sides[number] + place // count) % 2))
        )
    rated = [rated[i] for i in own.permutation(len(rated))]
    half = len(rated) // 2
    again = own.choice(half, size=min(plan.repeats, half), replace=False)
    later = rated[half:]
    for trial in (rated[i] for i in again):
        later.insert(int(own.integers(len(later) + 1)), Trial(REPEAT, trial.right, trial.left, trial.input))
    shown = rated[:half] + later
    for comparison in plan.checks:
        check = _trial(CHECK, comparison, bool(own.integers(2)))
        shown.insert(int(own.integers(1, len(shown) + 1)), check)
    practice = [_trial(PRACTICE, comparison, bool(own.integers(2))) for comparison in plan.practice]
    return (*practice, *shown)


def _trial(kind: str, comparison: Comparison, swapped: bool) -> Trial:
    left, right = comparison.images[::-1] if swapped else comparison.images
    return Trial(kind, left, right, comparison.input)


def plan_record(plan: Plan) -> dict[str, Any]:
    """What plan.json holds."""
    return {"format": FORMAT, "version": VERSION, **asdict(plan)}


def read_plan(folder: Path) -> Plan:
    """The plan of a study.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(folder) / PLAN_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no study.", "Make one with 'srraw-study make'.", wrong_use=True)
    record = read_json(path)
    try:
        if (record.pop("format"), record.pop("version")) != (FORMAT, VERSION):
            raise ValueError
        for name in ("comparisons", "checks", "practice"):
            record[name] = tuple(
                Comparison(tuple(_named(image) for image in c["images"]), c["input"] and _named(c["input"]))
                for c in record[name]
            )
        plan = Plan(**record)
        if not plan.comparisons or not 1 <= plan.per_rater <= len(plan.comparisons):
            raise ValueError
        if any(len(c.images) != 2 for c in (*plan.comparisons, *plan.checks, *plan.practice)):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no plan of a study that this version reads.", "Make it again.") from error
    return plan


def read_key(folder: Path) -> Key:
    """The key of a study.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(folder) / KEY_FILE
    record = read_json(path)
    try:
        pictures = {name: (str(scene), str(method)) for name, (scene, method) in record["pictures"].items()}
        return Key(
            str(record["id"]), tuple(map(str, record["methods"])), pictures, frozenset(record["better"])
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no key of a study.", "Make the study again.") from error


def _named(image: object) -> str:
    """A file name in images/ and nothing else: no path from a file is trusted."""
    if not isinstance(image, str) or not IMAGE_NAME.fullmatch(image):
        raise ValueError(image)
    return image
