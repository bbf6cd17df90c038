"""Reject tokenizers whose rules loop forever, need gigabytes, or crash the library.

The rules of a ``tokenizer.json`` are a small program. A regular expression can backtrack for
minutes, sixty replacements that each double a text exceed any memory, and some tables make the
library end the process. A tokenizer with such rules is first tried in a limited process. Most
tokenizers have only simple rules and need no such test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.untrusted import tokenizer_process
from tunesmith_torch.untrusted.limited_process import run_limited

TOKENIZER_FILE = "tokenizer.json"
MAX_BYTES = 256 << 20
"""Maximum size of a tokenizer file; one with 260,000 tokens has 33 MB."""
_CPU_SECONDS, _MEMORY_BYTES = 3, 4 << 30
_MAX_ITEMS = 1_000
"""Maximum number of items in simple rules; tokenizers with more are tried too."""
_RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_SIMPLE = frozenset(
    {
        *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents"),
        *("BertPreTokenizer", "Digits", "Metaspace", "Punctuation", "UnicodeScripts"),
        *("Whitespace", "WhitespaceSplit", "ByteLevel", "ByteFallback", "Fuse", "WordPiece"),
        *("BertProcessing", "RobertaProcessing", "TemplateProcessing", "Sequence"),
    }
)
"""Types of rules without patterns or tables."""


def check_tokenizer(folder: Path) -> None:
    """Check the ``tokenizer.json`` of a folder, if it has one.

    Raises:
        EnvironmentProblem: the rules run too long, need too much memory, or make the library fail.
        IntegrityError: the file is not a JSON object, or too large.
    """
    path = folder / TOKENIZER_FILE
    if path.is_file():
        status = path.stat()
        _check(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _check(path: Path, size: int, changed: int) -> None:
    """Check a file; its size and its modification time ``changed`` are keys of the cache."""
    if size > MAX_BYTES:
        raise IntegrityError(f"{path}: must have at most {MAX_BYTES} bytes, got {size} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path}: invalid JSON: {error!s:.80}", hint="download the file again"
        ) from None
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: must hold a JSON object, got {type(content).__name__}")
    if _has_simple_rules(content):
        return
    script = Path(tokenizer_process.__file__)
    done = run_limited(
        script, str(path).encode(), cpu_seconds=_CPU_SECONDS, memory_bytes=_MEMORY_BYTES
    )
    reason = done.reason
    if done.code == tokenizer_process.FAILED:
        reason = done.output
    elif done.code == tokenizer_process.TOO_LONG:
        reason = (
            f"it makes more than {tokenizer_process.MAX_TOKENS_PER_CHARACTER} tokens per character"
        )
    if reason:
        raise EnvironmentProblem(
            f"{path}: the tokenizer is rejected: {reason:.200}",
            hint="use the original publisher's tokenizer.json, or another model",
        )


def _has_simple_rules(content: Mapping[str, Any]) -> bool:
    """Return True if there are few rules, without patterns or tables.

    Such rules take time and memory in proportion to the text.
    """
    pending = [content.get(name) for name in _RULES]
    items = 0
    while pending:
        value = pending.pop()
        items += 1
        if isinstance(value, Mapping):
            kind = value.get("type", "Sequence")
            if not isinstance(kind, str) or kind not in _SIMPLE or "pattern" in value:
                return False
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return items <= _MAX_ITEMS
