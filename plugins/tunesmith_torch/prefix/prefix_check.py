"""Whether a prompt may be computed once for all of its answers: the model at hand is asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.kernels import tree_attention
from tunesmith_torch.losses.selected_positions import base_of
from tunesmith_torch.prefix.completion_groups import Group, Layout, answer_logprobs
from tunesmith_torch.runtime.eval_mode import evaluating


@torch.no_grad()
def sharing_error(model: nn.Module) -> float:
    """How far shared prompts change log-probabilities, in nats, on average; infinite if refused.

    Asked of the model at hand with a few random tokens, against each answer through the model's
    own forward, so that an architecture nobody thought of is found out before it trains wrongly.
    """
    base = base_of(model)
    vocabulary = base.config.get_text_config().vocab_size
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (40,), generator=source).tolist()
    groups = [Group(ids[:7], (ids[7:12], ids[12:15])), Group(ids[15:26], (ids[26:30], ids[30:40]))]
    with suppress(EnvironmentProblem), evaluating(model):
        answers = Layout().collate(groups, [0, 1]).to(base.device)
        ours = torch.split(answer_logprobs(model, answers), answers.lengths_A.tolist())
        theirs = [_alone(base, group, a) for group in groups for a in group.answers]
        return float((torch.cat(ours) - torch.cat(theirs)).abs().mean())
    return float("inf")


def can_share(model: nn.Module) -> bool:
    """Whether prompts may be shared: on the CPU, where the model agrees that nothing changes."""
    base = base_of(model)
    if base.device.type != "cpu" or base.config._attn_implementation != tree_attention.NAME:
        return False
    # Thirty layers of bf16 move these unlikely tokens by 0.07; hearing another row, by 0.9.
    return sharing_error(model) < (1e-3 if base.dtype == torch.float32 else 0.25)


def _alone(base: nn.Module, group: Group, answer: Sequence[int]) -> Tensor:
    device = base_of(base).device
    ids_1T = torch.tensor([[*group.prompt, *answer]], device=device)
    logp_TV = base(input_ids=ids_1T, use_cache=False).logits[0].float().log_softmax(-1)
    at = slice(len(group.prompt) - 1, -1)
    logp_T: Tensor = logp_TV[at].gather(1, ids_1T[0, len(group.prompt) :, None])[:, 0]
    return logp_T
