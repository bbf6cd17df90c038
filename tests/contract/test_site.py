"""The documentation as a site: it builds without a warning and loads nothing from outside."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADED = {
    "script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src",
    "video": "src", "audio": "src", "embed": "src", "object": "data",
}  # fmt: skip
"""Attribute by the element that makes a browser load something; a link to click is none."""

SEARCHES = {
    "accept-changes": "how-to/out-of-memory",
    "catastrophic forgetting": "how-to/side-effects",
    "CI": "how-to/metric",
    "cp1252": "how-to/data",
    "csv": "how-to/data",
    "CUDA": "reference/gpu",
    "DPO": "how-to/preferences",
    "encoding": "how-to/data",
    "excel": "how-to/data",
    "FSDP": "how-to/torchrun",
    "exit criteria": "how-to/metric",
    "function calling": "how-to/evaluators",
    "GPU": "reference/gpu",
    "GRPO": "explanation/rlhf",
    "HIPAA": "explanation/security",
    "hyperparameters": "how-to/tune",
    "JSON": "how-to/data",
    "learning rate": "how-to/validate",
    "license": "index",
    "mlflow": "how-to/reporter",
    "not enough evidence": "explanation/verdict",
    "offline": "reference/environment",
    "Ollama": "how-to/export",
    "OOM": "how-to/out-of-memory",
    "out of memory": "how-to/out-of-memory",
    "overfitting": "how-to/validate",
    "PEFT": "how-to/peft-adapter",
    "personal data": "explanation/security",
    "RAG": "how-to/documents",
    "resume": "tutorials/first-run",
    "seed noise": "explanation/verdict",
    "slurm": "how-to/cluster",
    "tensorboard": "how-to/reporter",
    "VRAM": "how-to/plan",
    "vulnerability": "explanation/security",
    "wandb": "how-to/reporter",
    "wrong labels": "how-to/data",
}
"""Words that people type into the search, and the page that answers each."""


class Loaded(HTMLParser):
    """Collects the addresses outside of the site that a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADED.get(tag, "")) or ""
        if re.match(r"(https?:)?//", address):
            self.addresses.append(address)


def loaded_by_style(text: str) -> list[str]:
    """Return the addresses outside of the site that a style sheet loads."""
    return re.findall(r"(?:@import|url\()\s*['\"]?((?:https?:)?//[^'\")]+)", text)


def search(entries: list[dict[str, Any]], query: str) -> list[str]:
    """Return the pages that match a query, best first, by words in headings and in text.

    It resembles the search of the site: a word of a heading outweighs any number in the text, and
    pages have boosts.
    """
    scores: dict[str, float] = {}
    words = [re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE) for word in query.split()]
    for entry in entries:
        text = re.sub(r"<[^>]+>", " ", entry["text"])
        matches = [
            100 * bool(word.search(entry["title"])) + math.sqrt(len(word.findall(text)))
            for word in words
        ]
        if all(matches):
            page = entry["location"].partition("#")[0].removesuffix(".html")
            score = sum(matches) * entry.get("boost", 1)
            scores[page or "index"] = max(score, scores.get(page or "index", 0))
    return sorted(scores, key=lambda page: -scores[page])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.processes
def test_every_page_is_built(site: Path) -> None:
    """A page that is missing in the navigation, or a link to no page or heading, is a warning."""
    for page in DOCS.rglob("*.md"):
        built = (site / page.relative_to(DOCS)).with_suffix(".html")
        assert built.is_file(), built
    assert not [path for path in site.rglob("*") if path.suffix in (".py", ".pyc")]


@pytest.mark.processes
def test_pages_load_nothing_from_outside(site: Path) -> None:
    found = {
        f"{path.relative_to(site)}: {address}"
        for path in site.rglob("*.html")
        for address in Loaded(path.read_text(encoding="utf-8")).addresses
    }
    found |= {
        f"{path.relative_to(site)}: {address}"
        for kind in ("*.css", "*.svg")
        for path in site.rglob(kind)
        for address in loaded_by_style(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.processes
def test_the_search_finds_what_people_type(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text("utf-8"))["docs"]
    found = {query: search(entries, query)[:3] for query in SEARCHES}
    assert not {query: pages for query, pages in found.items() if SEARCHES[query] not in pages}


def test_a_heading_outweighs_text_and_a_boost_changes_the_order() -> None:
    entries: list[dict[str, Any]] = [
        {"location": "a.html", "title": "Data", "text": "<p>oom oom oom oom</p>"},
        {"location": "b.html#x", "title": "OOM", "text": "<p>nothing</p>"},
        {"location": "c.html", "title": "OOM", "text": "<p>oom</p>", "boost": 0.5},
        {"location": "d.html", "title": "Rooms", "text": "<oom>zoom</oom>"},
    ]
    assert search(entries, "oom") == ["b", "c", "a"]
    assert search(entries, "oom data") == ["a"]


@pytest.mark.processes
def test_links_out_of_the_documentation_are_text(site: Path) -> None:
    """The site has no page for a file of the repository, so a link would lead nowhere."""
    page = (site / "how-to" / "technique.html").read_text(encoding="utf-8")
    assert "<code>contrib/tunesmith-trl/README.md</code> in the repository" in page


def test_what_is_loaded_from_outside_is_found() -> None:
    text = (
        '<link href="https://fonts.example/css"><script src="//cdn.example/x.js"></script>'
        '<a href="https://example.org">read</a><img src="local.png">'
    )
    assert Loaded(text).addresses == ["https://fonts.example/css", "//cdn.example/x.js"]
    assert loaded_by_style('@import "https://a.example/b.css"; .x{background:url(//c.example/d)}')
    assert not loaded_by_style(".x{background:url(data:image/svg+xml;utf8,<svg/>)}")
