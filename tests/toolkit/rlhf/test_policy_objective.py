"""The policy loop: advantages by hand, gradients against brute force, and rewards that rise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped, TrainingError, UsageError
from tunesmith.events import Event, Stepped
from tunesmith.records import Message, Prompt
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.losses import policy_gradient
from tunesmith_torch.models.adapter_stack import adapt_policy, load_policy_base
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.options.policy import PolicyLoopOptions
from tunesmith_torch.prefix.completion_groups import Layout
from tunesmith_torch.rlhf.policy_objective import KlPrice, Lesson, PolicyLoop, ValueNet
from tunesmith_torch.rlhf.reward_functions import FunctionReward, MixedReward
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training.loop import fit

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
PROMPTS: list[Prompt] = [(Message("user", f"{n}?"),) for n in range(4)]
ALGORITHMS = ["ppo", "grpo", "rloo"]


class Rule:
    """Rewards by a function of the answer alone."""

    def __init__(self, rule: Callable[[str], float]) -> None:
        self.rule = rule

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [self.rule(text) for text in completions]


def vowels(text: str) -> float:
    """What a random model can learn within few steps."""
    return sum(text.count(letter) for letter in "aeiou") / (1 + len(text))


def options(**changes: Any) -> PolicyLoopOptions:
    base = {
        "epochs": 1,
        "batch_size": 4,
        "num_generations": 6,
        "max_new_tokens": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "warmup_ratio": 0.0,
        "mask_truncated_completions": False,
    }
    return PolicyLoopOptions(**{**base, **changes})


def loop(
    model: Path, config: PolicyLoopOptions, rule: Callable[[str], float] = vowels, **layout: bool
) -> tuple[PolicyLoop, Adapted]:
    torch.manual_seed(0)
    base = load_policy_base(model, CPU, FP32, True)
    adapted = adapt_policy(base, FP32, config, weights=config.adapt, start=None, seed=0)
    if config.algorithm == "ppo":
        adapted = replace(adapted, model=ValueNet(adapted.model, base.config.hidden_size))
    template = Template.of(base.tokenizer)
    policy = PolicyLoop(adapted, template, PROMPTS, Rule(rule), config, Layout(**layout))
    return policy, adapted


def shake(adapted: Adapted) -> None:
    """Move the policy away from its reference."""
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapted.trainable:
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=source)


def gradients(policy: PolicyLoop, adapted: Adapted, lessons: list[Lesson]) -> list[torch.Tensor]:
    for _, parameter in adapted.trainable:
        parameter.grad = None
    for lesson in lessons:
        policy.loss(lesson).backward()
    return [p.grad.clone() for _, p in adapted.trainable if p.grad is not None]


# --------------------------------------------------------------------------- formulas


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0])
    assert policy_gradient.rloo(rewards).tolist() == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5])
    std = math.sqrt((4 + 1 + 9) / 3)
    assert policy_gradient.grpo(rewards).tolist() == pytest.approx([-2 / std, -1 / std, 3 / std])
    for compare in (policy_gradient.grpo, policy_gradient.rloo):
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


def test_the_ratio_stops_counting_beyond_the_clip() -> None:
    logp = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    loss = policy_gradient.clipped(logp, torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([-1.2, -math.exp(-0.5), math.exp(0.5), 0.8])
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0, -math.exp(-0.5), math.exp(0.5), 0])


def test_the_divergence_is_zero_between_equals_and_never_negative() -> None:
    logp = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert policy_gradient.divergence(logp, logp).tolist() == [0.0] * 1000
    assert (policy_gradient.divergence(logp, logp.flip(0)) >= 0).all()
    p, q = torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5])
    exact = float((p * (p / q).log()).sum())
    estimate = float((p * policy_gradient.divergence(p.log(), q.log())).sum())
    assert estimate == pytest.approx(exact, rel=1e-5)


# --------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("sharing", [True, False])
def test_sampler_and_trainer_agree(tiny_folder: Path, temperature: float, sharing: bool) -> None:
    policy, adapted = loop(tiny_folder, options(temperature=temperature), sharing=sharing)
    shake(adapted)
    for lesson in policy.micro_batches([0, 1, 2, 3], 200):
        policy.loss(lesson)
    assert policy.figures()["sampler_gap"] < 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_gradient_is_the_papers(tiny_folder: Path, algorithm: str) -> None:
    """Against plain logits, one answer at a time, with the estimator written out once more."""
    config = options(algorithm=algorithm, kl_coef=0.2)
    policy, adapted = loop(tiny_folder, config)
    shake(adapted)
    rows = [2, 0]
    lessons = policy.micro_batches(rows, 10_000)
    ours = gradients(policy, adapted, lessons)
    for _, parameter in adapted.trainable:
        parameter.grad = None
    (lesson,) = lessons
    inner = adapted.model.model if algorithm == "ppo" else adapted.model
    ids = _rows_of(policy, lesson)
    total, tokens = torch.zeros(()), sum(len(answer) for _, answer in ids)
    samples = config.num_generations
    logps = [_logp(inner, *pair) for pair in ids]
    with torch.no_grad(), inner.disable_adapter():
        references = [_logp(inner, *pair) for pair in ids]
    texts = [policy.actor._template.tokenizer.decode(_bare(policy, a)) for _, a in ids]
    for n, (logp, reference) in enumerate(zip(logps, references, strict=True)):
        first = n - n % samples
        group = [vowels(texts[m]) for m in range(first, first + samples)]
        price = [
            0.2 * float((logps[m] - references[m]).sum()) for m in range(first, first + samples)
        ]
        if algorithm == "grpo":
            mean = sum(group) / samples
            std = math.sqrt(sum((g - mean) ** 2 for g in group) / samples)
            advantage = (group[n - first] - mean) / std
            d = reference - logp
            terms = -advantage * torch.exp(logp - logp.detach()) + 0.2 * (d.exp() - d - 1)
            total = total + terms.sum() / tokens
        elif algorithm == "rloo":
            net = [g - p for g, p in zip(group, price, strict=True)]
            others = [x for m, x in enumerate(net) if m != n - first]
            advantage = net[n - first] - sum(others) / len(others)
            total = total - advantage * logp.sum() / len(ids)
        else:
            earned = (-0.2 * (logp - reference)).detach()
            earned[-1] += group[n - first]
            reach = [
                sum(0.95 ** (k - t) * earned[k] for k in range(t, len(earned)))
                for t in range(len(earned))
            ]
            advantage_T = torch.stack([torch.as_tensor(x) for x in reach])
            total = total - (advantage_T * logp).sum() / tokens
    total.backward()
    expected = [p.grad for name, p in adapted.trainable if "lora" in name and p.grad is not None]
    named = [n for n, p in adapted.trainable]
    ours_lora = [g for n, g in zip(named, ours, strict=True) if "lora" in n]
    for mine, theirs in zip(ours_lora, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-6)
    assert max(float(g.abs().max()) for g in expected) > 1e-4


def _rows_of(policy: PolicyLoop, lesson: Lesson) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer ids of a micro-batch, read off its branches."""
    branches = lesson.answers.branches
    assert branches is not None
    ids = lesson.answers.batch.ids_BT[0]
    answers = torch.split(lesson.answers.batch.targets_N, lesson.answers.lengths_A.tolist())
    return [
        ([*ids[b.trunk_start : b.trunk_stop].tolist(), int(ids[b.start])], answer.tolist())
        for b, answer in zip(branches.branches, answers, strict=True)
    ]


