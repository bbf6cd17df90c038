"""Technique ``classifier``, and its result as a text model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.contracts import Artifact, Generation, Job, Progress, TextModel, TokenScores
from tunesmith.errors import PromptTooLongError
from tunesmith.records import Answer, Prompt
from tunesmith_classifier.head import Head, row_logits
from tunesmith_classifier.options import ClassifierOptions
from tunesmith_classifier.task import ClassifierTask
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.loading import config_context_length, pick_model_precision
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import pick_device
from tunesmith_torch.training.trainer import train

__all__ = ["ClassifierModel", "ClassifierTechnique"]

UNKNOWN = -50.0
"""Log-probability of an answer that is not a label."""


class ClassifierTechnique:
    """Trains a head over known labels."""

    def __init__(self, options: ClassifierOptions) -> None:
        self.options = options

    def train(self, job: Job[ClassifierOptions]) -> Artifact:
        """Train, calibrate and save the head, with its adapter."""
        return train(job, ClassifierTask())

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the classifier, or the base model if ``artifact`` is None."""
        options = self.options
        if artifact is None:
            return open_trained_model(model, None, device=device, options=options)
        torch_device = pick_device(device)
        precision = pick_model_precision(model, torch_device, options.precision)
        fused = options.fused_kernels
        base = load_model(model, torch_device, precision, packing=False, fused_kernels=fused)
        adapted: nn.Module = base.model
        if options.adapt == "lora":
            adapted = attach_adapter(base, artifact, fused_kernels=fused)
        head = Head.load(artifact).to(torch_device)
        return ClassifierModel(adapted, head, Template.from_options(base.tokenizer, options))


@dataclass(frozen=True)
class ClassifierModel:
    """A text model that answers with a label."""

    model: nn.Module
    head: Head
    template: Template

    def logprobs(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the calibrated log-probability of each label for each prompt.

        Raises:
            PromptTooLongError: a prompt does not fit into the model's context.
        """
        ids = self.template.encode_prompts(prompts)
        limit = config_context_length(cast(PreTrainedModel, self.model).config)
        if long := [prompt for prompt, row in zip(prompts, ids, strict=True) if len(row) >= limit]:
            raise PromptTooLongError(
                f"{len(long)} of {len(ids)} prompts do not fit into the model's context of {limit} "
                "tokens",
                long,
                hint="shorten these prompts",
            )
        logits_NL = row_logits(self.model, self.head, ids)
        return (logits_NL.double() / self.head.temperature).log_softmax(-1)

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> list[Generation]:
        """Return the most likely label of each prompt; its log-odds are the confidence."""
        answers = []
        for row_L in self.logprobs(prompts) if prompts else ():
            logprob, at = (float(row_L.max()), int(row_L.argmax()))
            odds = logprob - math.log(max(-math.expm1(logprob), 1e-300))
            answers.append(Generation(self.head.labels[at], 1, "stop", confidence=odds))
        if progress is not None:
            progress(len(answers))
        return answers

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """Return the log-probability of each completion as a label, as if it were one token."""
        if not prompts:
            return []
        numbers = {label: number for number, label in enumerate(self.head.labels)}
        texts = [c if isinstance(c, str) else str(c.text) for c in completions]
        scores = []
        for row_L, text in zip(self.logprobs(prompts), texts, strict=True):
            at = numbers.get(text.strip())
            scores.append(TokenScores((UNKNOWN if at is None else float(row_L[at]),)))
        if progress is not None:
            progress(len(scores))
        return scores
