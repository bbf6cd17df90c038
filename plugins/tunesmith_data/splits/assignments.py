"""Read and write split files, which fix the split of every row when new rows are added.

A split file contains hashes, but no text::

    {"version": 1, "seed": 42, "settings": {"test_size": 0.2, "validation_size": null},
     "rows": {"train": ["0f3a...", ...], "validation": [...], "test": [...]},
     "prompts": {"train": [...], "validation": [...], "test": [...]}}
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from tunesmith import distributed
from tunesmith.contracts import Finding
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_data.splits.normalize import normalize_text
from tunesmith_data.splits.rows import RowTable
from tunesmith_data.text import content_key

PARTS: Final = ("train", "validation", "test")
VERSION = 1
Settings: TypeAlias = dict[str, float | int | None]


@dataclass(frozen=True)
class RowKeys:
    """Hashes of the content and of the prompt of each row."""

    rows: Sequence[int]
    """Hash of each row's content."""
    prompts: Sequence[int]
    """Hash of each row's prompt."""

    @classmethod
    def of(cls, table: RowTable, records: Iterable[Record]) -> RowKeys:
        """Return the keys of all rows; the records are read again."""
        contents = (normalize_text(content_key(record)) for record in records)
        return cls(array("Q", (table.digest("row", text) for text in contents)), table.prompts)


@dataclass(frozen=True)
class Assignments:
    """The split of each row, by the hash of the row and by the hash of its prompt.

    If a row's answer is corrected, its prompt still identifies the row.
    """

    seed: int
    """Seed of the hashes."""
    settings: Settings
    """Requested sizes of the splits when the file was created."""
    rows: dict[int, str] = field(default_factory=dict)
    """Maps row hashes to split names."""
    prompts: dict[int, str] = field(default_factory=dict)
    """Maps prompt hashes to split names, for prompts whose rows are all in the same split."""

    @classmethod
    def read(cls, path: Path) -> Assignments | None:
        """Read a split file; return None if it does not exist yet.

        Raises:
            DataError: the file is not a valid split file.
        """
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise ValueError(f"unknown version {content['version']}")
            rows, prompts = (
                {int(text, 16): part for part in PARTS for text in content[kind][part]}
                for kind in ("rows", "prompts")
            )
            return cls(int(content["seed"]), dict(content["settings"]), rows, prompts)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            hint = "restore the file, or delete it to split all rows again"
            raise DataError(str(path), f"is not a valid split file: {error}", hint=hint) from None

    def parts_of(self, keys: RowKeys) -> dict[int, str]:
        """Return the splits of all assigned rows, as a mapping from row numbers."""
        found = (
            (number, self.rows.get(row) or self.prompts.get(prompt))
            for number, (row, prompt) in enumerate(zip(keys.rows, keys.prompts, strict=True))
        )
        return {number: part for number, part in found if part is not None}

    def compare(self, settings: Settings, path: Path) -> list[Finding]:
        """Return a warning if the requested sizes have changed; known rows keep their split."""
        changed = [key for key, value in settings.items() if value != self.settings.get(key)]
        if not changed:
            return []
        old, new = (
            ", ".join(f"{key} = {given.get(key) or 'default'}" for key in changed)
            for given in (self.settings, settings)
        )
        message = (
            f"{path.name} was made with {old}; {new} applies only to added rows: delete the file "
            "to split all rows again"
        )
        return [Finding(level="warning", where="split.file", message=message)]

    def extend(self, path: Path, keys: RowKeys, names: Sequence[str]) -> list[Finding]:
        """Add unassigned rows to the file; return a finding with their number, or none."""
        new = [pair for pair in zip(keys.rows, names, strict=True) if pair[0] not in self.rows]
        if not new:
            return []
        prompts = dict(self.prompts)
        for prompt, name in zip(keys.prompts, names, strict=True):
            if prompts.setdefault(prompt, name) != name:
                prompts[prompt] = ""  # its rows are in several splits
        if distributed.rank() == 0:
            tables = {"rows": {**self.rows, **dict(new)}, "prompts": prompts}
            lists = {kind: _by_part(table) for kind, table in tables.items()}
            content = {"version": VERSION, "seed": self.seed, "settings": self.settings, **lists}
            write_atomic(path, json.dumps(content, indent=0) + "\n")
        counts = Counter(name for _, name in new)
        text = ", ".join(f"{counts[part]:,} {part}" for part in PARTS if counts[part])
        rows = f"{format_count(len(new), 'row')} {'was' if len(new) == 1 else 'were'}"
        message = f"{rows} assigned and written to {path.name}: {text}"
        return [Finding(level="info", where="split.file", message=message)]


def _by_part(table: dict[int, str]) -> dict[str, list[str]]:
    return {
        part: sorted(f"{key:016x}" for key, name in table.items() if name == part) for part in PARTS
    }
