"""Verify exports in ONNX Runtime: the graph generates and scores, the tokenizer is the folder's.

Shapes: T tokens, N scored positions, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.contracts import Generation
from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith.records import Prompt
from tunesmith_torch.export.folder_tokenizer import FolderTokenizer, open_tokenizer
from tunesmith_torch.export.logits import normalize_logits
from tunesmith_torch.export.threads import count_threads
from tunesmith_torch.untrusted.foreign_code import refuse_foreign_code

PAST, PRESENT = "past_key_values.", "present."
"""Name prefixes of cached keys and values, as inputs and as outputs."""


class OnnxRuntime(FolderTokenizer):
    """A graph loaded into ONNX Runtime."""

    def __init__(self, session: Any, tokenizer: Any, config: dict[str, Any]) -> None:
        """Wrap a session. ``config`` is the ``model`` part of the folder's genai_config.json."""
        super().__init__(tokenizer)
        self.session = session
        ids = config["eos_token_id"]
        self.end_ids = frozenset(ids if isinstance(ids, list) else [ids])
        names = {i.name for i in session.get_inputs()}
        cached = {name for name in names if name.startswith(PAST)}
        if unknown := names - cached - {"input_ids", "attention_mask", "position_ids"}:
            raise EnvironmentProblem(
                f"onnx: the graph needs inputs that this exporter does not know: {unknown}",
                hint="export to safetensors instead",
            )
        self.takes_positions = "position_ids" in names
        decoder = config["decoder"]
        shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
        self.empty_cache = {name: np.zeros(shape, np.float32) for name in cached}

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Generation]:
        """Generate greedy answers, one at a time."""
        return [self._generate(prompt, max_new_tokens) for prompt in prompts]

    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of all tokens after each of ``ids[first:]``."""
        logits_TV, _ = self._run(ids, self.empty_cache, 0)
        return normalize_logits(logits_TV[first:])

    def _generate(self, prompt: Prompt, max_new_tokens: int) -> Generation:
        new = self.tokenize(self.render(prompt))
        cache, length, ids = self.empty_cache, 0, list[int]()
        while len(ids) < max_new_tokens and not self.end_ids.intersection(ids[-1:]):
            logits_TV, cache = self._run(new, cache, length)
            length += len(new)
            new = [int(logits_TV[-1].argmax())]
            ids += new
        return self.read_answer(ids, self.end_ids)

    def _run(
        self, ids: Sequence[int], cache: dict[str, Any], length: int
    ) -> tuple[Any, dict[str, Any]]:
        """Return the logits after each of ``ids``, which follow ``length`` cached tokens."""
        feed = {
            "input_ids": np.array([list(ids)], np.int64),
            "attention_mask": np.ones((1, length + len(ids)), np.int64),
            **cache,
        }
        if self.takes_positions:
            feed["position_ids"] = np.arange(length, length + len(ids), dtype=np.int64)[None]
        names = [output.name for output in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, feed), strict=True))
        logits_TV = outputs.pop("logits")[0]
        return logits_TV, {name.replace(PRESENT, PAST): value for name, value in outputs.items()}


@contextmanager
def open_engine(folder: Path) -> Iterator[OnnxRuntime]:
    """Load a graph and its tokenizer.

    Raises:
        IntegrityError: ONNX Runtime cannot load the graph.
        EnvironmentProblem: the model keeps state other than cached keys and values.
    """
    import onnxruntime

    refuse_foreign_code(folder)
    onnxruntime.disable_telemetry_events()
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # The exceptions have no common class.
        raise IntegrityError(
            f"{folder}: ONNX Runtime cannot load this folder: {error!s:.200}",
            hint="export again, or use safetensors instead",
        ) from error
    yield OnnxRuntime(session, open_tokenizer(folder), config)
