"""Find answers that the prompt already has."""

from __future__ import annotations

from tunesmith_plugins.checks.rows.detectors import Detector
from tunesmith_plugins.checks.rows.row import Row

SHORTEST = 30
"""Letters, digits and symbols of an answer that a prompt does not contain by accident."""


def _find_repeated_prompt(row: Row) -> str | None:
    question = row.question.strip()
    return question if " " in question and row.answer.strip() == question else None


def _find_contained(row: Row) -> str | None:
    answer = row.answer_signs
    if len(answer) < SHORTEST or answer not in row.prompt_signs:
        return None
    return row.answer if row.answer.strip() != row.question.strip() else None


COPIES = (
    Detector(
        "answers are the prompt itself",
        _find_repeated_prompt,
        "look for a column that was used twice",
    ),
    Detector(
        "answers are part of their prompt",
        _find_contained,
        "remove them from the prompt, or the model learns to copy",
    ),
)
