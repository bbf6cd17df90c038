"""Review all parts of the data for leaks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.contracts import Finding
from tunesmith.data.units import as_loaded
from tunesmith.records import Record
from tunesmith.text import mask_personal_data, one_line
from tunesmith_data.near_duplicates import DEFAULT_THRESHOLD, Match
from tunesmith_data.splits import prompt_text
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.checks.leaks.find_answers import find_contained_answers, is_by_design
from tunesmith_plugins.checks.leaks.find_leaks import (
    KINDS,
    Joined,
    Kind,
    Leak,
    find_duplicates,
    find_shared_groups,
    find_shared_turns,
)

MOST_EXAMPLES = 3
EXCERPT = 60
INPUT_LIMIT = 4_000
TOLERATED = 0.02
"""Share of the test rows above which leaks make the scores worthless."""
BY_DESIGN = 0.2
"""Share of the rows from which on templates are how the data was made, and not an accident."""
CERTAIN: tuple[Kind, ...] = ("exact", "inside", "group", "answer")
"""Kinds that are no coincidence; rows that merely resemble each other may be one."""

MOST_ROWS = 200_000
"""Training rows up to which those of a template are looked for if tunesmith has split them."""
NO_TEMPLATES = Finding(
    level="info",
    where="data leaks",
    message=f"rows of one template are not looked for among more than {MOST_ROWS:,} training rows "
    "that were split by tunesmith",
    hint="`tunesmith data split` writes the parts; `data check TRAIN --test FILE` looks at all",
)

MESSAGES: dict[Kind, str] = {
    "exact": "have the prompt of a {other} row, apart from case and punctuation",
    "inside": "are the beginning of a longer {other} row, which has an answer to their prompt",
    "continued": "continue a conversation, an earlier answer of which a {other} row has",
    "near": f"are near duplicates of a {{other}} row ({DEFAULT_THRESHOLD})",
    "template": "have the words of a {other} row, with other values in between",
    "group": "are of a group that {other} rows are of, too",
    "answer": "have their answer in their prompt",
}
HINTS: dict[Kind, str] = {
    "exact": "remove them from one part",
    "inside": "put all rows of a conversation into one part, or name its column in data.group",
    "continued": "put all rows of a conversation into one part; scores are also reported without "
    "them",
    "near": "look if they ask the same; scores are also reported without them",
    "template": "look if the values matter; scores are also reported without them",
    "group": "put all rows of a group into one part",
    "answer": "remove it from the prompt, or the model is asked to copy",
}


@dataclass(frozen=True)
class Parts:
    """Two parts of the data, the second of which must not know the first, and their names."""

    known: Sequence[Record]
    queries: Sequence[Record]
    names: tuple[str, str]
    are_given: bool
    """True if the split of tunesmith is not what made them."""

    @property
    def is_decisive(self) -> bool:
        """Return True for the parts that the score depends on."""
        return self.names == ("training", "test")


def review(
    train: Sequence[Record],
    validation: Sequence[Record],
    test: Sequence[Record],
    *,
    given: Collection[str] = ("validation", "test"),
) -> list[Finding]:
    """Return a finding for each kind of leak between two parts.

    ``given``: the parts that the user or the data loader made. The leaks that a split of tunesmith
    leaves are limits of it that are known, and no errors: rows of one time, or of one template.
    """
    templates = bool(given) or len(train) <= MOST_ROWS
    found = (
        *(() if templates else (NO_TEMPLATES,)),
        *_review_parts(
            train, {"test": test, "validation": validation}, "training", given, templates=templates
        ),
        *_review_parts(validation, {"test": test}, "validation", given),
    )
    return [*found, *_review_answers(train, test)]


def _review_parts(
    known: Sequence[Record],
    queries: Mapping[str, Sequence[Record]],
    name: str,
    given: Collection[str],
    *,
    templates: bool = True,
) -> Iterator[Finding]:
    """Yield the findings about each part; the known records are read once for all."""
    joined = Joined([*queries.values()])
    if not known or not joined:
        return
    duplicates = list(find_duplicates(known, joined, templates=templates))
    exact = {leak.row for leak in duplicates if leak.kind == "exact"}
    turns = {x.row: x for x in find_shared_turns(known, joined) if x.row not in exact}
    duplicates = [leak for leak in duplicates if leak.row not in turns]
    loaded = Joined([*map(as_loaded, queries.values())])
    leaks = [*duplicates, *turns.values(), *find_shared_groups(as_loaded(known), loaded)]
    start = 0
    for other, records in queries.items():
        rows = range(start, start + len(records))
        own = [replace(leak, row=leak.row - start) for leak in leaks if leak.row in rows]
        are_given = name in given or other in given
        yield from _describe_leaks(own, Parts(known, records, (name, other), are_given))
        start += len(records)


def _describe_leaks(leaks: Sequence[Leak], parts: Parts) -> Iterator[Finding]:
    for kind in KINDS:
        chosen = sorted((leak for leak in leaks if leak.kind == kind), key=lambda leak: leak.row)
        if chosen:
            yield _build_finding(chosen, parts)


def _review_answers(train: Sequence[Record], test: Sequence[Record]) -> Iterator[Finding]:
    """Yield the finding about prompts with their answer, which a split does not bring about."""
    leaks = list(find_contained_answers(test))
    if leaks and not is_by_design(train):
        yield _build_finding(leaks, Parts(train, test, ("training", "test"), True))


def _build_finding(leaks: Sequence[Leak], parts: Parts) -> Finding:
    kind, share = leaks[0].kind, len(leaks) / len(parts.queries)
    other, name = parts.names
    is_design = kind == "template" and (share >= BY_DESIGN or not parts.are_given)
    level: Literal["info", "warning", "error"] = "info" if is_design else "warning"
    if kind in CERTAIN and share > TOLERATED and parts.is_decisive and parts.are_given:
        level = "error"
    rows = f"{len(leaks):,} of {len(parts.queries):,} ({format_share(share)}) {name} rows"
    return Finding(
        level=level,
        where="data leaks",
        message=f"{rows} {MESSAGES[kind].format(other=other)}",
        count=len(leaks),
        examples=tuple(_describe(leak, parts) for leak in leaks[:MOST_EXAMPLES]),
        hint="leave them if the values are the task" if is_design else HINTS[kind],
        test_rows=tuple(leak.row for leak in leaks) if parts.is_decisive and not is_design else (),
    )


def _describe(leak: Leak, parts: Parts) -> str:
    """Return the sources and the beginnings of both rows, the more similar the rows the shorter."""
    other, name = parts.names
    row = parts.queries[leak.row]
    text = f"{row.source} ({name}) {_quote(row)}"
    if leak.known < 0:
        return text
    duplicate = parts.known[leak.known]
    equal = leak.match is not None and leak.match.identical
    similarity = "" if leak.match is None or equal else f", {_similarity(leak.match)}"
    quoted = "" if equal else f" {_quote(duplicate)}"
    return f"{text} and {duplicate.source} ({other}){quoted}{similarity}"


def _similarity(match: Match) -> str:
    return f"5-grams {match.characters:.2f}, words {match.words:.2f}"


def _quote(record: Record) -> str:
    # Masked before it is cut: half of an address or a number is not recognized.
    return f'"{one_line(mask_personal_data(prompt_text(record)[:INPUT_LIMIT]), EXCERPT)}"'
