"""Verify exports in OpenVINO GenAI, which renders, tokenizes, generates and scores.

Shapes: T tokens, N scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.contracts import Generation
from tunesmith.errors import IntegrityError
from tunesmith.records import Prompt
from tunesmith_torch.export.logits import normalize_logits
from tunesmith_torch.export.threads import count_threads

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
"""Without these options, OpenVINO may round computations and cached keys and values."""


class OpenvinoModel:
    """A model folder loaded into OpenVINO GenAI."""

    def __init__(self, pipeline: Any, graph: Any) -> None:
        self.pipeline = pipeline
        self.graph = graph
        self.tokenizer = pipeline.get_tokenizer()

    def render(self, prompt: Prompt) -> str:
        """Return the prompt, rendered by OpenVINO GenAI with the folder's chat template."""
        if isinstance(prompt, str) or not self.tokenizer.chat_template:
            return prompt if isinstance(prompt, str) else prompt[0].text
        turns = [{"role": message.role, "content": message.text} for message in prompt]
        return str(self.tokenizer.apply_chat_template(turns, add_generation_prompt=True))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a rendered prompt. A chat template adds its own BOS token."""
        special = not self.tokenizer.chat_template
        ids_1T = self.tokenizer.encode(text, add_special_tokens=special).input_ids.data
        return [int(i) for i in ids_1T[0]]

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Generation]:
        """Generate greedy answers, one at a time."""
        return [self._generate(prompt, max_new_tokens) for prompt in prompts]

    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of all tokens after each of ``ids[first:]``."""
        self.graph.reset_state()
        outputs = self.graph.infer(
            {
                "input_ids": np.array([list(ids)], np.int64),
                "attention_mask": np.ones((1, len(ids)), np.int64),
                "position_ids": np.arange(len(ids), dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        return normalize_logits(outputs["logits"][0, first:])

    def _generate(self, prompt: Prompt, max_new_tokens: int) -> Generation:
        from openvino import Tensor
        from openvino_genai import GenerationFinishReason

        config = self.pipeline.get_generation_config()
        config.do_sample, config.max_new_tokens = False, max_new_tokens
        ids_1T = np.array([self.tokenize(self.render(prompt))], np.int64)
        answer = self.pipeline.generate(Tensor(ids_1T), config)
        ids = tuple(int(i) for i in answer.tokens[0])
        stopped = answer.finish_reasons[0] == GenerationFinishReason.STOP
        text = str(self.tokenizer.decode(list(ids)))
        return Generation(text, len(ids), "stop" if stopped else "length", ids)


@contextmanager
def open_engine(folder: Path) -> Iterator[OpenvinoModel]:
    """Load a folder on the CPU, computing in float32.

    Raises:
        IntegrityError: OpenVINO cannot load the folder.
    """
    from openvino import Core
    from openvino_genai import LLMPipeline

    options: dict[str, Any] = {**EXACT, "INFERENCE_NUM_THREADS": count_threads()}
    try:
        pipeline = LLMPipeline(str(folder), "CPU", **options)
        graph = Core().compile_model(folder / "openvino_model.xml", "CPU", options)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise IntegrityError(
            f"{folder}: OpenVINO cannot load this folder: {reason:.200}",
            hint="export again, or use safetensors instead",
        ) from error
    yield OpenvinoModel(pipeline, graph.create_infer_request())
