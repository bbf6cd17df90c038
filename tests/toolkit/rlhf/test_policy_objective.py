"""The objective objective: advantages by hand, gradients by brute force, rewards that rise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import lay_out, with_budget
from pydantic import ValidationError
from tables import build

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped, TrainingError, UsageError
from tunesmith.events import Event, StepFinished
from tunesmith.records import Message, Prompt
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.losses import policy_gradient
from tunesmith_torch.models.adapter_stack import adapt_model
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.prefix.completion_groups import GroupLayout
from tunesmith_torch.rlhf.policy_objective import (
    KlController,
    PolicyMicroBatch,
    PolicyObjective,
    PolicyWithValueHead,
)
from tunesmith_torch.rlhf.reward_functions import FunctionReward, WeightedRewardSum
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training.loop import run_training_loop
from tunesmith_torch.training.monitor import NoMonitor

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
PROMPTS: list[Prompt] = [(Message("user", f"{n}?"),) for n in range(4)]
ALGORITHMS = ["ppo", "grpo", "rloo"]


class TextReward:
    """A reward that is a function of the completion alone."""

    def __init__(self, function: Callable[[str], float]) -> None:
        self.function = function

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [self.function(text) for text in completions]


def vowels(text: str) -> float:
    """Return the share of vowels, which a random model can learn within few steps."""
    return sum(text.count(letter) for letter in "aeiou") / (1 + len(text))


def options(**changes: Any) -> PolicyOptions:
    base = {
        "epochs": 1,
        "batch_size": 4,
        "generation__num_generations": 6,
        "generation__max_new_tokens": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "schedule__warmup_ratio": 0.0,
        "loss__mask_truncated_completions": False,
    }
    return build(PolicyOptions, **{**base, **changes})


def build_objective(
    model: Path,
    config: PolicyOptions,
    reward: Callable[[str], float] = vowels,
    **layout: bool,
) -> tuple[PolicyObjective, AdaptedModel]:
    torch.manual_seed(0)
    base = load_model(model, CPU, FP32, packing=True)
    adapted = adapt_model(base, FP32, config.adaptation, initial_model=None, seed=0)
    if config.algorithm == "ppo":
        adapted = replace(
            adapted, model=PolicyWithValueHead(adapted.model, base.config.hidden_size)
        )
    template = Template.from_tokenizer(base.tokenizer)
    objective = PolicyObjective(
        adapted, template, PROMPTS, TextReward(reward), config, GroupLayout(**layout)
    )
    return objective, adapted


def perturb(adapted: AdaptedModel) -> None:
    """Move the policy away from its reference."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapted.named_trainable_parameters:
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)


def gradients(
    objective: PolicyObjective, adapted: AdaptedModel, micro_batches: list[PolicyMicroBatch]
) -> list[torch.Tensor]:
    for _, parameter in adapted.named_trainable_parameters:
        parameter.grad = None
    for micro_batch in micro_batches:
        objective.loss(micro_batch).backward()
    return [p.grad.clone() for _, p in adapted.named_trainable_parameters if p.grad is not None]


# --------------------------------------------------------------------------- formulas


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0])
    assert policy_gradient.rloo_advantages(rewards).tolist() == pytest.approx(
        [1 - 4, 2 - 3.5, 6 - 1.5]
    )
    std = math.sqrt((4 + 1 + 9) / 3)
    assert policy_gradient.grpo_advantages(rewards).tolist() == pytest.approx(
        [-2 / std, -1 / std, 3 / std]
    )
    for compare in (policy_gradient.grpo_advantages, policy_gradient.rloo_advantages):
        assert compare(torch.full((5,), 0.1)).abs().max() < 1e-6
        assert compare(torch.tensor([3.0])).tolist() == [0.0]


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_is_the_weighted_sum_of_its_definition(lam: float) -> None:
    rewards, values, gamma = torch.tensor([0.1, -0.2, 1.0]), torch.tensor([0.3, 0.5, 0.2]), 0.9
    after = [*values.tolist()[1:], 0.0]
    deltas = [
        float(r) + gamma * n - float(v) for r, n, v in zip(rewards, after, values, strict=True)
    ]
    expected = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, 3)) for t in range(3)]
    assert policy_gradient.gae(rewards, values, gamma, lam).tolist() == pytest.approx(
        expected, rel=1e-5
    )


