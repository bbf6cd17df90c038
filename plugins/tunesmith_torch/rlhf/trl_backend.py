"""The policy stage on TRL's own trainers: GRPO and RLOO, as a stage like any other.

Where :class:`tunesmith_torch.rlhf.policy_objective.PolicyLoop` draws, learns and counts, here TRL does. Prompts,
their order, the rewards, the optimizer, its learning rates, the looks at held-out rows and the
checkpoints stay this package's own, so that both backends mean the same by the same options:

=================  ================================================================================
grpo               loss "dapo": the sum over tokens by the tokens of the whole batch. TRL divides
                   advantages by ``std + 1e-4`` with ``std`` over A - 1; so it is given the
                   standardised rewards of :func:`tunesmith_torch.losses.policy_gradient.grpo`, whose mean is
                   0, and told not to scale them. The divergence in the loss is not weighted by
                   the ratio
rloo               TRL's own: each reward, less ``beta`` times its answer's divergence, against the
                   mean of the others. The ratio is that of whole answers, 1 in the only update
answers cut off    they count in no group's mean, as with the own loop; TRL's rloo divides its loss
                   by all answers, not by those that are learned from
=================  ================================================================================

TRL's checkpoints are pickles, so its own are off: a training is resumed as a new trainer with the
remaining batches, the weights, moments and generators of the newest checkpoint, and the learning
rates of the remaining steps.
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

from tunesmith_torch.runtime import bitsandbytes  # noqa: F401 - before peft, which imports bitsandbytes
from tunesmith_torch.runtime.seed import seed_all

# isort: split
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback

from tunesmith.contracts import Job
from tunesmith.errors import EnvironmentProblem, TrainingError, UsageError
from tunesmith.events import Stepped
from tunesmith_torch.models.loading import old_name_is_known
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.master_weights import Masters
from tunesmith_torch.optim.schedule import Order, Rate
from tunesmith_torch.options.rlhf import PolicyStage
from tunesmith_torch.rlhf.monitor import Watch
from tunesmith_torch.rlhf.policy_objective import SHOWN, PolicyLoop
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.rlhf.trl_rewards import Judging, PromptTokenizer
from tunesmith_torch.runtime.malloc import keep_freed_memory
from tunesmith_torch.runtime.memory import peak_bytes
from tunesmith_torch.training.loop import Saving

REFERENCE = "ref"
"""What TRL calls the copy of the fresh adapter that is its reference."""
RLOO_LOGGER = "trl.trainer.rloo_trainer"
"""Where TRL's RLOO warns of what it meets."""


def fit(
    job: Job[Any], loop: PolicyLoop, asked: PromptTokenizer, reward: Reward, watch: Watch
) -> None:
    """Train from the newest checkpoint, or from the start, to the last step.

    ``loop`` is the policy as it is looked at; it draws and learns nothing here. ``asked`` are its
    prompts.

    Raises:
        EnvironmentProblem: TRL is not installed, or would not train on the policy's device.
        UsageError: TRL cannot train these adapters.
        TrainingError: a gradient is not finite.
        RunStopped: whatever ``job.emit`` raised; a checkpoint has been saved.
    """
    options: PolicyStage = job.config
    keep_freed_memory()
    adamw.require(options.optimizer, loop.adapted.base.model.device)
    order = Order.of(len(asked.prompts), options, job.seed)
    rate = Rate.of(options, order.steps)
    newest = job.checkpoints.newest()
    first = newest.step if newest is not None else 0
    masters = Masters(loop.adapted.trainable, options)
    judging = Judging(loop, asked, reward, options)
    saving = Saving(job, masters, options.save_every, watch)
    steps = Steps(job, order, rate, masters, judging, watch, saving, first)
    with (
        TemporaryDirectory() as folder,
        old_name_is_known(".*gradient_checkpointing.*"),
        _ending_with(loop.policy, asked.end_ids),
        _silent_on_cut_off_answers(options),
    ):
        trainer = _trainer(folder, steps)
        try:
            seed_all(job.seed)
            saving.resume()  # not before: TRL has just copied the fresh adapter as its reference
            # Also after the last step: a run may have been stopped before it was looked at.
            if not saving.heed(first, watch.look(first)) and first < order.steps:
                steps.keep_draws()
                trainer.train()
        finally:
            model: Any = loop.policy
            if REFERENCE in model.peft_config:
                model.delete_adapter(REFERENCE)


