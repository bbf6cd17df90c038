"""The third stage of RLHF: train the policy on rewards, with as few models in memory as possible.

With adapters, policy, reference and reward model share one base model in memory::

    base + initial adapter (frozen) + policy adapter (trained)     the policy
    base + initial adapter (frozen)                                its reference
    base + reward adapter (frozen), and a reward head              the reward model

If the reward model has another base, or if all weights of the policy are trained, reward model and
reference are separate models.
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
from tunesmith.events import Notice, TrainingFinished, TrainingStarted
from tunesmith.records import Preference, Prompt, Record, last_exchange
from tunesmith_torch.data.templates import Template, read_chat_template
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapter_stack import (
    InitialModel,
    active_adapters,
    adapt_over_merged,
    adapt_policy,
    add_frozen_adapter,
    base_folder,
    combine_adapters,
    combine_with_initial,
    find_adapter_base,
    load_policy_base,
    policy_quantization,
)
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.loading import (
    LoadedBase,
    context_length,
    enable_gradient_checkpointing,
)
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.rlhf import PolicyStage, RewardTerm
from tunesmith_torch.prefix.completion_groups import GroupLayout, tokenize_pairs
from tunesmith_torch.prefix.prefix_check import can_share_prefix
from tunesmith_torch.rlhf import trl_backend
from tunesmith_torch.rlhf.monitor import GoldReward, PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import PolicyObjective, PolicyWithValueHead
from tunesmith_torch.rlhf.reward_functions import FunctionReward, WeightedRewardSum
from tunesmith_torch.rlhf.reward_model import ModelWithRewardHead, RewardModel
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.rlhf.trl_rewards import PromptTokenizer
from tunesmith_torch.runtime.device import pick_device, pick_precision
from tunesmith_torch.runtime.memory import peak_bytes, reset_peak
from tunesmith_torch.training.auto_batch import resolve_auto
from tunesmith_torch.training.loop import run_training_loop

REWARD_ADAPTER = "judge"
"""Name of the reward model's adapter in the policy's model."""
GOLD_OPTION = "technique.policy.gold"


@dataclass(frozen=True)
class RewardModelSource:
    """The folder of a reward model, and how its base model is quantized."""

    path: Path
    quantization: Quantization | None

    def has_base(self, base: Path, quantization: Quantization | None) -> bool:
        """Return True if the reward model is an adapter over this base, stored in the same way."""
        is_adapter = artifacts.artifact_format(self.path) == "adapter"
        if not is_adapter or self.quantization != quantization:
            return False
        return find_adapter_base(self.path, base).resolve() == base.resolve()


@dataclass(frozen=True)
class SharedBaseRewardModel:
    """A reward model that is an adapter in the policy's model, switched on to compute rewards."""

    model: RewardModel
    policy: Any

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return the reward of each completion, and switch the policy's adapters on again."""
        with active_adapters(self.policy, [REWARD_ADAPTER]):
            return self.model.rewards(prompts, completions)


@dataclass(frozen=True)
class PolicySetup:
    """A loaded policy with its reference and its rewards."""

    adapted: AdaptedModel
    """The policy for training: with a value head for ppo."""
    policy: AdaptedModel
    """The policy for saving: without one."""
    template: Template
    reward: Reward
    reference: nn.Module | None
    """A frozen copy of the initial model; None: the policy without its trained adapter."""
    layout: GroupLayout
    merged_initial_model: InitialModel | None = None
    """An initial adapter that was merged into the base's weights; added again when saving."""

    @classmethod
    def load(
        cls,
        job: Job[Any],
        initial_model: InitialModel | None,
        reward_source: RewardModelSource | None,
    ) -> PolicySetup:
        """Load and adapt the policy; load the reward model and the reference."""
        options: PolicyStage = job.config
        device = pick_device(job.device)
        precision = pick_precision(device, options.precision)
        reset_peak(device)
        folder, quantization = base_folder(job.model, initial_model), policy_quantization(options)
        base = load_policy_base(folder, device, precision, options.packing, quantization)
        template = Template.from_tokenizer(base.tokenizer, read_chat_template(options))
        merged = _initial_model_to_merge(options, initial_model)
        if merged is not None:
            policy = adapt_over_merged(
                base, precision, options, initial_model=merged, seed=job.seed
            )
        else:
            policy = adapt_policy(
                base,
                precision,
                options,
                trained_weights=options.trained_weights,
                initial_model=initial_model,
                seed=job.seed,
            )
        reward_model: Reward | None = None
        is_shared = False
        if reward_source is not None:
            # Merging or training all weights changes the base under the reward model's adapter.
            base_unchanged = options.trained_weights == "lora" and merged is None
            is_shared = base_unchanged and reward_source.has_base(folder, quantization)
            reward_model = (
                _load_shared_reward_model(policy, reward_source, template, options.packing)
                if is_shared
                else _load_separate_reward_model(reward_source, policy, job.model, options.packing)
            )
        reference = None
        if options.trained_weights == "full" and options.needs_reference:
            reference = _load_frozen_reference(folder, initial_model, policy, options.packing)
        if options.gradient_checkpointing:
            enable_gradient_checkpointing(base.model)
        share_prompts = options.packing and can_share_prefix(policy.model)
        adapted = _add_value_head(policy) if options.algorithm == "ppo" else policy
        adapted.details["shares_base_with_reward_model"] = is_shared
        reward = build_reward(options.rewards, reward_model)
        layout = GroupLayout(options.packing, share_prompts)
        return cls(adapted, policy, template, reward, reference, layout, merged)

    def build_objective(self, options: PolicyStage, prompts: Sequence[Prompt]) -> PolicyObjective:
        return PolicyObjective(
            self.adapted, self.template, prompts, self.reward, options, self.layout, self.reference
        )

    def artifact_model(self) -> AdaptedModel:
        """Return the model to save: one adapter over the original base, or all weights.

        The reward model's adapter is deleted from the policy's model, which is over after this.
        """
        model = self.policy.model
        if REWARD_ADAPTER in getattr(model, "peft_config", {}):
            cast(Any, model).delete_adapter(REWARD_ADAPTER)
        if self.merged_initial_model:
            return combine_with_initial(self.policy, self.merged_initial_model)
        return combine_adapters(self.policy)


