"""Check with a digest that a resumed run trains on the same token ids.

The core compares rows, options and the files of the base model. Token ids also depend on the text
of a chat template's file, on the tokenizer library, and on anything else that a template reads. For
large data, a sample is compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import Job
from tunesmith.errors import UsageError
from tunesmith.events import FindingReported
from tunesmith.storage import write_atomic
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.data.templates import Template
from tunesmith_torch.options.training import TrainingOptions

Row: TypeAlias = Sequence[int] | NDArray[Any]
"""The integers or booleans of a row."""
TOKENS_FILE = "tokens.json"
"""File in a job's folder that stores the digest of the token ids."""
_DIGESTS = ("inputs", "chat_template", "token_ids")
_OPTIONS = {"max_length", "chat_template", "truncate_prompts"}
_TOKENIZER_FILES = (
    *("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab*", "merges.txt"),
)


def check_tokens(job: Job[Any], template: Template, rows: Iterable[Row]) -> None:
    """Store the digest of the token ids in the job's folder, or compare it with the stored one.

    The digest is replaced in two cases:

    - Rows, options or the base model have changed too, which the user has accepted with
      ``--accept-changes``.
    - The file is damaged. A finding reports that the ids were not compared.

    Raises:
        UsageError: the same rows and options give different token ids than before.
    """
    path = job.out / TOKENS_FILE
    digests = {
        "inputs": _digest_inputs(job),
        "chat_template": template.sha256,
        "token_ids": digest_rows(rows),
    }
    stored, problem = _read_digests(path)
    if problem:
        text = f"{problem}; writing it again without comparing the token ids"
        job.emit(FindingReported(level="warning", source="tokens", message=text))
    if stored.get("inputs") != digests["inputs"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(digests, indent=2) + "\n")
    elif stored["token_ids"] != digests["token_ids"]:
        same_template = stored["chat_template"] == digests["chat_template"]
        cause = "the tokenizer" if same_template else "the chat template"
        raise UsageError(
            f"the rows have different token ids than when training started: {cause} has changed "
            f"(digest was {stored['token_ids'][:12]}, is now {digests['token_ids'][:12]})",
            hint="restore its files and the versions of the libraries, or start a new run; to "
            f"continue with the new ids, delete {path}",
        )


def _read_digests(path: Path) -> tuple[dict[str, str], str]:
    """Return the stored digests; if their file has a problem, also return its description."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(stored[name]) for name in _DIGESTS}, ""
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"{path}: the file cannot be read ({error.strerror or error})"
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}, f"{path}: the file is damaged"


def digest_rows(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of rows of integers, including their lengths and order."""
    digest = hashlib.sha256()
    for row in rows:
        numbers = np.asarray(row, dtype="<i8")
        digest.update(len(numbers).to_bytes(8, "little") + numbers.tobytes())
    return digest.hexdigest()


def _digest_inputs(job: Job[Any]) -> str:
    options: TrainingOptions = job.config
    digest = hashlib.sha256(repr(sorted(options.model_dump(include=_OPTIONS).items())).encode())
    for file in sorted(path for name in _TOKENIZER_FILES for path in job.model.glob(name)):
        digest.update(file.read_bytes() if file.is_file() else b"")
    digest.update(f"{len(job.train)}\n".encode())
    for record in sample_if_large(job.train):
        digest.update(f"{record!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
