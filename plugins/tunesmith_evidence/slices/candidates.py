"""Build candidate slices, which are groups of rows that a person can name.

Candidates depend only on the inputs and the expected answers, and never on a model's answers or
scores. Their selection therefore does not bias a test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith_evidence.slices.rows import ScoredRow
from tunesmith_evidence.tasks.kinds import detect_task_kind

__all__ = ["MIN_ROWS", "Slice"]

MIN_ROWS = 20
MIN_SHARE = 0.05
MAX_VALUES = 50
"""A column with more distinct values than this identifies rows, and does not provide slices."""
ROWS_PER_CLUSTER = 30
CLUSTERS = (3, 5, 8, 12)
"""Numbers of clusters to try, because the number of topics is unknown."""
WORDS_IN_NAME = 3
_SOURCE = re.compile(r"(.+), row \d+|(.+):[^:]*", re.DOTALL)
"""``file:line``, or ``file, row number``."""


@dataclass(frozen=True)
class Slice:
    """Rows with a common property, such as a label or a length, where a model may be weak."""

    name: str
    kind: str
    """``column``, ``label``, ``length``, ``source`` or ``cluster``."""
    members: frozenset[int]
    """Indices of the slice's rows, counted from 0."""


def find_candidates(rows: Sequence[ScoredRow]) -> list[Slice]:
    """Return all distinct slices that are large enough to be tested.

    Both the slice and the remaining rows must have at least 20 rows and 5 % of all rows.
    """
    smallest = max(MIN_ROWS, math.ceil(MIN_SHARE * len(rows)))
    found: dict[frozenset[int], Slice] = {}
    for make in (_columns, _labels, _lengths, _sources, _clusters):
        for candidate in make(rows):
            if smallest <= len(candidate.members) <= len(rows) - smallest:
                found.setdefault(candidate.members, candidate)
    return [*found.values()]


def _by_value(
    rows: Sequence[ScoredRow], kind: str, title: str, value: Callable[[ScoredRow], str | None]
) -> Iterator[Slice]:
    members: dict[str, set[int]] = {}
    for position, row in enumerate(rows):
        found = value(row)
        if found is not None:
            members.setdefault(found, set()).add(position)
    if len(members) > MAX_VALUES:
        return
    for name, positions in sorted(members.items()):
        yield Slice(f"{title} = {name}", kind, frozenset(positions))


def _columns(rows: Sequence[ScoredRow]) -> Iterator[Slice]:
    for column in dict.fromkeys(name for row in rows for name, _ in row.columns):

        def value(row: ScoredRow, column: str = column) -> str | None:
            return dict(row.columns).get(column)

        yield from _by_value(rows, "column", column, value)


def _labels(rows: Sequence[ScoredRow]) -> Iterator[Slice]:
    if detect_task_kind([row.expected for row in rows]) == "classes":
        yield from _by_value(rows, "label", "expected answer", lambda row: row.expected.strip())


def _sources(rows: Sequence[ScoredRow]) -> Iterator[Slice]:
    def file(row: ScoredRow) -> str | None:
        match = _SOURCE.fullmatch(row.source)
        return match and (match.group(1) or match.group(2))

    yield from _by_value(rows, "source", "file", file)


def _lengths(rows: Sequence[ScoredRow]) -> Iterator[Slice]:
    """Yield slices with the shortest and the longest quarter of prompts and of expected answers."""
    for what, text in (
        ("prompt", lambda row: "".join(part for _, part in row.prompt)),
        ("expected answer", lambda row: row.expected),
    ):
        lengths = [len(text(row)) for row in rows]
        ordered = sorted(lengths)
        if not ordered or ordered[0] == ordered[-1]:
            continue
        low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
        for name, members in (
            (f"{what} of at most {low} characters", {i for i, n in enumerate(lengths) if n <= low}),
            (
                f"{what} of {high} characters or more",
                {i for i, n in enumerate(lengths) if n >= high},
            ),
        ):
            yield Slice(name, "length", frozenset(members))


def _clusters(rows: Sequence[ScoredRow]) -> Iterator[Slice]:
    """Yield clusters of similar prompts, named after their most typical words."""
    texts = [row.question for row in rows]
    most = min(len(rows) // ROWS_PER_CLUSTER, len(set(texts)) - 1)
    counts = [count for count in CLUSTERS if count <= most]
    if not counts:
        return
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=5_000, sublinear_tf=True, max_df=0.5)
    try:
        vectors = vectorizer.fit_transform(texts)
    except ValueError:  # no words at all
        return
    words = vectorizer.get_feature_names_out()
    for count in counts:
        fitted = KMeans(n_clusters=count, n_init=3, random_state=0).fit(vectors)
        labels = fitted.labels_.tolist()
        for cluster, center in enumerate(fitted.cluster_centers_):
            top = center.argsort()[::-1][:WORDS_IN_NAME]
            name = "prompts about " + ", ".join(str(words[index]) for index in top)
            members = frozenset(i for i, label in enumerate(labels) if label == cluster)
            yield Slice(name, "cluster", members)