def _bare(policy: PolicyLoop, answer: list[int]) -> list[int]:
    return answer[:-1] if answer[-1] in policy.actor._template.end_ids else answer


def _logp(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *answer]])
    logp_TV = model(ids).logits[0].log_softmax(-1)
    return logp_TV[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_equal_rewards_and_equal_policies_move_nothing(tiny_folder: Path, algorithm: str) -> None:
    policy, adapted = loop(tiny_folder, options(algorithm=algorithm), lambda text: 0.3)
    lessons = policy.micro_batches([0, 1], 10_000)
    assert abs(policy.figures()["kl"]) < 1e-6  # the sampler rounds in another order
    assert all(float(g.abs().max()) < 1e-9 for g in gradients(policy, adapted, lessons))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_cut_off_answers_teach_nothing(tiny_folder: Path, algorithm: str) -> None:
    """A tiny model hardly ever ends: everything is cut off, so nothing may move."""
    config = options(algorithm=algorithm, mask_truncated_completions=True, max_new_tokens=2)
    policy, adapted = loop(tiny_folder, config)
    policy.actor._template.tokenizer.eos_token = "<|endoftext|>"
    lessons = policy.micro_batches([0, 1], 10_000)
    cut = policy.figures()["truncated"]
    moved = gradients(policy, adapted, lessons)
    assert cut > 0.5
    weights = torch.cat(
        [
            lesson.weight_N[lesson.answers.sums(lesson.weight_N)[lesson.answers.answer_N] == 0]
            for lesson in lessons
        ]
    )
    assert len(weights) > 0
    if cut == 1.0:
        assert all(float(g.abs().max()) == 0 for g in moved)
    loose, other = loop(tiny_folder, options(algorithm=algorithm, max_new_tokens=2))
    again = gradients(loose, other, loose.micro_batches([0, 1], 10_000))
    assert max(float(g.abs().max()) for g in again) > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_gradient_does_not_depend_on_micro_batches(tiny_folder: Path, algorithm: str) -> None:
    found = []
    for budget, sharing in ((10_000, True), (1, True), (90, False)):
        policy, adapted = loop(tiny_folder, options(algorithm=algorithm), sharing=sharing)
        shake(adapted)
        torch.manual_seed(5)
        found.append(gradients(policy, adapted, policy.micro_batches([3, 1, 0], budget)))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="session")
