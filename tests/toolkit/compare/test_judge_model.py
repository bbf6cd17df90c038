"""The judge of an evaluator: local or served, and what is said before a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_judge import serve_judge
from pydantic import ValidationError

from tunesmith_torch.compare.judge_model import JudgeEndpointOptions, open_judge, review_endpoint
from tunesmith_torch.testing.tiny_model import save_tiny_model


def test_a_served_judge_replies_and_a_local_one_chooses_a_label(tmp_path: Path) -> None:
    with serve_judge(lambda prompt: prompt.upper()) as fake:
        options = JudgeEndpointOptions(endpoint=fake.url)
        assert open_judge("m", options, ("a", "b"), None, "evaluators.model")(["hm"]) == ["HM"]
        assert fake.requests[0][1]["model"] == "m"
    save_tiny_model(tmp_path)
    ask = open_judge(str(tmp_path), JudgeEndpointOptions(), ("a", "b"), None, "evaluators.model")
    assert {*ask(["one", "two"])} <= {"a", "b"}


def test_where_rows_are_sent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [*review_endpoint(JudgeEndpointOptions(), "evaluators.x", "rows")]
    options = JudgeEndpointOptions(
        endpoint="https://example.org/v1", token_variable="NO_SUCH_TOKEN"
    )
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    missing, sent = review_endpoint(options, "evaluators.x", "rows")
    assert missing.level == "error" and missing.where == "evaluators.x.token_variable"
    assert sent.message == "prompts and answers of rows are sent to https://example.org/v1"


def test_a_token_stays_private() -> None:
    with pytest.raises(ValidationError, match="needs an https address"):
        JudgeEndpointOptions(endpoint="http://example.org/v1", token_variable="T")
