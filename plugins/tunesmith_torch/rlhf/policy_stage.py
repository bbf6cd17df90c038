"""The third stage: a policy against rewards, on as few models in memory as can be.

With adapters everything hangs on one base model::

    base + start (frozen) + policy (trained)      the policy
    base + start                                  its reference
    base + judge (frozen), and a head             the reward model

Where the reward model stands on other weights, or all weights of the policy move, the others are
models of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError
from tunesmith.events import Noticed, Trained, TrainingStarted
from tunesmith.records import Preference, Prompt, Record, last_exchange
from tunesmith_torch.data.templates import Template, template_override
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapter_stack import (
    Start,
    adapt_over,
    adapt_policy,
    add_frozen,
    base_folder,
    base_of_adapter,
    load_policy_base,
    one_adapter,
    quantization_of,
    sum_with,
    using,
)
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.loading import Base, context_of, recompute_activations
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.optim.schedule import Order
from tunesmith_torch.options.rlhf import PolicyStage, RewardPart
from tunesmith_torch.prefix.completion_groups import Layout, groups_of
from tunesmith_torch.prefix.prefix_check import can_share
from tunesmith_torch.rlhf import trl_backend
from tunesmith_torch.rlhf.monitor import Gold, Watch
from tunesmith_torch.rlhf.policy_objective import PolicyLoop, ValueNet
from tunesmith_torch.rlhf.reward_functions import FunctionReward, MixedReward
from tunesmith_torch.rlhf.reward_model import RewardModel, RewardNet
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.rlhf.trl_rewards import PromptTokenizer
from tunesmith_torch.runtime.device import pick_device, pick_precision
from tunesmith_torch.runtime.memory import peak_bytes, reset_peak
from tunesmith_torch.training.auto_batch import settle
from tunesmith_torch.training.loop import fit

JUDGE = "judge"
"""Name of the reward model's adapter beside the policy's."""
GOLD = "technique.policy.gold"


@dataclass(frozen=True)
class Judge:
    """Where a reward model lies, and how its base is stored."""

    path: Path
    quantization: Quantization | None

    def fits(self, base: Path, stored: Quantization | None) -> bool:
        """Whether it is an adapter over this very base."""
        if artifacts.artifact_format(self.path) != "adapter" or self.quantization != stored:
            return False
        return base_of_adapter(self.path, base).resolve() == base.resolve()


@dataclass(frozen=True)
class BesidePolicy:
    """A reward model that shares its base with a policy: it judges while its adapter is on."""

    model: RewardModel
    policy: Any

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The reward of each completion; the policy is as it was afterwards."""
        with using(self.policy, [JUDGE]):
            return self.model.rewards(prompts, completions)


@dataclass(frozen=True)
class Stand:
    """A policy ready to learn, with all that judges it."""

    adapted: Adapted
    """As it is trained: with a value head for ppo."""
    policy: Adapted
    """As it is saved."""
    template: Template
    reward: Reward
    reference: nn.Module | None
    layout: Layout
    folded: Start | None = None
    """A start that went into the base's own weights; it is added up again when saving."""

    @classmethod
    def of(cls, job: Job[Any], start: Start | None, judge: Judge | None) -> Stand:
        """Load and adapt the policy, and put the others beside it."""
        options: PolicyStage = job.config
        device = pick_device(job.device)
        precision = pick_precision(device, options.precision)
        reset_peak(device)
        folder, stored = base_folder(job.model, start), quantization_of(options)
        base = load_policy_base(folder, device, precision, options.packing, stored)
        template = Template.of(base.tokenizer, template_override(options))
        folded = _folded(options, start)
        if folded is not None:
            policy = adapt_over(base, precision, options, start=folded, seed=job.seed)
        else:
            policy = adapt_policy(
                base, precision, options, weights=options.weights, start=start, seed=job.seed
            )
        untouched = options.weights == "lora" and folded is None
        shared = judge is not None and untouched and judge.fits(folder, stored)
        if judge is not None and shared:
            judging: Reward | None = _beside(policy, judge, template, options.packing)
        else:
            judging = None if judge is None else _alone(judge, policy, job.model, options.packing)
        reference = None
        if options.weights == "full" and options.needs_reference:
            reference = _frozen_copy(folder, start, policy, options.packing)
        if options.gradient_checkpointing:
            recompute_activations(base.model)
        sharing = options.packing and can_share(policy.model)
        adapted = _with_values(policy) if options.algorithm == "ppo" else policy
        adapted.details["shares_base_with_reward_model"] = shared
        reward = reward_of(options.rewards, judging)
        layout = Layout(options.packing, sharing)
        return cls(adapted, policy, template, reward, reference, layout, folded)

    def loop(self, options: PolicyStage, prompts: Sequence[Prompt]) -> PolicyLoop:
        return PolicyLoop(
            self.adapted, self.template, prompts, self.reward, options, self.layout, self.reference
        )

    def whole(self) -> Adapted:
        """What is saved: one adapter for the untouched base, or all weights; no judge."""
        model = self.policy.model
        if JUDGE in getattr(model, "peft_config", {}):
            cast(Any, model).delete_adapter(JUDGE)
        return sum_with(self.policy, self.folded) if self.folded else one_adapter(self.policy)