def lively(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose probabilities are not all alike, so that it has something to prefer."""
    folder = tmp_path_factory.mktemp("lively") / "model"
    base = load_policy_base(tiny_folder, CPU, FP32, False)
    with torch.no_grad():
        base.model.get_input_embeddings().weight.mul_(10)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def run(
    folder: Path, model: Path, config: PolicyLoopOptions, stop_at: int | None = None
) -> tuple[list[Stepped], dict[str, torch.Tensor]]:
    folder.mkdir(parents=True, exist_ok=True)
    policy, adapted = loop(model, config)
    steps: list[Stepped] = []

    def tell(event: Event) -> None:
        if isinstance(event, Stepped):
            steps.append(event)
            if event.step == stop_at:
                raise RunStopped("enough")

    job: Job[Any] = Job(
        config=config,
        model=model,
        train=(),
        heldout=(),
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=tell,
        technique="test",
    )
    fit(job, adapted, policy, seed=1)
    return steps, {name: p.detach().clone() for name, p in adapted.trainable}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_reward_rises(tmp_path: Path, lively: Path, algorithm: str) -> None:
    config = options(
        algorithm=algorithm, epochs=25, num_generations=12, kl_coef=0.01, schedule="constant"
    )
    steps, _ = run(tmp_path, lively, config)
    rewards = [step.extras["reward"] for step in steps]
    assert sum(rewards[-5:]) / 5 > 1.5 * sum(rewards[:3]) / 3
    assert steps[-1].extras["kl"] > 0
    assert max(step.extras["sampler_gap"] for step in steps) < 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_folder: Path, algorithm: str
) -> None:
    config = options(algorithm=algorithm, epochs=4)
    steps, whole = run(tmp_path / "whole", tiny_folder, config)
    with pytest.raises(RunStopped):
        run(tmp_path / "parts", tiny_folder, config, stop_at=2)
    later, rest = run(tmp_path / "parts", tiny_folder, config)
    assert [s.loss for s in later] == [s.loss for s in steps][2:]
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_later_updates_compare_with_what_the_sampler_said(
    tiny_folder: Path, algorithm: str
) -> None:
    """The second update's gradient by hand: ratios to the old policy, cut off beyond the clip."""
    config = options(algorithm=algorithm, num_iterations=2, kl_coef=0.0, max_kl=0.0)
    policy, adapted = loop(tiny_folder, config)
    shake(adapted)
    (lesson,) = policy.micro_batches([0, 2], 10_000)
    assert not policy.finished()
    with torch.no_grad():
        for name, parameter in adapted.trainable:
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=_source()) * 0.05)
    (again,) = policy.micro_batches([0, 2], 10_000)
    assert again is lesson
    ours = gradients(policy, adapted, [again])
    for _, parameter in adapted.trainable:
        parameter.grad = None
    inner = adapted.model.model if algorithm == "ppo" else adapted.model
    said = _rows_of(policy, lesson)
    logp_N = torch.cat([_logp(inner, *pair) for pair in said])
    ratio_N = torch.exp(logp_N - lesson.old_N)
    outside_N = (ratio_N < 0.8) | (ratio_N > 1.2)
    free_N = torch.where(lesson.advantage_N > 0, ratio_N < 1.2, ratio_N > 0.8)
    assert 0 < int(outside_N.sum()) < len(ratio_N)
    (-(ratio_N * lesson.advantage_N)[free_N].sum() / len(ratio_N)).backward()
    named = [name for name, _ in adapted.trainable]
    mine = [g for n, g in zip(named, ours, strict=True) if "lora" in n]
    theirs = [p.grad for n, p in adapted.trainable if "lora" in n]
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-6)
    assert policy.finished()
    assert policy.figures()["clip_fraction"] == pytest.approx(
        float(outside_N.float().mean()) / 2, abs=1e-5
    )
    (new,) = policy.micro_batches([0, 2], 10_000)
    assert new is not lesson


