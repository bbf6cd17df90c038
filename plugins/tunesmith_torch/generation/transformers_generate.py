"""Generate with transformers' own loop, for models whose cache is more than keys and values.

Shapes: B rows, N of them unfinished, T tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from tunesmith_torch.generation.sequences import (
    GenerationSettings,
    PartialSequence,
    append_next_tokens,
)
from tunesmith_torch.kernels.rotary_lengths import reset_rotary_state
from tunesmith_torch.losses.selected_positions import unwrap_peft
from tunesmith_torch.models.self_check import ForwardErrors
from tunesmith_torch.options.generation_limits import MAX_ROWS


class _NextTokenProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers comes without types
    """Makes transformers' loop choose the same tokens as the loop of this toolkit.

    It returns scores that allow only the chosen token, so both loops give the same completions.
    """

    def __init__(self, rows: Sequence[PartialSequence], settings: GenerationSettings) -> None:
        self.rows, self.settings = rows, settings

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        unfinished = [
            i for i, row in enumerate(self.rows) if not row.ids or not self._is_finished(row)
        ]
        rows = [self.rows[i] for i in unfinished]
        next_N = append_next_tokens(scores[unfinished], rows, self.settings.sampler)
        forced_BV = torch.zeros_like(scores)
        forced_BV[unfinished, next_N] = 1.0
        return forced_BV

    def _is_finished(self, row: PartialSequence) -> bool:
        return self.settings.is_finished(row)


def generate_with_transformers(
    model: torch.nn.Module, rows: Sequence[PartialSequence], settings: GenerationSettings
) -> None:
    """Generate all rows in place.

    Only prompts of equal length share a batch, because padding changes the results of some of
    these models.
    """
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt), row.index)))
    finished = 0
    while waiting:
        length = len(waiting[0].prompt)
        max_rows = min(
            max(settings.token_budget // (length + settings.max_new_tokens), 1), MAX_ROWS
        )
        batch: list[PartialSequence] = []
        while waiting and len(batch) < max_rows and len(waiting[0].prompt) == length:
            batch.append(waiting.popleft())
        _generate_batch(model, batch, settings)
        finished += len(batch)
        settings.progress(finished)


def _generate_batch(
    model: Any, batch: Sequence[PartialSequence], settings: GenerationSettings
) -> None:
    """Generate a batch in place, without a cache if the model's own cache does not work.

    PEFT's own forward passes compute other positions with a cache than in training.
    """
    try:
        unwrap_peft(model)
        _run_generate(model, batch, settings, use_cache=True)
    except torch.OutOfMemoryError:
        raise
    except ForwardErrors:
        for row in batch:
            row.ids.clear()
            row.logprobs.clear()
        _run_generate(model, batch, settings, use_cache=False)


def _run_generate(
    model: Any,
    batch: Sequence[PartialSequence],
    settings: GenerationSettings,
    *,
    use_cache: bool,
) -> None:
    ids_BT = torch.tensor([list(row.prompt) for row in batch], device=model.device)
    end_ids = sorted(settings.end_ids)
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        use_cache=use_cache,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=end_ids or None,
        pad_token_id=end_ids[0] if end_ids else 0,
    )
    try:
        model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            generation_config=config,
            logits_processor=LogitsProcessorList([_NextTokenProcessor(batch, settings)]),
        )
    finally:
        reset_rotary_state(model)  # the rows of the next batch may be shorter
