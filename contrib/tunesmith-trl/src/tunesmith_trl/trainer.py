"""Train with TRL's trainers for GRPO and RLOO.

TRL samples, computes the loss and updates the weights, instead of
:class:`tunesmith_torch.rlhf.policy_objective.PolicyObjective`. tunesmith provides everything else:
prompts and their order, rewards, optimizer, learning rates, evaluations and checkpoints. Therefore
the same options have the same meaning as in the toolkit's own loop:

=================  ================================================================================
grpo               loss "dapo": sum over tokens / tokens of the complete batch. TRL divides
                   advantages by ``std + 1e-4``, with ``std`` over C - 1. Therefore TRL gets rewards
                   that are already standardized by ``policy_gradient.grpo_advantages`` (their mean
                   is 0), and is configured not to scale them. The KL term of the loss is not
                   weighted by the ratio
rloo               that of TRL: each reward, less ``beta`` times the KL of its completion, minus the
                   mean of the others. The ratio is over complete sequences; it is 1 in the only
                   update
truncated          excluded from their group's mean, as in the toolkit's loop. TRL's rloo divides
                   its loss by all completions, not only by the trained ones
=================  ================================================================================

TRL's checkpoints are pickles, so they are disabled. Training resumes with a new trainer for the
remaining batches. The trainer uses the weights, moments and random states of the newest checkpoint,
and the learning rates of the remaining steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback

from tunesmith.contracts import Job
from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.models.loading import ignore_deprecation
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.optim.schedule import BatchOrder, LearningRateSchedule
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.rlhf.monitor import PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.runtime.malloc import keep_freed_memory
from tunesmith_torch.runtime.seed import seed_all
from tunesmith_torch.training.checkpoint_writer import CheckpointWriter
from tunesmith_trl.callback import TrlCallback
from tunesmith_trl.contexts import (
    end_tokens,
    no_telemetry,
    no_warnings_about_truncated,
    output_folder,
)
from tunesmith_trl.rewards import PromptTokenizer, TrlRewardFunction
from tunesmith_trl.settings import GRPO_SETTINGS, trainer_settings

REFERENCE_ADAPTER = "ref"
"""TRL's name for its copy of the initial adapter, which serves as the reference."""


def run_trl_training(
    job: Job[Any],
    objective: PolicyObjective,
    prompt_tokenizer: PromptTokenizer,
    monitor: PolicyMonitor,
    *,
    vllm: bool = False,
) -> None:
    """Train from the newest checkpoint, or from the initial weights, to the last step.

    ``objective`` contains the policy and evaluates it for the monitor. TRL samples and computes the
    loss.

    Raises:
        EnvironmentProblem: TRL cannot be imported, or would not train on the policy's device.
        TrainingError: a gradient is not finite.
        RunStopped: ``job.emit`` raised it. This function holds it back until a checkpoint is saved.
    """
    options: PolicyOptions = job.config
    keep_freed_memory()
    order = BatchOrder.from_options(len(prompt_tokenizer.prompts), options, job.seed)
    schedule = LearningRateSchedule.from_options(options, order.steps)
    newest = job.checkpoints.newest()
    steps_done = newest.step if newest is not None else 0
    masters = MasterWeights(objective.adapted.named_trainable_parameters, options)
    reward_function = TrlRewardFunction(objective, prompt_tokenizer, monitor.reward, options)
    checkpoints = CheckpointWriter(job, masters, options.checkpoints.every, monitor)
    callback = TrlCallback(
        job, order, schedule, masters, reward_function, monitor, checkpoints, steps_done
    )
    with (
        output_folder(job.out) as folder,
        ignore_deprecation(".*gradient_checkpointing.*"),
        end_tokens(objective.policy, prompt_tokenizer.end_ids),
        no_warnings_about_truncated(options),
    ):
        trainer = _build_trainer(folder, callback, vllm=vllm)
        try:
            seed_all(job.seed)
            # Restore only now, because TRL has just copied the initial adapter as its reference.
            checkpoints.resume(order.steps)
            # Evaluate even after the last step, because the run may have stopped before that.
            decision = monitor.evaluate(steps_done)
            is_over = checkpoints.apply_decision(steps_done, decision)
            if not is_over and steps_done < order.steps:
                callback.store_rng_state()
                trainer.train()
        finally:
            model: Any = objective.policy
            if REFERENCE_ADAPTER in model.peft_config:
                model.delete_adapter(REFERENCE_ADAPTER)


def _build_trainer(folder: str, callback: TrlCallback, *, vllm: bool) -> Any:
    """Return TRL's trainer for the remaining batches.

    Raises:
        EnvironmentProblem: TRL cannot be imported, or would not train on the policy's device.
    """
    trl, dataset_class = _import_trl()
    reward_function, masters = callback.reward_function, callback.masters
    objective = reward_function.objective
    model, is_grpo = objective.policy, reward_function.options.algorithm == "grpo"
    settings = trainer_settings(folder, callback, vllm=vllm)
    args = trl.GRPOConfig(**settings, **GRPO_SETTINGS) if is_grpo else trl.RLOOConfig(**settings)
    _refuse_other_device(args, objective.adapted.base.model.device)
    prompts = [str(row) for row in _remaining_rows(callback)]
    with no_telemetry():
        trainer = (trl.GRPOTrainer if is_grpo else trl.RLOOTrainer)(
            model=model,
            reward_funcs=reward_function.rewards,
            args=args,
            train_dataset=dataset_class.from_dict({"prompt": prompts}),
            processing_class=reward_function.prompt_tokenizer,
            callbacks=[callback],
            optimizers=(masters.optimizer, _lr_scheduler(callback)),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _import_trl() -> tuple[Any, Any]:
    """Return the module ``trl``, and the dataset class that it uses."""
    try:
        import trl
        from datasets import Dataset  # type: ignore[import-untyped]
    except ImportError as error:
        raise EnvironmentProblem(
            f"technique: TRL cannot be imported: {error!s:.160}", hint="pip install 'trl>=1.16'"
        ) from error
    return trl, Dataset


def _refuse_other_device(args: Any, device: torch.device) -> None:
    if args.n_gpu > 1 or args.device.type != device.type:
        raise EnvironmentProblem(
            f"technique: TRL would train on {args.n_gpu} GPUs ({args.device}), but the policy is "
            f"on {device}",
            hint="set CUDA_VISIBLE_DEVICES to a single GPU",
        )


def _remaining_rows(callback: TrlCallback) -> Iterator[int]:
    """Yield the prompts of the remaining batches, in the order of the toolkit's loop.

    All TRL batches have the same size, so the epoch's first prompts fill up a short last batch.
    """
    order, steps_done = callback.order, callback.steps_done
    batch_size = min(order.batch_size, order.rows)
    first_batch: list[int] = []
    for step, rows in order.batches(steps_done - steps_done % order.steps_per_epoch):
        first_batch = rows if step % order.steps_per_epoch == 0 else first_batch
        if step >= steps_done:
            yield from [*rows, *first_batch[: batch_size - len(rows)]]


def _lr_scheduler(callback: TrlCallback) -> LambdaLR:
    peak = callback.schedule.peak
    return LambdaLR(
        callback.masters.optimizer, lambda update: callback.learning_rate(update) / peak
    )
