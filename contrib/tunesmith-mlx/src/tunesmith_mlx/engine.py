"""Verify exports in mlx-lm, which renders, tokenizes, generates and scores them.

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
from tunesmith_torch.export.folder_tokenizer import FolderTokenizer
from tunesmith_torch.export.logits import normalize_logits
from tunesmith_torch.untrusted.foreign_code import refuse_foreign_code

TOKENIZER_OPTIONS = {"trust_remote_code": False, "local_files_only": True}


class MlxModel(FolderTokenizer):
    """A model folder in mlx-lm, which renders prompts with mlx-lm's tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.model = model

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Generation]:
        """Generate greedy answers, one at a time."""
        return [self._generate(prompt, max_new_tokens) for prompt in prompts]

    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of all tokens after each of ``ids[first:]``."""
        import mlx.core as mx

        logits_1TV = self.model(mx.array([list(ids)]))
        return normalize_logits(np.array(logits_1TV[0, first:].astype(mx.float32)))

    def _generate(self, prompt: Prompt, max_new_tokens: int) -> Generation:
        from mlx_lm import stream_generate

        ids = list(self.tokenize(self.render(prompt)))
        parts = [*stream_generate(self.model, self.tokenizer, ids, max_tokens=max_new_tokens)]
        text = "".join(part.text for part in parts)
        new_ids = tuple(int(part.token) for part in parts)
        stopped = parts[-1].finish_reason == "stop"
        return Generation(text, len(parts), "stop" if stopped else "length", new_ids)


@contextmanager
def open_engine(folder: Path) -> Iterator[MlxModel]:
    """Load a folder like ``mlx_lm.load``.

    Raises:
        IntegrityError: mlx-lm cannot load the folder.
    """
    refuse_foreign_code(folder)
    from mlx_lm import load

    try:
        model, tokenizer = load(str(folder), tokenizer_config=TOKENIZER_OPTIONS)
    except (OSError, ValueError, RuntimeError) as error:
        raise IntegrityError(
            f"{folder}: mlx-lm cannot load this folder: {error!s:.200}",
            hint="export again, or use safetensors instead",
        ) from error
    yield MlxModel(model, tokenizer)
