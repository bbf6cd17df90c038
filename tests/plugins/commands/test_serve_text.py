"""Texts that grow by tokens, and stop words in them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tunesmith_plugins.commands.serve.job import EXACT_TOKENS, StreamedText

letters = st.text("abc", max_size=30)
words = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


@given(letters, words)
def test_a_streamed_text_ends_before_the_first_stop_word(text: str, stop_words: list[str]) -> None:
    """Each character is a token. What is sent is never taken back."""

    def decode(ids: Sequence[int], is_complete: bool) -> str:
        return text[: len(ids)]

    streamed, parts = StreamedText(decode, stop_words), list[str]()
    for count in range(1, len(text) + 1):
        parts.append(streamed.update(range(count), count == len(text)))
        if streamed.is_stopped:
            break
    found = [end for end in range(len(text) + 1) if any(text[:end].endswith(w) for w in stop_words)]
    if not found:
        assert "".join(parts) == text and not streamed.is_stopped
        return
    end = found[0]  # generation ends with the token that completes a stop word
    starts = [text[:end].find(word) for word in stop_words if word in text[:end]]
    assert "".join(parts) == text[: min(starts)] == streamed.sent
    assert streamed.is_stopped and len(parts) == end


def test_long_texts_are_decoded_ever_more_rarely() -> None:
    calls = list[int]()

    def decode(ids: Sequence[int], is_complete: bool) -> str:
        calls.append(len(ids))
        return "a" * len(ids)

    streamed, total = StreamedText(decode, ()), ""
    for count in range(1, 8 * EXACT_TOKENS + 1):
        total += streamed.update(range(count), count == 8 * EXACT_TOKENS)
    assert total == "a" * 8 * EXACT_TOKENS
    assert calls[: EXACT_TOKENS - 1] == list(range(1, EXACT_TOKENS))
    assert sum(calls) < EXACT_TOKENS * 8 * EXACT_TOKENS * 1.1