def train_policy(
    job: Job[Any],
    initial_model: InitialModel | None,
    reward_source: RewardModelSource | None,
) -> Artifact:
    """Load, adapt, train on rewards, and commit the policy, or its best checkpoint if it diverged.

    Raises:
        DataError: no prompt can be trained on.
        TrainingError: see :func:`tunesmith_torch.training.loop.run_training_loop`.
    """
    job = resolve_auto(job)
    options: PolicyStage = job.config
    started = time.perf_counter()
    setup = PolicySetup.load(job, initial_model, reward_source)
    prompts = _fitting_prompts(job, setup.template, setup.policy.base)
    objective = setup.build_objective(options, prompts)
    order = BatchOrder.from_options(len(prompts), options, job.seed)
    gold = _gold_reward(job, setup.template)
    monitor = PolicyMonitor(job, objective, setup.reward, gold, options, steps=order.steps)
    job.emit(_training_started_event(job, setup, prompts, order))
    if options.backend == "trl":
        prompt_tokenizer = PromptTokenizer(setup.template, prompts)
        trl_backend.run_trl_training(job, objective, prompt_tokenizer, setup.reward, monitor)
    else:
        run_training_loop(job, setup.adapted, objective, seed=job.seed, monitor=monitor)
    job.emit(monitor.gate_result())
    full_model = initial_model is not None and initial_model.format == "model"
    card_job = replace(job, base_name="") if full_model else job
    artifact = artifacts.save_artifact(card_job, setup.artifact_model(), setup.template)
    job.emit(
        TrainingFinished(
            stage=job.stage,
            technique=job.technique,
            steps=order.steps,
            tokens=monitor.tokens,
            trained_tokens=monitor.trained_tokens,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=peak_bytes(setup.policy.base.model.device),
            artifact=str(artifact.path.relative_to(job.out)),
            format=artifact.format,
        )
    )
    return artifact


def build_reward(terms: Sequence[RewardTerm], reward_model: Reward | None) -> Reward:
    """Return the weighted sum of the rewards that the options name.

    Raises:
        UsageError: a function is missing, or does not take a prompt and a completion.
    """
    weighted: list[tuple[float, Reward]] = []
    for term in terms:
        if term.function is not None:
            weighted.append((term.weight, FunctionReward.from_file(term.function)))
        elif term.plugin is not None:
            weighted.append((term.weight, FunctionReward.from_package(term.plugin)))
        elif reward_model is not None:
            weighted.append((term.weight, reward_model))
    return WeightedRewardSum(tuple(weighted))


def check_reward_functions(options: PolicyStage, record: Record) -> None:
    """Call the user's functions once with an existing row, before any stage is trained.

    Raises:
        UsageError: a function is missing, or does not take a prompt and a completion.
        TrainingError: a function raised, or returned no finite number.
    """
    prompt, completion = last_exchange(record)
    functions: list[Reward] = [build_reward(options.rewards, None)]
    if options.gold is not None:
        functions.append(FunctionReward.from_file(options.gold, GOLD_OPTION))
    for function in functions:
        function.rewards([prompt], [completion])


def _initial_model_to_merge(
    options: PolicyStage, initial_model: InitialModel | None
) -> InitialModel | None:
    """Return the initial adapter if it must be merged into the base, else None.

    TRL's trainers support a single adapter, which they switch off for the reference.
    """
    if options.backend != "trl" or initial_model is None or initial_model.format == "model":
        return None
    return initial_model


