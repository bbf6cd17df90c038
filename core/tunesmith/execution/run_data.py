"""Load the data of a run, and split it into training, validation and test records.

One pass over the records checks, splits and fingerprints them. It keeps only hashes and indices.
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Dataset, Finding, Job, SkippedRow, Split, SplitRequest
from tunesmith.data.subset import Subset
from tunesmith.data.units import RecordsByUnit, cluster_each_record
from tunesmith.events import DataLoaded, Event
from tunesmith.execution.check_records import check_records
from tunesmith.fence import attribute_errors_to, check_unchanged, fence
from tunesmith.fence.returned import blame_plugin, check_dataset, check_split
from tunesmith.plan import Plan
from tunesmith.records import Message, Record, exchanges
from tunesmith.storage import Checkpoints, RunFolder, write_atomic

MEASURED_ROWS = 2_000
"""Maximum number of rows of a split that are counted by length, so that counting is fast."""


@dataclass(frozen=True)
class DataParts:
    """The records of each split, a hash of all records in loading order, and the split's findings.

    The ``group`` of a validation or test record names its unit, which counts as one sample.
    """

    train: Sequence[Record]
    validation: Sequence[Record]
    test: Sequence[Record]
    fingerprint: str
    findings: Sequence[Finding] = ()
    folds: Sequence[Sequence[int]] = ()
    """Numbers of the training records in each cross-validation fold, used if there are no
    validation records."""

    @property
    def measured(self) -> Sequence[Record]:
        """The records to choose evaluators for: the test records, or all records before a split."""
        return self.test or self.train

    def sample_training(self, seed: int) -> Sequence[Record]:
        """Return a random sample of training records, as many as test records if possible."""
        count = min(len(self.train), len(self.test))
        rows = random.Random(f"{seed}/training-rows").sample(range(len(self.train)), count)
        return Subset(self.train, sorted(rows))


def load_data(plan: Plan, *, splits: bool = True) -> tuple[Dataset, DataParts]:
    """Load the data of a plan and split it into training, validation and test records.

    Args:
        splits: if False, keep the data loader's own splits, for a check without the splitter.

    Raises:
        DataError: the data cannot be used, or the technique cannot train on a record.
    """
    plugin = plan.data.offered.plugin
    with fence(plugin, "load", guards_state=True):
        loaded = plan.data.offer.build(plan.data.config).load()
    with blame_plugin(plugin, "load"):
        dataset = check_dataset(loaded)
    digest = hashlib.sha256()

    def read(part: Sequence[Record], name: str) -> Iterator[Record]:
        """Yield a split's checked records; hash each without its source, which names a folder."""
        for record in check_records(part, name, plan):
            content = repr(record).replace(f"source={record.source!r}, ", "", 1)
            digest.update(f"{content}\n".encode("utf-8", "surrogatepass"))
            yield record
        digest.update(b"\n")

    with attribute_errors_to(plugin):  # content of another type is a bug in the loader
        for name, part in (("test", dataset.test), ("validation", dataset.validation)):
            if part is not None:
                deque(read(part, name), maxlen=0)
    records = read(dataset.train, "training")
    if splits:
        split = _split(plan, dataset, records)
    else:
        plan = replace(plan, find_clusters=cluster_each_record)
        split = Split(train=[row for row, _ in enumerate(records)])
    places = {row: place for place, row in enumerate(split.train)} if split.folds else {}
    for rows in (split.train, split.validation, split.test):
        digest.update(array("q", rows).tobytes() + b"\n")
    return dataset, DataParts(
        Subset(dataset.train, split.train),
        _find_units(plan, dataset.validation, dataset.train, split.validation, split),
        _find_units(plan, dataset.test, dataset.train, split.test, split),
        digest.hexdigest(),
        split.findings,
        [[places[row] for row in fold] for fold in split.folds],
    )