@dataclass
class Steps(TrainerCallback):  # type: ignore[misc]
    """What goes with TRL's steps: events, looks, checkpoints, and the end."""

    job: Job[Any]
    order: Order
    rate: Rate
    masters: Masters
    judging: Judging
    watch: Watch
    saving: Saving
    first: int
    """Steps that were taken before. TRL counts updates from here on."""
    logged: list[dict[str, float]] = field(default_factory=list)
    """What TRL said of the updates of this step."""
    began: float = 0.0
    norm: float = 0.0
    """Of the last gradient, before it was clipped."""
    draws: Tensor | None = None
    """State of the generators at the first step; None: not kept."""
    draws_cuda: list[Tensor] = field(default_factory=list)
    """The same of each GPU."""

    def keep_draws(self) -> None:
        """Remember the generators: setting up a trainer and its loader draws from them."""
        self.draws = torch.get_rng_state()
        self.draws_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def learning_rate(self, update: int) -> float:
        """That of an update of this trainer, counted from 0."""
        step = self.first + update // self.judging.options.num_iterations
        return self.rate.at(min(step, self.order.steps - 1))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0 and self.draws is not None:
            torch.set_rng_state(self.draws)
            if self.draws_cuda:
                torch.cuda.set_rng_state_all(self.draws_cuda)
        if not self.logged:
            self.began = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Clip as the native loop does: TRL would make a gradient of infinite norm a zero."""
        self.norm = float(self.masters.clip(self.judging.options.max_grad_norm))
        if not math.isfinite(self.norm):
            worst = ", ".join(name for name, _ in self.masters.largest_gradients(3))
            raise TrainingError(
                f"step {self._step(state.global_step) + 1}: the gradient is not finite, first in "
                f"{worst}; nothing was updated",
                hint="try a lower learning rate or precision = 'fp32'",
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:  # its last words are about the whole training
            return
        self.logged.append(dict(logs))
        if len(self.logged) < self.judging.options.num_iterations:
            return
        step = self._step(state.global_step)
        figures = self._figures()
        self.watch.note(self.judging.counts, figures)
        event = self._event(step, figures)
        self.logged.clear()
        if self.saving.after(event):
            control.should_training_stop = True

    def _step(self, updates: int) -> int:
        return self.first + updates // self.judging.options.num_iterations

    def _event(self, step: int, figures: dict[str, float]) -> Stepped:
        options, counts = self.judging.options, self.judging.counts
        return Stepped(
            stage=self.job.name,
            step=step,
            steps=self.order.steps,
            loss=self.logged[-1]["loss"],
            learning_rate=self.rate.at(step - 1),
            gradient_norm=self.norm,
            rows=min(options.batch_size, len(self.judging.asked.prompts)),
            tokens=counts.tokens,
            trained_tokens=counts.trained_tokens,
            seconds=time.perf_counter() - self.began,
            memory_bytes=peak_bytes(self.judging.loop.adapted.base.model.device),
            epoch=step / self.order.steps_per_epoch,
            extras=figures,
        )

    def _figures(self) -> dict[str, float]:
        """TRL's figures by the names of this package; the first update's, which are the rollout's.

        TRL tells the divergence for each token, here it is for each answer.
        """
        logs = self.logged[0]
        clipped = [each["clip_ratio/region_mean"] for each in self.logged]
        found = {"reward": self.judging.mean, "answer_tokens": logs["completions/mean_length"]}
        if "kl" in logs:
            found["kl"] = logs["kl"] * logs["completions/mean_length"]
        return {
            **{name: found[name] for name in SHOWN if name in found},
            "entropy": logs["entropy"],
            "reward_spread": self.judging.spread,
            "clip_fraction": math.fsum(clipped) / len(clipped),
            "truncated": logs["completions/clipped_ratio"],
            "kl_coef": self.judging.options.kl_coef,
        }


def _trainer(folder: str, steps: Steps) -> Any:
    """TRL's trainer of the remaining batches.

    Raises:
        EnvironmentProblem: TRL is not installed, or would not train on the policy's device.
        UsageError: the head has an adapter, which TRL's losses would not see.
    """
    trl, dataset = _libraries()
    judging, masters = steps.judging, steps.masters
    model, grpo = judging.loop.policy, judging.options.algorithm == "grpo"
    _refuse_trained_head(model)
    settings = _settings(folder, steps)
    args = trl.GRPOConfig(**settings, **_GRPO) if grpo else trl.RLOOConfig(**settings)
    _refuse_other_device(args, judging.loop.adapted.base.model.device)
    rows = [str(row) for row in _rows(steps)]
    with _no_telemetry():
        trainer = (trl.GRPOTrainer if grpo else trl.RLOOTrainer)(
            model=model,
            reward_funcs=judging.rewards,
            args=args,
            train_dataset=dataset.from_dict({"prompt": rows}),
            processing_class=judging.asked,
            callbacks=[steps],
            optimizers=(masters.adamw, _schedule(steps)),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _libraries() -> tuple[Any, Any]:
    """The module ``trl``, and the class of the data sets that it reads."""
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
"""What makes TRL's GRPO the loss of :class:`tunesmith_torch.rlhf.policy_objective.PolicyLoop`."""


