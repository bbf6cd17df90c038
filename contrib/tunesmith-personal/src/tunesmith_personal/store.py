"""The store of users' adapters: banks of safetensors, and an index in SQLite.

::

    users/
      index.sqlite            a row per user: bank, row in it, SHA-256, training, decision;
                              the training rows of users who get a baseline that needs them
      bank-3f2a....safetensors    the vectors of some users, [users, P]

Readers map a bank into memory and read one row, which they compare with its SHA-256. A bank is
written under a new name before the index refers to it, in one transaction, and never changes. So a
crash leaves either the old or the new state, and at most a bank that no row refers to, which the
next writer deletes.

The index has the users' names, and numbers about their training. It has texts only of users whose
best baseline shows their rows to a model, or learns from them.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tunesmith.errors import IntegrityError, UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import one_line, suggest_name
from tunesmith_evidence.tasks.examples import Example

FOLDER, INDEX, TENSOR = "users", "index.sqlite", "vectors"
OWN = "own"
"""The decision that a user gets the own adapter."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS users (user TEXT PRIMARY KEY, note TEXT NOT NULL, rows INTEGER, "
    "steps INTEGER, first_loss REAL, best_loss REAL, bank TEXT, place INTEGER, sha256 TEXT, "
    "served TEXT, probability REAL, low REAL, high REAL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS examples (user TEXT PRIMARY KEY, k INTEGER, rows TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS banks ON users (bank, place)",
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A user's entry in the index."""

    user: str
    note: str
    """Why the user has no own adapter; empty if there is one."""
    rows: int
    """Number of training rows."""
    steps: int = 0
    first_loss: float | None = None
    """Loss of the shared adapter on the user's validation rows, in nats per token."""
    best_loss: float | None = None
    bank: str | None = None
    place: int | None = None
    sha256: str | None = None
    served: str | None = None
    """``own``, or the name of the best baseline; None: not measured."""
    probability: float | None = None
    """Probability that the own adapter beats the best baseline."""
    low: float | None = None
    """Bounds of the 95 % interval of the own adapter's gain over the best baseline."""
    high: float | None = None

    @property
    def has_adapter(self) -> bool:
        """True if the user has an own adapter."""
        return self.bank is not None


_COLUMNS = [field.name for field in fields(Entry)]
"""The columns of the table ``users``, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The model that a user is served, and the evidence for it."""

    user: str
    served: str
    """:data:`OWN`, or the name of a baseline."""
    probability: float | None = None
    interval: tuple[float, float] | tuple[None, None] = (None, None)
    k: int = 0
    examples: Sequence[Example] = ()
    """The rows that the baseline needs to answer, and the number of them that a prompt shows."""


