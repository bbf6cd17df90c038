"""The engine asks OpenVINO GenAI, and keeps the end token of an answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openvino_genai import GenerationFinishReason

from tunesmith.errors import IntegrityError
from tunesmith_openvino.engine import OpenvinoModel, open_engine


class Pipeline:
    """A pipeline whose answer is two tokens, of which the second ends it."""

    def __init__(self, reason: Any) -> None:
        self.reason = reason
        self.config = SimpleNamespace(do_sample=True, max_new_tokens=0)

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(
            chat_template="",
            encode=lambda text, add_special_tokens: SimpleNamespace(
                input_ids=SimpleNamespace(data=[[int(add_special_tokens), len(text)]])
            ),
            decode=lambda ids: f"{len(ids)} tokens",
        )

    def get_generation_config(self) -> Any:
        return self.config

    def generate(self, ids: Any, config: Any) -> Any:
        assert ids.data.tolist() == [[1, 5]]
        assert (config.do_sample, config.max_new_tokens) == (False, 7)
        return SimpleNamespace(tokens=[[4, 2]], finish_reasons=[self.reason])


@pytest.mark.parametrize("reason", ["STOP", "LENGTH"])
def test_an_answer_has_its_end_token_and_its_reason(reason: str) -> None:
    pipeline = Pipeline(getattr(GenerationFinishReason, reason))
    (answer,) = OpenvinoModel(pipeline, None).generate(["hello"], 7)
    assert (answer.ids, answer.text) == ((4, 2), "2 tokens")
    assert answer.finish_reason == reason.lower()


def test_a_folder_that_openvino_cannot_load_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(IntegrityError, match="OpenVINO cannot load this folder"),
        open_engine(tmp_path),
    ):
        pass
