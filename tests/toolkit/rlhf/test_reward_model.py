"""Reward models: the scored token, learning to rank, and the metrics of the report."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import IntegrityError, RunStopped
from tunesmith.events import Event, StepFinished
from tunesmith.options import from_table
from tunesmith.records import Message, Preference
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapter_stack import load_policy_base
from tunesmith_torch.options.preference import RewardOptions
from tunesmith_torch.options.rlhf import RewardStage
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    collate_final_tokens,
    tokenize_pairs,
)
from tunesmith_torch.rlhf.reward_gate import gate_result
from tunesmith_torch.rlhf.reward_metrics import reward_report
from tunesmith_torch.rlhf.reward_model import (
    ModelWithRewardHead,
    RewardModel,
    bradley_terry,
    train_reward_model,
)
from tunesmith_torch.runtime.device import pick_precision

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]
LAYOUTS = [GroupLayout(), GroupLayout(share_prompts=False), GroupLayout(packing=False)]


def preference(n: int, *, long: bool = False) -> Preference:
    """Return a pair: the polite completion was chosen, or simply the longer one."""
    words = random.Random(n)
    completions = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
    if long:
        completions.sort(key=len, reverse=True)
    else:
        completions[0] = f"please {completions[0]} please"
    prompt = (Message("user", f"What is {n}?"),)
    return Preference(
        source=f"rows:{n}", prompt=prompt, chosen=completions[0], rejected=completions[1]
    )


PAIRS = tuple(preference(n) for n in range(32))


def options(**changes: Any) -> RewardOptions:
    base = {
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "warmup_ratio": 0.0,
    }
    return RewardOptions(**{**base, **changes})


def train(
    folder: Path, model: Path, config: RewardOptions, stop_at: int | None = None, **changes: Any
) -> tuple[Artifact, list[StepFinished]]:
    folder.mkdir(parents=True, exist_ok=True)
    steps: list[StepFinished] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepFinished):
            steps.append(event)
            if event.step == stop_at:
                raise RunStopped("enough")

    job: dict[str, Any] = {
        "config": config,
        "model": model,
        "train": PAIRS,
        "heldout": (),
        "out": folder,
        "seed": 3,
        "device": "cpu",
        "checkpoints": Checkpoints(folder / "checkpoints"),
        "emit": emit,
        "technique": "test",
    }
    return train_reward_model(Job(**{**job, **changes})), steps


def load_net(
    model: Path, packing: bool = True
) -> tuple[ModelWithRewardHead, Sequence[CompletionGroup]]:
    base = load_policy_base(model, CPU, FP32, packing)
    net = ModelWithRewardHead(base.model, base.config.hidden_size)
    with torch.no_grad():
        net.head.weight.copy_(torch.linspace(-1, 1, base.config.hidden_size)[None])
    return net.eval(), tokenize_pairs(PAIRS[:6], Template.from_tokenizer(base.tokenizer))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_the_end_token_is_scored_in_every_layout(
    tiny_folder: Path, layout: GroupLayout, budget: int
) -> None:
    """Compare with the model on one sequence at a time, read at the last token."""
    net, groups = load_net(tiny_folder, layout.packing)
    seen = 0
    for batch in collate_final_tokens(layout, groups, range(len(groups)), budget):
        ours = net.rewards(batch).detach()
        expected = []
        for row in batch.group_indices:
            for completion in groups[row].completions:
                ids = torch.tensor([[*groups[row].prompt, *completion]])
                hidden = net.model.get_decoder()(ids).last_hidden_state[0, -1]
                expected.append(float((hidden @ net.head.weight[0]).detach()))
        assert ours.tolist() == pytest.approx(expected, abs=1e-5)
        seen += len(expected)
    assert seen == 12


def test_bradley_terry_by_hand() -> None:
    good, bad = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])
    ours = bradley_terry(good, bad, 0.2, 0.1)
    expected = [
        -math.log(1 / (1 + math.exp(-(g - b - 0.2)))) + 0.1 * (g + b) ** 2
        for g, b in [(1.0, 0.5), (-2.0, 1.0)]
    ]
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_it_learns_to_rank_and_loads_from_disk(
    tmp_path: Path, tiny_folder: Path, adapt: str
) -> None:
    rate = 1e-2 if adapt == "lora" else 3e-3
    artifact, steps = train(tmp_path, tiny_folder, options(adapt=adapt, learning_rate=rate))
    assert steps[-1].metrics["accuracy"] > 0.9
    model = RewardModel.load(tiny_folder, artifact.path, CPU, FP32)
    new = [preference(n) for n in range(100, 140)]
    good, bad = (
        model.rewards([p.prompt for p in new], [getattr(p, which) for p in new])
        for which in ("chosen", "rejected")
    )
    report = reward_report(good, bad, [(3, 3)] * len(new))
    assert report.accuracy.value > 0.85
    assert report.is_above_chance
    last = steps[-1].metrics["reward_margin"]
    assert sum(g - b for g, b in zip(good, bad, strict=True)) / len(new) > last / 3


@pytest.mark.parametrize(
    "layout", [{"micro_batch_tokens": 1}, {"share_prompts": False}, {"packing": False}], ids=str
)
def test_the_result_does_not_depend_on_the_layout(
    tmp_path: Path, tiny_folder: Path, layout: dict[str, Any]
) -> None:
    _, plain = train(tmp_path / "a", tiny_folder, options())
    _, other = train(tmp_path / "b", tiny_folder, options(**layout))
    losses = [step.loss for step in plain]
    assert [step.loss for step in other] == pytest.approx(losses, rel=1e-3, abs=1e-4)


def test_a_resumed_run_ends_with_identical_weights(tmp_path: Path, tiny_folder: Path) -> None:
    config = options(dropout=0.1)
    uninterrupted, steps = train(tmp_path / "uninterrupted", tiny_folder, config)
    with pytest.raises(RunStopped):
        train(tmp_path / "resumed", tiny_folder, config, stop_at=5)
    resumed, later = train(tmp_path / "resumed", tiny_folder, config)
    assert [s.loss for s in later] == [s.loss for s in steps][5:]
    for name in ("adapter_model.safetensors", "reward_head.safetensors"):
        assert (uninterrupted.path / name).read_bytes() == (resumed.path / name).read_bytes()


def test_rewards_are_computed_without_dropout(tmp_path: Path, tiny_folder: Path) -> None:
    """A reward model that shares the policy's base is in train mode with it."""
    artifact, _ = train(tmp_path, tiny_folder, options(dropout=0.5, max_steps=4))
    model = RewardModel.load(tiny_folder, artifact.path, CPU, FP32)
    inputs = [p.prompt for p in PAIRS], [p.chosen for p in PAIRS]
    rewards = model.rewards(*inputs)
    model.net.train()
    assert model.rewards(*inputs) == rewards
    assert model.net.training


