"""Errors of libraries are told from bugs by the import that raised them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunesmith_cli.exit_codes import explain_import_error


@pytest.mark.parametrize("content", ["x = (", "raise ImportError", "1 / 0", "\0"])
def test_a_library_that_cannot_be_imported_is_named_with_its_file(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged_library.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with pytest.raises(Exception) as caught:
        __import__("damaged_library")
    problem = explain_import_error(caught.value)
    assert problem is not None
    assert "damaged_library.py: import failed" in problem.message or content == "\0"


def test_a_library_that_is_missing_is_named_with_the_file_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_library.py").write_text("import nowhere_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        __import__("needy_library")
    problem = explain_import_error(caught.value)
    assert problem is not None
    path = tmp_path / "needy_library.py"
    assert problem.message == f"nowhere_at_all is not installed, but {path} needs it"


def test_an_error_after_the_imports_is_none_of_a_library() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        assert explain_import_error(error) is None
