"""Turn the leaks between training, validation and test rows into findings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.contracts import Finding
from tunesmith.data.units import restore_loaded_groups
from tunesmith.records import Record
from tunesmith.text import mask_excerpt
from tunesmith_data.near_duplicates import DEFAULT_THRESHOLD, NearestText
from tunesmith_data.splits import prompt_text
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.checks.leaks.find_answers import find_contained_answers, is_by_design
from tunesmith_plugins.checks.leaks.find_leaks import (
    LEAK_KINDS,
    JoinedRecords,
    Leak,
    LeakKind,
    find_duplicates,
    find_shared_groups,
    find_shared_turns,
)

MAX_EXAMPLES = 3
MAX_TOLERATED_SHARE = 0.02
"""If a larger share of the test rows leaks, scores are worthless, and the finding is an error."""
BY_DESIGN = 0.2
"""If at least this share of the rows follows a template, the data was created from templates."""
CERTAIN_KINDS: tuple[LeakKind, ...] = ("exact", "inside", "group", "answer")
"""Kinds of leaks that cannot be coincidence, unlike mere resemblance."""

MAX_TEMPLATE_ROWS = 200_000
"""Data that tunesmith split is searched for templates up to this number of training rows."""
NO_TEMPLATES = Finding(
    level="info",
    where="data leaks",
    message="test rows that follow the template of a training row were not searched for, because "
    f"tunesmith split this data and there are more than {MAX_TEMPLATE_ROWS:,} training rows",
    hint="to search all rows, write the files with `tunesmith data split`, then run `tunesmith "
    "data check TRAIN --test FILE`",
)

MESSAGES: dict[LeakKind, str] = {
    "exact": "have the same prompt as a {other} row (ignoring case and punctuation)",
    "inside": "are the start of a longer {other} row that contains the answer to their prompt",
    "continued": "share the earlier turns of their conversation with a {other} row",
    "near": f"are near-duplicates of a {{other}} row ({DEFAULT_THRESHOLD})",
    "template": "follow the template of a {other} row, with different values",
    "group": "belong to a group that also contains {other} rows",
    "answer": "contain the answer in their prompt",
}
DividedBy = Literal["nothing", "splitter", "technique"]
"""The offer of the run that needs rows of each group in all splits. A splitter only speaks for the
splits that it made."""

DESIGN_HINTS: dict[LeakKind, str] = {
    "template": "fine if predicting those values is the task",
    "group": "fine if each group, such as a user, gets its own model",
}
HINTS: dict[LeakKind, str] = {
    "exact": "remove them from one of the two splits",
    "inside": "put all rows of a conversation into the same split, or set data.group to the "
    "column that identifies the conversation",
    "continued": "put all rows of a conversation into the same split; the report also states "
    "scores without these rows",
    "near": "check whether they ask the same question; the report also states scores without "
    "these rows",
    "template": "check whether the values change the answer; the report also states scores "
    "without these rows",
    "group": "put all rows of a group into the same split",
    "answer": "remove the answer from the prompt; otherwise the model only has to copy it",
}


@dataclass(frozen=True)
class ComparedParts:
    """Two splits of the data. The rows of ``known`` must not give away answers of ``queries``."""

    known: Sequence[Record]
    queries: Sequence[Record]
    names: tuple[str, str]
    are_given: bool
    """True if the user or the data loader provided at least one of the two."""
    divides_groups: bool = False
    """True if rows of one group belong in both."""

    @property
    def is_decisive(self) -> bool:
        """True for training and test rows, which determine the score."""
        return self.names == ("training", "test")


def review(
    train: Sequence[Record],
    validation: Sequence[Record],
    test: Sequence[Record],
    *,
    given: Collection[str] = ("validation", "test"),
    divided_by: DividedBy = "nothing",
) -> list[Finding]:
    """Return findings about leaks, one per kind and pair of splits.

    ``given`` lists the splits that the user or the data loader provided. In tunesmith's own split,
    leaks such as rows with the same template are known limits, not errors.
    """
    templates = bool(given) or len(train) <= MAX_TEMPLATE_ROWS
    found = (
        *(() if templates else (NO_TEMPLATES,)),
        *_review_parts(
            train,
            {"test": test, "validation": validation},
            "training",
            given,
            divided_by,
            templates=templates,
        ),
        *_review_parts(validation, {"test": test}, "validation", given, divided_by),
    )
    return [*found, *_review_answers(train, test)]


def _review_parts(
    known: Sequence[Record],
    queries: Mapping[str, Sequence[Record]],
    name: str,
    given: Collection[str],
    divided_by: DividedBy,
    *,
    templates: bool = True,
) -> Iterator[Finding]:
    """Yield findings about leaks between ``known`` and each split, reading ``known`` only once."""
    joined = JoinedRecords([*queries.values()])
    if not known or not joined:
        return
    duplicates = list(find_duplicates(known, joined, templates=templates))
    exact = {leak.row for leak in duplicates if leak.kind == "exact"}
    turns = {x.row: x for x in find_shared_turns(known, joined) if x.row not in exact}
    duplicates = [leak for leak in duplicates if leak.row not in turns]
    loaded = JoinedRecords([*map(restore_loaded_groups, queries.values())])
    leaks = [
        *duplicates,
        *turns.values(),
        *find_shared_groups(restore_loaded_groups(known), loaded),
    ]
    start = 0
    for other, records in queries.items():
        rows = range(start, start + len(records))
        own = [replace(leak, row=leak.row - start) for leak in leaks if leak.row in rows]
        are_given = name in given or other in given
        divides = divided_by == "technique" or (divided_by == "splitter" and not are_given)
        parts = ComparedParts(known, records, (name, other), are_given, divides)
        yield from _describe_leaks(own, parts)
        start += len(records)


def _describe_leaks(leaks: Sequence[Leak], parts: ComparedParts) -> Iterator[Finding]:
    for kind in LEAK_KINDS:
        chosen = sorted((leak for leak in leaks if leak.kind == kind), key=lambda leak: leak.row)
        if chosen:
            yield _build_finding(chosen, parts)


def _review_answers(train: Sequence[Record], test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a finding about test prompts that contain their answer, however the data was split."""
    leaks = list(find_contained_answers(test))
    if leaks and not is_by_design(train):
        yield _build_finding(leaks, ComparedParts(train, test, ("training", "test"), True))