def test_an_adapter_without_a_reward_head_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    artifact, _ = train(tmp_path, tiny_folder, options(max_steps=1))
    (artifact.path / "reward_head.safetensors").unlink()
    with pytest.raises(IntegrityError, match="not a reward model"):
        RewardModel.load(tiny_folder, artifact.path, CPU, FP32)


# --------------------------------------------------------------------------- the report


def test_a_model_that_rewards_length_is_detected() -> None:
    rng = random.Random(0)
    lengths, good, bad = [], [], []
    for n in range(300):
        a = rng.randint(20, 60)
        b = a if n % 3 == 0 else a - rng.randint(10, 15)  # people often chose the longer one
        lengths.append((a, b))
        good.append(a + rng.gauss(0, 0.1))
        bad.append(b + rng.gauss(0, 0.1))
    report = reward_report(good, bad, lengths)
    assert report.is_above_chance
    assert report.is_length_biased
    assert report.matched_accuracy is not None
    assert report.matched_accuracy.low < 0.5 < report.matched_accuracy.high
    assert report.longer_wins == 1.0
    assert "equally long" in report.summary()


@pytest.mark.parametrize("sign", [1, -1], ids=["longer", "shorter"])
def test_a_model_that_is_wrong_whenever_length_misleads_is_detected(sign: int) -> None:
    """It beats chance because people mostly chose by length; no pair has equal lengths."""
    lengths = [(30, 20) if n % 4 else (20, 30) for n in range(80)][::sign]
    lengths = [(a, b) if sign == 1 else (b, a) for a, b in lengths]
    good, bad = ([sign * float(pair[side]) for pair in lengths] for side in (0, 1))
    report = reward_report(good, bad, lengths)
    assert report.is_above_chance and report.is_length_biased
    assert report.matched_accuracy is None
    assert report.length_correlation == pytest.approx(sign)


def test_a_preference_for_longer_content_is_no_length_bias() -> None:
    """Longer completions win for people and model, but pairs of equal length are ranked as well."""
    rng = random.Random(3)
    lengths = [(20, 20) if n % 2 else (40, 20) for n in range(200)]
    good = [1.0 if rng.random() < 0.8 else -1.0 for _ in lengths]
    report = reward_report(good, [0.0] * len(good), lengths)
    assert report.is_above_chance and not report.is_length_biased


def test_pairs_of_one_group_count_as_one() -> None:
    good, bad, lengths = [1.0] * 40, [0.0] * 40, [(5, 5)] * 40
    assert reward_report(good, bad, lengths).is_above_chance
    tied = reward_report(good, bad, lengths, groups=[f"g{n % 3}" for n in range(40)])
    assert tied.accuracy.value == 1.0
    assert not tied.is_above_chance


def test_confidence_equal_to_accuracy_has_no_calibration_error() -> None:
    rng = random.Random(1)
    margins = [rng.uniform(0, 3) for _ in range(20_000)]
    signed = [g if rng.random() < 1 / (1 + math.exp(-g)) else -g for g in margins]
    lengths = [(5, 5)] * len(margins)
    zeros = [0.0] * len(margins)
    assert reward_report(signed, zeros, lengths).calibration_error < 0.02
    bold = [3 * gap for gap in signed]
    assert reward_report(bold, zeros, lengths).calibration_error > 0.1


