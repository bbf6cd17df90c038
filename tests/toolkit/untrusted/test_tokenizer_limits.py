"""Rules of a tokenizer that take long or crash are found in a limited process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.untrusted import tokenizer_limits, tokenizer_process
from tunesmith_torch.untrusted.tokenizer_limits import check_tokenizer

DIGITS = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
"""The expression of Llama 3, shortened."""


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copy(tiny_folder / "tokenizer.json", tmp_path)
    return tmp_path


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def split(expression: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }


def test_simple_rules_need_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(tokenizer_limits, "run_limited", refuse)
    check_tokenizer(folder)
    check_tokenizer(folder / "nothing")
    edit(folder, pre_tokenizer=split(DIGITS))
    with pytest.raises(AssertionError, match="a process"):
        check_tokenizer(folder)


def test_the_rules_of_published_tokenizers_pass(folder: Path) -> None:
    llama_2 = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    normalizer = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, llama_2],
    }
    path = edit(folder, pre_tokenizer=split(DIGITS), normalizer=normalizer)
    check_tokenizer(folder)
    assert tokenizer_process.main(str(path)) == 0


def test_a_bad_expression_is_refused_with_the_file(folder: Path) -> None:
    path = edit(folder, pre_tokenizer=split("(a+)+$"))
    with pytest.raises(EnvironmentProblem) as caught:
        check_tokenizer(folder)
    assert str(path) in caught.value.message and caught.value.hint
    assert tokenizer_process.main(str(path)) == tokenizer_process.FAILED


def test_a_changed_file_is_checked_again(folder: Path) -> None:
    edit(folder, pre_tokenizer=split(DIGITS))
    check_tokenizer(folder)
    edit(folder, pre_tokenizer=split("((("))
    with pytest.raises(EnvironmentProblem, match="is rejected"):
        check_tokenizer(folder)


def test_a_huge_file_is_not_read(folder: Path) -> None:
    with (folder / "tokenizer.json").open("wb") as stream:
        stream.truncate(tokenizer_limits.MAX_BYTES + 1)
    with pytest.raises(IntegrityError, match="at most"):
        check_tokenizer(folder)