def _find_units(
    plan: Plan,
    own: Sequence[Record] | None,
    train: Sequence[Record],
    rows: Sequence[int],
    split: Split,
) -> Sequence[Record]:
    """Return a split: the loader's own or the splitter's; each record's group names its unit."""
    if own is not None:
        return RecordsByUnit(own, plan.find_clusters)
    clusters = [split.clusters[row] for row in rows] if split.clusters else ()
    return RecordsByUnit(Subset(train, rows), plan.find_clusters, clusters)


def _split(plan: Plan, dataset: Dataset, records: Iterator[Record]) -> Split:
    """Let the splitter split the training records, which it reads once, through ``records``.

    Raises:
        PluginError: the splitter lost a record, put one into two splits, or changed one.
    """
    request = SplitRequest(
        records=dataset.train,
        seed=plan.run.seed,
        test=dataset.test is None,
        test_size=plan.test_size,
        validation=dataset.validation is None,
        needs_validation=plan.technique.offer.needs_validation,
    )
    plugin, loader = plan.split.offered.plugin, plan.data.offered.plugin

    def read() -> Iterator[Record]:
        with attribute_errors_to(loader):  # the loader reads when the splitter asks for a record
            for record in records:
                content = hash(record)
                yield record
                check_unchanged([content], [record], plugin)

    rows = read()
    with fence(plugin, "split"):
        split = plan.split.offer.build(plan.split.config).split(rows, request)
    deque(rows, maxlen=0)
    with blame_plugin(plugin, "split"):
        return check_split(split, len(dataset.train))


def build_data_event(dataset: Dataset, parts: DataParts) -> DataLoaded:
    """Build the event for loaded data: sizes, skipped rows, fingerprint."""
    keys = ("where", "cause", "detail")
    return DataLoaded(
        description=dataset.description,
        train=len(parts.train),
        validation=len(parts.validation),
        test=len(parts.test),
        skipped=dict(Counter(row.cause for row in dataset.skipped)),
        examples=[{key: getattr(row, key) for key in keys} for row in dataset.skipped[:20]],
        fingerprint=parts.fingerprint,
        lengths={"train": count_lengths(parts.train), "test": count_lengths(parts.test)},
    )


def count_lengths(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Count prompts and answers by length, rounded up to a power of 2 characters.

    In a large split, only ``MEASURED_ROWS`` or fewer rows are counted.
    """
    counts: dict[str, Counter[str]] = {"prompt": Counter(), "answer": Counter()}
    for row in range(0, len(records), -(-len(records) // MEASURED_ROWS) or 1):
        with suppress(TypeError):  # a kind of record that a plugin defines has no exchanges
            for prompt, answer in exchanges(records[row]):
                turns = [m.shown_text for m in prompt if isinstance(m, Message)]
                for part, texts in (("prompt", turns), ("answer", [answer.shown_text])):
                    if any(texts):
                        counts[part][str(1 << (sum(map(len, texts)) - 1).bit_length())] += 1
    return {part: dict(found) for part, found in counts.items()}


def write_skipped(folder: RunFolder, skipped: Sequence[SkippedRow]) -> None:
    """Write the skipped rows, as they are in the data, to a file that only its owner can read."""
    if skipped:
        path = folder.path / "skipped.jsonl"
        write_atomic(path, "".join(json.dumps(asdict(row)) + "\n" for row in skipped))
        path.chmod(0o600)


def build_job(
    plan: Plan,
    model: Path,
    parts: DataParts,
    checkpoints: Checkpoints,
    emit: Callable[[Event], None],
) -> Job[Any]:
    """Build the technique's job, which writes to the parent folder of the checkpoints."""
    return Job(
        config=plan.technique.config,
        model=model,
        train=parts.train,
        validation=parts.validation,
        out=checkpoints.folder.parent,
        seed=plan.run.seed,
        device=plan.run.device,
        checkpoints=checkpoints,
        emit=emit,
        technique=plan.technique.offer.name,
        base_name=plan.found_model.hub_id or plan.found_model.reference,
        additions=plan.additions,
    )
