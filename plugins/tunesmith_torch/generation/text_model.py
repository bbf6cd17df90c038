"""A model behind its template: conversations in, text and scores out.

Shapes: B rows, T tokens, N scored positions, V vocabulary.

The same class serves the untouched base model, the model with adapters and the merged one, so that
what is compared differs in its weights only. Rows are sorted by length and share a forward pass up
to a token budget; results come back in the order of the prompts and do not depend on the budget.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tunesmith.contracts import Generation, Progress, TextModel, TokenScores
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.records import Prompt
from tunesmith_torch.data.packing import Example, MicroBatch, collate, unpacked
from tunesmith_torch.data.templates import Template, template_override
from tunesmith_torch.generation import prefix_attention, prefix_cache
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.losses.selected_positions import Head, head_of, trained_hidden
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.generation_limits import cached_tokens
from tunesmith_torch.options.training import FitOptions
from tunesmith_torch.runtime.device import pick_device, pick_precision
from tunesmith_torch.runtime.eval_mode import evaluating

SCORE_BUDGET = 8_192
"""Tokens in a scoring pass. More than this gains nothing, and activations take memory."""
LOGITS_BUDGET = 1_024
"""The same where a model's head cannot be run apart, so that all logits are there at once."""


class _Row(NamedTuple):
    """A prompt and its answer, joined."""

    ids: array[int]
    answer: int
    """Tokens of the answer."""

    @property
    def scored(self) -> int:
        return min(self.answer, len(self.ids) - 1)

    def example(self, start: int) -> Example:
        """The row from a token of the prompt on."""
        prompt = len(self.ids) - self.answer
        marks = [False] * (prompt - start) + [True] * self.answer
        return Example(self.ids[start:], marks)


