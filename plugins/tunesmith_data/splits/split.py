"""Split records into training, validation and test rows without leaks between them.

::

    rows -> RowTable -> find_clusters -> choose test clusters -> choose validation clusters -> rest
                                         |
              assignments of earlier rows, which never change

A score is only meaningful if the model was not trained on the same questions. Therefore, rows with
equal or near-duplicate prompts, or of one group, stay in the same split. The result depends on the
content of the rows, not on their order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tunesmith.contracts import Finding, Split, SplitRequest
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith.text import format_count
from tunesmith_data.splits.assignments import PARTS, Assignments, RowKeys, Settings
from tunesmith_data.splits.choose import choose_clusters
from tunesmith_data.splits.clusters import Clusters, find_clusters
from tunesmith_data.splits.folds import MAX_FOLD_ROWS, make_folds
from tunesmith_data.splits.rows import RowTable
from tunesmith_data.splits.sizes import (
    MIN_ROWS_FOR_VALIDATION,
    count_test_rows,
    count_validation_rows,
)

MAX_EXAMPLES = 3


def split_records(
    records: Iterable[Record],
    request: SplitRequest,
    *,
    validation: float | int | None = None,
    near_duplicates: bool | None = None,
    file: Path | None = None,
) -> Split:
    """Split records into training, validation and test rows.

    Args:
        records: the records of the request, which are read once.
        request: the splits that are needed, with their sizes and the seed.
        validation: share or number of validation rows. None: a tenth of the rows that are not test
            rows, if there are at least 100 of them.
        near_duplicates: keep rows with near-duplicate prompts together; None: up to 100,000 rows.
        file: split file with earlier assignments. Known rows keep their split, and new rows are
            added to the file.

    Raises:
        DataError: the records cannot be split, or the file is damaged.
    """
    settings: Settings = {"test_size": request.test_size, "validation_size": validation}
    assignments = Assignments.read(file) if file is not None else None
    table = RowTable(assignments.seed if assignments else request.seed)
    for record in records:
        table.add(record)
    table.finish()
    needs_folds = (
        request.validation and len(table) <= MAX_FOLD_ROWS
    )  # in case of no validation rows
    if not (file or needs_folds or _is_anything_split_off(request, len(table), validation)):
        return Split(train=range(len(table)))
    clusters = find_clusters(table, request.records, near_duplicates=near_duplicates)
    keys = RowKeys.of(table, request.records) if file is not None else None
    known = assignments.parts_of(keys) if assignments and keys else {}
    parts, bridges = _known_clusters(clusters, known)
    sizes = _add_parts(parts, clusters, table, request, validation)
    names = [
        known.get(row) or parts[cluster] for row, cluster in enumerate(clusters.of_row.tolist())
    ]
    findings = [*clusters.findings, *(() if known else sizes)]
    if file is not None and keys is not None:
        findings += _bridge_findings(bridges, clusters, known, names, request.records)
        assignments = assignments or Assignments(table.seed, settings)
        findings += [*assignments.compare(settings, file), *assignments.extend(file, keys, names)]
    rows, of_row = _rows_by_part(names), clusters.of_row.tolist()
    has_validation = bool(rows["validation"]) or not request.validation
    folds = [] if has_validation else make_folds(rows["train"], clusters.ranks(), table.seed)
    return Split(**rows, clusters=of_row, folds=folds, findings=findings)


def _is_anything_split_off(
    request: SplitRequest, total: int, validation: float | int | None
) -> bool:
    """Return True if any split has to be created, so that rows have to be compared."""
    default = count_validation_rows(None, total, needed=request.needs_validation)
    return request.test or (
        request.validation and (default if validation is None else validation) > 0
    )


def _add_parts(
    parts: dict[int, str],
    clusters: Clusters,
    table: RowTable,
    request: SplitRequest,
    validation: float | int | None,
) -> list[Finding]:
    """Assign a split to every cluster without a split; report sizes that could not be met.

    Raises:
        DataError: a requested size is not possible, or all rows have to stay together.
    """
    key, total = "data.test_size", len(table)
    findings: list[Finding] = []
    try:
        if request.test:
            size = count_test_rows(request.test_size, total)
            if len(clusters.order) == 1:
                raise _explain_single_cluster(key, table)
            _add_part(parts, "test", size, clusters, table)
            findings += _report_size(parts, "test", size, clusters)
        key = "split.validation_size"
        if request.validation:
            rest = total - _count_rows(parts, "test", clusters)
            size = count_validation_rows(validation, rest, needed=request.needs_validation)
            _add_part(parts, "validation", size, clusters, table)
            findings += _report_size(parts, "validation", size, clusters)
            wanted = total - count_test_rows(request.test_size, total) if request.test else rest
            if validation is None and not size and wanted >= MIN_ROWS_FOR_VALIDATION:
                findings.append(_no_default_validation(rest))
    except ValueError as error:
        raise DataError(key, str(error)) from None
    for cluster in clusters.order:
        parts.setdefault(cluster, "train")
    return findings


def _explain_single_cluster(key: str, table: RowTable) -> DataError:
    """Return the error for rows that all have to stay together."""
    total, test_file = len(table), "use a separate test file (data.test)"
    if table.groups[0] and len(set(table.groups)) == 1:
        text = f"the data cannot be split, because all {total:,} rows are in one group"
        hint = f"{test_file}, or split the group: remove `group` from [data]; for a single "
        return DataError(key, text, hint=f"{hint}document, set data.split_documents = true")
    text = (
        f"the data cannot be split, because all {total:,} rows are alike: they have the same "
        "prompt or the same start of a conversation"
    )
    return DataError(key, text, hint=f"add rows with other prompts, or {test_file}")


def _report_size(
    parts: Mapping[int, str], part: str, asked: int, clusters: Clusters
) -> Iterator[Finding]:
    """Yield a finding if a split's size differs from the requested one by more than a quarter."""
    found = _count_rows(parts, part, clusters)
    if abs(found - asked) <= max(1, asked / 4):
        return
    key, name = {
        "test": ("data.test_size", "test"),
        "validation": ("split.validation_size", "validation"),
    }[part]
    message = (
        f"{found:,} {name} rows instead of the requested {asked:,}: rows with similar prompts, "
        "of one conversation or of one group stay together, in "
        f"{format_count(len(clusters.order), 'cluster')} of up to {clusters.largest:,} rows"
    )
    hint = "add rows with other prompts, or use a separate file for this split"
    is_far = not asked / 2 <= found <= 2 * asked
    yield Finding(level="warning" if is_far else "info", where=key, message=message, hint=hint)


