"""A causal language model with its chat template: conversations in, text and scores out.

Shapes: B rows, T tokens, N scored positions, V vocabulary.

The same class serves the base model, the model with adapters and the merged model, so compared
models differ only in their weights. Rows are sorted by length and share a forward pass up to a
token budget. Results come in the order of the prompts and do not depend on the budget.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from itertools import groupby, islice
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tunesmith.contracts import Generation, Progress, TokenScores
from tunesmith.errors import EnvironmentProblem, PromptTooLongError, UsageError
from tunesmith.records import Answer, Prompt
from tunesmith.text import format_count
from tunesmith_torch.data.packing import MicroBatch, collate
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation import prefix_attention, prefix_cache
from tunesmith_torch.generation.cache_check import can_pad, can_use_cached_attention
from tunesmith_torch.generation.constraints import TokenConstraint
from tunesmith_torch.generation.continuous import ContinuousBatch, RunningSequence
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.known_answers import KnownAnswers
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.generation.scored_rows import ScoredRow, pad_rows
from tunesmith_torch.generation.sequences import GeneratedSequence
from tunesmith_torch.kernels.rotary_lengths import length_classes
from tunesmith_torch.losses.rows_alone import logprobs_of_rows
from tunesmith_torch.losses.selected_positions import LMHead, get_lm_head, hidden_at_targets
from tunesmith_torch.models.loading import UNLIMITED_CONTEXT, config_context_length
from tunesmith_torch.options.generation_limits import TOKEN_BUDGET, max_cached_tokens
from tunesmith_torch.runtime.eval_mode import eval_mode

__all__ = ["TorchTextModel"]

SCORING_TOKENS = 8_192
"""Maximum number of tokens in a scoring pass; more would take memory without saving time."""
FULL_LOGITS_TOKENS = 1_024
"""Maximum number of tokens in a scoring pass that keeps all logits, as some heads require."""

MIN_SAVED_TOKENS = {"cpu": 128}
"""Minimum number of tokens that sharing a prompt must save, by device type.

