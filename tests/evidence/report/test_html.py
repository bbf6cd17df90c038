"""Templates of pages: all text is escaped, and a page loads nothing."""

from __future__ import annotations

import pytest

from tunesmith_evidence.report.html import build_environment

PACKAGE = "tunesmith_evidence.report"


def test_text_is_escaped_and_redacted() -> None:
    secret = "hf_" + "a1B2" * 8
    template = build_environment(PACKAGE).from_string("{{ x }} {{ x | line }} {{ x | text }}")
    text = template.render(x=f"<b>{secret}")
    assert "<b>" not in text and text.count("&lt;b&gt;") == 3
    assert text.count(secret) == 1, "the filters redact"


def test_the_filter_safe_is_refused() -> None:
    template = build_environment(PACKAGE).from_string("{{ '<b>' | safe }}")
    with pytest.raises(TypeError, match="safe"):
        template.render()


def test_the_base_of_all_pages_allows_no_request() -> None:
    text = build_environment(PACKAGE).get_template("base.html").render()
    assert "default-src 'none'" in text
    assert "url(" not in text and "@import" not in text and "<script" not in text
