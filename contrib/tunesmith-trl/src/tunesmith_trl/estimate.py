"""Estimate memory and time of training with TRL. Only traced steps import torch.

A step is estimated like a step of the toolkit's own loop over padded rows. In addition, TRL keeps
the logits of all completion tokens of a micro-batch in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tunesmith.estimates import Estimate, EstimateRequest, MemorySaving, PhaseMemory
from tunesmith_torch.memory_estimate.policies import Stage, estimate_stages
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.techniques import memory_savings as training_memory_savings
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.options.training import MIN_MICRO_BATCH_TOKENS
from tunesmith_trl.options import TrlOptions

OptionsT = TypeVar("OptionsT", bound=TrlOptions)

NUMBERS_PER_LOGIT = 4
"""Number of values in memory per logit: the raw one, the one divided by temperature, and their
gradients."""
_REWARD_MODEL_NOTE = "the reward model is assumed to be as large as the base model"
_VLLM_NOTE = "vLLM is not counted: it reserves a share of the GPU (30 % by TRL's default)"


def pad_options(options: PolicyOptions) -> PolicyOptions:
    """Return the options of a step as TRL computes it: padded rows, and no shared prompts."""
    return options.model_copy(update={"packing": False})


def micro_batch_rows(options: PolicyOptions, prompts: int, longest_prompt: int) -> int:
    """Return TRL's per_device_train_batch_size: the completions per forward and backward pass.

    This is the largest divisor of a batch's completions for which the longest row fits into
    ``micro_batch_tokens``, or 1. ``prompts`` is the number of prompts in a batch.
    """
    generation = options.generation
    completions = prompts * generation.num_generations
    budget = options.micro_batch_tokens or MIN_MICRO_BATCH_TOKENS
    most = max(1, budget // (longest_prompt + generation.max_new_tokens))
    return next(rows for rows in range(min(most, completions), 0, -1) if completions % rows == 0)


def estimate(options: TrlOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """Yield two estimates, first an analytic one, then one with a traced step."""
    policy = pad_options(options.policy_options)
    size = 0
    if options.reward_model is not None:
        size = EstimateSetting.from_request(policy, request).base_bytes
    stage = Stage.of_policy("train", policy, request, reward_model_bytes=size)
    notes = [_REWARD_MODEL_NOTE] * bool(size) + [_VLLM_NOTE] * options.vllm
    for each in estimate_stages([stage]):
        memory = {**each.memory, "train": _with_logits(each.memory["train"], stage.setting, policy)}
        yield replace(each, memory=memory, notes=(*each.notes, *notes))


def memory_savings(options: OptionsT) -> Sequence[MemorySaving[OptionsT]]:
    """Return option changes that save memory, except packing, because TRL always pads rows."""
    savings = training_memory_savings(options)
    return [saving for saving in savings if saving.config.packing == options.packing]


def _with_logits(
    memory: PhaseMemory, setting: EstimateSetting, options: PolicyOptions
) -> PhaseMemory:
    longest_prompt = max(row.prompt for row in setting.workload.micro_batch)
    rows = micro_batch_rows(options, options.batch_size, longest_prompt)
    logits = rows * options.generation.max_new_tokens * setting.shape.vocab_size
    extra = logits * NUMBERS_PER_LOGIT * setting.compute_bytes
    return PhaseMemory(
        low=memory.low,
        expected=memory.expected + extra,
        high=memory.high + extra,
        components={**memory.components, "logits of TRL": extra},
    )