def train_policy(job: Job[Any], start: Start | None, judge: Judge | None) -> Artifact:
    """Load, adapt, learn from rewards, and commit the policy, or its best checkpoint.

    Raises:
        DataError: no prompt can be learned from.
        TrainingError: see :func:`tunesmith_torch.training.loop.fit`.
    """
    job = settle(job)
    options: PolicyStage = job.config
    began = time.perf_counter()
    stand = Stand.of(job, start, judge)
    prompts = _prompts(job, stand.template, stand.policy.base)
    loop = stand.loop(options, prompts)
    order = Order.of(len(prompts), options, job.seed)
    gold = _gold(job, stand.template)
    watch = Watch(job, loop, stand.reward, gold, options, steps=order.steps)
    job.emit(_announcement(job, stand, prompts, order))
    if options.backend == "trl":
        asked = PromptTokenizer(stand.template, prompts)
        trl_backend.fit(job, loop, asked, stand.reward, watch)
    else:
        fit(job, stand.adapted, loop, seed=job.seed, course=watch)
    job.emit(watch.verdict())
    whole = start is not None and start.format == "model"
    card_job = replace(job, base_name="") if whole else job
    artifact = artifacts.save(card_job, stand.whole(), stand.template)
    job.emit(
        Trained(
            stage=job.name,
            technique=job.technique,
            steps=order.steps,
            tokens=watch.tokens,
            trained_tokens=watch.trained_tokens,
            seconds=time.perf_counter() - began,
            peak_memory_bytes=peak_bytes(stand.policy.base.model.device),
            artifact=str(artifact.path.relative_to(job.out)),
            format=artifact.format,
        )
    )
    return artifact


def reward_of(parts: Sequence[RewardPart], model: Reward | None) -> Reward:
    """The rewards that the options add up.

    Raises:
        UsageError: a function is not there, or does not take a prompt and an answer.
    """
    found: list[tuple[float, Reward]] = []
    for part in parts:
        if part.function is not None:
            found.append((part.weight, FunctionReward.read(part.function)))
        elif part.plugin is not None:
            found.append((part.weight, FunctionReward.installed(part.plugin)))
        elif model is not None:
            found.append((part.weight, model))
    return MixedReward(tuple(found))


def try_functions(options: PolicyStage, record: Record) -> None:
    """Call the user's functions once with a row that is there, before any stage is trained.

    Raises:
        UsageError: a function is not there, or does not take a prompt and an answer.
        TrainingError: it raised, or gave no finite number.
    """
    prompt, answer = last_exchange(record)
    functions: list[Reward] = [reward_of(options.rewards, None)]
    if options.gold is not None:
        functions.append(FunctionReward.read(options.gold, GOLD))
    for function in functions:
        function.rewards([prompt], [answer])


def _folded(options: PolicyStage, start: Start | None) -> Start | None:
    """A start whose adapter goes into the base: TRL switches all adapters but one off and on."""
    if options.backend != "trl" or start is None or start.format == "model":
        return None
    return start


