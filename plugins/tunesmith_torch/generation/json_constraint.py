"""Constrain generated tokens to JSON that matches a schema, with the library llguidance.

Shape: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import UsageError


@dataclass(frozen=True)
class JsonConstraint:
    """Allows only tokens that continue JSON matching a schema, and then the end of the answer."""

    matcher: Any
    """An ``llguidance.LLMatcher`` for one completion."""

    def allow(self, ids: Sequence[int]) -> Tensor:
        """Return a mask of the tokens that may follow ``ids``: shape V or shorter, on the CPU."""
        if ids:
            self.matcher.consume_token(ids[-1])
        else:
            self.matcher.reset()
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")).bool()


def compile_schema(
    tokenizer: Any,
    end_ids: frozenset[int],
    schema: Mapping[str, Any],
    *,
    item_separator: str,
    key_separator: str,
    is_indented: bool,
) -> Callable[[], JsonConstraint]:
    """Return a function that creates the constraint of one completion: JSON matching ``schema``.

    The separators are the texts between items, and between a key and its value. If ``is_indented``,
    any whitespace is allowed between the parts of the JSON.

    Raises:
        UsageError: llguidance does not support the tokenizer or the schema.
    """
    from llguidance import LLMatcher
    from llguidance.hf import from_tokenizer

    options: Any = {
        "item_separator": item_separator.rstrip() if is_indented else item_separator,
        "key_separator": key_separator,
        "whitespace_flexible": is_indented,
    }
    try:
        known = from_tokenizer(tokenizer, eos_token=sorted(end_ids))
        grammar = LLMatcher.grammar_from_json_schema(dict(schema), options)
    except ValueError as error:
        raise UsageError(f"answers cannot be constrained: {error}") from None
    first = LLMatcher(known, grammar)
    if first.is_error():
        raise UsageError(f"answers cannot be constrained to the schema: {first.get_error()}")
    return lambda: JsonConstraint(first.deep_copy())