def test_no_gradient_beyond_the_clip_range() -> None:
    logp = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    loss = policy_gradient.clipped_loss(
        logp, torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2
    )
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([-1.2, -math.exp(-0.5), math.exp(0.5), 0.8])
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0, -math.exp(-0.5), math.exp(0.5), 0])


def test_the_kl_estimate_is_zero_for_equal_policies_and_never_negative() -> None:
    logp = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert policy_gradient.kl_estimate(logp, logp).tolist() == [0.0] * 1000
    assert (policy_gradient.kl_estimate(logp, logp.flip(0)) >= 0).all()
    p, q = torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5])
    exact = float((p * (p / q).log()).sum())
    estimate = float((p * policy_gradient.kl_estimate(p.log(), q.log())).sum())
    assert estimate == pytest.approx(exact, rel=1e-5)


# --------------------------------------------------------------------------- the objective


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("sharing", [True, False])
def test_sampler_and_trainer_agree(tiny_folder: Path, temperature: float, sharing: bool) -> None:
    objective, adapted = build_objective(
        tiny_folder, options(generation__temperature=temperature), share_prompts=sharing
    )
    perturb(adapted)
    for micro_batch in lay_out(objective, [0, 1, 2, 3], 200):
        objective.loss(micro_batch)
    assert objective.metrics()["sampler_gap"] < 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_gradient_matches_the_formulas_of_the_papers(tiny_folder: Path, algorithm: str) -> None:
    """Against plain logits, one completion at a time, with the estimator written out again."""
    config = options(algorithm=algorithm, loss__kl_coef=0.2)
    objective, adapted = build_objective(tiny_folder, config)
    perturb(adapted)
    rows = [2, 0]
    micro_batches = lay_out(objective, rows, 10_000)
    ours = gradients(objective, adapted, micro_batches)
    for _, parameter in adapted.named_trainable_parameters:
        parameter.grad = None
    (micro_batch,) = micro_batches
    inner = adapted.model.model if algorithm == "ppo" else adapted.model
    ids = _prompts_and_completions(objective, micro_batch)
    loss, tokens = torch.zeros(()), sum(len(completion) for _, completion in ids)
    num_generations = config.generation.num_generations
    logprobs = [_token_logprobs(inner, *pair) for pair in ids]
    with torch.no_grad(), inner.disable_adapter():
        ref_logprobs = [_token_logprobs(inner, *pair) for pair in ids]
    texts = [
        objective.rollout_generator._template.tokenizer.decode(_without_end(objective, completion))
        for _, completion in ids
    ]
    for n, (logp_T, ref_logp_T) in enumerate(zip(logprobs, ref_logprobs, strict=True)):
        first = n - n % num_generations
        group = range(first, first + num_generations)
        rewards = [vowels(texts[m]) for m in group]
        kl_penalties = [0.2 * float((logprobs[m] - ref_logprobs[m]).sum()) for m in group]
        if algorithm == "grpo":
            mean = sum(rewards) / num_generations
            std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / num_generations)
            advantage = (rewards[n - first] - mean) / std
            ratio_T = torch.exp(logp_T - logp_T.detach())
            d_T = ref_logp_T - logp_T
            k3_T = d_T.exp() - d_T - 1
            loss = loss + (-advantage * ratio_T + 0.2 * k3_T).sum() / tokens
        elif algorithm == "rloo":
            penalized = [r - kl for r, kl in zip(rewards, kl_penalties, strict=True)]
            others = [reward for m, reward in enumerate(penalized) if m != n - first]
            advantage = penalized[n - first] - sum(others) / len(others)
            loss = loss - advantage * logp_T.sum() / len(ids)
        else:
            token_rewards_T = (-0.2 * (logp_T - ref_logp_T)).detach()
            token_rewards_T[-1] += rewards[n - first]
            T = len(token_rewards_T)
            advantages = [
                sum(0.95 ** (k - t) * token_rewards_T[k] for k in range(t, T)) for t in range(T)
            ]
            advantages_T = torch.stack([torch.as_tensor(x) for x in advantages])
            loss = loss - (advantages_T * logp_T).sum() / tokens
    loss.backward()
    expected = [
        p.grad
        for name, p in adapted.named_trainable_parameters
        if "lora" in name and p.grad is not None
    ]
    named = [n for n, p in adapted.named_trainable_parameters]
    ours_lora = [g for n, g in zip(named, ours, strict=True) if "lora" in n]
    for mine, theirs in zip(ours_lora, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-6)
    assert max(float(g.abs().max()) for g in expected) > 1e-4