def _load_shared_reward_model(
    policy: AdaptedModel, source: RewardModelSource, template: Template, packing: bool
) -> Reward:
    model: Any = policy.model
    add_frozen_adapter(model, source.path, REWARD_ADAPTER)
    net = ModelWithRewardHead(model, policy.base.config.get_text_config().hidden_size)
    net.load_head(source.path)
    net.head.to(policy.base.model.device).requires_grad_(False)
    with active_adapters(model, [REWARD_ADAPTER]):
        share_prompts = packing and can_share_prefix(model)
    reward_model = RewardModel(net, template, GroupLayout(packing, share_prompts))
    return SharedBaseRewardModel(reward_model, model)


def _load_separate_reward_model(
    source: RewardModelSource, policy: AdaptedModel, model: Path, packing: bool
) -> Reward:
    is_adapter = artifacts.artifact_format(source.path) == "adapter"
    return RewardModel.load(
        find_adapter_base(source.path, model) if is_adapter else source.path,
        source.path,
        policy.base.model.device,
        policy.precision,
        packing=packing,
        quantization=source.quantization,
    )


def _load_frozen_reference(
    folder: Path, initial_model: InitialModel | None, policy: AdaptedModel, packing: bool
) -> nn.Module:
    """Load the initial model a second time: full training leaves no reference in the policy."""
    base = load_policy_base(folder, policy.base.model.device, policy.precision, packing)
    model: nn.Module = base.model
    if initial_model is not None and initial_model.format == "adapter":
        model = artifacts.attach_adapter(base, initial_model.path).merge_and_unload()
    return model.eval().requires_grad_(False)


def _add_value_head(policy: AdaptedModel) -> AdaptedModel:
    net = PolicyWithValueHead(policy.model, policy.base.config.get_text_config().hidden_size)
    net.head.to(policy.base.model.device)
    return replace(policy, model=cast(Any, net))


def _fitting_prompts(job: Job[Any], template: Template, base: LoadedBase) -> list[Prompt]:
    """Return the distinct prompts of the training records that fit; report the others.

    Raises:
        DataError: none fits.
    """
    options: PolicyStage = job.config
    prompts = list(dict.fromkeys(last_exchange(record)[0] for record in job.train))
    limit = min(options.max_length, context_length(base)) - options.max_new_tokens
    lengths = map(len, template.encode_prompts(prompts))
    fitting = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= limit]
    if not fitting:
        raise DataError(
            job.train[0].source if job.train else "data",
            f"none of {len(prompts)} prompts leaves room for a completion: at most {limit} tokens",
            hint="raise technique.policy.max_length, or lower technique.policy.max_new_tokens",
        )
    if len(fitting) < len(prompts):
        left_out = f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are left out"
        text = f"{left_out}: longer than {limit} tokens"
        job.emit(Notice(level="warning", source="data", message=text))
    return fitting


def _gold_reward(job: Job[Any], template: Template) -> GoldReward:
    """Return the gold reward on held-out rows: the user's function, or preference pairs."""
    options: PolicyStage = job.config
    function = None
    if options.gold is not None:
        function = FunctionReward.from_file(options.gold, GOLD_OPTION)
    records: list[Record] = list(job.heldout)
    pairs = [record for record in records if isinstance(record, Preference)]
    if function is None and pairs:
        records = list(pairs)
    records = records[: options.monitor_rows]
    groups = tokenize_pairs(records, template) if function is None and pairs else []
    if function is None and not pairs:
        text = "no gold function and no held-out pairs: the policy is monitored by its reward alone"
        job.emit(Notice(level="warning", source=job.stage, message=text))
    return GoldReward([last_exchange(record)[0] for record in records], groups, function)


def _training_started_event(
    job: Job[Any], setup: PolicySetup, prompts: Sequence[Prompt], order: BatchOrder
) -> TrainingStarted:
    options: PolicyStage = job.config
    newest = job.checkpoints.newest()
    policy = setup.adapted
    details = {
        **policy.details,
        "algorithm": options.algorithm,
        "backend": options.backend,
        "num_generations": options.num_generations,
        "max_new_tokens": options.max_new_tokens,
        "shared_prompts": setup.layout.share_prompts,
        "template_sha256": setup.template.sha256,
        "batch_size": options.batch_size,
    }
    return TrainingStarted(
        stage=job.stage,
        technique=job.technique,
        steps=order.steps,
        epochs=options.epochs,
        rows=len(prompts),
        tokens=sum(map(len, setup.template.encode_prompts(prompts))),
        trained_tokens=0,
        trainable_parameters=policy.num_trainable_parameters,
        parameters=policy.num_parameters,
        device=str(policy.base.model.device),
        precision=f"{policy.precision.name}: {policy.precision.reason}",
        details=details,
        first_step=newest.step if newest else 0,
    )