def test_random_rewards_do_not_beat_chance() -> None:
    rng = random.Random(2)
    good, bad = ([rng.random() for _ in range(100)] for _ in range(2))
    assert not reward_report(good, bad, [(5, 5)] * 100).is_above_chance
    tied = reward_report([1.0] * 50, [1.0] * 50, [(5, 5)] * 50)
    assert tied.accuracy.value == 0.5
    assert not tied.is_above_chance


def confounded(
    share: float, n: int, accuracy: float, seed: int = 0
) -> tuple[list[float], list[float], list[tuple[int, int]]]:
    """Return pairs of unequal length, the longer one chosen in this share, and a model's rewards.

    The model is right in a share ``accuracy`` of the pairs; 0: it rewards length alone.
    """
    rng = random.Random(seed)
    lengths = [(30, 20) if i < share * n else (20, 30) for i in range(n)]
    if not accuracy:
        return [float(a) for a, _ in lengths], [float(b) for _, b in lengths], lengths
    good = [1.0 if rng.random() < accuracy else -1.0 for _ in lengths]
    return good, [0.0] * n, lengths


@pytest.mark.parametrize("share", [0.65, 0.75, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("n", [40, 100, 400])
@pytest.mark.parametrize("longer", [True, False], ids=["longer", "shorter"])
def test_length_alone_never_passes_the_gate(share: float, n: int, longer: bool) -> None:
    """For any share of pairs with the longer (or the shorter) completion chosen, up to all."""
    good, bad, lengths = confounded(share, n, 0.0)
    if not longer:
        lengths = [(b, a) for a, b in lengths]
        good, bad = [-float(a) for a, _ in lengths], [-float(b) for _, b in lengths]
    gate = gate_result(reward_report(good, bad, lengths), from_table(RewardStage, {}))
    assert not gate.passed
    assert "length" in gate.message.split("accuracy")[0] or "chance" in gate.message


@pytest.mark.parametrize("share", [0.5, 0.65, 0.75])
def test_a_good_model_passes_although_people_chose_longer_completions(share: float) -> None:
    """Right in four of five pairs, independent of length: 60 held-out pairs are enough."""
    passed = 0
    for seed in range(20):
        report = reward_report(*confounded(share, 60, 0.8, seed))
        assert not report.is_length_biased
        passed += not report.is_length_unclear and report.is_above_chance
    assert passed >= 18


def test_data_where_the_longer_is_always_chosen_cannot_pass() -> None:
    """The model is always right, but so is length; a few pairs of equal length decide it."""
    good, bad, lengths = confounded(1.0, 100, 0.999)
    stage = from_table(RewardStage, {})
    unclear = gate_result(reward_report(good, bad, lengths), stage)
    assert not unclear.passed
    assert "it may measure length alone, which is right in 1.000" in unclear.message
    decided = reward_report([*good, *[1.0] * 8], [*bad, *[0.0] * 8], [*lengths, *[(9, 9)] * 8])
    assert gate_result(decided, stage).passed


def test_accuracy_balanced_by_length_by_hand() -> None:
    lengths = [(9, 5)] * 30 + [(5, 9)] * 10
    good = [1.0] * 24 + [-1.0] * 6 + [1.0] * 5 + [-1.0] * 5
    report = reward_report(good, [0.0] * 40, lengths)
    balanced = report.balanced_accuracy
    assert balanced is not None
    assert balanced.value == pytest.approx((24 / 30 + 5 / 10) / 2)
    assert report.length_accuracy.value == pytest.approx(30 / 40)  # the rewards prefer longer ones
    assert reward_report(good[:30], [0.0] * 30, lengths[:30]).balanced_accuracy is None


def test_five_pairs_are_too_few() -> None:
    """Random guessing gets five of five right (or wrong) once in sixteen; six pairs are enough."""
    stage = from_table(RewardStage, {})
    five, six = (reward_report([1.0] * n, [0.0] * n, [(5, 5)] * n) for n in (5, 6))
    gate = gate_result(five, stage)
    assert not gate.passed
    assert "does not beat chance (only 5 independent held-out pairs" in gate.message
    assert gate_result(six, stage).passed
    copies = reward_report([1.0] * 50, [0.0] * 50, [(5, 5)] * 50, [f"g{n % 5}" for n in range(50)])
    assert copies.has_too_few_pairs and not copies.is_above_chance


def test_a_constant_reward_does_not_beat_chance() -> None:
    report = reward_report([0.3] * 40, [0.3] * 40, [(9, 5)] * 30 + [(5, 9)] * 10)
    assert not report.is_above_chance
    assert report.accuracy.low < 0.5 < report.accuracy.high
    assert report.longer_wins == 0.5
