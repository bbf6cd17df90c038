"""Choose how rows are laid out in micro-batches, by testing layouts on the loaded model.

The fast layouts make assumptions about an architecture. Each layout is compared with the model's
own forward pass over each row alone. The first one that gives the same log-probabilities is used::

    packed    rows end to end, with this toolkit's attention        the fastest

    padded    rows in a rectangle, with the model's own attention

    alone     one row at a time through the model's own forward     exact for every model

If training has rows longer than a sliding window or chunk of the model, the test includes such
rows: short rows do not show how the model behaves beyond it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem, TunesmithError
from tunesmith_evidence.number_text import format_deviation
from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.kernels import tree_attention
from tunesmith_torch.losses.selected_positions import (
    get_lm_head,
    hidden_at_targets,
    max_logprob_difference,
    unwrap_peft,
)
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.loading import context_length
from tunesmith_torch.runtime.eval_mode import eval_mode

TOLERANCE_NATS = {torch.float32: 1e-3, torch.bfloat16: 1.0}
"""Largest accepted difference, in nats, between two computations of one log-probability.

In a model with 135M parameters, differences are:

- 3e-5 from rounding to fp32.
- 0.3 from rounding to bf16.
- 0.4 with a base in 8 bits, whose activations are rounded to 8 bits in any compute dtype.
- 2.7 if a row attends to another row.
"""
COPY_TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest accepted difference, in nats, between two copies of a row in one micro-batch.

The rows before a copy must have no effect, and both copies are rounded in the same way.
"""
SHORT_ROWS = 9, 14
"""Row lengths in tokens that every test includes."""
MAX_CHECK_LENGTH = 2048
"""Maximum row length in a test, in tokens; longer rows would take more time than they save."""

_WINDOW_NAME = re.compile("window|attention_chunk|index_topk|budget")
"""Matches config keys that contain lengths beyond which attention changes."""

ForwardErrors = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
    TunesmithError,
)
"""Exceptions that an architecture may raise if it does not support a layout."""


@dataclass(frozen=True)
class RowLayout:
    """The chosen layout of rows, with the reason why a faster one is not used."""

    kind: Literal["packed", "padded", "alone"]
    reason: str = ""


def choose_row_layout(adapted: AdaptedModel, *, packing: bool, longest: int) -> RowLayout:
    """Return the fastest layout that gives the model's own log-probabilities.

    If the layout is not packed, the model gets its own attention back. ``longest``: number of
    tokens in the longest training row.

    Raises:
        EnvironmentProblem: the log-probabilities of a row depend on later tokens, or on chance.
    """
    base = adapted.base.model
    lengths = choose_check_lengths(base.config.get_text_config(), longest)
    reason = ""
    if packing:
        # An architecture's own attention may fail beyond its context (GPT Neo): test up to there.
        context = 0 if base.is_backend_compatible() else context_length(adapted.base) - 1
        fills_context = max(lengths) < context <= MAX_CHECK_LENGTH
        packed_lengths = (*lengths, context) if fills_context else lengths
        reason = _problem(adapted, packed_lengths, packed=True)
        if not reason:
            return RowLayout("packed")
        use_transformers_attention(base)
    padding_problem = _problem(adapted, lengths, packed=False)
    if not padding_problem:
        return RowLayout("padded", reason)
    _require_causal(adapted, lengths)
    return RowLayout("alone", padding_problem)


def use_transformers_attention(model: Any) -> None:
    """Replace this toolkit's attention with the one that transformers would choose."""
    if model.config._attn_implementation == tree_attention.ATTENTION_NAME:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")


def choose_check_lengths(config: Any, longest: int) -> tuple[int, ...]:
    """Return row lengths for a test, within and beyond the model's attention windows."""
    limits = {n + 3 for n in _windows(config.to_dict())}
    shortest = max(SHORT_ROWS)
    return (
        *SHORT_ROWS,
        *(n for n in sorted(limits) if shortest < n <= min(longest, MAX_CHECK_LENGTH)),
    )


def _windows(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield the lengths in a config beyond which the model's attention changes."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _windows(value)
        elif _WINDOW_NAME.search(str(name)) and isinstance(value, int) and value > 1:
            yield value


def _problem(adapted: AdaptedModel, lengths: tuple[int, ...], *, packed: bool) -> str:
    """Return the reason why a layout cannot be used; empty if it can."""
    base, layout = adapted.base.model, "packed" if packed else "padded"
    try:
        with adapted.autocast():
            nats = max_logprob_difference(adapted.model, packed=packed, lengths=lengths)
            leak = _difference_of_copies(adapted.model, packed=packed)
    except torch.OutOfMemoryError:
        raise
    except ForwardErrors as error:
        text = " ".join(str(error).split())[:120]
        return f"{type(base).__name__} does not support {layout} rows: {text}"
    eight_bits = getattr(base, "is_loaded_in_8bit", False)
    dtype = torch.bfloat16 if eight_bits else adapted.precision.dtype
    if not leak <= COPY_TOLERANCE_NATS[dtype]:
        change = format_deviation(leak)
        return f"{layout} rows of {type(base).__name__} would change each other by {change} nats"
    if not nats <= TOLERANCE_NATS[dtype]:
        change, name = format_deviation(nats), type(base).__name__
        return f"{layout} rows would change log-probabilities of {name} by {change} nats"
    return ""


@torch.no_grad()
def _difference_of_copies(model: nn.Module, *, packed: bool) -> float:
    """Return the largest difference in log-probability between two copies of a row, in nats."""
    base = unwrap_peft(model)
    generator = torch.Generator().manual_seed(1)
    vocabulary = base.config.get_text_config().vocab_size
    row, other = (
        torch.randint(vocabulary, (length,), generator=generator).numpy() for length in SHORT_ROWS
    )
    examples = [Example(ids, [True] * len(ids)) for ids in (row, other, row)]
    batch = collate(examples, range(3), packed=packed).to(base.device)
    with eval_mode(model):
        logp_N = get_lm_head(model).logprobs(hidden_at_targets(model, batch), batch)
    trained = len(row) - 1
    return float((logp_N[:trained] - logp_N[-trained:]).abs().max())


@torch.no_grad()
def _require_causal(adapted: AdaptedModel, lengths: tuple[int, ...]) -> None:
    """Raise an error if a model's log-probabilities depend on later tokens, or on chance."""
    base = adapted.base.model
    generator = torch.Generator().manual_seed(0)
    vocabulary, longest = base.config.get_text_config().vocab_size, max(lengths)
    ids_1T = torch.randint(vocabulary, (1, longest), generator=generator).to(base.device)

    def logprobs(tokens: int) -> Tensor:
        # The forward of an adapter's wrapper, which may put logits of learned prompts first.
        logits: Tensor = adapted.model(input_ids=ids_1T[:, :tokens], use_cache=False).logits
        return logits[0, -tokens:][: longest // 2].float().log_softmax(-1)

    with eval_mode(adapted.model), adapted.autocast():
        part, again, whole = logprobs(longest // 2), logprobs(longest // 2), logprobs(longest)
    tolerance = TOLERANCE_NATS[adapted.precision.dtype]
    for other, cause in ((again, "change from one pass to the next"), (whole, "see later tokens")):
        if not float((part - other).abs().max()) <= tolerance:
            raise EnvironmentProblem(
                f"model.base: predictions of {type(base).__name__} {cause}, so it does not "
                "generate text from left to right",
                hint="choose a causal language model",
            )
