"""Find answers that their prompt already contains."""

from __future__ import annotations

from tunesmith_plugins.checks.rows.detectors import Detector
from tunesmith_plugins.checks.rows.row import Row

MIN_CHARACTERS = 30
"""Minimum number of letters, digits and symbols; shorter answers may be in a prompt by chance."""


def _find_repeated_prompt(row: Row) -> str | None:
    question = row.question.strip()
    return question if " " in question and row.answer.strip() == question else None


def _find_contained(row: Row) -> str | None:
    answer = row.answer_signs
    if len(answer) < MIN_CHARACTERS or answer not in row.prompt_signs:
        return None
    return row.answer if row.answer.strip() != row.question.strip() else None


COPIES = (
    Detector(
        "answers repeat their prompt",
        _find_repeated_prompt,
        "check whether one column was used for both",
    ),
    Detector(
        "answers are contained in their prompt",
        _find_contained,
        "remove the answers from the prompts; otherwise the model learns to copy",
    ),
)
