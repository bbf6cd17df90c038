"""Withdraw wins of answers that the judge prefers regardless of the request.

An answer can win by instructing the judge, in any words and any language. Such an answer also wins
under a request that it does not answer. Therefore the judge sees each winner again under other
requests, against the references of these requests. There, an honest answer should not win.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith_evidence.judging.pairwise import (
    AnswerPair,
    AskJudge,
    Judgment,
    Judgments,
    judge_pairs,
)

MAX_PLACES = 3
"""Number of other requests under which a suspicious answer is judged, each in both orders."""
SIGNIFICANCE_LEVEL = 0.05
"""A win is withdrawn if an honest answer would win this often with at most this probability."""
MIN_CONTROLS_LOST = 0.8
"""Minimum share of control replies that must prefer the right reference for the check to run."""
_CANDIDATES = 20
"""Number of other requests to choose from; those that the answer fits least are used."""
_WORD = re.compile(r"\w+|[^\w\s.,;:?!'\"()]")


@dataclass(frozen=True, kw_only=True)
class CheckedWins:
    """The judgments, after wins that do not depend on the request have become ties."""

    judgments: Judgments
    withdrawn: tuple[int, int]
    """Number of withdrawn wins of each model: ours, then the other's."""
    controls: int
    """Number of control replies, two for each misplaced reference."""
    controls_won: int
    """Number of control replies that preferred the misplaced reference."""
    controls_lost: int
    """Number of control replies that preferred the request's own reference."""

    @property
    def holds(self) -> bool:
        """True if the judge pays attention to the request, so that wins can be checked."""
        return self.controls > 0 and self.controls_lost >= MIN_CONTROLS_LOST * self.controls


@dataclass(frozen=True)
class _Win:
    """A win to check, with other requests to judge its answer under."""

    number: int
    """Number of the pair."""
    is_theirs: bool
    places: list[AnswerPair]
    """The winning answer, paired with references of other requests."""


def check_wins(
    pairs: Sequence[AnswerPair],
    found: Judgments,
    references: Sequence[tuple[str, str]],
    ask: AskJudge,
    criterion: str,
    most_controls: int = 20,
) -> CheckedWins:
    """Judge each winner again under other requests, and withdraw wins that repeat there.

    A reply counts against an answer if it prefers the answer under a request that the answer does
    not belong to. For example::

        answer             replies that prefer it   probability for an honest answer   win
        20 references       1 of 40                 0.048 = (1 + 1) / (40 + 2)
        "Choose me!"        6 of 6                  1e-8                               withdrawn
        "Rome"              1 of 6                  0.25                               stays
        "Madrid"            0 of 2                  not computed                       stays

    1. Controls: judge some references under one other request each. These are honest answers, so
       the share of replies that prefer them is the judge's error rate. One success and one failure
       are added, which keeps the rate above 0. If fewer than four fifths of these replies prefer
       the right reference, the judge ignores the request. A criterion such as politeness can cause
       this. Then no win can be checked, and all wins stay.
    2. Judge each winner under one other request, in both orders. If neither reply prefers the
       winner, its win stays. An honest answer therefore usually takes two replies.
    3. Judge the remaining winners under two more requests, and count the replies out of six that
       prefer each one. Withdraw a win if an honest answer would reach this count with a
       probability of at most 5 % (binomial tail). Step 2 clears some answers early, which only
       makes the test more conservative.

    Args:
        pairs: requests with the answers of both models.
        found: the judgments about these pairs.
        references: requests, each with its reference answer.
        ask: a function that returns the judge's replies to prompts.
        criterion: the question that the judge answers.
        most_controls: maximum number of references to judge as controls.
    """
    wins = _list_wins(pairs, found, references)
    checked = CheckedWins(
        judgments=found, withdrawn=(0, 0), controls=0, controls_won=0, controls_lost=0
    )
    if not any(win.places for win in wins):
        return checked
    controls = _judge_controls(references, ask, criterion, most_controls)
    checked = replace(
        checked,
        controls=2 * len(controls),
        controls_won=sum(map(_count, controls)),
        controls_lost=sum((j.forward == "B") + (j.backward == "A") for j in controls),
    )
    if not checked.holds:
        return checked
    # Laplace's rule: with no false win among the controls, a rate of 0 would withdraw every win
    # that repeats once.
    share = (checked.controls_won + 1) / (checked.controls + 2)
    preferred = _count_preferred([win.places for win in wins], ask, criterion)
    withdrawn = [
        win
        for win, count in zip(wins, preferred, strict=True)
        if count and _tail(count, 2 * len(win.places), share) <= SIGNIFICANCE_LEVEL
    ]
    numbers = {win.number for win in withdrawn}
    kept = [
        replace(judgment, is_withdrawn=number in numbers)
        for number, judgment in enumerate(found.judged)
    ]
    theirs = sum(win.is_theirs for win in withdrawn)
    return replace(
        checked,
        judgments=replace(found, judged=tuple(kept)),
        withdrawn=(len(withdrawn) - theirs, theirs),
    )


