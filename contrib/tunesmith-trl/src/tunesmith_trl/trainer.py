"""The policy stage on TRL's trainers: GRPO and RLOO.

TRL samples, computes the loss and updates the weights in place of
:class:`tunesmith_torch.rlhf.policy_objective.PolicyObjective`. Prompts and their order, rewards,
optimizer, learning rates, evaluations and checkpoints stay those of this package, so that the same
options mean the same on both backends:

=================  ================================================================================
grpo               loss "dapo": sum over tokens / tokens of the complete batch. TRL divides
                   advantages by ``std + 1e-4``, with ``std`` over C - 1. So its rewards are already
                   the standardized ones of ``policy_gradient.grpo_advantages``, whose mean is 0,
                   and it is configured not to scale them. The KL term of the loss is not weighted
                   by the ratio
rloo               TRL's own: each reward, less ``beta`` times the KL of its completion, minus the
                   mean of the others. The ratio is that of complete sequences, 1 in the only update
truncated          they count in no group's mean, as in the native loop; TRL's rloo divides its loss
                   by all completions, not only by the trained ones
=================  ================================================================================

TRL's checkpoints are pickles, so they are off. A training is resumed as a new trainer over the
remaining batches, with the weights, moments and random states of the newest checkpoint and the
learning rates of the remaining steps.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from tunesmith_torch.runtime import bitsandbytes, peft_import  # noqa: F401 - must precede peft
from tunesmith_torch.runtime.seed import seed_all

# isort: split
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback
from tunesmith_torch.options.rlhf import PolicyStage
from tunesmith_torch.rlhf.trl_rewards import PromptTokenizer, TrlRewardFunction

from tunesmith.contracts import Job
from tunesmith.errors import EnvironmentProblem, TrainingError, UsageError
from tunesmith.events import StepFinished
from tunesmith_torch.models.loading import ignore_deprecation
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.optim.schedule import BatchOrder, LearningRateSchedule
from tunesmith_torch.rlhf.monitor import PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import LEADING_METRICS, PolicyObjective
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.runtime.malloc import keep_freed_memory
from tunesmith_torch.runtime.memory import peak_bytes
from tunesmith_torch.training.loop import CheckpointWriter

REFERENCE_ADAPTER = "ref"
"""TRL's name for its copy of the fresh adapter, which is its reference."""
RLOO_LOGGER = "trl.trainer.rloo_trainer"
"""The logger of TRL's RLOO trainer."""


def run_trl_training(
    job: Job[Any],
    objective: PolicyObjective,
    prompt_tokenizer: PromptTokenizer,
    reward: Reward,
    monitor: PolicyMonitor,
) -> None:
    """Train from the newest checkpoint, or from the initial weights, to the last step.

    ``objective`` holds the policy and evaluates it for the monitor; TRL does its sampling and loss.

    Raises:
        EnvironmentProblem: TRL is not installed, or would not train on the policy's device.
        UsageError: TRL cannot train these adapters.
        TrainingError: a gradient is not finite.
        RunStopped: raised by ``job.emit``, passed on after a checkpoint was saved.
    """
    options: PolicyStage = job.config
    keep_freed_memory()
    adamw.check_available(options.optimizer, objective.adapted.base.model.device)
    order = BatchOrder.from_options(len(prompt_tokenizer.prompts), options, job.seed)
    schedule = LearningRateSchedule.from_options(options, order.steps)
    newest = job.checkpoints.newest()
    steps_done = newest.step if newest is not None else 0
    masters = MasterWeights(objective.adapted.named_trainable_parameters, options)
    reward_function = TrlRewardFunction(objective, prompt_tokenizer, reward, options)
    checkpoints = CheckpointWriter(job, masters, options.save_every, monitor)
    callback = TrlCallback(
        job, order, schedule, masters, reward_function, monitor, checkpoints, steps_done
    )
    with (
        TemporaryDirectory() as folder,
        ignore_deprecation(".*gradient_checkpointing.*"),
        _end_tokens(objective.policy, prompt_tokenizer.end_ids),
        _no_warnings_about_truncated(options),
    ):
        trainer = _build_trainer(folder, callback)
        try:
            seed_all(job.seed)
            # Not before: TRL has just copied the fresh adapter, which is its reference.
            checkpoints.resume()
            # Also after the last step: a run may have been stopped before that was evaluated.
            decision = monitor.evaluate(steps_done)
            is_over = checkpoints.apply_decision(steps_done, decision)
            if not is_over and steps_done < order.steps:
                callback.store_rng_state()
                trainer.train()
        finally:
            model: Any = objective.policy
            if REFERENCE_ADAPTER in model.peft_config:
                model.delete_adapter(REFERENCE_ADAPTER)