class Store:
    """The adapters of the users of a run."""

    def __init__(self, run: Path) -> None:
        """Open the store of a run folder.

        Raises:
            UsageError: the run has no store.
        """
        self.folder = run / FOLDER
        if not (self.folder / INDEX).is_file():
            raise UsageError(
                f"{run}: the run has no users' adapters",
                hint='train with [technique] use = "personal"',
            )

    @classmethod
    def create(cls, run: Path, meta: Mapping[str, str]) -> Store:
        """Open the store of a run folder for writing; create it if necessary.

        Raises:
            IntegrityError: the store belongs to another shared adapter.
        """
        folder = run / FOLDER
        folder.mkdir(exist_ok=True, mode=0o700)
        with closing(sqlite3.connect(folder / INDEX)) as index, index:
            index.executescript(";".join(_SCHEMA))
        store = cls(run)
        with store._write() as index:
            known = dict(index.execute("SELECT key, value FROM meta"))
            if known and known != meta:
                raise IntegrityError(
                    f"{folder}: the adapters in it belong to another shared adapter",
                    hint="restore the run folder from a backup, or start a new run",
                )
            index.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
        store.remove_unused_banks()
        return store

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Open the index for one transaction."""
        with closing(sqlite3.connect(self.folder / INDEX, isolation_level=None)) as index:
            index.execute("PRAGMA synchronous = FULL")
            index.execute("PRAGMA secure_delete = ON")  # a crash may come before VACUUM
            index.execute("BEGIN IMMEDIATE")
            try:
                yield index
            except BaseException:
                index.execute("ROLLBACK")
                raise
            index.execute("COMMIT")

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / INDEX
        try:  # a reader must be able to undo the transaction of a killed process
            with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as index:
                yield index
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                f"{path}: the index is damaged: {error}", hint="restore it from a backup"
            ) from None

    # ------------------------------------------------------------------ read

    def meta(self, key: str) -> str:
        """Return a fact about the store."""
        with self._read() as index:
            return str(index.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    def entries(self) -> list[Entry]:
        """Return all users, sorted by name."""
        return self._select("SELECT * FROM users ORDER BY user")

    def find(self, user: str) -> Entry | None:
        """Return a user, or None if the store does not have this name."""
        return next(iter(self._select("SELECT * FROM users WHERE user = ?", user)), None)

    def read_examples(self, user: str) -> tuple[list[Example], int]:
        """Return the rows that a user's baseline needs, and the number of them in a prompt."""
        query = "SELECT rows, k FROM examples WHERE user = ?"
        with self._read() as index:
            rows, k = index.execute(query, (user,)).fetchone() or ("[]", 0)
        return [Example(*row) for row in json.loads(rows)], k

    def _select(self, query: str, *values: str) -> list[Entry]:
        with self._read() as index:
            rows = index.execute(query, values)
            return [Entry(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def require(self, user: str) -> Entry:
        """Return a user.

        Raises:
            UsageError: the store does not have this user.
        """
        found = self.find(user)
        if found is None:
            names = [entry.user for entry in self.entries()]
            similar = suggest_name(user, names)
            hint = f"did you mean {one_line(similar)}?" if similar else "see `adapters list`"
            raise UsageError(f"there is no user {one_line(user)} in {self.folder}", hint=hint)
        return found

    def vector(self, entry: Entry) -> Tensor:
        """Return a user's adapter as one vector, after comparing it with its SHA-256.

        Raises:
            UsageError: the user has no own adapter.
            IntegrityError: the bank is missing or damaged.
        """
        if entry.bank is None:
            raise UsageError(f"{one_line(entry.user)} has no own adapter: {entry.note}")
        path = self.folder / entry.bank
        try:
            with safe_open(path, "pt") as bank:
                vector_P: Tensor = bank.get_slice(TENSOR)[entry.place]
        except (OSError, SafetensorError, IndexError) as error:
            raise self._damaged(path, str(error)) from None
        if compute_digest(vector_P) != entry.sha256:
            raise self._damaged(path, "the content has changed")
        return vector_P

    def _damaged(self, path: Path, reason: str) -> IntegrityError:
        return IntegrityError(
            f"{path}: cannot be read: {reason:.200}",
            hint="restore it from a backup, or train again",
        )

    # ------------------------------------------------------------------ write

    def add(self, entries: Iterable[Entry], vectors: Mapping[str, Tensor]) -> None:
        """Store new users, with the adapters of those that have one."""
        placed, bank = {e.user: e for e in entries}, None
        if vectors:
            bank = self._write_bank([*vectors.values()])
        for place, (user, vector_P) in enumerate(vectors.items()):
            placed[user] = replace(
                placed[user], bank=bank, place=place, sha256=compute_digest(vector_P)
            )
        with self._write() as index:
            index.executemany(
                "INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [tuple(vars(entry)[name] for name in _COLUMNS) for entry in placed.values()],
            )

    def record_decisions(self, decisions: Sequence[Decision]) -> None:
        """Store what each user gets, in place of earlier decisions."""
        rows = [
            (d.k, json.dumps([*map(astuple, d.examples)]), d.user) for d in decisions if d.examples
        ]
        with self._write() as index:
            index.executemany(
                "UPDATE users SET served = ?, probability = ?, low = ?, high = ? WHERE user = ?",
                [(d.served, d.probability, *d.interval, d.user) for d in decisions],
            )
            index.executemany("DELETE FROM examples WHERE user = ?", [(d.user,) for d in decisions])
            index.executemany(
                "INSERT INTO examples SELECT user, ?, ? FROM users WHERE user = ?", rows
            )

    def forget(self, user: str) -> None:
        """Delete a user: rewrite the bank without the user's row, then the index.

        The vectors of the other users keep their bits. The user is known until the former bank has
        been deleted, so that a command that was interrupted can be repeated.
        """
        entry = self.require(user)
        others: list[Entry] = []
        bank = None
        if entry.bank is not None:
            query = "SELECT * FROM users WHERE bank = ? ORDER BY place"
            same_bank = self._select(query, entry.bank)
            others = [other for other in same_bank if other.user != user]
            if others:
                bank = self._write_bank([self.vector(e) for e in others])
        with self._write() as index:
            index.executemany(
                "UPDATE users SET bank = ?, place = ? WHERE user = ?",
                [(None, None, user), *((bank, place, e.user) for place, e in enumerate(others))],
            )
        self.remove_unused_banks()
        with self._write() as index:
            index.execute("DELETE FROM users WHERE user = ?", (user,))
            index.execute("DELETE FROM examples WHERE user = ?", (user,))
        with closing(sqlite3.connect(self.folder / INDEX)) as index:
            index.execute("VACUUM")  # otherwise deleted names stay in free pages

    def remove_unused_banks(self) -> None:
        """Delete the banks that no user refers to, such as those of an interrupted command."""
        with self._read() as index:
            used = {row[0] for row in index.execute("SELECT DISTINCT bank FROM users")}
        for path in self.folder.glob("bank-*.safetensors"):
            if path.name not in used:
                path.unlink()

    def _write_bank(self, vectors: Sequence[Tensor]) -> str:
        name = f"bank-{secrets.token_hex(8)}.safetensors"
        write_atomic(self.folder / name, save({TENSOR: torch.stack([*vectors])}))
        return name


def compute_digest(vector_P: Tensor) -> str:
    """Return the SHA-256 of a vector's numbers."""
    return hashlib.sha256(vector_P.contiguous().numpy().tobytes()).hexdigest()
