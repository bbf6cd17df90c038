"""Paths in options begin at the folder of the run file, also inside tables and lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from tunesmith.config.paths import with_absolute_paths
from tunesmith.options import DataPath, PathOrName


class Inner(BaseModel):
    file: DataPath | None = None


class Outer(BaseModel):
    files: list[str] = Field([], json_schema_extra={"path": True})
    template: str | None = Field(None, json_schema_extra={"path": True, "names": ["chatml"]})
    model: PathOrName = "org/model"
    text: str = "a"
    inner: Inner = Inner()
    inners: list[Inner] = []


def test_paths_become_absolute_and_other_text_stays(tmp_path: Path) -> None:
    given = Outer(
        files=["a", "/b"],
        template="t.jinja",
        inner=Inner(file="c"),
        inners=[Inner(file="d"), Inner()],
    )
    found = with_absolute_paths(given, tmp_path)
    assert found.files == [f"{tmp_path}/a", "/b"]
    assert found.template == f"{tmp_path}/t.jinja"
    assert found.inner.file == f"{tmp_path}/c"
    assert [inner.file for inner in found.inners] == [f"{tmp_path}/d", None]
    assert found.text == "a"
    assert given.files == ["a", "/b"]


def test_a_name_is_no_path(tmp_path: Path) -> None:
    assert with_absolute_paths(Outer(template="chatml"), tmp_path).template == "chatml"


@pytest.mark.parametrize("name", ["org/model", "wheel:package", "missing"])
def test_only_an_existing_path_or_name_becomes_absolute(tmp_path: Path, name: str) -> None:
    assert with_absolute_paths(Outer(model=name), tmp_path).model == name
    (tmp_path / name).mkdir(parents=True)
    assert with_absolute_paths(Outer(model=name), tmp_path).model == f"{tmp_path}/{name}"
