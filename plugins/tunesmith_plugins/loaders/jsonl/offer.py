"""Offer the ``jsonl`` data loader, with its options."""

from __future__ import annotations

from functools import partial

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_data import RowLoader, RowOptions, make_suffix_matcher, read_json_rows

UTF8_BOM = b"\xef\xbb\xbf"


class JsonlOptions(RowOptions):
    """Options of ``jsonl``, which all data loaders that read rows from files share."""


def build(options: JsonlOptions) -> DataLoader:
    """Create the data loader from its options."""
    return RowLoader(options, partial(read_json_rows, max_row_bytes=options.max_row_bytes))


_has_suffix = make_suffix_matcher(".jsonl", ".json", ".ndjson")


def recognizes(name: str) -> bool:
    """Return True for a file with a JSON suffix, or whose content starts with ``{`` or ``[``."""
    if _has_suffix(name):
        return True
    try:
        with open(name, "rb") as file:
            return file.read(1 << 10).removeprefix(UTF8_BOM).lstrip().startswith((b"{", b"["))
    except (OSError, ValueError):
        return False


JSONL = DataLoaderOffer(
    name="jsonl",
    summary="JSON Lines or a JSON array, also compressed; the format of the rows is detected",
    config=JsonlOptions,
    build=build,
    recognizes=recognizes,
)