class TorchTextModel:
    """A causal language model as a :class:`tunesmith.contracts.TextModel`.

    The model is used in the dtype that it has, in eval mode while a call lasts, and left as it was.
    """

    def __init__(
        self,
        model: nn.Module,
        template: Template,
        device: torch.device,
        token_budget: int | None = None,
    ) -> None:
        self.model = model
        self.template = template
        self.device = device
        self.token_budget = token_budget or self._budget()

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together; None: the model sets no bound."""
        model = cast(PreTrainedModel, self.model)
        config = model.config.get_text_config()
        most: int | None = getattr(config, "max_position_embeddings", None)
        return most

    def _budget(self) -> int:
        """Tokens to keep at once: as many as there are bytes for their keys and values."""
        model = cast(PreTrainedModel, self.model)
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        return cached_tokens(
            key_heads, width, config.num_hidden_layers, torch.finfo(model.dtype).bits // 8
        )

    def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
        """Whether the prompt leaves room for that many more tokens."""
        context = self.context
        return context is None or len(self.template.prompt_ids(prompt)) + extra_tokens <= context

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """How likely the model finds each completion after its prompt.

        The first token of a text that nothing comes before has no probability and is left out.

        Raises:
            UsageError: an exchange is longer than the model's context.
        """
        return self._score(self.template.exchanges_ids(prompts, completions), progress)

    def score_drawn(
        self,
        prompts: Sequence[Prompt],
        drawn: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """How likely the model finds drawn answers, in the very tokens in which they were said.

        Raises:
            UsageError: an answer's tokens were not told, or are not this model's.
        """
        vocabulary = cast(PreTrainedModel, self.model).config.get_text_config().vocab_size
        for answer in drawn:
            if not answer.ids or max(answer.ids) >= vocabulary:
                raise UsageError(
                    "a drawn answer has no tokens, or others than this model's",
                    hint="only models with the same tokenizer can be compared so",
                )
        pairs = zip(self.template.prompts_ids(prompts), drawn, strict=True)
        return self._score([(prompt, list(answer.ids)) for prompt, answer in pairs], progress)

    def _score(
        self, pairs: Sequence[tuple[list[int], list[int]]], progress: Progress | None
    ) -> list[TokenScores]:
        if not pairs:
            return []
        self._check([len(prompt) + len(answer) for prompt, answer in pairs], "exchange")
        most = min(len(prompt) for prompt, _ in pairs) - 1
        rows = [_Row(array("i", [*prompt, *answer]), len(answer)) for prompt, answer in pairs]
        scores: list[TokenScores] = [TokenScores(())] * len(rows)
        finished = 0
        with torch.inference_mode(), evaluating(self.model):
            for indices, logprobs in self._passes(rows, most):
                numbers = iter(logprobs.tolist())
                for i in indices:
                    scores[i] = TokenScores(tuple(islice(numbers, rows[i].scored)))
                finished += len(indices)
                if progress is not None:
                    progress(finished)
        return scores

    def generate(
        self, prompts: Sequence[Prompt], limit: int, *, progress: Progress | None = None
    ) -> list[Generation]:
        """Greedy answers of at most ``limit`` tokens.

        Raises:
            UsageError: a prompt leaves no room for such an answer in the model's context.
        """
        return self._answer(prompts, limit, None, progress)

    def sample(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Drawn answers of at most ``limit`` tokens; a prompt that is repeated gets others.

        Raises:
            UsageError: a prompt leaves no room for such an answer in the model's context.
        """
        sampler = Sampler(temperature=temperature, seed=seed, streams=_streams(prompts))
        return self._answer(prompts, limit, sampler, progress)

    def _answer(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        sampler: Sampler | None,
        progress: Progress | None,
    ) -> list[Generation]:
        prompts_ids = self.template.prompts_ids(prompts)
        self._check([len(ids) + limit for ids in prompts_ids], "prompt and its answer")
        answers = generate(
            self.model,
            prompts_ids,
            limit=limit,
            end_ids=self.template.end_ids,
            token_budget=self.token_budget,
            progress=progress,
            sampler=sampler,
        )
        return [
            Generation(self._text(a.ids, a.stopped == "end"), len(a.ids), a.stopped, a.ids)
            for a in answers
        ]

    def _text(self, ids: Sequence[int], ended: bool) -> str:
        text: str = self.template.tokenizer.decode(
            list(ids[:-1] if ended else ids),
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return text

    def _check(self, lengths: Sequence[int], what: str) -> None:
        context = self.context
        for index, length in enumerate(lengths):
            if context is not None and length > context:
                raise UsageError(
                    f"{what} {index}: longer than the model's context, "
                    f"got {length} tokens, {context} are possible",
                    hint="shorten the prompt, give fewer examples in it, or allow shorter answers",
                )

    # ----------------------------------------------------------------- passes

    def _passes(self, rows: Sequence[_Row], most: int) -> Iterator[tuple[list[int], Tensor]]:
        """Forward passes over all rows: which rows, and their tokens' log-probabilities, joined.

        ``most``: how many tokens of a shared beginning may be run apart, at most.
        """
        longest = max(len(row.ids) for row in rows)
        try:
            base, head = prefix_cache.bare(self.model), head_of(self.model)
        except (prefix_attention.Unsupported, EnvironmentProblem):
            for indices, batch in _batches(rows, 0, min(self.token_budget, LOGITS_BUDGET)):
                yield indices, _through_logits(self.model, batch.to(self.device))
            return
        plain = prefix_cache.holds_plain_cache(base, longest)
        ids = [row.ids for row in rows]
        prefix = prefix_cache.shared_prefix(base, ids, most) if plain else None
        shared = 0 if prefix is None else prefix.length
        budget = min(self.token_budget, SCORE_BUDGET)
        for indices, batch in _batches(rows, shared, budget):
            with ExitStack() as stack:
                if plain:
                    stack.enter_context(prefix_attention.attending(base, prefix))
                yield indices, self._logprobs(batch.to(self.device), head)

    def _logprobs(self, batch: MicroBatch, head: Head) -> Tensor:
        return head.logprobs(trained_hidden(self.model, batch), batch)


def _streams(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """A random stream for each prompt that does not depend on what else is asked."""
    before: Counter[Prompt] = Counter()
    streams = []
    for prompt in prompts:
        digest = hashlib.sha256(f"{before[prompt]} {prompt!r}".encode("utf-8", "surrogatepass"))
        streams.append(int.from_bytes(digest.digest()[:6], "big"))
        before[prompt] += 1
    return tuple(streams)


def _batches(
    rows: Sequence[_Row], shared: int, budget: int
) -> Iterator[tuple[list[int], MicroBatch]]:
    """Rows without their shared beginning, longest first, padded on the right.

    Padding that comes after a row's tokens is seen by none of them.
    """
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row].ids))
    lengths = [len(rows[row].ids) - shared for row in order]
    for places in unpacked(lengths, max(budget, lengths[0])):
        indices = [order[place] for place in places]
        part = [rows[i].example(shared) for i in indices]
        batch = collate(part, range(len(part)), packed=False)
        yield indices, replace(batch, positions_BT=batch.positions_BT + shared)


def _through_logits(model: nn.Module, batch: MicroBatch) -> Tensor:
    """For heads and adapters that only the model's own forward knows to apply."""
    logits_BTV = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits
    logits_BTV = logits_BTV[:, -batch.ids_BT.shape[1] :]  # learned prompts stand before the tokens
    logits_NV = logits_BTV.flatten(0, 1)[batch.trained_N]
    return -functional.cross_entropy(logits_NV.float(), batch.targets_N, reduction="none")


def open_text_model(
    model: Path,
    artifact: Path | None,
    *,
    device: str,
    options: FitOptions,
    quantization: Quantization | None = None,
) -> TextModel:
    """The base model, or what was trained from it, read from disk."""
    place = pick_device(device)
    precision = pick_precision(place, options.precision)
    adapter = artifact is not None and artifacts.artifact_format(artifact) == "adapter"
    folder = model if adapter or artifact is None else artifact
    base = load_model(
        folder,
        place,
        precision,
        packing=options.packing,
        quantization=quantization,
        fused_kernels=options.fused_kernels,
    )
    net: nn.Module = base.model
    if adapter and artifact is not None:
        net = artifacts.attach_adapter(base, artifact, fused_kernels=options.fused_kernels)
    return TorchTextModel(net, Template.of(base.tokenizer, template_override(options)), place)
