"""Texts have the ids that transformers gives them, without its detours where it has none to add."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tunesmith_torch.data.tokenization import SpanEncoder, TextSpan
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

TEXTS = ["the door", "", "a <|im_end|> b", "öl 冰\n\n <|im_start|>user", " " * 9 + "x"]


def encode(encoder: SpanEncoder, literal: bool) -> list[list[int]]:
    spans = [[TextSpan(text, literal=literal, at_start=True)] for text in TEXTS]
    return [row[0] for row in encoder.encode(spans)]


@pytest.mark.parametrize("literal", [False, True])
def test_ids_are_those_of_transformers(literal: bool) -> None:
    tokenizer = build_tiny_tokenizer()
    encoder = SpanEncoder.from_tokenizer(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(max_length=2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    expected = tokenizer(TEXTS, add_special_tokens=False, split_special_tokens=literal)
    tokenizer.backend_tokenizer.enable_truncation(max_length=2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encode(encoder, literal) == expected["input_ids"]


def test_a_tokenizer_with_code_of_its_own_is_called() -> None:
    class Reversing(PreTrainedTokenizerFast):  # type: ignore[misc] - transformers has no types here
        def _encode_plus(self, text: Any, *args: Any, **options: Any) -> Any:
            reverse = [one[::-1] for one in text] if isinstance(text, list) else text[::-1]
            return super()._encode_plus(reverse, *args, **options)

    plain = build_tiny_tokenizer()
    reversing = Reversing(tokenizer_object=plain.backend_tokenizer)
    expected = plain([text[::-1] for text in TEXTS], add_special_tokens=False)["input_ids"]
    assert encode(SpanEncoder.from_tokenizer(reversing), False) == expected