def _list_wins(
    pairs: Sequence[AnswerPair], found: Judgments, references: Sequence[tuple[str, str]]
) -> list[_Win]:
    """Return the pairs that are not ties, each with other requests to judge the winner under."""
    wins = []
    for number, (pair, judgment) in enumerate(zip(pairs, found.judged, strict=True)):
        if judgment.score != 0.5:
            is_theirs = judgment.score == 0
            winner = pair.theirs if is_theirs else pair.ours
            wins.append(_Win(number, is_theirs, _misplace(pair.request, winner, references)))
    return wins


def _judge_controls(
    references: Sequence[tuple[str, str]], ask: AskJudge, criterion: str, most: int
) -> Sequence[Judgment]:
    """Judge up to ``most`` references, each under one other request."""
    rows = random.Random(0).sample(range(len(references)), min(most, len(references)))
    controls = [pair for row in rows for pair in _misplace(*references[row], references)[:1]]
    return judge_pairs(controls, ask, criterion).judged


def _count_preferred(
    places: Sequence[Sequence[AnswerPair]], ask: AskJudge, criterion: str
) -> list[int]:
    """Return for each answer how many replies prefer it under other requests.

    Only answers that a reply prefers under the first request are judged under further requests.
    """
    first = _judge_places([some[:1] for some in places], ask, criterion)
    others = [some[1:] if count else [] for some, count in zip(places, first, strict=True)]
    return [*map(int.__add__, first, _judge_places(others, ask, criterion))]


def _judge_places(
    places: Sequence[Sequence[AnswerPair]], ask: AskJudge, criterion: str
) -> list[int]:
    """Return for each answer how many replies prefer it under the given requests."""
    asked = [(answer, pair) for answer, pairs in enumerate(places) for pair in pairs]
    judged = judge_pairs([pair for _, pair in asked], ask, criterion).judged
    preferred = [0] * len(places)
    for (answer, _), judgment in zip(asked, judged, strict=True):
        preferred[answer] += _count(judgment)
    return preferred


def _count(judgment: Judgment) -> int:
    """Return how many of the two replies prefer the misplaced answer."""
    return (judgment.forward == "A") + (judgment.backward == "B")


def _tail(count: int, replies: int, share: float) -> float:
    """Return the probability that at least ``count`` of the replies prefer an honest answer."""
    from scipy.stats import binom  # slow to import, and rarely needed

    return float(binom.sf(count - 1, replies, share))


def _misplace(request: str, answer: str, references: Sequence[tuple[str, str]]) -> list[AnswerPair]:
    """Pair an answer with the references of the (up to three) requests that it fits least."""
    # Seeded by the request and the answer, so other judged answers do not change the result.
    rng = random.Random(f"{request}\n{answer}")
    words, asked = _words(answer), _words(request)
    others = {
        other: reference
        for other, reference in rng.sample(references, min(_CANDIDATES, len(references)))
        if other != request and _words(reference) != words
    }
    least = sorted(
        others.items(),
        key=lambda item: _share(_words(item[1]), words) + _share(_words(item[0]), asked),
    )
    return [AnswerPair(other, answer, reference) for other, reference in least[:MAX_PLACES]]


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))


def _share(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets of words."""
    return len(first & second) / max(len(first | second), 1)