def _prompts_and_completions(
    objective: PolicyObjective, micro_batch: PolicyMicroBatch
) -> list[tuple[list[int], list[int]]]:
    """Return prompt and completion ids of a micro-batch, read from its tree layout."""
    branches = micro_batch.completions.tree_layout
    assert branches is not None
    ids = micro_batch.completions.batch.ids_BT[0]
    completions = torch.split(
        micro_batch.completions.batch.targets_N, micro_batch.completions.lengths_C.tolist()
    )
    return [
        ([*ids[b.prefix_start : b.prefix_stop].tolist(), int(ids[b.start])], completion.tolist())
        for b, completion in zip(branches.branches, completions, strict=True)
    ]


def _without_end(objective: PolicyObjective, completion: list[int]) -> list[int]:
    end_ids = objective.rollout_generator._template.end_ids
    return completion[:-1] if completion[-1] in end_ids else completion


def _token_logprobs(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *completion]])
    logp_TV = model(ids).logits[0].log_softmax(-1)
    return logp_TV[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_equal_rewards_and_policy_at_reference_give_no_gradient(
    tiny_folder: Path, algorithm: str
) -> None:
    objective, adapted = build_objective(
        tiny_folder, options(algorithm=algorithm), lambda text: 0.3
    )
    micro_batches = lay_out(objective, [0, 1], 10_000)
    assert abs(objective.metrics()["kl"]) < 1e-6  # the sampler rounds in another order
    assert all(float(g.abs().max()) < 1e-9 for g in gradients(objective, adapted, micro_batches))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_truncated_completions_have_no_gradient(tiny_folder: Path, algorithm: str) -> None:
    """A tiny model hardly ever ends: all completions are truncated, so no gradient may flow."""
    config = options(
        algorithm=algorithm, loss__mask_truncated_completions=True, generation__max_new_tokens=2
    )
    objective, adapted = build_objective(tiny_folder, config)
    objective.rollout_generator._template.tokenizer.eos_token = "<|endoftext|>"
    micro_batches = lay_out(objective, [0, 1], 10_000)
    truncated = objective.metrics()["truncated"]
    masked_gradients = gradients(objective, adapted, micro_batches)
    assert truncated > 0.5
    weights = torch.cat(
        [
            micro_batch.loss_weights_N[
                micro_batch.completions.sum_per_completion(micro_batch.loss_weights_N)[
                    micro_batch.completions.completion_N
                ]
                == 0
            ]
            for micro_batch in micro_batches
        ]
    )
    assert len(weights) > 0
    if truncated == 1.0:
        assert all(float(g.abs().max()) == 0 for g in masked_gradients)
    unmasked, adapted = build_objective(
        tiny_folder, options(algorithm=algorithm, generation__max_new_tokens=2)
    )
    other_gradients = gradients(unmasked, adapted, lay_out(unmasked, [0, 1], 10_000))
    assert max(float(g.abs().max()) for g in other_gradients) > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_gradient_does_not_depend_on_micro_batches(tiny_folder: Path, algorithm: str) -> None:
    found = []
    for budget, sharing in ((10_000, True), (1, True), (90, False)):
        objective, adapted = build_objective(
            tiny_folder, options(algorithm=algorithm), share_prompts=sharing
        )
        perturb(adapted)
        torch.manual_seed(5)
        found.append(gradients(objective, adapted, lay_out(objective, [3, 1, 0], budget)))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="session")
