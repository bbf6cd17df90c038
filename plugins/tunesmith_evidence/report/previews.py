"""Read the small pictures of test rows, and replace parts such as images in stored prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.execution.previews import PREVIEWS_FILE

__all__ = ["PreviewImage", "read_previews", "replace_parts"]

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")
"""Types that a page may show; others could have scripts."""
_PART = re.compile(r"[A-Za-z_]\w*\([^()]*\)")
"""Matches what may be the ``repr`` of a part in a stored prompt."""


@dataclass(frozen=True)
class PreviewImage:
    """A small picture of a part, for a page."""

    description: str
    url: str
    """The picture as a ``data:`` URL; empty if the part has none."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""


def read_previews(folder: Path) -> Mapping[str, PreviewImage]:
    """Return the pictures of a run's test rows by the ``repr`` of their part.

    A page without pictures is better than no page, so damaged lines are skipped.
    """
    found: dict[str, PreviewImage] = {}
    try:
        lines = (folder / PREVIEWS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        try:
            row = json.loads(line)
            is_shown = row["media_type"] in MEDIA_TYPES
            url = f"data:{row['media_type']};base64,{row['data']}" if is_shown else ""
            size = int(row["width"]), int(row["height"])
            found[str(row["part"])] = PreviewImage(str(row["description"]), url, *size)
        except (ValueError, LookupError, TypeError):
            continue
    return found


def replace_parts(
    text: str, previews: Mapping[str, PreviewImage]
) -> tuple[str, tuple[PreviewImage, ...]]:
    """Return the text with a description in place of each known part, and their pictures."""
    found: list[PreviewImage] = []

    def describe(match: re.Match[str]) -> str:
        preview = previews.get(match[0])
        if preview is None:
            return match[0]
        found.append(preview)
        return f"[{preview.description}] "

    return (_PART.sub(describe, text), tuple(found)) if previews else (text, ())