def _build_finding(leaks: Sequence[Leak], parts: ComparedParts) -> Finding:
    kind, share = leaks[0].kind, len(leaks) / len(parts.queries)
    other, name = parts.names
    is_design = kind == "template" and (share >= BY_DESIGN or not parts.are_given)
    is_design |= kind == "group" and parts.divides_groups
    level: Literal["info", "warning", "error"] = "info" if is_design else "warning"
    if (
        kind in CERTAIN_KINDS
        and not is_design
        and share > MAX_TOLERATED_SHARE
        and parts.is_decisive
        and parts.are_given
    ):
        level = "error"
    rows = f"{len(leaks):,} of {len(parts.queries):,} {name} rows ({format_share(share)})"
    return Finding(
        level=level,
        where="data leaks",
        message=f"{rows} {MESSAGES[kind].format(other=other)}",
        count=len(leaks),
        examples=tuple(_describe(leak, parts) for leak in leaks[:MAX_EXAMPLES]),
        hint=DESIGN_HINTS[kind] if is_design else HINTS[kind],
        test_rows=tuple(leak.row for leak in leaks) if parts.is_decisive and not is_design else (),
    )


def _describe(leak: Leak, parts: ComparedParts) -> str:
    """Return the sources and prompts of both rows, quoting an identical prompt only once."""
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


def _similarity(match: NearestText) -> str:
    return f"5-grams {match.characters:.2f}, words {match.words:.2f}"


def _quote(record: Record) -> str:
    return f'"{mask_excerpt(prompt_text(record))}"'
