"""Test whether a model gives the same results if rows share a prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_evidence.number_text import format_deviation
from tunesmith_torch.kernels import tree_attention
from tunesmith_torch.losses.selected_positions import unwrap_peft
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    completion_logprobs,
)
from tunesmith_torch.runtime.eval_mode import eval_mode

Report = Callable[[str], None]
"""A function that receives a sentence for the user."""


@torch.no_grad()
def prefix_sharing_error(model: nn.Module, longest_row: int = 0) -> float:
    """Return the mean absolute change in nats of log-probabilities if prompts are shared.

    A few random tokens in a shared layout are compared with each completion alone through the
    model's own forward pass. This detects, before training, an architecture whose results sharing
    would change. ``longest_row``: number of tokens in the longest row that will be computed.

    Raises:
        EnvironmentProblem: the model's attention is not supported, at all or at that row length.
    """
    base = unwrap_peft(model)
    vocabulary = base.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (40,), generator=generator).tolist()
    groups = [
        CompletionGroup(ids[:7], (ids[7:12], ids[12:15])),
        CompletionGroup(ids[15:26], (ids[26:30], ids[30:40])),
    ]
    batch = GroupLayout().collate(groups, [0, 1]).to(base.device)
    assert batch.tree_layout is not None
    batch = replace(batch, tree_layout=replace(batch.tree_layout, longest_row=longest_row))
    with eval_mode(model):
        shared = torch.split(completion_logprobs(model, batch), batch.lengths_C.tolist())
        alone = [_logprobs_alone(base, group, c) for group in groups for c in group.completions]
    return float((torch.cat(shared) - torch.cat(alone)).abs().mean())


def can_share_prefix(
    model: nn.Module, longest_row: int, report: Report = lambda text: None
) -> bool:
    """Return True if the model runs on a CPU and can share a prefix without changing results.

    ``longest_row``: number of tokens in the longest row that will be computed. ``report`` receives
    the reason if the model cannot share, but not if the device or the layout of rows rules it out.
    """
    base = unwrap_peft(model)
    if (
        base.device.type != "cpu"
        or base.config._attn_implementation != tree_attention.ATTENTION_NAME
    ):
        return False
    fault = _find_fault(model, longest_row)
    if fault:
        report(f"the common prefix is computed separately for each row: {fault}")
    return not fault


def _find_fault(model: nn.Module, longest_row: int) -> str:
    """Return the reason why rows must not share a prefix; empty if they can."""
    base = unwrap_peft(model)
    if _has_attention_dropout(base):  # has no effect in eval mode, but raises an error in training
        return "the model's attention has dropout"
    try:
        error = prefix_sharing_error(model, longest_row)
    except EnvironmentProblem as problem:
        return problem.message
    # Rounding in thirty bf16 layers changes these unlikely tokens by 0.07 nats. Attending to
    # another row changes them by 0.9.
    tolerance = 1e-3 if base.dtype == torch.float32 else 0.25
    return (
        ""
        if error < tolerance
        else f"sharing would change log-probabilities by {format_deviation(error)} nats"
    )


def _has_attention_dropout(base: Any) -> bool:
    """Return True if the config sets attention dropout, under any of its many names."""
    config: dict[str, Any] = base.config.get_text_config().to_dict()
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    items = [(str(name), value) for part in parts for name, value in part.items()]
    return any(value for name, value in items if "att" in name and "drop" in name)


def _logprobs_alone(base: nn.Module, group: CompletionGroup, completion: Sequence[int]) -> Tensor:
    device = unwrap_peft(base).device
    ids_1T = torch.tensor([[*group.prompt, *completion]], device=device)
    logp_TV = base(input_ids=ids_1T, use_cache=False).logits[0].float().log_softmax(-1)
    predicting = slice(len(group.prompt) - 1, -1)
    logp_T: Tensor = logp_TV[predicting].gather(1, ids_1T[0, len(group.prompt) :, None])[:, 0]
    return logp_T
