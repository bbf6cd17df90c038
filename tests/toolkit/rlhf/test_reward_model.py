"""Reward models: which token is scored, that ranking is learned, and what the report says."""

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
from tunesmith.events import Event, Stepped
from tunesmith.options import from_table
from tunesmith.records import Message, Preference
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapter_stack import load_policy_base
from tunesmith_torch.options.preference import RewardOptions
from tunesmith_torch.options.rlhf import RewardStage
from tunesmith_torch.prefix.completion_groups import Group, Layout, groups_of, with_ends
from tunesmith_torch.rlhf.reward_gate import verdict
from tunesmith_torch.rlhf.reward_metrics import reward_report
from tunesmith_torch.rlhf.reward_model import RewardModel, RewardNet, bradley_terry, train_reward
from tunesmith_torch.runtime.device import pick_precision

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]
LAYOUTS = [Layout(), Layout(sharing=False), Layout(packing=False)]


def preference(n: int, *, long: bool = False) -> Preference:
    """The politer answer was preferred, or simply the longer one."""
    words = random.Random(n)
    said = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
    if long:
        said.sort(key=len, reverse=True)
    else:
        said[0] = f"please {said[0]} please"
    prompt = (Message("user", f"What is {n}?"),)
    return Preference(source=f"rows:{n}", prompt=prompt, chosen=said[0], rejected=said[1])


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
) -> tuple[Artifact, list[Stepped]]:
    folder.mkdir(parents=True, exist_ok=True)
    steps: list[Stepped] = []

    def tell(event: Event) -> None:
        if isinstance(event, Stepped):
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
        "emit": tell,
        "technique": "test",
    }
    return train_reward(Job(**{**job, **changes})), steps


def net_for(model: Path, packing: bool = True) -> tuple[RewardNet, Sequence[Group]]:
    base = load_policy_base(model, CPU, FP32, packing)
    net = RewardNet(base.model, base.config.hidden_size)
    with torch.no_grad():
        net.head.weight.copy_(torch.linspace(-1, 1, base.config.hidden_size)[None])
    return net.eval(), groups_of(PAIRS[:6], Template.of(base.tokenizer))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_the_end_token_is_scored_whatever_stands_beside(
    tiny_folder: Path, layout: Layout, budget: int
) -> None:
    """Each answer against the model alone on prompt and answer, read at the last token."""
    net, groups = net_for(tiny_folder, layout.packing)
    seen = 0
    for answers in with_ends(layout, groups, range(len(groups)), budget):
        ours = net.rewards(answers).detach()
        alone = []
        for row in answers.groups:
            for answer in groups[row].answers:
                ids = torch.tensor([[*groups[row].prompt, *answer]])
                hidden = net.model.get_decoder()(ids).last_hidden_state[0, -1]
                alone.append(float((hidden @ net.head.weight[0]).detach()))
        assert ours.tolist() == pytest.approx(alone, abs=1e-5)
        seen += len(alone)
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
def test_it_learns_to_rank_and_reads_back_what_it_was(
    tmp_path: Path, tiny_folder: Path, adapt: str
) -> None:
    rate = 1e-2 if adapt == "lora" else 3e-3
    artifact, steps = train(tmp_path, tiny_folder, options(adapt=adapt, learning_rate=rate))
    assert steps[-1].extras["accuracy"] > 0.9
    model = RewardModel.load(tiny_folder, artifact.path, CPU, FP32)
    new = [preference(n) for n in range(100, 140)]
    good, bad = (
        model.rewards([p.prompt for p in new], [getattr(p, which) for p in new])
        for which in ("chosen", "rejected")
    )
    report = reward_report(good, bad, [(3, 3)] * len(new))
    assert report.accuracy.value > 0.85
    assert report.beats_chance
    last = steps[-1].extras["reward_margin"]
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


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, tiny_folder: Path) -> None:
    config = options(dropout=0.1)
    whole, steps = train(tmp_path / "whole", tiny_folder, config)
    with pytest.raises(RunStopped):
        train(tmp_path / "parts", tiny_folder, config, stop_at=5)
    rest, later = train(tmp_path / "parts", tiny_folder, config)
    assert [s.loss for s in later] == [s.loss for s in steps][5:]
    for name in ("adapter_model.safetensors", "reward_head.safetensors"):
        assert (whole.path / name).read_bytes() == (rest.path / name).read_bytes()