def _settings(folder: str, steps: Steps) -> dict[str, Any]:
    """The options, as TRL calls them; nothing is fetched, reported or saved by it."""
    judging, options = steps.judging, steps.judging.options
    adapted = judging.loop.adapted
    answers = min(options.batch_size, len(judging.asked.prompts)) * options.num_generations
    longest = max(map(len, judging.asked.ids)) + options.max_new_tokens
    rows = _at_once(answers, options.micro_batch_tokens // longest)
    stops = {"stop_token_ids": judging.asked.end_ids} if options.vllm else None
    return {
        "output_dir": folder,
        "seed": steps.job.seed,
        "use_cpu": adapted.base.model.device.type == "cpu",
        "bf16": adapted.precision.dtype == torch.bfloat16,
        "max_steps": (steps.order.steps - steps.first) * options.num_iterations,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": answers // rows,
        "gradient_checkpointing": options.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "max_grad_norm": 0.0,
        "num_generations": options.num_generations,
        "max_completion_length": options.max_new_tokens,
        "temperature": options.temperature,
        "mask_truncated_completions": options.mask_truncated_completions,
        "epsilon": options.clip_range,
        "num_iterations": options.num_iterations,
        "beta": options.kl_coef,
        "use_vllm": options.vllm,
        "vllm_mode": "colocate",
        "generation_kwargs": stops,
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


def _at_once(answers: int, most: int) -> int:
    """How many answers of a batch are learned from at once: as many as fit, in equal parts."""
    return next(
        rows for rows in range(answers, 0, -1) if answers % rows == 0 and rows <= max(most, 1)
    )


def _rows(steps: Steps) -> Iterator[int]:
    """Prompts of the remaining batches, in the loop's own order.

    TRL's batches are all of one size: the short one at the end of an epoch is filled up with the
    epoch's first.
    """
    batch = min(steps.order.batch, steps.order.rows)
    begun: list[int] = []
    for step, rows in steps.order.batches(steps.first - steps.first % steps.order.steps_per_epoch):
        begun = rows if step % steps.order.steps_per_epoch == 0 else begun
        if step >= steps.first:
            yield from [*rows, *begun[: batch - len(rows)]]


def _schedule(steps: Steps) -> LambdaLR:
    peak = steps.rate.peak
    return LambdaLR(steps.masters.adamw, lambda update: steps.learning_rate(update) / peak)


@contextmanager
def _ending_with(model: Any, end_ids: Sequence[int]) -> Iterator[None]:
    """Inside, TRL's answers end where the loop's do; TRL sets how to pad by itself."""
    config = model.generation_config
    before = config.eos_token_id, config.pad_token_id
    config.eos_token_id = [*end_ids]
    try:
        yield
    finally:
        config.eos_token_id, config.pad_token_id = before


@contextmanager
def _silent_on_cut_off_answers(options: PolicyStage) -> Iterator[None]:
    """Inside, RLOO does not warn of every answer without a reward: those that were cut off."""
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
    """Inside, TRL tells nobody that it is used: it takes this for a run of automated tests."""
    before = os.environ.get("CI")
    os.environ["CI"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