@dataclass
class TrlCallback(TrainerCallback):  # type: ignore[misc]
    """Emits a step's event, lets the monitor evaluate, saves, and stops TRL's training."""

    job: Job[Any]
    order: BatchOrder
    schedule: LearningRateSchedule
    masters: MasterWeights
    reward_function: TrlRewardFunction
    monitor: PolicyMonitor
    checkpoints: CheckpointWriter
    steps_done: int
    """Steps of earlier processes; TRL counts its updates from here on."""
    logs: list[dict[str, float]] = field(default_factory=list)
    """TRL's logs of the updates of the current step."""
    started: float = 0.0
    grad_norm: float = 0.0
    """Norm of the last gradient before clipping."""
    rng_state: Tensor | None = None
    """State of torch's generator before the first step; None: not stored."""
    cuda_rng_states: list[Tensor] = field(default_factory=list)
    """The same for each GPU."""

    def store_rng_state(self) -> None:
        """Store the random states: setting up a trainer and its data loader uses random numbers."""
        self.rng_state = torch.get_rng_state()
        self.cuda_rng_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of an update of this trainer, counted from 0."""
        return self.schedule.learning_rate_at(min(self._step(update), self.order.steps - 1))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0 and self.rng_state is not None:
            torch.set_rng_state(self.rng_state)
            if self.cuda_rng_states:
                torch.cuda.set_rng_state_all(self.cuda_rng_states)
        if not self.logs:
            self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Clip as the native loop does: TRL would make a gradient of infinite norm a zero."""
        max_grad_norm = self.reward_function.options.max_grad_norm
        self.grad_norm = float(self.masters.clip_grad_norm(max_grad_norm))
        if not math.isfinite(self.grad_norm):
            worst = ", ".join(name for name, _ in self.masters.largest_gradients(3))
            raise TrainingError(
                f"step {self._step(state.global_step) + 1}: the gradient is not finite, first in "
                f"{worst}; nothing was updated",
                hint="try a lower learning rate or precision = 'fp32'",
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:  # TRL's last log is a summary of the training
            return
        self.logs.append(dict(logs))
        if len(self.logs) < self.reward_function.options.num_iterations:
            return
        step = self._step(state.global_step)
        metrics = self._metrics()
        self.monitor.record_rollout(self.reward_function.counts, metrics)
        event = self._step_finished_event(step, metrics)
        self.logs.clear()
        if self.checkpoints.after_step(event):
            control.should_training_stop = True

    def _step(self, updates: int) -> int:
        return self.steps_done + updates // self.reward_function.options.num_iterations

    def _step_finished_event(self, step: int, metrics: dict[str, float]) -> StepFinished:
        options, counts = self.reward_function.options, self.reward_function.counts
        device = self.reward_function.objective.adapted.base.model.device
        return StepFinished(
            stage=self.job.stage,
            step=step,
            steps=self.order.steps,
            loss=self.logs[-1]["loss"],
            learning_rate=self.schedule.learning_rate_at(step - 1),
            gradient_norm=self.grad_norm,
            rows=min(options.batch_size, len(self.reward_function.prompt_tokenizer.prompts)),
            tokens=counts.tokens,
            trained_tokens=counts.trained_tokens,
            seconds=time.perf_counter() - self.started,
            memory_bytes=peak_bytes(device),
            epoch=step / self.order.steps_per_epoch,
            metrics=metrics,
        )

    def _metrics(self) -> dict[str, float]:
        """Return TRL's metrics under the names of this package.

        Those of a rollout are in the log of its first update. TRL reports KL per token; here it is
        per completion.
        """
        logs, rewards = self.logs[0], self.reward_function
        clip_fractions = [update["clip_ratio/region_mean"] for update in self.logs]
        completion_length = logs["completions/mean_length"]
        leading = {"reward": rewards.mean_reward, "completion_length": completion_length}
        if "kl" in logs:
            leading["kl"] = logs["kl"] * completion_length
        return {
            **{name: leading[name] for name in LEADING_METRICS if name in leading},
            "entropy": logs["entropy"],
            "reward_spread": rewards.reward_spread,
            "clip_fraction": math.fsum(clip_fractions) / len(clip_fractions),
            "truncated": logs["completions/clipped_ratio"],
            "kl_coef": rewards.options.kl_coef,
        }


def _build_trainer(folder: str, callback: TrlCallback) -> Any:
    """Return TRL's trainer over the remaining batches.

    Raises:
        EnvironmentProblem: TRL is not installed, or would not train on the policy's device.
        UsageError: the output head has an adapter, which TRL's losses would ignore.
    """
    trl, dataset_class = _import_trl()
    reward_function, masters = callback.reward_function, callback.masters
    objective = reward_function.objective
    model, is_grpo = objective.policy, reward_function.options.algorithm == "grpo"
    _refuse_trained_head(model)
    settings = _trainer_settings(folder, callback)
    args = trl.GRPOConfig(**settings, **_GRPO) if is_grpo else trl.RLOOConfig(**settings)
    _refuse_other_device(args, objective.adapted.base.model.device)
    prompts = [str(row) for row in _remaining_rows(callback)]
    with _no_telemetry():
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
    """Return the module ``trl``, and the data set class that it reads."""
    bitsandbytes.preload()  # TRL would import it in its own way
    try:
        import trl
        from datasets import Dataset  # type: ignore[import-untyped]
    except ImportError as error:
        raise EnvironmentProblem(
            f'technique.policy.backend: "trl" cannot be imported, {error!s:.160}',
            hint="pip install 'tunesmith[trl]'",
        ) from error
    return trl, Dataset


def _refuse_trained_head(model: Any) -> None:
    if isinstance(cast(PeftModel, model).get_output_embeddings(), BaseTunerLayer):
        raise UsageError(
            'technique.policy.target_modules: backend = "trl" reads the untrained head'
        )


def _refuse_other_device(args: Any, device: torch.device) -> None:
    if args.n_gpu > 1 or args.device.type != device.type:
        raise EnvironmentProblem(
            f'technique.policy.backend: "trl" would train on {args.n_gpu} GPUs ({args.device}), '
            f"the policy is on {device}",
            hint="set CUDA_VISIBLE_DEVICES to the number of one GPU",
        )


_GRPO = {
    "loss_type": "dapo",
    "scale_rewards": "none",
    "importance_sampling_level": "token",
    "use_bias_correction_kl": False,
}
"""Settings that give TRL's GRPO the loss of the native ``PolicyObjective``."""


def _trainer_settings(folder: str, callback: TrlCallback) -> dict[str, Any]:
    """Return the options under TRL's names; TRL downloads, reports and saves nothing."""
    reward_function, options = callback.reward_function, callback.reward_function.options
    prompt_tokenizer = reward_function.prompt_tokenizer
    adapted = reward_function.objective.adapted
    prompts = min(options.batch_size, len(prompt_tokenizer.prompts))
    completions = prompts * options.num_generations
    longest = max(map(len, prompt_tokenizer.ids)) + options.max_new_tokens
    rows = _micro_batch_rows(completions, options.micro_batch_tokens // longest)
    vllm_settings = {"stop_token_ids": prompt_tokenizer.end_ids} if options.vllm else None
    return {
        "output_dir": folder,
        "seed": callback.job.seed,
        "use_cpu": adapted.base.model.device.type == "cpu",
        "bf16": adapted.precision.dtype == torch.bfloat16,
        "max_steps": (callback.order.steps - callback.steps_done) * options.num_iterations,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": completions // rows,
        "gradient_checkpointing": options.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "max_grad_norm": 0.0,  # the callback clips
        "num_generations": options.num_generations,
        "max_completion_length": options.max_new_tokens,
        "temperature": options.temperature,
        "mask_truncated_completions": options.mask_truncated_completions,
        "epsilon": options.clip_range,
        "num_iterations": options.num_iterations,
        "beta": options.kl_coef,
        "use_vllm": options.vllm,
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


def _micro_batch_rows(completions: int, max_rows: int) -> int:
    """Return the largest divisor of a batch's completions that is at most ``max_rows`` (or 1)."""
    return next(
        rows
        for rows in range(completions, 0, -1)
        if completions % rows == 0 and rows <= max(max_rows, 1)
    )


def _remaining_rows(callback: TrlCallback) -> Iterator[int]:
    """Yield the prompts of the remaining batches, in the order of the native loop.

    TRL's batches all have one size: the short last batch of an epoch is filled up with the epoch's
    first prompts.
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


@contextmanager
def _end_tokens(model: Any, end_ids: Sequence[int]) -> Iterator[None]:
    """Let TRL's completions end at the same tokens as the native loop's, inside the context.

    TRL sets the padding token itself; it is restored too.
    """
    config = model.generation_config
    before = config.eos_token_id, config.pad_token_id
    config.eos_token_id = [*end_ids]
    try:
        yield
    finally:
        config.eos_token_id, config.pad_token_id = before


@contextmanager
def _no_warnings_about_truncated(options: PolicyStage) -> Iterator[None]:
    """Silence RLOO's warning about each completion without a reward: the truncated ones."""
    if options.algorithm != "rloo":
        yield
        return
    logger = logging.getLogger(RLOO_LOGGER)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep TRL from reporting its use, inside the context: it sends nothing if CI is set."""
    before = os.environ.get("CI")
    os.environ["CI"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
