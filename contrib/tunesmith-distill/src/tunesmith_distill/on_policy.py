"""Learn from answers that the student samples itself, which the teacher rates token by token.

Shapes: N positions of all sampled tokens, V vocabulary, k most likely tokens of the teacher,
K = k + 1.

A student that only sees the data's answers is never taught how to go on after its own mistakes. So
in each step it answers some prompts of the data, and its divergence from the teacher is minimized
at the tokens of these answers (Agarwal et al. 2024, *On-Policy Distillation of Language Models*,
algorithm 1). With the share ``l`` and temperature ``T``, the loss of a step is::

    (1 - l) (loss of the batch)  +  l T^2 (mean divergence over all sampled tokens)

No gradient flows through the choice of the tokens, as in the paper. The answers depend on the seed,
the step and the row alone, so a resumed run samples the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.errors import DataError
from tunesmith.records import exchanges
from tunesmith_distill.divergence import coarse_logprobs, divergence
from tunesmith_distill.options import DistillOptions
from tunesmith_distill.teacher import Teacher
from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.training.additions import AdditionContext, TrainingAddition

__all__ = ["OnPolicy"]


class OnPolicy(TrainingAddition):
    """The divergence on the student's own answers."""

    def __init__(self, options: DistillOptions, context: AdditionContext, teacher: Teacher) -> None:
        """Encode the prompts.

        Raises:
            DataError: no row has a prompt that leaves room for an answer.
        """
        self._options, self._context = options, context
        self._head = get_lm_head(context.language_model)
        self._teacher = teacher
        last = ([*exchanges(record)][-1:] for record in context.job.train)
        prompts = [prompt for found in last for prompt, _ in found]
        longest = context.limit - options.on_policy_tokens
        encoded = context.template.encode_prompts(prompts)
        self._prompts = [list(ids) for ids in encoded if 0 < len(ids) <= longest]
        if not self._prompts:
            raise DataError(
                "technique.on_policy",
                f"no row has a prompt of at most {longest:,} tokens that the student could answer",
                hint="lower technique.on_policy_tokens, or leave technique.on_policy at 0",
            )
        self._tokens = 0

    def draw(self, step: int) -> list[tuple[int, Example]]:
        """Let the student answer some prompts; return each exchange as an example."""
        options, context = self._options, self._context
        count = max(1, round(options.on_policy * options.batch_size))
        source = random.Random(f"on-policy/{context.job.seed}/{step}")
        rows = source.sample(range(len(self._prompts)), min(count, len(self._prompts)))
        with context.adapted.autocast():
            answers = generate(
                context.adapted.model,
                [self._prompts[row] for row in rows],
                max_new_tokens=options.on_policy_tokens,
                end_ids=context.template.end_ids,
                sampler=Sampler(seed=source.randrange(2**31), streams=tuple(rows)),
            )
        self._tokens = sum(len(answer.ids) for answer in answers)
        examples = []
        for row, answer in zip(rows, answers, strict=True):
            prompt = self._prompts[row]
            trained = [False] * len(prompt) + [True] * len(answer.ids)
            examples.append(Example([*prompt, *answer.ids], trained))
        return [(len(example), example) for example in examples]

    def term(self, items: Sequence[Example]) -> Tensor:
        """Return the weighted divergence of these answers."""
        options = self._options
        if not items:
            return torch.zeros((), device=self._head.weight_VD.device)
        rows = range(len(items))
        batch = collate(items, rows, packed=False).to(self._head.weight_VD.device)
        ids_Nk, teacher_NK = self._teacher.predict_rows(items, rows)
        logits_NV = self._head.logits(hidden_at_targets(self._context.language_model, batch))
        student_NK = coarse_logprobs(logits_NV / options.temperature, ids_Nk)
        summed = divergence(teacher_NK, student_NK, options.direction).sum()
        return options.on_policy * options.temperature**2 * summed / self._tokens