def _beside(policy: Adapted, judge: Judge, template: Template, packing: bool) -> Reward:
    model: Any = policy.model
    add_frozen(model, judge.path, JUDGE)
    net = RewardNet(model, policy.base.config.get_text_config().hidden_size)
    net.read_head(judge.path)
    net.head.to(policy.base.model.device).requires_grad_(False)
    with using(model, [JUDGE]):
        sharing = packing and can_share(model)
    return BesidePolicy(RewardModel(net, template, Layout(packing, sharing)), model)


def _alone(judge: Judge, policy: Adapted, model: Path, packing: bool) -> Reward:
    adapter = artifacts.artifact_format(judge.path) == "adapter"
    return RewardModel.load(
        base_of_adapter(judge.path, model) if adapter else judge.path,
        judge.path,
        policy.base.model.device,
        policy.precision,
        packing=packing,
        quantization=judge.quantization,
    )


def _frozen_copy(folder: Path, start: Start | None, policy: Adapted, packing: bool) -> nn.Module:
    """The start once more: a policy whose every weight moves keeps none."""
    base = load_policy_base(folder, policy.base.model.device, policy.precision, packing)
    model: nn.Module = base.model
    if start is not None and start.format == "adapter":
        model = artifacts.attach_adapter(base, start.path).merge_and_unload()
    return model.eval().requires_grad_(False)


def _with_values(policy: Adapted) -> Adapted:
    net = ValueNet(policy.model, policy.base.config.get_text_config().hidden_size)
    net.head.to(policy.base.model.device)
    return replace(policy, model=cast(Any, net))


def _prompts(job: Job[Any], template: Template, base: Base) -> list[Prompt]:
    """What the policy is asked: the training records' prompts, each once; what is lost is told.

    Raises:
        DataError: none is left.
    """
    options: PolicyStage = job.config
    asked = list(dict.fromkeys(last_exchange(record)[0] for record in job.train))
    room = min(options.max_length, context_of(base)) - options.max_new_tokens
    lengths = map(len, template.prompts_ids(asked))
    fitting = [prompt for prompt, length in zip(asked, lengths, strict=True) if length <= room]
    if not fitting:
        raise DataError(
            job.train[0].source if job.train else "data",
            f"none of {len(asked)} prompts leaves room for an answer: at most {room} tokens",
            hint="raise technique.policy.max_length, or lower its answer_tokens",
        )
    if len(fitting) < len(asked):
        lost = f"{len(asked) - len(fitting)} of {len(asked)} prompts are not asked"
        text = f"{lost}: longer than {room} tokens"
        job.emit(Noticed(level="warning", source="data", message=text))
    return fitting


def _gold(job: Job[Any], template: Template) -> Gold:
    """What the policy is watched by: held-out rows, and a function or pairs to judge them by."""
    options: PolicyStage = job.config
    function = FunctionReward.read(options.gold, GOLD) if options.gold is not None else None
    records: list[Record] = list(job.heldout)
    pairs = [record for record in records if isinstance(record, Preference)]
    if function is None and pairs:
        records = list(pairs)
    records = records[: options.monitor_rows]
    groups = groups_of(records, template) if function is None and pairs else []
    if function is None and not pairs:
        text = "no gold function and no held-out pairs: the policy is watched by its reward alone"
        job.emit(Noticed(level="warning", source=job.name, message=text))
    return Gold([last_exchange(record)[0] for record in records], groups, function)


def _announcement(
    job: Job[Any], stand: Stand, prompts: Sequence[Prompt], order: Order
) -> TrainingStarted:
    options: PolicyStage = job.config
    newest = job.checkpoints.newest()
    policy = stand.adapted
    details = {
        **policy.details,
        "algorithm": options.algorithm,
        "backend": options.backend,
        "samples": options.num_generations,
        "answer_tokens": options.max_new_tokens,
        "shared_prompts": stand.layout.sharing,
        "template_sha256": stand.template.sha256,
        "batch_size": options.batch_size,
    }
    return TrainingStarted(
        stage=job.name,
        technique=job.technique,
        steps=order.steps,
        epochs=options.epochs,
        rows=len(prompts),
        tokens=sum(map(len, stand.template.prompts_ids(prompts))),
        trained_tokens=0,
        trainable_parameters=policy.trainable_parameters,
        parameters=policy.parameters,
        device=str(policy.base.model.device),
        precision=f"{policy.precision.name}: {policy.precision.why}",
        details=details,
        first_step=newest.step if newest else 0,
    )