def _source() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def test_the_price_of_divergence_follows_its_target() -> None:
    price = KlPrice(0.1, target=4.0)
    price.adapt(8.0)  # an error of 1 is cut to 0.2
    assert price.weight == pytest.approx(0.1 * 1.02)
    price.adapt(4.4)
    assert price.weight == pytest.approx(0.1 * 1.02 * 1.01)
    price.adapt(0.0)
    assert price.weight == pytest.approx(0.1 * 1.02 * 1.01 * 0.98)
    fixed = KlPrice(0.1)
    fixed.adapt(100.0)
    assert fixed.weight == 0.1


# --------------------------------------------------------------------------- rewards and options


def test_a_function_in_a_file_is_a_reward(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def short(prompt, answer):\n    return -len(answer)\nbad = lambda p, a: None\n"
    )
    reward = FunctionReward.read(f"{file}:short")
    assert reward.rewards(PROMPTS[:2], ["ab", "abc"]) == [-2.0, -3.0]
    mixed = MixedReward(((2.0, reward), (1.0, Rule(lambda text: 10.0))))
    assert mixed.rewards(PROMPTS[:1], ["ab"]) == [6.0]
    with pytest.raises(TrainingError, match="finite number, got None"):
        FunctionReward.read(f"{file}:bad").rewards(PROMPTS[:1], ["a"])
    for wrong in (f"{file}:long", f"{tmp_path}/none.py:f", "nothing"):
        with pytest.raises(UsageError):
            FunctionReward.read(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 0.9},
        {"num_generations": 1},
        {"gae_lambda": 0.5},
        {"kl_target": 5.0},
        {"algorithm": "rloo", "num_iterations": 2},
        {"algorithm": "ppo", "kl_target": 5.0, "kl_coef": 0.0},
        {"truncate_prompts": True},
    ],
)
def test_options_that_nobody_would_read_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PolicyLoopOptions(**wrong)
