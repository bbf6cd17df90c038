"""Run vLLM in a separate process, which answers requests about a model, one JSON object per line.

The process runs in the Python environment that has vLLM, so it imports nothing from tunesmith.

Shapes: N scored positions, V vocabulary.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

POSITIONS_AT_ONCE = 4
"""Number of positions to score together; each needs a number for every token of the vocabulary."""


class Worker:
    """Loads a model into vLLM, and answers the requests of the exporting process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch
        import vllm
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        engine = dict(settings["engine"])
        if torch.cuda.is_available():  # Use the memory that the previous process left free.
            free, total = torch.cuda.mem_get_info()
            engine["gpu_memory_utilization"] = min(0.9, 0.95 * free / total)
        self.llm = LLM(**engine)
        adapter = settings["adapter"]
        self.lora = LoRARequest("tuned", 1, adapter) if adapter else None
        self.about = {
            "version": vllm.__version__,
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "has_template": getattr(self.llm.get_tokenizer(), "chat_template", None) is not None,
        }

    def render(self, prompt: str | list[dict[str, str]]) -> dict[str, Any]:
        """Return the text of a prompt and its token ids, as vLLM passes them to the model."""
        (answer,) = self._run([prompt], max_tokens=1)
        return {"text": answer.prompt, "ids": list(answer.prompt_token_ids)}

    def generate(
        self, prompts: list[str | list[dict[str, str]]], max_new_tokens: int
    ) -> list[dict[str, Any]]:
        """Generate answers with the settings of a server, which come from the generation config."""
        completions = [answer.outputs[0] for answer in self._run(prompts, max_new_tokens)]
        return [
            {"text": c.text, "ids": list(c.token_ids), "reason": c.finish_reason}
            for c in completions
        ]

    def logprobs(self, ids: list[int], first: int, file: str) -> dict[str, Any]:
        """Write the log-probabilities after each of ``ids[first:]`` to a file, [N, V]."""
        import numpy as np

        ends = range(first + 1, len(ids) + 1)
        rows = [
            row
            for start in range(0, len(ends), POSITIONS_AT_ONCE)
            for row in self._score([ids[:end] for end in ends[start : start + POSITIONS_AT_ONCE]])
        ]
        np.save(file, np.stack(rows))
        return {}

    def _score(self, prefixes: list[list[int]]) -> list[Any]:
        import numpy as np

        prompts = [{"prompt_token_ids": prefix} for prefix in prefixes]
        rows = []
        for answer in self._run(prompts, 1, logprobs=-1, flat_logprobs=True, detokenize=False):
            found = answer.outputs[0].logprobs
            tokens, logprobs = np.array(found.token_ids), np.array(found.logprobs, np.float64)
            row = np.full(tokens.max() + 1, -np.inf)
            row[tokens] = logprobs
            rows.append(row)
        return rows

    def _run(self, prompts: Sequence[Any], max_tokens: int, **settings: Any) -> Sequence[Any]:
        parameters = self.llm.get_default_sampling_params()
        parameters.max_tokens = max_tokens
        for name, value in settings.items():
            setattr(parameters, name, value)
        call = self.llm.chat if isinstance(prompts[0], list) else self.llm.generate
        return call(list(prompts), parameters, lora_request=self.lora, use_tqdm=False)  # type: ignore[no-any-return]


def main() -> None:
    """Load the model that the settings name, and answer requests until the input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # vLLM also prints to standard output.
        worker = Worker(json.loads(sys.argv[1]))
        print(json.dumps(worker.about), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            function = getattr(worker, request.pop("do"))
            print(json.dumps(function(**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
