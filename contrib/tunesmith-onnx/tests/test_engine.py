"""The engine on a graph that is written in Python: its next token is the sum of all before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import EnvironmentProblem
from tunesmith_onnx.engine import OnnxRuntime

VOCABULARY = 10
END = 9
CONFIG = {"eos_token_id": END, "decoder": {"num_key_value_heads": 1, "head_size": 1}}
CACHE = "past_key_values.0.key"


class SumGraph:
    """Predicts the sum of all ids so far, which it reads from its cache; without carry."""

    def __init__(self, *others: str) -> None:
        self.inputs = ("input_ids", "attention_mask", CACHE, *others)
        self.passes: list[int] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.inputs]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("logits", "present.0.key")]

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        past = feed[CACHE][0, 0, :, 0]
        every = np.concatenate([past, feed["input_ids"][0]])
        assert feed["attention_mask"].shape == (1, len(every))
        self.passes.append(len(every) - len(past))
        sums_T = np.cumsum(every).astype(int)[len(past) :] % VOCABULARY
        logits_1TV = 3.0 * np.eye(VOCABULARY, dtype=np.float32)[sums_T][None]
        return [logits_1TV, every.astype(np.float32)[None, None, :, None]]


class Digits:
    """A tokenizer of digits."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert add_special_tokens
        return [int(digit) for digit in text]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(str, ids))


def test_answers_end_at_the_end_token_and_read_the_prompt_once() -> None:
    graph = SumGraph()
    engine = OnnxRuntime(graph, Digits(), CONFIG)
    # 1 + 2 = 3, then 6, 12 -> 2, 14 -> 4, 18 -> 8, 26 -> 6 and so on; 4 + 5 is the end.
    (first, second) = engine.generate(["12", "45"], 5)
    assert (first.text, first.finish_reason, first.tokens) == ("36248", "length", 5)
    assert (second.text, second.finish_reason, second.ids) == ("", "stop", (END,))
    assert graph.passes == [2, 1, 1, 1, 1, 2]


def test_log_probabilities_are_those_after_each_token() -> None:
    found_NV = OnnxRuntime(SumGraph(), Digits(), CONFIG).logprobs([1, 2, 4], first=1)
    assert found_NV.shape == (2, VOCABULARY) and np.allclose(np.exp(found_NV).sum(1), 1)
    assert found_NV.argmax(1).tolist() == [3, 7]
    assert np.isclose(found_NV[0, 3], 3 - np.log(np.exp(3) + VOCABULARY - 1))


def test_a_graph_with_another_state_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match="conv_state"):
        OnnxRuntime(SumGraph("past.conv_state"), Digits(), CONFIG)
