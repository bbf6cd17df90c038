"""Translate the options of a policy to TRL's names."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith_trl.callback import TrlCallback
from tunesmith_trl.estimate import micro_batch_rows

GRPO_SETTINGS = {
    "loss_type": "dapo",
    "scale_rewards": "none",
    "importance_sampling_level": "token",
    "use_bias_correction_kl": False,
}
"""Settings with which TRL's GRPO computes the loss of the toolkit's ``PolicyObjective``."""


def trainer_settings(folder: str, callback: TrlCallback, *, vllm: bool) -> dict[str, Any]:
    """Return the options under TRL's names, such that TRL downloads, reports and saves nothing."""
    reward_function, options = callback.reward_function, callback.reward_function.options
    generation, loss = options.generation, options.loss
    prompt_tokenizer = reward_function.prompt_tokenizer
    adapted = reward_function.objective.adapted
    prompts = min(options.batch_size, len(prompt_tokenizer.prompts))
    completions = prompts * generation.num_generations
    rows = micro_batch_rows(options, prompts, max(map(len, prompt_tokenizer.ids)))
    vllm_settings = {"stop_token_ids": prompt_tokenizer.end_ids} if vllm else None
    return {
        "output_dir": folder,
        "seed": callback.job.seed,
        "use_cpu": adapted.base.model.device.type == "cpu",
        "bf16": adapted.precision.dtype == torch.bfloat16,
        "max_steps": (callback.order.steps - callback.steps_done) * loss.num_iterations,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": completions // rows,
        "gradient_checkpointing": options.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "max_grad_norm": 0.0,  # The callback clips gradients.
        "num_generations": generation.num_generations,
        "max_completion_length": generation.max_new_tokens,
        "temperature": generation.temperature,
        "mask_truncated_completions": loss.mask_truncated_completions,
        "epsilon": loss.clip_range,
        "num_iterations": loss.num_iterations,
        "beta": loss.kl_coef,
        "use_vllm": vllm,
        "vllm_mode": "colocate",
        "generation_kwargs": vllm_settings,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
    }
