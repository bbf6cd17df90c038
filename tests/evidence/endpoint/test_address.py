"""Addresses of endpoints and tokens: only what cannot be seen by others."""

from __future__ import annotations

import pytest

from tunesmith.errors import EnvironmentProblem
from tunesmith_evidence.endpoint.address import check_endpoint, read_token


@pytest.mark.parametrize(
    ("url", "variable", "message"),
    [
        ("https://host/v1", "KEY", None),
        ("http://localhost:8000/v1", "KEY", None),
        ("http://host/v1", None, None),
        ("http://host/v1", "KEY", "https address"),
        ("http://localhost.example.org/v1", "KEY", "https address"),
        ("https://user:word@host/v1", None, "without a user"),
        ("https://host/v1?key=word", None, "without a user"),
        ("https://host/v1\n", None, "without a user"),
        ("ftp://host/v1", None, "without a user"),
        ("https://host/v1", "sk-abc", "not the token"),
    ],
)
def test_addresses(url: str, variable: str | None, message: str | None) -> None:
    if message is None:
        check_endpoint(url, variable)
        return
    with pytest.raises(ValueError, match=message) as caught:
        check_endpoint(url, variable)
    assert "word" not in str(caught.value) or "password" in str(caught.value)
    assert "sk-abc" not in str(caught.value)


def test_a_token_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token(None) == ""
    for value, message in (
        (" ", "KEY is not set"),
        ("a\nb", "valid token"),
        ("schlüssel", "valid token"),
    ):
        monkeypatch.setenv("KEY", value)
        with pytest.raises(EnvironmentProblem, match=message):
            read_token("KEY")
    monkeypatch.setenv("KEY", " abc\n")
    assert read_token("KEY") == "abc"
