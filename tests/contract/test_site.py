"""The documentation as a site: it builds without a warning and loads nothing from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADED = {
    "script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src",
    "video": "src", "audio": "src", "embed": "src", "object": "data",
}  # fmt: skip
"""Attribute by the element that makes a browser load something; a link to click is none."""


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
        for path in site.rglob("*.css")
        for address in loaded_by_style(path.read_text(encoding="utf-8"))
    }
    assert not found


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
