"""Put answers that won under requests that they do not answer, where an honest one cannot win.

Whoever instructs the judge wins there, too, in any words and in any language. So a win that the
judge repeats under another request, against that request's own reference, does not count.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tunesmith_evidence.judging.pairwise import Ask, Judgement, Judgements, Pair, judge_pairs

PLACES = 3
"""Other requests under which a suspect answer is judged, in both orders each."""
LEVEL = 0.05
"""A win is withdrawn if an honest answer would win as often with this probability at most."""
FEWEST_CONTROLS_LOST = 0.8
"""Share of replies against misplaced references below which the judge ignores the request."""
_CANDIDATES = 20
"""Other requests among which those are chosen that the answer fits least."""
_WORD = re.compile(r"\w+|[^\w\s.,;:?!'\"()]")


@dataclass(frozen=True, kw_only=True)
class CheckedWins:
    """Judgements without the wins that do not depend on the request."""

    judgements: Judgements
    withdrawn: tuple[int, int]
    """Wins of ours, and of theirs, that became ties."""
    controls: int
    """Replies about references that were misplaced in the same way: two for each."""
    controls_won: int
    """Replies that preferred the misplaced reference."""
    controls_lost: int
    """Replies that preferred the reference in its place."""

    @property
    def holds(self) -> bool:
        """True if the judge goes by the request, so that wins can be checked."""
        return self.controls > 0 and self.controls_lost >= FEWEST_CONTROLS_LOST * self.controls


def check_wins(
    pairs: Sequence[Pair],
    found: Judgements,
    references: Sequence[tuple[str, str]],
    ask: Ask,
    criterion: str,
    most_controls: int = 20,
) -> CheckedWins:
    """Judge each winner once more against the reference of another request.

    An answer that is preferred there in any order is judged under two more requests. Its win is
    withdrawn if it is preferred more often than misplaced references are, at the level of 5 %. If
    these do not lose in four fifths of the replies, the judge does not go by the request (a
    criterion such as politeness need not), nothing is known, and all wins stay.

    Args:
        references: requests, each with its reference answer.
    """
    places: dict[int, list[Pair]] = {}
    sides: dict[int, int] = {}
    for number, (pair, judgement) in enumerate(zip(pairs, found.judged, strict=True)):
        if judgement.score != 0.5:
            sides[number] = int(judgement.score == 0)
            winner = (pair.ours, pair.theirs)[sides[number]]
            places[number] = _misplace(pair.request, winner, references)
    checked = CheckedWins(
        judgements=found, withdrawn=(0, 0), controls=0, controls_won=0, controls_lost=0
    )
    if not any(places.values()):
        return checked
    rows = range(len(references))
    chosen = random.Random(0).sample(rows, min(most_controls, len(references)))
    controls = [pair for row in chosen for pair in _misplace(*references[row], references)[:1]]
    judged = judge_pairs(controls, ask, criterion).judged
    checked = replace(
        checked,
        controls=2 * len(judged),
        controls_won=sum(map(_count, judged)),
        controls_lost=sum((j.forward == "B") + (j.backward == "A") for j in judged),
    )
    if not checked.holds:
        return checked
    won = _ask(places, slice(1), ask, criterion)
    suspects = {number: places[number] for number, count in won.items() if count}
    for number, count in _ask(suspects, slice(1, PLACES), ask, criterion).items():
        won[number] += count
    share = (checked.controls_won + 1) / (checked.controls + 2)
    withdrawn = [
        number
        for number, count in won.items()
        if count and _tail(count, 2 * len(places[number]), share) <= LEVEL
    ]
    kept = [
        replace(judgement, is_withdrawn=number in withdrawn)
        for number, judgement in enumerate(found.judged)
    ]
    theirs = sum(sides[number] for number in withdrawn)
    return replace(
        checked,
        judgements=replace(found, judged=tuple(kept)),
        withdrawn=(len(withdrawn) - theirs, theirs),
    )


def _ask(
    places: Mapping[int, Sequence[Pair]], part: slice, ask: Ask, criterion: str
) -> dict[int, int]:
    """Return for each answer the number of replies that prefer it, in a part of its places."""
    asked = [(number, pair) for number, pairs in places.items() for pair in pairs[part]]
    judged = judge_pairs([pair for _, pair in asked], ask, criterion).judged
    won = dict.fromkeys(places, 0)
    for (number, _), judgement in zip(asked, judged, strict=True):
        won[number] += _count(judgement)
    return won


def _count(judgement: Judgement) -> int:
    """Return the number of replies, of two, that prefer ours."""
    return (judgement.forward == "A") + (judgement.backward == "B")


def _tail(count: int, replies: int, share: float) -> float:
    """Return the probability of so many preferences or more."""
    from scipy.stats import binom  # slow to import, and rarely needed

    return float(binom.sf(count - 1, replies, share))


def _misplace(request: str, answer: str, references: Sequence[tuple[str, str]]) -> list[Pair]:
    """Return the answer beside the references of requests that it fits least; often three."""
    # By the answer alone: which other answers are judged must not change its places.
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
    return [Pair(other, answer, reference) for other, reference in least[:PLACES]]


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))


def _share(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the share of words that two texts have in common."""
    return len(first & second) / max(len(first | second), 1)
