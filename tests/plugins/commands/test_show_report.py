"""The failures that ``tunesmith report`` lists."""

from __future__ import annotations

import pytest

from tunesmith_evidence.report.answers import Answer, AnswerRow, Answers
from tunesmith_plugins.commands.runs.show_report import show_answers


def test_the_rows_that_are_not_shown_are_counted_with_similar_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = ["Is the heating on in flat {}?", "Who repairs the lift {}?", "Pay rent in {}"]
    rows = [
        AnswerRow(
            f"f:{n}",
            (("user", prompts[n // 4].format(n)),),
            "yes",
            (Answer("tuned", "no", 0.0, False),),
            is_wrong=True,
            is_regressed=False,
        )
        for n in range(12)
    ]
    show_answers(Answers("m", ["tuned"], rows, []), 1)
    shown = capsys.readouterr().out
    assert "and 3 similar rows" in shown and "8 more rows; show all with --failures 3" in shown
