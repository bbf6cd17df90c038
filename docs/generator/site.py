"""Hooks of mkdocs: what GitHub shows and mkdocs does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+(?!how-to|reference|tutorials|explanation)[^)]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **ignored: Any) -> str:
    """Return a page with hard line breaks, and with links out of ``docs/`` as text.

    The site has the pages of ``docs/`` only; a reader of the site finds the other files by their
    paths in the repository.
    """
    folder = Path(page.file.src_uri).parent

    def as_text(link: re.Match[str]) -> str:
        parts = list(folder.parts)
        for part in Path(link[2]).parts:
            if part == "..":
                if not parts:
                    parts = [".."]
                else:
                    parts.pop()
            else:
                parts.append(part)
        if parts[:1] != [".."]:
            return link[0]
        return f"{link[1]} (`{'/'.join(parts[1:])}` in the repository)"

    return re.sub(r"\\$", "  ", OUTSIDE.sub(as_text, markdown), flags=re.MULTILINE)
