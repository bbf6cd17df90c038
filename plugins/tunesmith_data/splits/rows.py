"""Collect the hashes and labels that a split needs: about 32 bytes per record."""

from __future__ import annotations

from array import array
from hashlib import blake2b

from tunesmith.records import Record, Text, last_exchange
from tunesmith_data.near_duplicates import compute_text_keys
from tunesmith_data.splits.exchanges import has_earlier_exchanges
from tunesmith_data.splits.normalize import normalize_texts, prompt_text

MAX_CLASS_LABELS = 100
"""Answers count as class labels if there are at most this many distinct answers."""

MAX_PENDING_CHARACTERS = 1 << 18
"""Number of prompt characters to normalize in one batch, for speed."""


class RowTable:
    """Collects each record's prompt hash, group hash and label.

    Hashes are salted with a seed, so sorting by them gives a random order. The keys of prompts are
    not salted: they are equal if the leak check considers two prompts equal.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._salt = str(seed).encode()
        self.prompts = array("Q")
        self.keys = array("Q")  # 0: the prompt has no content
        self.groups = array("Q")  # 0: the record has no group
        self.labels = array("l")  # empty: the answers are not labels
        self.has_earlier_exchanges = False
        self._label_codes: dict[str, int] = {}
        self._has_labels = True
        self._pending: list[str] = []
        self._pending_characters = 0

    def __len__(self) -> int:
        return len(self.prompts) + len(self._pending)

    def add(self, record: Record) -> None:
        """Add the next record."""
        self._pending.append(prompt_text(record))
        self._pending_characters += len(self._pending[-1])
        if self._pending_characters >= MAX_PENDING_CHARACTERS:
            self._digest_prompts()
        self.has_earlier_exchanges |= has_earlier_exchanges(record)
        self.groups.append(self.digest("group", record.group) if record.group is not None else 0)
        if self._has_labels and not isinstance(record, Text):
            answer = last_exchange(record)[1].text.strip()
            self.labels.append(self._label_codes.setdefault(answer, len(self._label_codes)))
            self._forget_labels_above(MAX_CLASS_LABELS)

    def finish(self) -> None:
        """Finish the prompts; decide if the answers are labels (3 rows per label on average)."""
        self._digest_prompts()
        self._forget_labels_above(min(MAX_CLASS_LABELS, len(self) // 3))
        if len(self.labels) != len(self):
            self._forget_labels_above(-1)

    @property
    def label_texts(self) -> list[str]:
        """The texts of the labels, indexed by code."""
        return list(self._label_codes)

    def digest(self, kind: str, text: str) -> int:
        """Return the salted hash of a text as a positive number."""
        found = blake2b(self._salt, digest_size=8)
        found.update(f"\0{kind}\0{text}".encode("utf-8", "surrogatepass"))
        return int.from_bytes(found.digest()) or 1

    def _digest_prompts(self) -> None:
        """Add the hashes of the pending prompts."""
        pending, self._pending, self._pending_characters = self._pending, [], 0
        self.prompts.extend(self.digest("prompt", text) for text in normalize_texts(pending))
        self.keys.extend(compute_text_keys(pending).tolist())

    def _forget_labels_above(self, limit: int) -> None:
        if self._has_labels and len(self._label_codes) > limit:
            self._has_labels, self.labels = False, array("l")