def test_dropout_does_not_disturb_its_judgement(tmp_path: Path, tiny_folder: Path) -> None:
    """A judge beside a policy is in train mode with it, and must not drop anything then."""
    artifact, _ = train(tmp_path, tiny_folder, options(dropout=0.5, max_steps=4))
    model = RewardModel.load(tiny_folder, artifact.path, CPU, FP32)
    asked = [p.prompt for p in PAIRS], [p.chosen for p in PAIRS]
    quiet = model.rewards(*asked)
    model.net.train()
    assert model.rewards(*asked) == quiet
    assert model.net.training


def test_an_adapter_without_a_head_is_no_reward_model(tmp_path: Path, tiny_folder: Path) -> None:
    artifact, _ = train(tmp_path, tiny_folder, options(max_steps=1))
    (artifact.path / "reward_head.safetensors").unlink()
    with pytest.raises(IntegrityError, match="not a reward model"):
        RewardModel.load(tiny_folder, artifact.path, CPU, FP32)


# --------------------------------------------------------------------------- the report


def test_a_model_that_measures_length_is_found_out() -> None:
    source = random.Random(0)
    lengths, good, bad = [], [], []
    for n in range(300):
        a = source.randint(20, 60)
        b = a if n % 3 == 0 else a - source.randint(10, 15)  # people often chose the longer one
        lengths.append((a, b))
        good.append(a + source.gauss(0, 0.1))
        bad.append(b + source.gauss(0, 0.1))
    report = reward_report(good, bad, lengths)
    assert report.beats_chance
    assert report.length_biased
    assert report.matched_accuracy is not None
    assert report.matched_accuracy.low < 0.5 < report.matched_accuracy.high
    assert report.longer_wins == 1.0
    assert "equally long" in report.sentence()


@pytest.mark.parametrize("sign", [1, -1], ids=["longer", "shorter"])
def test_a_model_that_is_wrong_whenever_length_misleads_is_found_out(sign: int) -> None:
    """It beats chance because people mostly choose so; no two answers are equally long."""
    lengths = [(30, 20) if n % 4 else (20, 30) for n in range(80)][::sign]
    lengths = [(a, b) if sign == 1 else (b, a) for a, b in lengths]
    good, bad = ([sign * float(pair[side]) for pair in lengths] for side in (0, 1))
    report = reward_report(good, bad, lengths)
    assert report.beats_chance and report.length_biased
    assert report.matched_accuracy is None
    assert report.length_correlation == pytest.approx(sign)


def test_a_length_that_people_chose_for_its_content_acquits() -> None:
    """Longer answers win for both, but among equals it is as right."""
    source = random.Random(3)
    lengths = [(20, 20) if n % 2 else (40, 20) for n in range(200)]
    good = [1.0 if source.random() < 0.8 else -1.0 for _ in lengths]
    report = reward_report(good, [0.0] * len(good), lengths)
    assert report.beats_chance and not report.length_biased


def test_pairs_of_one_group_count_as_one() -> None:
    good, bad, lengths = [1.0] * 40, [0.0] * 40, [(5, 5)] * 40
    assert reward_report(good, bad, lengths).beats_chance
    tied = reward_report(good, bad, lengths, groups=[f"g{n % 3}" for n in range(40)])
    assert tied.accuracy.value == 1.0
    assert not tied.beats_chance


def test_a_model_that_is_as_sure_as_it_is_right_is_calibrated() -> None:
    source = random.Random(1)
    gaps = [source.uniform(0, 3) for _ in range(20_000)]
    signed = [g if source.random() < 1 / (1 + math.exp(-g)) else -g for g in gaps]
    lengths = [(5, 5)] * len(gaps)
    zeros = [0.0] * len(gaps)
    assert reward_report(signed, zeros, lengths).calibration_error < 0.02
    bold = [3 * gap for gap in signed]
    assert reward_report(bold, zeros, lengths).calibration_error > 0.1


def test_chance_does_not_beat_chance() -> None:
    source = random.Random(2)
    good, bad = ([source.random() for _ in range(100)] for _ in range(2))
    assert not reward_report(good, bad, [(5, 5)] * 100).beats_chance
    tied = reward_report([1.0] * 50, [1.0] * 50, [(5, 5)] * 50)
    assert tied.accuracy.value == 0.5
    assert not tied.beats_chance