def model_with_preferences(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with unequal token probabilities: its completions get different rewards."""
    folder = tmp_path_factory.mktemp("model_with_preferences") / "model"
    base = load_model(tiny_folder, CPU, FP32, packing=False)
    with torch.no_grad():
        base.model.get_input_embeddings().weight.mul_(10)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


class UpdatesOnly(NoMonitor):
    """As many updates of a rollout as the options say, and no evaluation."""

    def __init__(self, objective: PolicyObjective) -> None:
        self.objective = objective

    def is_batch_finished(self) -> bool:
        return self.objective.finish_update()


def run(
    folder: Path, model: Path, config: PolicyOptions, stop_at: int | None = None
) -> tuple[list[StepFinished], dict[str, torch.Tensor]]:
    folder.mkdir(parents=True, exist_ok=True)
    objective, adapted = build_objective(model, config)
    steps: list[StepFinished] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepFinished):
            steps.append(event)
            if event.step == stop_at:
                raise RunStopped("enough")

    job: Job[Any] = Job(
        config=config,
        model=model,
        train=(),
        validation=(),
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=emit,
        technique="test",
    )
    run_training_loop(job, adapted, objective, seed=1, monitor=UpdatesOnly(objective))
    return steps, {name: p.detach().clone() for name, p in adapted.named_trainable_parameters}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_reward_rises(tmp_path: Path, model_with_preferences: Path, algorithm: str) -> None:
    config = options(
        algorithm=algorithm,
        epochs=25,
        generation__num_generations=12,
        loss__kl_coef=0.01,
        schedule__type="constant",
    )
    steps, _ = run(tmp_path, model_with_preferences, config)
    rewards = [step.metrics["reward"] for step in steps]
    assert sum(rewards[-5:]) / 5 > 1.5 * sum(rewards[:3]) / 3
    assert steps[-1].metrics["kl"] > 0
    assert max(step.metrics["sampler_gap"] for step in steps) < 1e-3


@pytest.mark.parametrize(
    ("algorithm", "update"), [("grpo", 0), ("rloo", 0), ("ppo", 0), ("grpo", 1), ("ppo", 1)]
)
def test_out_of_memory_keeps_the_rollout(
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    update: int,
) -> None:
    """In any update of a batch: no new completions, no new rewards, smaller micro-batches."""
    config = options(
        algorithm=algorithm,
        epochs=2,
        loss__num_iterations=update + 1,
        micro_batch_tokens=300,
        learning_rate=1e-3,
    )
    plain, expected = run(tmp_path / "plain", tiny_folder, config)
    limit = 0.7 * min(step.tokens for step in plain)
    calls, rewarded = [], []
    real_loss, real_rewards = PolicyObjective.loss, TextReward.rewards

    def loss(self: PolicyObjective, micro_batch: PolicyMicroBatch) -> torch.Tensor:
        """From that update of the second batch on, a whole batch does not fit."""
        calls.append(micro_batch)
        value = real_loss(self, micro_batch)
        if len(calls) >= 2 * (update + 1) and micro_batch.completions.batch.tokens > limit:
            raise MemoryError
        return value

    def rewards(
        self: TextReward, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> list[float]:
        rewarded.append(list(completions))
        return real_rewards(self, prompts, completions)

    monkeypatch.setattr(PolicyObjective, "loss", loss)
    monkeypatch.setattr(TextReward, "rewards", rewards)
    tight, weights = run(tmp_path / "tight", tiny_folder, config)
    assert len(calls) > len(plain) * (update + 1)  # memory did run out
    assert len(rewarded) == len(tight) == len(plain)
    for one, other in zip(plain, tight, strict=True):
        assert one.metrics.keys() == other.metrics.keys()
        for name, value in one.metrics.items():
            assert other.metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_run_ends_with_identical_weights(
    tmp_path: Path, tiny_folder: Path, algorithm: str
) -> None:
    config = options(algorithm=algorithm, epochs=4)
    steps, uninterrupted = run(tmp_path / "uninterrupted", tiny_folder, config)
    with pytest.raises(RunStopped):
        run(tmp_path / "resumed", tiny_folder, config, stop_at=2)
    later, resumed = run(tmp_path / "resumed", tiny_folder, config)
    assert [s.loss for s in later] == [s.loss for s in steps][2:]
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_later_updates_use_ratios_to_the_sampling_policy(tiny_folder: Path, algorithm: str) -> None:
    """The second update's gradient by hand: ratios to the old policy, none beyond the clip."""
    config = options(
        algorithm=algorithm, loss__num_iterations=2, loss__kl_coef=0.0, monitor__max_kl=0.0
    )
    objective, adapted = build_objective(tiny_folder, config)
    perturb(adapted)
    prepared = objective.prepare([0, 2], with_budget(10_000))
    (micro_batch,) = objective.micro_batches(prepared, 10_000)
    assert not objective.finish_update()
    with torch.no_grad():
        for name, parameter in adapted.named_trainable_parameters:
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=_generator()) * 0.05)
    (again,) = objective.micro_batches(prepared, 10_000)
    assert again is micro_batch
    ours = gradients(objective, adapted, [again])
    for _, parameter in adapted.named_trainable_parameters:
        parameter.grad = None
    inner = adapted.model.model if algorithm == "ppo" else adapted.model
    ids = _prompts_and_completions(objective, micro_batch)
    logprobs_N = torch.cat([_token_logprobs(inner, *pair) for pair in ids])
    ratio_N = torch.exp(logprobs_N - micro_batch.old_logprobs_N)
    clipped_N = (ratio_N < 0.8) | (ratio_N > 1.2)
    has_gradient_N = torch.where(micro_batch.advantages_N > 0, ratio_N < 1.2, ratio_N > 0.8)
    assert 0 < int(clipped_N.sum()) < len(ratio_N)
    (-(ratio_N * micro_batch.advantages_N)[has_gradient_N].sum() / len(ratio_N)).backward()
    named = [name for name, _ in adapted.named_trainable_parameters]
    mine = [g for n, g in zip(named, ours, strict=True) if "lora" in n]
    theirs = [p.grad for n, p in adapted.named_trainable_parameters if "lora" in n]
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-6)
    assert objective.finish_update()
    assert objective.metrics()["clip_fraction"] == pytest.approx(
        float(clipped_N.float().mean()) / 2, abs=1e-5
    )
    (new,) = lay_out(objective, [0, 2], 10_000)
    assert new is not micro_batch


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def test_the_kl_coefficient_approaches_its_target() -> None:
    controller = KlController(0.1, target=4.0)
    controller.update(8.0)  # an error of 1 is cut to 0.2
    assert controller.coef == pytest.approx(0.1 * 1.02)
    controller.update(4.4)
    assert controller.coef == pytest.approx(0.1 * 1.02 * 1.01)
    controller.update(0.0)
    assert controller.coef == pytest.approx(0.1 * 1.02 * 1.01 * 0.98)
    fixed = KlController(0.1)
    fixed.update(100.0)
    assert fixed.coef == 0.1


