"""Store small pictures of the test rows' media, so that reports can show them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path

from tunesmith.records import Part, Prompt
from tunesmith.storage import write_atomic

PREVIEWS_FILE = "evaluations/previews.jsonl"
MAX_BYTES = 8_000_000
"""Maximum size of the file; later pictures are not stored."""
SIDE = 96
"""Longer side of a picture, in pixels."""


def write_previews(folder: Path, prompts: Iterable[Prompt]) -> None:
    """Write a picture of each distinct part of the prompts, unless none has one."""
    parts = {
        repr(part): part
        for prompt in prompts
        if not isinstance(prompt, str)
        for message in prompt
        for part in message.media
    }
    lines, size = [], 0
    for name, part in parts.items():
        line = _to_json_line(name, part)
        size += len(line)
        if size > MAX_BYTES:
            break
        lines.append(line)
    if any(lines):
        write_atomic(folder / PREVIEWS_FILE, "".join(lines))


def _to_json_line(name: str, part: Part) -> str:
    preview = part.preview(SIDE)
    if preview is None:
        return ""
    row = {
        "part": name,
        "description": preview.description,
        "width": preview.width,
        "height": preview.height,
        "media_type": preview.media_type,
        "data": base64.b64encode(preview.data).decode(),
    }
    return json.dumps(row) + "\n"