def _no_default_validation(rows: int) -> Finding:
    """Return a finding for data with too few rows for a default validation split."""
    message = (
        f"no validation rows were set aside: only {rows:,} rows remain besides the test rows, and "
        f"the default needs {MIN_ROWS_FOR_VALIDATION}"
    )
    hint = (
        "set split.validation_size = 20 to set rows aside anyway; otherwise, choices are made by "
        "cross-validation on the training rows"
    )
    return Finding(level="info", where="split.validation_size", message=message, hint=hint)


def _add_part(
    parts: dict[int, str], part: str, size: int, clusters: Clusters, table: RowTable
) -> None:
    """Choose clusters for a split until it has ``size`` rows, including the rows it already has."""
    free = [cluster for cluster in clusters.order if cluster not in parts]
    missing = size - _count_rows(parts, part, clusters)
    if free and missing > 0:
        chosen = choose_clusters(free, clusters, table, missing)
        parts.update(dict.fromkeys(chosen, part))


def _count_rows(parts: Mapping[int, str], part: str, clusters: Clusters) -> int:
    return sum(clusters.sizes[cluster] for cluster, name in parts.items() if name == part)


def _known_clusters(
    clusters: Clusters, known: Mapping[int, str]
) -> tuple[dict[int, str], list[int]]:
    """Return the split of each cluster with known rows, and clusters that bridge several.

    The new rows of a bridge become training rows, because as test rows they would have duplicates
    in training.
    """
    found: dict[int, set[str]] = {}
    for row, part in known.items():
        found.setdefault(int(clusters.of_row[row]), set()).add(part)
    parts = {c: next(iter(names)) if len(names) == 1 else "train" for c, names in found.items()}
    return parts, [cluster for cluster, names in found.items() if len(names) > 1]


def _bridge_findings(
    bridges: Sequence[int],
    clusters: Clusters,
    known: Mapping[int, str],
    names: Sequence[str],
    records: Sequence[Record],
) -> list[Finding]:
    """Return a warning if new rows connect similar rows in different splits."""
    if not bridges:
        return []
    joined = set(bridges)
    rows = [
        row for row in sorted(known) if clusters.of_row[row] in joined and names[row] != "train"
    ]
    message = (
        f"{len(rows):,} test or validation rows now resemble a training row, because added rows "
        "connect them, so scores on them may be too high"
    )
    test = (row for row, name in enumerate(names) if name == "test")
    finding = Finding(
        level="warning",
        where="split.file",
        message=message,
        count=len(rows),
        examples=tuple(records[row].source for row in rows[:MAX_EXAMPLES]),
        hint="scores are also reported without these rows; delete the file to split all rows again",
        test_rows=tuple(n for n, row in enumerate(test) if clusters.of_row[row] in joined),
    )
    return [finding]


def _rows_by_part(names: Iterable[str]) -> dict[str, array[int]]:
    rows = {part: array("l") for part in PARTS}
    for row, name in enumerate(names):
        rows[name].append(row)
    return rows
