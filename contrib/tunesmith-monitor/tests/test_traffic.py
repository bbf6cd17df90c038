"""Lines of traffic files: what counts as a request, and where reading continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_evidence.review.scores import score_logprob
from tunesmith_monitor.traffic import Position, Request, parse_line, read_requests
from tunesmith_monitor.watch import Alarm

POLICY = ReviewPolicy(precision=0.9, threshold=None, slope=1.0, intercept=0.5, rows=100)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "id": 7}, Request("a", "7")),
        ({"prompt": "a", "confidence": 0.5, "right": True}, Request("a", "", 0.5, 1.0)),
        ({"right": 0}, Request(None, "", None, 0.0)),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": " u "}]},
            Request("u"),
        ),
        ({"prompt": "a", "model": "base", "right": 1}, Request("a")),
        ({"model": "base", "right": 1}, None),
        ({"prompt": "a", "confidence": 2}, None),
        ({"prompt": "a", "right": "x"}, None),
        ({"prompt": " a \ud800", "right": 0, "confidence": 0.5}, Request("a ?", "", 0.5, 0.0)),
        ({"right": 0, "confidence": 0.5}, Request(None, "", None, 0.0)),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "u"}]},
                    {"role": "assistant", "content": None, "tool_calls": []},
                    {"role": "user", "content": "v"},
                ]
            },
            Request("u\n\nv", is_single=False),
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, None),
        ({"messages": "x"}, None),
        ({"prompt": ["a", "b"]}, None),
        ({}, None),
    ],
)
def test_a_line_is_a_request_or_unusable(row: dict[str, object], expected: Request | None) -> None:
    assert parse_line(json.dumps(row)) == expected


def test_a_logprob_becomes_a_calibrated_confidence() -> None:
    request = parse_line('{"prompt": "a", "logprob": -0.3}', POLICY)
    assert request is not None
    assert request.confidence == POLICY.confidence(score_logprob(-0.3))
    assert parse_line('{"prompt": "a", "logprob": -0.3}') == Request("a")
    assert parse_line('{"prompt": "a", "logprob": NaN}', POLICY) is None
    assert parse_line('{"prompt": "a", "logprob": -Infinity}', POLICY) == Request("a", "", 0.0)


def test_every_position_continues_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n{"prompt": "c"', encoding="utf-8")
    found = [*read_requests(path, Position())]
    assert [request and request.text for request, _ in found] == ["a", "b"]
    for n, (_, position) in enumerate(found, 1):
        assert [*read_requests(path, position)] == found[n:]
    path.write_text('{"prompt": "new"}\n' * 9, encoding="utf-8")  # rotated, and longer
    assert len([*read_requests(path, found[-1][1])]) == 9
    with pytest.raises(DataError, match="cannot be read"):
        next(read_requests(tmp_path / "missing", Position()))


def test_inputs_alone_do_not_page() -> None:
    values = {"what": "x", "request": 1, "before": 0.0, "now": 1.0}
    assert [Alarm(layer=name, **values).is_page for name in ("inputs", "confidence", "labels")] == [
        False, True, True,
    ]  # fmt: skip