# --------------------------------------------------------------------------- rewards and options


def test_a_function_in_a_file_is_a_reward(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def short(prompt, answer):\n    return -len(answer)\nbad = lambda p, a: None\n"
    )
    reward = FunctionReward.from_file(f"{file}:short")
    assert reward.rewards(PROMPTS[:2], ["ab", "abc"]) == [-2.0, -3.0]
    weighted = WeightedRewardSum(((2.0, reward), (1.0, TextReward(lambda text: 10.0))))
    assert weighted.rewards(PROMPTS[:1], ["ab"]) == [6.0]
    with pytest.raises(TrainingError, match="finite number, got None"):
        FunctionReward.from_file(f"{file}:bad").rewards(PROMPTS[:1], ["a"])
    for reference in (f"{file}:long", f"{tmp_path}/none.py:f", "nothing"):
        with pytest.raises(UsageError):
            FunctionReward.from_file(reference)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss__gamma": 0.9},
        {"generation__num_generations": 1},
        {"loss__gae_lambda": 0.5},
        {"loss__kl_target": 5.0},
        {"algorithm": "rloo", "loss__num_iterations": 2},
        {"algorithm": "ppo", "loss__kl_target": 5.0, "loss__kl_coef": 0.0},
        {"truncate_prompts": True},
    ],
)
def test_unused_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(PolicyOptions, **wrong)
