"""Load the data of a run, and split it into training and held-out records.

One pass over the records checks, splits and fingerprints them, and keeps hashes and indices only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tunesmith.contracts import Dataset, LeftOut
from tunesmith.data.splits import Splitter, Subset
from tunesmith.errors import DataError, PluginError
from tunesmith.events import DataLoaded
from tunesmith.execution.check_records import check_records
from tunesmith.global_state import preserve_global_state
from tunesmith.plan import Plan
from tunesmith.plugins import attribute_errors_to
from tunesmith.records import Record, content_key, last_exchange
from tunesmith.storage import RunFolder, write_atomic

MAX_DEFAULT_HOLDOUT_ROWS = 500
"""Upper limit of the default held-out part, which is a fifth of the data."""


@dataclass(frozen=True)
class DataParts:
    """The records to train on, those to evaluate on, and a hash of all in the order of loading."""

    train: Sequence[Record]
    heldout: Sequence[Record]
    fingerprint: str


def load_data(plan: Plan) -> tuple[Dataset, DataParts]:
    """Load the data of a plan and split it into training and held-out records.

    It does nothing else, so that ``tunesmith check`` can call it too.

    Raises:
        DataError: the data is unusable, or the technique cannot train on such records.
    """
    plugin = plan.data.offered.plugin
    with attribute_errors_to(plugin), preserve_global_state(keep_new_variables=True):
        dataset = plan.data.offer.build(plan.data.config).load()
    if not isinstance(dataset, Dataset):
        name = type(dataset).__name__
        raise PluginError(f'plugin "{plugin.full_name}" returned {name} in place of a Dataset')
    digest = hashlib.sha256()
    if dataset.heldout is not None:
        for name, part in (("training", dataset.train), ("held-out", dataset.heldout)):
            for record in check_records(part, name, plan):
                digest.update(f"{record!r}\n".encode("utf-8", "surrogatepass"))
            digest.update(b"\n")
        return dataset, DataParts(dataset.train, dataset.heldout, digest.hexdigest())
    splitter = Splitter(plan.run.seed)
    with attribute_errors_to(plugin):  # content of another type is a fault of the loader
        for record in check_records(dataset.train, "training", plan):
            digest.update(f"{record!r}\n".encode("utf-8", "surrogatepass"))
            splitter.add(content_key(record), record.group)
            if splitter.keeps_labels():
                splitter.add_label(last_exchange(record)[1].text.strip())
    splitter.keeps_labels(complete=True)
    default = min(MAX_DEFAULT_HOLDOUT_ROWS, max(1, round(0.2 * len(splitter))))
    try:
        indices = splitter.split(plan.holdout or default)
    except ValueError as error:
        raise DataError("data.holdout", str(error)) from None
    train, heldout = (Subset(dataset.train, part) for part in (indices.train, indices.heldout))
    return dataset, DataParts(train, heldout, digest.hexdigest())


def build_data_event(dataset: Dataset, parts: DataParts) -> DataLoaded:
    """Build the event for data that was loaded: sizes, unusable rows, fingerprint."""
    keys = ("where", "cause", "detail")
    return DataLoaded(
        description=dataset.description,
        train=len(parts.train),
        heldout=len(parts.heldout),
        left_out=dict(Counter(row.cause for row in dataset.left_out)),
        examples=[{key: getattr(row, key) for key in keys} for row in dataset.left_out[:20]],
        fingerprint=parts.fingerprint,
    )


def write_quarantine(folder: RunFolder, left_out: Sequence[LeftOut]) -> None:
    """Write the rows that were left out, as they are, to a file that only this user can read."""
    if left_out:
        path = folder.path / "quarantine.jsonl"
        write_atomic(path, "".join(json.dumps(asdict(row)) + "\n" for row in left_out))
        path.chmod(0o600)
