"""Hooks for mkdocs that adapt pages written for GitHub to the site."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parents[1]))
from generator.toolkit import toolkit

TOOLKIT = "reference/toolkit.md"

FOR_AUTHORS = ("conformance", "contracts", "hooks", "offers", "toolkit")
MEASURED = ("benchmarks", "measurements", "models", "results")
BOOSTS = {
    "pages.md": 0.2,
    **{f"reference/{name}.md": 0.2 for name in (*FOR_AUTHORS, *MEASURED)},
    "reference/gpu.md": 1,
    "reference/": 0.25,
    "explanation/security.md": 1,
    "explanation/": 0.5,
}
"""Factor on a page's rank in the search, by its path or folder; the first that fits. Others: 1.

A reader who searches wants a guide first, then the reference for users.
"""

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+(?!how-to|reference|tutorials|explanation)[^)]+)\)")


def on_files(files: Any, *, config: Any) -> Any:
    """Add the page on the toolkits, which is not in the repository."""
    if written := files.get_file_from_path(TOOLKIT):
        files.remove(written)
    files.append(File.generated(config, TOOLKIT, content="\n".join(toolkit())))
    return files


def on_page_markdown(markdown: str, *, page: Any, **ignored: Any) -> str:
    """Add hard line breaks to a page, and replace links out of ``docs/`` with text.

    The page also gets its boost in the search. The site only contains the pages in ``docs/``, so
    the text gives the paths of other files in the repository.
    """
    folder = Path(page.file.src_uri).parent
    boosts = (value for path, value in BOOSTS.items() if page.file.src_uri.startswith(path))
    page.meta.setdefault("search", {"boost": next(boosts, 1)})

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
