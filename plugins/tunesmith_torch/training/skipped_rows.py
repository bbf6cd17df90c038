"""Report skipped rows, store them, and limit their share.

The data loader reports rows that it cannot read. This module handles rows that are skipped during
tokenization, because they are too long or the chat template rejects them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tunesmith.contracts import Job, SkippedRow
from tunesmith.errors import DataError
from tunesmith.events import FindingReported
from tunesmith.text import format_count
from tunesmith_torch.data.streamed_examples import StreamedExamples
from tunesmith_torch.data.tokenized_records import TOO_LONG, TokenizedRecords
from tunesmith_torch.runtime import distributed

__all__ = ["check_skipped_share", "count_skip_reasons", "describe_remedy", "report_skipped"]

SKIPPED_FILE = "skipped-in-training.jsonl"
"""File in a job's folder of rows skipped in tokenization; the loader has ``skipped.jsonl``."""


def count_affected(tokenized: TokenizedRecords | StreamedExamples) -> dict[str, int]:
    """Return the number of rows that were skipped or changed, by cause."""
    if isinstance(tokenized, StreamedExamples):
        skipped = list(tokenized.skipped.values())
        changed = {"prompt was shortened": tokenized.truncated}
    else:
        skipped = list(tokenized.skipped)
        changed = {
            "prompt was shortened": len(tokenized.truncated),
            "text became several rows": len(tokenized.split_texts),
        }
    return count_skip_reasons(skipped) | {cause: count for cause, count in changed.items() if count}


def count_skip_reasons(skipped: Sequence[SkippedRow]) -> dict[str, int]:
    """Return the number of skipped rows by cause."""
    return dict(Counter(row.cause for row in skipped))


def report_skipped(job: Job[Any], skipped: Sequence[SkippedRow]) -> None:
    """Emit a warning for each cause, with the number of rows, and write the rows to a file."""
    for cause, count in Counter(row.cause for row in skipped).items():
        first = next(row for row in skipped if row.cause == cause)
        text = f"skipped {format_count(count, 'row')}: {cause}; first: {_locate(first)}"
        job.emit(FindingReported(level="warning", source="data", message=text))
    path = job.out / SKIPPED_FILE
    if distributed.is_rank_0() and (skipped or path.is_file()):
        job.out.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(map(_to_line, skipped)), encoding="utf-8")


def describe_remedy(limit: int, max_length: int) -> str:
    """Return advice about rows with more than ``limit`` tokens.

    A limit below ``max_length`` is the model's context, which no option can change.
    """
    if limit < max_length:
        return (
            f"shorten these rows, or choose a base model whose context is longer than {limit:,} "
            "tokens"
        )
    return "raise technique.max_length, or shorten these rows"


def check_skipped_share(
    skipped: Sequence[SkippedRow], rows: int, allowed: float, remedy: str = "shorten these rows"
) -> None:
    """Check that the share of skipped rows is at most the allowed share.

    ``remedy`` is advice about rows that are too long; see :func:`describe_remedy`.

    Raises:
        DataError: too many rows are skipped; the message lists the causes.
    """
    if len(skipped) <= allowed * rows:
        return
    causes = Counter(row.cause for row in skipped)
    first = {row.cause: row for row in reversed(skipped)}
    lines = [
        f"  {count:,} × {cause}, first at {_locate(first[cause])}"
        for cause, count in causes.most_common(10)
    ]
    summary = (
        f"skipped {len(skipped):,} of {format_count(rows, 'row')}, more than the technique's "
        f"max_skipped = {allowed:g} allows"
    )
    raise DataError(
        "training data",
        "\n".join([summary, *lines]),
        hint=f"{remedy if TOO_LONG in causes else 'correct these rows'}, or raise the technique's "
        "max_skipped to train without them",
        skipped=skipped,
    )


class StreamAccount:
    """Loads streamed examples; reports and limits the rows that are skipped in the process."""

    def __init__(
        self,
        job: Job[Any],
        examples: StreamedExamples,
        allowed: float,
        remedy: str = "shorten these rows",
    ) -> None:
        self._job = job
        self._examples = examples
        self._allowed = allowed
        self._remedy = remedy
        self._path = job.out / SKIPPED_FILE
        self._rows = len(examples) + len(examples.skipped_in_advance)
        known = {row.where: row for row in examples.skipped_in_advance}
        if job.checkpoints.newest() is not None and self._path.is_file():
            known |= {row.where: row for row in self._read_known()}
            examples.skipped |= known
        self._known_before = len(known)
        self._reported = {where: row.cause for where, row in known.items()}

    def _read_known(self) -> Iterator[SkippedRow]:
        """Yield the rows in the file; report damaged lines, whose rows are counted again later."""
        for number, line in enumerate(self._path.read_bytes().splitlines(), 1):
            try:
                yield SkippedRow(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                text = f"{self._path}:{number}: the line is damaged; its row is counted later"
                self._job.emit(FindingReported(level="warning", source="data", message=text))

    def load(self, rows: Sequence[int]) -> None:
        """Tokenize these rows unless they are loaded, and report the rows that are skipped.

        Raises:
            DataError: too many rows are skipped.
        """
        self._examples.load(rows)
        if len(self._examples.skipped) > len(self._reported):
            skipped = list(self._examples.skipped.values())
            self._report([row for row in skipped if row.where not in self._reported])
            self._check(skipped)

    def _report(self, skipped: Sequence[SkippedRow]) -> None:
        """Emit a warning for each new cause, and add the rows to the file."""
        for row in skipped:
            if row.cause not in self._reported.values():
                text = f"skipped rows: {row.cause}; first: {_locate(row)}"
                text += "; the total is reported after training"
                self._job.emit(FindingReported(level="warning", source="data", message=text))
            self._reported[row.where] = row.cause
        if distributed.is_rank_0():
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(map(_to_line, skipped))

    def _check(self, skipped: Sequence[SkippedRow]) -> None:
        """Check the share of skipped rows among all rows and among those loaded so far."""
        check_skipped_share(skipped, self._rows, self._allowed, self._remedy)
        # Batches are a random sample of the rows. More than four standard deviations above the
        # allowed share are not chance, so the run fails early instead of after an epoch.
        found, expected = len(skipped) - self._known_before, self._allowed * self._examples.seen
        if found > expected + 4 * math.sqrt(expected) + 1:
            check_skipped_share(skipped[-found:], self._examples.seen, self._allowed, self._remedy)


def _locate(row: SkippedRow) -> str:
    return f"{row.where} ({row.detail})" if row.detail else row.where


def _to_line(row: SkippedRow) -> str:
    return json.dumps(asdict(row)) + "\n"
