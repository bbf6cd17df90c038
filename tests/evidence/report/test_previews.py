"""Pictures of test rows: stored once, with limits, and shown beside the answers."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunesmith.execution import previews as stored
from tunesmith.execution.previews import PREVIEWS_FILE, write_previews
from tunesmith.records import Message, Part, Preview, Prompt, TextPart
from tunesmith_evidence.report.previews import read_previews, replace_parts


@dataclass(frozen=True)
class Picture(Part):
    """An image of the tests."""

    name: str

    def preview(self, side: int) -> Preview | None:
        """Return a picture of one pixel, except for one that is missing."""
        if self.name == "missing":
            return None
        return Preview(f"image {self.name}", 1, 1, b"abc", "image/png", self.name.encode())


@dataclass(frozen=True)
class Sound(Part):
    """A part without a picture."""

    name: str


def prompt(*parts: Part) -> Prompt:
    return (Message("user", (*parts, TextPart("Which?"))),)


def write(folder: Path, *prompts: Prompt) -> Path:
    (folder / "evaluations").mkdir()
    write_previews(folder, prompts)
    return folder


def test_pictures_replace_the_parts_of_stored_prompts(tmp_path: Path) -> None:
    a, b, lost = Picture("a"), Picture("b"), Picture("missing")
    folder = write(tmp_path, prompt(a, b), prompt(a, lost), "text", prompt(Sound("c")))
    found = read_previews(folder)
    assert len(found) == 2
    text, images = replace_parts(prompt(b, Sound("c"), a, lost)[0].shown_text, found)  # type: ignore[union-attr]
    assert text == f"[image b] {Sound('c')!r}[image a] {lost!r}Which?"
    assert [image.description for image in images] == ["image b", "image a"]
    assert images[1].url == "data:image/png;base64," + base64.b64encode(b"a").decode()
    assert replace_parts("f(x) = 2", found) == ("f(x) = 2", ())


def test_nothing_is_written_without_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path, prompt(Sound("c")), prompt(Picture("missing")), "text")
    assert not (folder / PREVIEWS_FILE).exists() and not read_previews(folder)


def test_the_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MAX_BYTES", 300)
    folder = write(tmp_path, *(prompt(Picture(str(number))) for number in range(9)))
    assert 0 < (folder / PREVIEWS_FILE).stat().st_size <= 300
    assert 0 < len(read_previews(folder)) < 9


def test_damaged_files_cost_only_their_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path, prompt(Picture("a")))
    good = (folder / PREVIEWS_FILE).read_text()
    row: dict[str, Any] = json.loads(good)
    wrong = [{**row, "part": "b", "width": "x"}, {**row, "part": "c", "media_type": "text/html"}]
    lines = ["{", "[]", *map(json.dumps, wrong), good]
    (folder / PREVIEWS_FILE).write_text("\n".join(lines))
    found = read_previews(folder)
    assert {*found} == {row["part"], "c"} and not found["c"].url
    (folder / PREVIEWS_FILE).write_bytes(b"\xff\xfe")
    assert not read_previews(folder)
