"""Read the prompt files that the user wrote."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.contracts import TextModel
from tunesmith.errors import DataError
from tunesmith_evidence.prompting.prompted_model import QUESTION_TEMPLATE, PromptedModel
from tunesmith_evidence.tasks.examples import Example

KEYS = {"system", "user", "shots"}
_HINT = (
    "write a text file with the system prompt, or a TOML file with `system`, `user` (with {prompt} "
    "for the question) and `shots`"
)


@dataclass(frozen=True)
class UserPrompt:
    """A prompt file: system prompt, template of the user turn, and worked examples."""

    system: str | None = None
    user: str = QUESTION_TEMPLATE
    shots: tuple[Example, ...] = ()

    def apply_to(self, model: TextModel) -> PromptedModel:
        """Return the model with this prompt applied to every question."""
        shots = self.shots[::-1]
        return PromptedModel(model, self.system, lambda text: shots, self.user)


def read_prompts(files: Sequence[str]) -> dict[str, UserPrompt]:
    """Return the prompt in each file, by file name, or by path if file names repeat.

    Raises:
        DataError: a file cannot be read, or is not a valid prompt file.
    """
    paths = [Path(file) for file in dict.fromkeys(files)]
    short = [path.name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    return {name: read_prompt(path) for name, path in zip(names, paths, strict=True)}


def read_prompt(path: Path) -> UserPrompt:
    """Read a prompt from a text file with a system prompt, or from a TOML file.

    Raises:
        DataError: the file cannot be read, or is not a valid prompt file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        table: dict[str, Any] = {"system": text.strip()}
        if path.suffix == ".toml":
            table = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(str(path), f"cannot read the prompt file: {error}", hint=_HINT) from None
    if path.suffix != ".toml" and not text.strip():
        raise DataError(str(path), "the prompt is empty", hint=_HINT)
    problem = _find_problem(table)
    if problem:
        raise DataError(str(path), problem, hint=_HINT)
    shots = [
        Example(text=shot["user"], answer=shot["assistant"], question=shot["user"])
        for shot in table.get("shots", [])
    ]
    return UserPrompt(table.get("system"), table.get("user", QUESTION_TEMPLATE), tuple(shots))


def _find_problem(table: Mapping[str, Any]) -> str:
    """Return the first problem in a prompt table, or "" if the table is valid."""
    unknown = sorted(set(table) - KEYS)
    if unknown:
        return f"unknown key `{unknown[0]}`: expected `system`, `user` or `shots`"
    if not table:
        return "the prompt is empty"
    for key in ("system", "user"):
        if not isinstance(table.get(key, ""), str):
            return f"`{key}`: expected a string, got {table[key]!r}"
    if QUESTION_TEMPLATE not in table.get("user", QUESTION_TEMPLATE):
        return f"`user` does not contain {QUESTION_TEMPLATE}, which stands for the question"
    shots = table.get("shots", [])
    if not isinstance(shots, list):
        return f"`shots`: expected a list of tables, got {shots!r}"
    for number, shot in enumerate(shots, 1):
        if not isinstance(shot, dict) or set(shot) != {"user", "assistant"}:
            return f"`shots`, entry {number}: expected a table with `user` and `assistant`"
        if not all(isinstance(value, str) for value in shot.values()):
            return f"`shots`, entry {number}: `user` and `assistant` must be strings"
    return ""
