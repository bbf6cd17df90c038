"""Files that come with the kit, for data loaders of common formats."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.offers import DataLoaderOffer
from tunesmith.testing.examples import PAIRS

_ROWS = [f'{{"prompt": "{a}?", "completion": "{b} ü"}}' for a, b in PAIRS]
_CELLS = ["prompt,completion", *(f'{a}?,"{b}, ü"' for a, b in PAIRS)]
_FILES = {
    ".jsonl": ("\n".join(_ROWS), _ROWS[0] + '\n{"pro'),
    ".csv": ("\n".join(_CELLS), 'prompt,completion\np,c\np,"c'),
    ".tsv": ("\n".join(f"{a}\t{b}" for a, b in [("prompt", "completion"), *PAIRS]), 'prompt\n"p'),
    ".md": ("\n\n".join(f"The capital of {a} is {b}." for a, b in PAIRS), "caf\udce9"),
    ".txt": ("\n".join(f"The capital of {a} is {b}." for a, b in PAIRS), "caf\udce9"),
}
"""Good and broken content of a file, by suffix."""


def packaged_options(offer: Any, *, broken: bool = False) -> dict[str, Any]:
    """Return options that name a file of the kit for a data loader; {} if the kit has none.

    The file is in the first format that the loader recognizes. It is used only if ``train`` is the
    only option without a default. With ``broken``, the loader must reject the file.
    """
    if isinstance(offer, DataLoaderOffer):
        fields = offer.config.model_fields
        if [name for name in fields if fields[name].is_required()] != ["train"]:
            return {}
        for suffix in _FILES:
            path = _write(suffix, broken=broken)
            if offer.recognizes(str(path)):
                return {"train": str(path)}
    return {}


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-kit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _write(suffix: str, *, broken: bool) -> Path:
    path = _folder() / f"{'broken' if broken else 'sample'}{suffix}"
    text = _FILES[suffix][broken]
    path.write_text(f"{text}\n", encoding="utf-8", errors="surrogateescape")
    return path
