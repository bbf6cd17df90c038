"""The same answers through transformers' own loop, for models whose memory is their own affair.

Shapes: B rows, N of them open, T tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from tunesmith_torch.generation.sequences import Draft, Terms, choose
from tunesmith_torch.options.generation_limits import MAX_ROWS


class _Chooser(LogitsProcessor):  # type: ignore[misc]  # transformers comes without types
    """Lets ``choose`` decide inside of transformers' loop, which then finds one token possible."""

    def __init__(self, rows: Sequence[Draft], terms: Terms) -> None:
        self.rows, self.terms = rows, terms

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        open_rows = [i for i, row in enumerate(self.rows) if not row.ids or not self._done(row)]
        rows = [self.rows[i] for i in open_rows]
        chosen_N = choose(scores[open_rows], rows, self.terms.sampler)
        forced_BV = torch.zeros_like(scores)
        forced_BV[open_rows, chosen_N] = 1.0
        return forced_BV

    def _done(self, row: Draft) -> bool:
        return self.terms.finished(row)


def answer_upstream(model: torch.nn.Module, rows: Sequence[Draft], terms: Terms) -> None:
    """Fill in the rows' answers.

    Only prompts of one length share a batch: not every such model ignores padding.
    """
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt), row.index)))
    finished = 0
    while waiting:
        length = len(waiting[0].prompt)
        most = min(max(terms.budget // (length + terms.limit), 1), MAX_ROWS)
        batch: list[Draft] = []
        while waiting and len(batch) < most and len(waiting[0].prompt) == length:
            batch.append(waiting.popleft())
        _ask_upstream(model, batch, terms)
        finished += len(batch)
        terms.progress(finished)


def _ask_upstream(model: Any, batch: Sequence[Draft], terms: Terms) -> None:
    ids_BT = torch.tensor([list(row.prompt) for row in batch], device=model.device)
    ends = sorted(terms.end_ids)
    neutral = GenerationConfig(
        max_new_tokens=terms.limit,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    model.generate(
        ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        generation_config=neutral,
        logits_processor=LogitsProcessorList([_Chooser(batch, terms)]),
    )