A prompt of n tokens with k answers saves (k - 1) n tokens. Below the minimum, the extra forward
pass takes more time than it saves.
"""
MIN_SAVED_ELSEWHERE = 2_048
"""Minimum number of tokens that sharing a prompt must save, on other device types."""


class TorchTextModel:
    """A causal language model as a :class:`tunesmith.contracts.TextModel`.

    The model keeps its dtype. Calls switch it to eval mode and restore the mode afterwards.
    ``keeps_prefix``: keep the common prefix of the last prompts for the next call, and the
    newest greedy answers for calls with a constraint; this requires that the weights never change.
    """

    def __init__(
        self,
        model: nn.Module,
        template: Template,
        device: torch.device,
        token_budget: int | None = None,
        *,
        keeps_prefix: bool = False,
    ) -> None:
        self.model = model
        self.template = template
        self.device = device
        self.token_budget = token_budget or self._default_token_budget()
        self._constrain: Callable[[], TokenConstraint] | None = None
        self._kept_prefix = prefix_cache.LastPrefix() if keeps_prefix else None
        self._known_answers = KnownAnswers() if keeps_prefix else None

    def constrained_to(
        self,
        schema: Mapping[str, Any],
        *,
        item_separator: str = ", ",
        key_separator: str = ": ",
        is_indented: bool = False,
    ) -> TorchTextModel:
        """Return this model with its answers constrained to JSON that matches a schema.

        An answer that reaches its token limit is cut off and may be incomplete JSON.

        Raises:
            UsageError: llguidance does not support the tokenizer or the schema.
        """
        from tunesmith_torch.generation.json_constraint import compile_schema

        constrained = copy(self)
        constrained._constrain = compile_schema(
            self.template.tokenizer,
            self.template.end_ids,
            schema,
            item_separator=item_separator,
            key_separator=key_separator,
            is_indented=is_indented,
        )
        return constrained

    @property
    def context(self) -> int | None:
        """Maximum number of tokens in prompt and answer together; None: no limit."""
        length = config_context_length(cast(PreTrainedModel, self.model).config)
        return None if length == UNLIMITED_CONTEXT else length

    def _default_token_budget(self) -> int:
        """Return the maximum number of tokens whose keys and values the cache may hold."""
        model = cast(PreTrainedModel, self.model)
        config = model.config.get_text_config()
        # From the dictionary: reading an attribute that differs between layers (Gemma 4) raises.
        values = config.to_dict()
        heads, layers, hidden, width, key_heads = (
            values.get(config.attribute_map.get(name, name))
            for name in (
                "num_attention_heads",
                "num_hidden_layers",
                "hidden_size",
                "head_dim",
                "num_key_value_heads",
            )
        )
        if not heads or not layers:  # a recurrent model, or one of several transformers (BLT)
            return TOKEN_BUDGET
        width = width or hidden // heads
        return max_cached_tokens(
            key_heads or heads, width, layers, torch.finfo(model.dtype).bits // 8
        )

    def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
        """Return True if the prompt leaves room for ``extra_tokens`` more tokens in the context."""
        context = self.context
        return context is None or self.count_tokens(prompt) + extra_tokens <= context

    def count_tokens(self, prompt: Prompt) -> int:
        """Return the number of tokens in a prompt, including the chat template."""
        return len(self.template.encode_prompt(prompt))

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """Return the log-probabilities of each completion given its prompt.

        If a text has no prompt, its first token has no probability and is skipped.

        Raises:
            PromptTooLongError: a prompt with its completion exceeds the model's context.
        """
        pairs = self.template.encode_exchanges(prompts, completions)
        return self._score(prompts, pairs, progress)

    def score_generations(
        self,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> list[TokenScores]:
        """Return the log-probabilities of the token ids of generated answers.

        Raises:
            UsageError: an answer has no token ids, or ids outside of this model's vocabulary.
        """
        vocabulary = cast(PreTrainedModel, self.model).config.get_text_config().vocab_size
        for answer in generations:
            if not answer.ids or max(answer.ids) >= vocabulary:
                raise UsageError(
                    "a generated answer has no token ids, or ids outside this model's vocabulary",
                    hint="only compare models that have the same tokenizer",
                )
        pairs = zip(self.template.encode_prompts(prompts), generations, strict=True)
        ids = [(prompt, list(answer.ids)) for prompt, answer in pairs]
        return self._score(prompts, ids, progress)

    @torch.inference_mode()
    def embed(
        self, prompts: Sequence[Prompt], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return the mean of the last layer's hidden states over the tokens of each prompt.

        Raises:
            PromptTooLongError: a prompt exceeds the model's context.
        """
        ids = [row or [0] for row in self.template.encode_prompts(prompts)]
        self._check_context(prompts, [len(row) + 1 for row in ids], "prompt and one more token")
        # The added token is the target of the last one, and no other token attends to it.
        rows = [ScoredRow(array("i", [*row, 0]), len(row)) for row in ids]
        vectors: dict[int, NDArray[np.float32]] = {}
        with eval_mode(self.model):
            for indices, batch in self._batches_without_prefix(rows):
                hidden_ND = hidden_at_targets(self.model, batch.to(self.device)).float()
                parts = torch.split(hidden_ND, [len(ids[row]) for row in indices])
                means_BD = torch.stack([part_ND.mean(0) for part_ND in parts])
                vectors.update(zip(indices, means_BD.cpu().numpy(), strict=True))
                if progress is not None:
                    progress(len(vectors))
        return np.array([vectors[row] for row in range(len(rows))], np.float32)

    def _batches_without_prefix(
        self, rows: Sequence[ScoredRow]
    ) -> Iterator[tuple[list[int], MicroBatch]]:
        """Yield padded batches, or each row alone if padding changes the model's results."""
        longest = max((len(row.ids) for row in rows), default=0)
        if rows and can_pad(prefix_cache.unwrap_model(self.model), longest):
            yield from pad_rows(rows, 0, min(self.token_budget, SCORING_TOKENS))
        else:
            for number, row in enumerate(rows):
                yield [number], collate([row.example(0)], [0], packed=False)

    def _score(
        self,
        prompts: Sequence[Prompt],
        pairs: Sequence[tuple[list[int], list[int]]],
        progress: Progress | None,
    ) -> list[TokenScores]:
        if not pairs:
            return []
        lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
        self._check_context(prompts, lengths, "exchange")
        # Without a prompt's last token, which each row computes: it predicts the answer's first.
        max_prefix = min(len(prompt) for prompt, _ in pairs) - 1
        rows = [ScoredRow(array("i", [*prompt, *answer]), len(answer)) for prompt, answer in pairs]
        scores: list[TokenScores] = [TokenScores(())] * len(rows)
        finished = 0
        with torch.inference_mode(), eval_mode(self.model):
            for indices, logprobs in self._forward_passes(rows, max_prefix):
                numbers = iter(logprobs.tolist())
                for i in indices:
                    scores[i] = TokenScores(tuple(islice(numbers, rows[i].num_scored)))
                finished += len(indices)
                if progress is not None:
                    progress(finished)
        return scores

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> list[Generation]:
        """Generate a greedy answer of at most ``max_new_tokens`` tokens for each prompt.

        Raises:
            PromptTooLongError: a prompt leaves no room for such an answer in the model's context.
        """
        return self._generate(prompts, max_new_tokens, None, progress)

    def sample(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Sample an answer of at most ``max_new_tokens`` tokens for each prompt.

        If a prompt occurs several times, each occurrence gets a different answer.

        Raises:
            PromptTooLongError: a prompt leaves no room for such an answer in the model's context.
        """
        sampler = Sampler(temperature=temperature, seed=seed, streams=_prompt_streams(prompts))
        return self._generate(prompts, max_new_tokens, sampler, progress)

    def _generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        sampler: Sampler | None,
        progress: Progress | None,
    ) -> list[Generation]:
        prompts_ids = self.template.encode_prompts(prompts)
        lengths = [len(ids) + max_new_tokens for ids in prompts_ids]
        self._check_context(prompts, lengths, _describe_exchange(max_new_tokens))
        known: dict[int, GeneratedSequence] = {}
        if self._known_answers and self._constrain and sampler is None:
            known = self._known_answers.find(prompts_ids, max_new_tokens, self._constrain)
        new = [index for index in range(len(prompts)) if index not in known]
        answers = generate(
            self.model,
            [prompts_ids[index] for index in new],
            max_new_tokens=max_new_tokens,
            end_ids=self.template.end_ids,
            token_budget=self.token_budget,
            progress=progress and (lambda done: progress(len(known) + done)),
            sampler=sampler,
            constrain=self._constrain,
            last_prefix=self._kept_prefix,
        )
        if self._known_answers and not self._constrain and sampler is None:
            self._known_answers.add(prompts_ids, answers)
        known |= zip(new, answers, strict=True)
        return [self._to_generation(known[index]) for index in range(len(prompts))]

    def stream(
        self, prompt: Prompt, max_new_tokens: int, *, seed: int = 0, temperature: float = 0.0
    ) -> Iterator[Generation]:
        """Generate an answer; after each token, yield the answer so far. The last one is complete.

        The answer equals that of :meth:`generate`, or of :meth:`sample` if the temperature is above
        0. A model that cannot generate step by step yields only the whole answer.

        Raises:
            PromptTooLongError: the prompt leaves no room for such an answer in the model's context.
        """
        (ids,) = self.template.encode_prompts([prompt])
        length = len(ids) + max_new_tokens
        self._check_context([prompt], [length], _describe_exchange(max_new_tokens))
        streams = _prompt_streams([prompt])
        sequence = RunningSequence(
            prompt=ids,
            constraint=self._constrain() if self._constrain else None,
            max_new_tokens=max_new_tokens,
            sampler=(
                Sampler(temperature=temperature, seed=seed, streams=streams)
                if temperature > 0
                else None
            ),
        )
        end_ids = self.template.end_ids
        with ContinuousBatch(self.model, end_ids=end_ids) as batch:
            batch.add(sequence)
            while batch.step():
                yield self._to_generation(sequence.result(end_ids))

    def _to_generation(self, answer: GeneratedSequence) -> Generation:
        text = self._decode(answer.ids, answer.finish_reason == "stop")
        return Generation(text, len(answer.ids), answer.finish_reason, answer.ids)

    def _decode(self, ids: Sequence[int], ended: bool) -> str:
        return self.template.decode_answer(ids[:-1] if ended else ids)

    def _check_context(
        self, prompts: Sequence[Prompt], lengths: Sequence[int], description: str
    ) -> None:
        context = self.context
        if context is None or max(lengths, default=0) <= context:
            return
        long = [index for index, length in enumerate(lengths) if length > context]
        raise PromptTooLongError(
            f"{description}: longer than the model's context of {context} tokens in {len(long)} of "
            f"{len(lengths)} cases; the first, at index {long[0]}, has {lengths[long[0]]} tokens",
            [prompts[index] for index in long],
            hint="shorten the prompt, give fewer examples in it, or allow shorter answers",
        )

    # ----------------------------------------------------------------- passes

    def _forward_passes(
        self, rows: Sequence[ScoredRow], max_prefix: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Run all rows and yield, per pass, their indices and their concatenated log-probabilities.

        The rows are sorted, so the indices identify the rows of a pass. Six rows that start with a
        system prompt, where rows 1, 3 and 4 are answers to the same prompt A::

            [system]                            once, for all rows: compute_common_prefix

            [system][prompt A]                  once, for rows 1, 3 and 4: _share_prompts
                              [answer 3]
                              [answer 1]..      pass 1: longest first, padded on the right
                              [answer 4]...

                    [prompt and answer 5]
                    [prompt and answer 0].      pass 2: all other rows
                    [prompt and answer 2]...

        Each pass attends to the stored keys and values of its prefix. With padding, it holds at
        most the token budget; sorting by length keeps the padding small. Nothing is shared if the
        model does not support this attention, or if a row is in a higher length class.

        Two kinds of models are slower:

        - If the head or an adapter only works in the model's own forward, all logits are in memory.
          Passes have a small budget and rows of one length class.
        - If padding changes the results, rows are computed one at a time.

        ``max_prefix``: longest common prefix, in tokens, that may be computed separately.
        """
        small_budget = min(self.token_budget, FULL_LOGITS_TOKENS)
        classes = length_classes(self.model)
        try:
            base, head = prefix_cache.unwrap_model(self.model), get_lm_head(self.model)
        except (prefix_attention.UnsupportedModel, EnvironmentProblem):
            # groupby needs the rows of a class side by side: longer rows have higher classes.
            order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
            for _, members in groupby(order, lambda row: classes.class_of(len(rows[row].ids))):
                chosen = list(members)
                same = [rows[row] for row in chosen]
                for indices, batch in pad_rows(same, 0, small_budget):
                    logprobs = _logprobs_from_logits(self.model, batch.to(self.device))
                    yield [chosen[i] for i in indices], logprobs
            return
        longest = max(len(row.ids) for row in rows)
        is_cached = can_use_cached_attention(base, longest)
        if not (is_cached or can_pad(base, longest)):
            for indices, batch in pad_rows(rows, 0, small_budget):
                yield indices, logprobs_of_rows(self.model, batch.to(self.device))
            return
        # A prefix that is computed alone gets the rotary factors of short rows, which longer rows
        # may not have.
        shareable = is_cached and classes.class_of(longest) == 0
        ids = [row.ids for row in rows]
        last = self._kept_prefix or prefix_cache.LastPrefix()
        max_prefix = max_prefix if shareable else 0
        prefix = prefix_cache.compute_common_prefix(base, ids, max_prefix, last)
        budget = min(self.token_budget, SCORING_TOKENS)
        shared: Iterable[tuple[prefix_attention.Prefix | None, list[int]]]
        shared = _share_prompts(base, rows, prefix) if shareable else [(None, [*range(len(rows))])]
        for own, numbers in shared:
            some = [rows[row] for row in numbers]
            for indices, batch in pad_rows(some, own.length if own else 0, budget):
                with ExitStack() as stack:
                    if is_cached:
                        stack.enter_context(prefix_attention.use_cached_attention(base, own))
                    logprobs = self._logprobs(batch.to(self.device), head)
                yield [numbers[i] for i in indices], logprobs

    def _logprobs(self, batch: MicroBatch, head: LMHead) -> Tensor:
        return head.logprobs(hidden_at_targets(self.model, batch), batch)


def _describe_exchange(max_new_tokens: int) -> str:
    return f"prompt and an answer of {format_count(max_new_tokens, 'token')}"


def _prompt_streams(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """Return the number of each prompt's random stream, which other prompts do not affect."""
    occurrences: Counter[Prompt] = Counter()
    streams = []
    for prompt in prompts:
        digest = hashlib.sha256(
            f"{occurrences[prompt]} {prompt!r}".encode("utf-8", "surrogatepass")
        )
        streams.append(int.from_bytes(digest.digest()[:6], "big"))
        occurrences[prompt] += 1
    return tuple(streams)


def _share_prompts(
    model: PreTrainedModel, rows: Sequence[ScoredRow], prefix: prefix_attention.Prefix | None
) -> Iterator[tuple[prefix_attention.Prefix | None, list[int]]]:
    """Group rows whose prompt has many answers; yield each group with its shared prefix.

    ``prefix`` is shared by all rows. The last group has only this prefix, and holds all rows whose
    prompts have too few answers to be worth a separate pass.
    """
    least = MIN_SAVED_TOKENS.get(model.device.type, MIN_SAVED_ELSEWHERE)
    by_prompt: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        by_prompt.setdefault(row.prompt.tobytes(), []).append(number)
    others = []
    for members in by_prompt.values():
        # Each row computes the last token of its prompt, which predicts the answer's first token.
        prompt = rows[members[0]].prompt[:-1]
        new = len(prompt) - (prefix.length if prefix else 0)
        if (len(members) - 1) * new < least:
            others += members
        else:
            yield prefix_cache.compute_prefix(model, prompt, prefix), members
    if others:
        yield prefix, others


def _logprobs_from_logits(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Return log-probabilities from the logits of the model's own forward pass."""
    logits_BTV = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, use_cache=False).logits
    logits_BTV = logits_BTV[:, -batch.ids_BT.shape[1] :]  # learned prompts come before the tokens
    logits_NV = logits_BTV.flatten(0, 1)[batch.trained_N]
    return -functional.cross_entropy(logits_NV.float(), batch.targets_N, reduction="none")
