"""Votes and key -> who is preferred, how surely, and whether raters looked and agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from srraw_model.study.plan import CHECK, LEFT, RATED, REPEAT, SAME, Key, Plan, Trial, trials_of
from srraw_model.study.votes import Vote
from srraw_tools.errors import UserError

DRAWS, COVERED = 2000, 0.95
LEAST_CHECKS = 0.85  # share of the obvious pairs that a rater must judge rightly: 6 of 6, 7 of 8
STEPS, CLOSE = 10_000, 1e-8  # of the iteration for Bradley-Terry scores


@dataclass(frozen=True)
class Opinion:
    """A rated comparison: `share` of the first method, 1, 0, or 1/2 where both were the same."""

    rater: str
    scene: str
    methods: tuple[str, str]
    share: float


@dataclass(frozen=True)
class Preference:
    """One method against another.

    Attributes:
        wins, losses, same: votes for the first, for the second, for neither.
        share: of the first, where "same" counts half.
        wilson: its 95 % interval as if all votes were independent (Wilson 1927), "same" as half a vote.
        bootstrap: its 95 % interval over raters, whose votes are not; None for fewer than two.
        p: of the exact two-sided binomial test that neither is preferred, "same" left out.
    """

    methods: tuple[str, str]
    wins: int
    losses: int
    same: int
    share: float
    wilson: tuple[float, float]
    bootstrap: tuple[float, float] | None
    p: float


@dataclass(frozen=True)
class Rater:
    """What a rater did.

    Attributes:
        checks: obvious pairs judged rightly, and judged.
        repeats: pairs judged as before when the sides were swapped, and judged twice.
        passed: looked; the votes of others do not count.
    """

    rater: str
    number: int
    rated: int
    total: int
    checks: tuple[int, int]
    repeats: tuple[int, int]
    median_s: float
    passed: bool


@dataclass(frozen=True)
class Results:
    """What a study says.

    Attributes:
        scores: Bradley-Terry scores by method, natural logarithms with mean 0, and their intervals over
            raters, NaN where some draws of raters have none; None where the votes do not connect the methods,
            or some methods have won every vote against the others.
        agreement: share of the pairs of raters who agree on a comparison, ties left out; None where no
            comparison has two.
    """

    preferences: tuple[Preference, ...]
    scores: dict[str, tuple[float, float, float]] | None
    agreement: float | None
    raters: tuple[Rater, ...]


def study_results(plan: Plan, key: Key, votes: Sequence[Vote]) -> Results:
    """Everything that the votes say; raters that fail the checks are told, and do not count.

    Raises:
        UserError: the key is another study's, or no vote counts.
    """
    if key.id != plan.id:
        raise UserError("The key is that of another study.", "Put key.json back beside its plan.json.")
    by_rater: dict[str, list[Vote]] = {}
    for vote in votes:
        by_rater.setdefault(vote.rater, []).append(vote)
    raters, opinions = [], []
    for name, own in by_rater.items():
        trials = trials_of(plan, own[0].number)
        rater = _rater(name, own, trials, key)
        raters.append(rater)
        if rater.passed:
            opinions += [
                _opinion(name, trials[vote.position], vote.answer, key)
                for vote in own
                if trials[vote.position].kind == RATED
            ]
    if not opinions:
        failed = sum(not rater.passed for rater in raters)
        raise UserError(
            f"No vote counts yet: there are {len(raters)} raters, and {failed} failed the obvious pairs.",
            "Wait for others.",
        )
    preferences = [_preference(methods, own) for methods, own in _by_methods(opinions, key.methods).items()]
    return Results(tuple(preferences), _scores(opinions, key.methods), _agreement(opinions), tuple(raters))


def _rater(name: str, votes: Sequence[Vote], trials: Sequence[Trial], key: Key) -> Rater:
    answers = {vote.position: vote.answer for vote in votes}
    checks = [
        (trials[p].left if answer == LEFT else trials[p].right) in key.better and answer != SAME
        for p, answer in answers.items()
        if trials[p].kind == CHECK
    ]
    first = {
        frozenset((trials[p].left, trials[p].right)): _chosen(trials[p], answer)
        for p, answer in answers.items()
        if trials[p].kind == RATED
    }
    repeats = [
        first[pair] == _chosen(trials[p], answer)
        for p, answer in answers.items()
        if trials[p].kind == REPEAT and (pair := frozenset((trials[p].left, trials[p].right))) in first
    ]
    rated = sum(trials[p].kind == RATED for p in answers)
    return Rater(
        rater=name,
        number=votes[0].number,
        rated=rated,
        total=sum(trial.kind == RATED for trial in trials),
        checks=(sum(checks), len(checks)),
        repeats=(sum(repeats), len(repeats)),
        median_s=float(np.median([vote.seconds for vote in votes])),
        passed=sum(checks) >= LEAST_CHECKS * len(checks),
    )


def _chosen(trial: Trial, answer: str) -> str | None:
    return None if answer == SAME else trial.left if answer == LEFT else trial.right


def _opinion(rater: str, trial: Trial, answer: str, key: Key) -> Opinion:
    (scene, left), (_, right) = key.pictures[trial.left], key.pictures[trial.right]
    share = 0.5 if answer == SAME else float(answer == LEFT)
    if key.methods.index(left) > key.methods.index(right):
        left, right, share = right, left, 1 - share
    return Opinion(rater, scene, (left, right), share)


def _by_methods(opinions: Iterable[Opinion], methods: Sequence[str]) -> dict[tuple[str, str], list[Opinion]]:
    found: dict[tuple[str, str], list[Opinion]] = {}
    for opinion in opinions:
        found.setdefault(opinion.methods, []).append(opinion)
    return dict(sorted(found.items(), key=lambda item: tuple(map(methods.index, item[0]))))


def _preference(methods: tuple[str, str], opinions: Sequence[Opinion]) -> Preference:
    shares = np.array([opinion.share for opinion in opinions])
    wins, losses = int((shares == 1).sum()), int((shares == 0).sum())
    return Preference(
        methods=methods,
        wins=wins,
        losses=losses,
        same=len(shares) - wins - losses,
        share=float(shares.mean()),
        wilson=wilson(float(shares.sum()), len(shares)),
        bootstrap=_over_raters(opinions, lambda drawn: np.array([drawn @ shares / drawn.sum()])),
        p=binomial_p(wins, wins + losses),
    )


def wilson(wins: float, votes: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a share (Wilson, "Probable inference", JASA 22, 1927).

    Args:
        wins: votes for; a tie may count as half a vote.
        votes: of all, more than 0.
        z: standard deviations of the normal distribution on either side; 1.96 for 95 %.

    Returns:
        The lower and the upper end, in [0, 1].
    """
    share = wins / votes
    centre = (share + z**2 / (2 * votes)) / (1 + z**2 / votes)
    half = z / (1 + z**2 / votes) * math.sqrt(share * (1 - share) / votes + z**2 / (4 * votes**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def binomial_p(wins: int, votes: int) -> float:
    """Exact two-sided p of `wins` among `votes` where both are as likely; 1 for no votes."""
    tail = sum(math.comb(votes, k) for k in range(min(wins, votes - wins) + 1))
    return min(1.0, 2 * tail / 2**votes)


def _over_raters(opinions: Sequence[Opinion], statistic: Any) -> Any:
    """95 % interval over draws of whole raters of a statistic of opinions' weights; None for one rater.

    NaN where the statistic does not exist for so many draws that an end of the interval is unknown.
    """
    names = sorted({opinion.rater for opinion in opinions})
    if len(names) < 2:
        return None
    of = np.array([names.index(opinion.rater) for opinion in opinions])
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        weights = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[of]
        if weights.any():
            found.append(statistic(weights.astype(np.float64)))
    values = np.array(found)
    unknown = np.isnan(values).any(axis=1)
    if unknown.mean() > (1 - COVERED) / 2:
        low = high = np.full(values.shape[1], np.nan)
    else:
        low, high = np.quantile(values[~unknown], [(1 - COVERED) / 2, (1 + COVERED) / 2], axis=0)
    return (float(low[0]), float(high[0])) if low.shape == (1,) else (low, high)


def bradley_terry(wins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Scores of n methods by minorisation-maximisation (Hunter, Annals of Statistics 32, 2004, Eq. 3).

    Args:
        wins: (n, n), how often the row's method was preferred to the column's, "same" as half.

    Returns:
        (n,) natural logarithms with mean 0; None where the likelihood has no maximum: the methods fall into
        two groups of which one was never preferred to the other (Ford 1957).
    """
    reach = (wins > 0).astype(np.int64) + np.eye(len(wins), dtype=np.int64)
    if not (np.linalg.matrix_power(reach, len(wins)) > 0).all():
        return None
    games, won = wins + wins.T, wins.sum(axis=1)
    strength = np.ones(len(wins))
    for _ in range(STEPS):
        before = strength
        strength = won / (games / (strength[:, None] + strength)).sum(axis=1)
        strength /= np.exp(np.log(strength).mean())
        if np.abs(np.log(strength / before)).max() < CLOSE:
            break
    return np.log(strength)


def _scores(
    opinions: Sequence[Opinion], methods: Sequence[str]
) -> dict[str, tuple[float, float, float]] | None:
    first, second = (np.array([methods.index(o.methods[i]) for o in opinions]) for i in (0, 1))
    shares = np.array([opinion.share for opinion in opinions])
    count = len(methods)

    def score(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        wins = np.zeros((count, count))
        np.add.at(wins, (first, second), weights * shares)
        np.add.at(wins, (second, first), weights * (1 - shares))
        return bradley_terry(wins)

    whole = score(np.ones(len(opinions)))
    if whole is None:
        return None
    unknown = np.full(count, np.nan)

    def drawn(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = score(weights)
        return unknown if found is None else found

    bounds = _over_raters(opinions, drawn) or (unknown, unknown)
    return {m: (float(whole[i]), float(bounds[0][i]), float(bounds[1][i])) for i, m in enumerate(methods)}


def _agreement(opinions: Sequence[Opinion]) -> float | None:
    by_comparison: dict[tuple[str, tuple[str, str]], list[float]] = {}
    for opinion in opinions:
        if opinion.share != 0.5:
            by_comparison.setdefault((opinion.scene, opinion.methods), []).append(opinion.share)
    agreed = pairs = 0.0
    for shares in by_comparison.values():
        wins, count = sum(shares), len(shares)
        agreed += wins * (wins - 1) / 2 + (count - wins) * (count - wins - 1) / 2
        pairs += count * (count - 1) / 2
    return agreed / pairs if pairs else None


def preference_rows(results: Results) -> list[tuple[str, ...]]:
    """For tables: preferred, over, share, Wilson's interval, that over raters, votes, the same, p."""

    def told(bounds: tuple[float, float] | None) -> str:
        return "-" if bounds is None else f"{bounds[0]:.1%} to {bounds[1]:.1%}"

    return [
        (
            *p.methods,
            f"{p.share:.1%}",
            told(p.wilson),
            told(p.bootstrap),
            str(p.wins + p.losses + p.same),
            str(p.same),
            f"{p.p:.2g}",
        )
        for p in results.preferences
    ]


NO_SCORES = (
    "No Bradley-Terry scores: the votes do not connect the methods, or some won all against the others."
)


def score_rows(results: Results) -> list[tuple[str, str, str]]:
    """For tables: method, Bradley-Terry score, its interval over raters."""
    return [
        (method, f"{score:+.2f}", f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "-")
        for method, (score, low, high) in (results.scores or {}).items()
    ]


def failed_rows(results: Results) -> list[tuple[str, ...]]:
    """For tables, the raters who do not count: name, votes, obvious pairs, repeats, seconds a pair."""
    return [
        (
            f"rater {rater.number}",
            f"{rater.rated} of {rater.total}",
            "{} of {}".format(*rater.checks),
            "{} of {}".format(*rater.repeats),
            f"{rater.median_s:.1f}",
        )
        for rater in results.raters
        if not rater.passed
    ]


def results_record(results: Results) -> Mapping[str, Any]:
    """The results as JSON keeps them."""
    from dataclasses import asdict

    record = asdict(results)
    if results.scores:
        record["scores"] = {
            method: [None if math.isnan(value) else value for value in values]
            for method, values in results.scores.items()
        }
    return record