def confounded(
    share: float, n: int, knows: float, seed: int = 0
) -> tuple[list[float], list[float], list[tuple[int, int]]]:
    """Pairs of unequal length whose chosen answer is longer in this share, and a model's rewards.

    The model is right in ``knows`` of the pairs whatever their lengths; 0: it measures length.
    """
    source = random.Random(seed)
    lengths = [(30, 20) if i < share * n else (20, 30) for i in range(n)]
    if not knows:
        return [float(a) for a, _ in lengths], [float(b) for _, b in lengths], lengths
    good = [1.0 if source.random() < knows else -1.0 for _ in lengths]
    return good, [0.0] * n, lengths


@pytest.mark.parametrize("share", [0.65, 0.75, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("n", [40, 100, 400])
@pytest.mark.parametrize("longer", [True, False], ids=["longer", "shorter"])
def test_length_alone_never_passes(share: float, n: int, longer: bool) -> None:
    """However often people chose the longer answer, up to always; or the shorter one."""
    good, bad, lengths = confounded(share, n, 0.0)
    if not longer:
        lengths = [(b, a) for a, b in lengths]
        good, bad = [-float(a) for a, _ in lengths], [-float(b) for _, b in lengths]
    gate = verdict(reward_report(good, bad, lengths), from_table(RewardStage, {}))
    assert not gate.passed
    assert "length" in gate.sentence.split("accuracy")[0] or "chance" in gate.sentence


@pytest.mark.parametrize("share", [0.5, 0.65, 0.75])
def test_judgement_passes_though_people_chose_longer_answers(share: float) -> None:
    """Right in four of five pairs, whatever their lengths: 60 held-out pairs are enough."""
    passed = 0
    for seed in range(20):
        report = reward_report(*confounded(share, 60, 0.8, seed))
        assert not report.length_biased
        passed += not report.length_unclear and report.beats_chance
    assert passed >= 18


def test_where_the_longer_answer_was_always_chosen_nothing_can_be_told() -> None:
    """As right as can be, but so is length; a few pairs of equal length settle it."""
    good, bad, lengths = confounded(1.0, 100, 0.999)
    stage = from_table(RewardStage, {})
    unclear = verdict(reward_report(good, bad, lengths), stage)
    assert not unclear.passed
    assert "it cannot be told from length alone, which is right in 1.000" in unclear.sentence
    settled = reward_report([*good, *[1.0] * 8], [*bad, *[0.0] * 8], [*lengths, *[(9, 9)] * 8])
    assert verdict(settled, stage).passed


def test_accuracy_balanced_by_length_by_hand() -> None:
    lengths = [(9, 5)] * 30 + [(5, 9)] * 10
    good = [1.0] * 24 + [-1.0] * 6 + [1.0] * 5 + [-1.0] * 5
    report = reward_report(good, [0.0] * 40, lengths)
    balanced = report.balanced_accuracy
    assert balanced is not None
    assert balanced.value == pytest.approx((24 / 30 + 5 / 10) / 2)
    assert report.length_accuracy.value == pytest.approx(30 / 40)  # it rewards longer ones more
    assert reward_report(good[:30], [0.0] * 30, lengths[:30]).balanced_accuracy is None


def test_five_pairs_are_too_few_and_it_is_said() -> None:
    """Five times right is what a coin does once in sixteen, either way; six times is enough."""
    stage = from_table(RewardStage, {})
    five, six = (reward_report([1.0] * n, [0.0] * n, [(5, 5)] * n) for n in (5, 6))
    gate = verdict(five, stage)
    assert not gate.passed
    assert "does not beat chance (only 5 independent held-out pairs" in gate.sentence
    assert verdict(six, stage).passed
    copies = reward_report([1.0] * 50, [0.0] * 50, [(5, 5)] * 50, [f"g{n % 5}" for n in range(50)])
    assert copies.too_few and not copies.beats_chance


def test_a_constant_reward_beats_nothing() -> None:
    report = reward_report([0.3] * 40, [0.3] * 40, [(9, 5)] * 30 + [(5, 9)] * 10)
    assert not report.beats_chance
    assert report.accuracy.low < 0.5 < report.accuracy.high
    assert report.longer_wins == 0.5
