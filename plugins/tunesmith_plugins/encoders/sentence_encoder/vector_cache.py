"""Cache vectors on disk for all runs, in an SQLite database of bounded size.

SQLite makes each write atomic and lets several processes share the file. The cache is only an
optimization: if the file is damaged or cannot be written, vectors are computed again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 500_000_000
"""Maximum size of the stored vectors in bytes; beyond it, the oldest tenth is deleted."""
TIMEOUT_SECONDS = 10.0
"""Maximum time to wait for another process that writes to the cache."""
_TABLE = "CREATE TABLE IF NOT EXISTS vectors (key BLOB UNIQUE, vector BLOB)"
_DELETE_TENTH = (
    "DELETE FROM vectors WHERE rowid IN "
    "(SELECT rowid FROM vectors ORDER BY rowid LIMIT (SELECT 1 + count(*) / 10 FROM vectors))"
)


class VectorCache:
    """Stores the vectors of texts for one encoder."""

    def __init__(self, path: Path, encoder: bytes, max_bytes: int = MAX_BYTES) -> None:
        """Use the database in ``path``. ``encoder`` is a digest of the encoder."""
        self._path = path
        self._encoder = encoder
        self._max_bytes = max_bytes

    def read(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of those texts that have a stored, undamaged vector."""
        vectors: dict[str, NDArray[np.float32]] = {}

        def select(database: sqlite3.Connection) -> None:
            query = "SELECT vector FROM vectors WHERE key = ?"
            for text in dict.fromkeys(texts):
                if row := database.execute(query, [self._key(text)]).fetchone():
                    vectors[text] = np.frombuffer(row[0], "<f4")

        self._use(select)
        return {text: vector for text, vector in vectors.items() if _is_intact(vector)}

    def write(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Store vectors by text, and delete the oldest ones if the cache becomes too large."""
        stored = [
            (self._key(text), vector.astype("<f4").tobytes()) for text, vector in vectors.items()
        ]

        def insert(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", stored)
            while _used_bytes(database) > self._max_bytes:
                database.execute(_DELETE_TENTH)

        self._use(insert)

    def _key(self, text: str) -> bytes:
        content = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, digest_size=24, key=self._encoder).digest()

    def _use(self, action: Callable[[sqlite3.Connection], None]) -> None:
        """Call ``action`` in a transaction. Ignore failed access, and delete a damaged file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)  # vectors reveal what a text is about
            with (
                closing(sqlite3.connect(self._path, timeout=TIMEOUT_SECONDS)) as database,
                database,
            ):
                database.execute(_TABLE)
                action(database)
        except (OSError, sqlite3.OperationalError):
            pass  # a full disk, a read-only folder, or another process that writes for long
        except sqlite3.DatabaseError:  # the file is damaged
            with suppress(OSError):
                self._path.unlink()


def _used_bytes(database: sqlite3.Connection) -> int:
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _is_intact(vector: NDArray[np.float32]) -> bool:
    """Return True if a vector has length 1, like every vector of an encoder."""
    return bool(abs(float(vector @ vector) - 1) < 1e-3)
