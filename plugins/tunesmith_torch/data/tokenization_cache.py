"""A cache of tokenized records on disk, shared by ``tunesmith plan`` and all runs.

An entry is a folder named by a hash of everything its tokens depend on. Entries are committed
atomically, with checksums: an entry is complete or absent, and a damaged file is detected. Two
processes may write the same entry at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tunesmith.contracts import SkippedRow
from tunesmith.errors import TunesmithError
from tunesmith.plugins import cache_folder
from tunesmith.records import Record
from tunesmith.storage import commit_folder, verify_folder
from tunesmith_data.text import content_key
from tunesmith_torch.data.example_store import ExampleStore
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenization import SpanEncoder
from tunesmith_torch.data.tokenized_records import TokenizedRecords

MIN_CHARACTERS = 1_000_000
"""Number of characters below which nothing is cached: tokenizing them takes half a second."""
MAX_BYTES = 2_000_000_000
"""Maximum size of the cache in bytes; beyond it, the least recently used entries are deleted."""
CACHE_VARIABLE = "TUNESMITH_TOKEN_CACHE"
"""Environment variable that turns the cache off if it is 0."""

_FOLDER, _ACCOUNTS = "tokens", "accounts.json"
_LIBRARIES = ("transformers", "tokenizers", "jinja2")
_STALE_SECONDS = 86_400
"""Age after which an unfinished folder is considered abandoned."""


def tokenize_cached(
    template: Template,
    records: Sequence[Record],
    max_length: int,
    *,
    truncate_prompts: bool = False,
) -> TokenizedRecords:
    """Return the result of :meth:`Template.tokenize_records`, from the cache if possible."""

    def tokenize() -> TokenizedRecords:
        return template.tokenize_records(records, max_length, truncate_prompts=truncate_prompts)

    is_off = os.environ.get(CACHE_VARIABLE) == "0"
    if is_off or sum(len(content_key(record)) for record in records) < MIN_CHARACTERS:
        return tokenize()
    settings = (template.sha256, max_length, truncate_prompts)
    key = _digest(template, records, settings)
    if key is None:
        return tokenize()
    entry = cache_folder() / _FOLDER / key
    found = _read(entry)
    if found is not None:
        return found
    tokenized = tokenize()
    with suppress(OSError, TunesmithError):  # full disk, or another user's folder
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        commit_folder(entry, lambda folder: _write(folder, tokenized))
        delete_oldest(entry.parent, MAX_BYTES)
    return tokenized


def delete_oldest(folder: Path, max_bytes: int) -> None:
    """Delete abandoned folders, and the least recently used entries beyond ``max_bytes``."""
    ages = sorted((path.stat().st_mtime, path) for path in folder.iterdir() if path.is_dir())
    total = 0
    for used, path in reversed(ages):
        total += sum(file.stat().st_size for file in path.iterdir())
        is_stale = path.name.startswith(".") and used < time.time() - _STALE_SECONDS
        if total > max_bytes or is_stale:
            shutil.rmtree(path, ignore_errors=True)


def _digest(
    template: Template, records: Iterable[Record], settings: tuple[object, ...]
) -> str | None:
    """Return the name of an entry; None for an encoder or a tokenizer that cannot be hashed."""
    tokenizer = template.tokenizer
    is_plain = type(template.encoder) is SpanEncoder
    if not is_plain or not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    special_tokens = sorted((name, str(x)) for name, x in tokenizer.special_tokens_map.items())
    facts = (type(tokenizer).__qualname__, special_tokens, libraries, settings)
    digest = hashlib.sha256(repr(facts).encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):  # the code that produces the tokens
        digest.update(module.read_bytes())
    # Every encoding call resets these, so they must not change the hash.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for record in records:
        digest.update(f"{record!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:40]


def _write(folder: Path, tokenized: TokenizedRecords) -> None:
    tokenized.examples.save(folder)
    accounts = {
        "skipped": [asdict(row) for row in tokenized.skipped],
        "truncated": [*tokenized.truncated],
        "split_texts": [*tokenized.split_texts],
        "with_control_tokens": [*tokenized.with_control_tokens],
    }
    (folder / _ACCOUNTS).write_text(json.dumps(accounts), encoding="utf-8")


def _read(entry: Path) -> TokenizedRecords | None:
    """Return the records of an entry, or None if it does not exist; delete a damaged entry."""
    if not entry.is_dir():
        return None
    try:
        if not verify_folder(entry):
            os.utime(entry)  # mark the entry as recently used
            accounts = json.loads((entry / _ACCOUNTS).read_text(encoding="utf-8"))
            skipped = [SkippedRow(**row) for row in accounts.pop("skipped")]
            examples = ExampleStore.open(entry)
            return TokenizedRecords(examples=examples, skipped=skipped, **accounts)
    except (OSError, TunesmithError):
        pass  # another process is replacing it, or it cannot be read
    shutil.rmtree(entry, ignore_errors=True)
    return None
