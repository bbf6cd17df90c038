"""Reward models: the scored token, and learning to rank."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import build

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import IntegrityError, RunStopped
from tunesmith.events import Event, StepFinished
from tunesmith.records import Message, Preference
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.rlhf.options import RewardStage
from tunesmith_plugins.techniques.rlhf.reward_metrics import build_reward_report
from tunesmith_plugins.techniques.rlhf.reward_task import RewardTask
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    collate_final_tokens,
    tokenize_pairs,
)
from tunesmith_torch.rlhf.reward_model import (
    ModelWithRewardHead,
    RewardModel,
    bradley_terry,
)
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import CHATML
from tunesmith_torch.training import trainer

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


def options(**changes: Any) -> RewardStage:
    base = {
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "schedule__warmup_ratio": 0.0,
    }
    return build(RewardStage, **{**base, **changes})


def train(
    folder: Path, model: Path, config: RewardStage, stop_at: int | None = None, **changes: Any
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
        "validation": (),
        "out": folder,
        "seed": 3,
        "device": "cpu",
        "checkpoints": Checkpoints(folder / "checkpoints"),
        "emit": emit,
        "technique": "test",
    }
    return trainer.train(Job(**{**job, **changes}), RewardTask()), steps


def load_net(
    model: Path, packing: bool = True
) -> tuple[ModelWithRewardHead, Sequence[CompletionGroup]]:
    base = load_model(model, CPU, FP32, packing=packing)
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
    report = build_reward_report(good, bad, [(3, 3)] * len(new))
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
    config = options(adapter__dropout=0.1)
    uninterrupted, steps = train(tmp_path / "uninterrupted", tiny_folder, config)
    with pytest.raises(RunStopped):
        train(tmp_path / "resumed", tiny_folder, config, stop_at=5)
    resumed, later = train(tmp_path / "resumed", tiny_folder, config)
    assert [s.loss for s in later] == [s.loss for s in steps][5:]
    for name in ("adapter_model.safetensors", "reward_head.safetensors"):
        assert (uninterrupted.path / name).read_bytes() == (resumed.path / name).read_bytes()


def test_rewards_are_computed_without_dropout(tmp_path: Path, tiny_folder: Path) -> None:
    """A reward model that shares the policy's base is in train mode with it."""
    artifact, _ = train(tmp_path, tiny_folder, options(adapter__dropout=0.5, max_steps=4))
    model = RewardModel.load(tiny_folder, artifact.path, CPU, FP32)
    inputs = [p.prompt for p in PAIRS], [p.chosen for p in PAIRS]
    rewards = model.rewards(*inputs)
    model.net.train()
    assert model.rewards(*inputs) == rewards
    assert model.net.training


def test_rewards_use_the_template_that_the_reward_model_was_trained_with(
    tmp_path: Path, tiny_folder: Path
) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("Hello. " + CHATML)
    config = options(max_steps=1, chat_template__source=str(file))
    artifact, _ = train(tmp_path / "run", tiny_folder, config)
    template = RewardModel.load(tiny_folder, artifact.path, CPU, FP32).template
    ids = template.encode_prompt((Message("user", "hi"),))
    assert template.tokenizer.decode(ids).startswith("Hello. ")


def test_an_adapter_without_a_reward_head_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    artifact, _ = train(tmp_path, tiny_folder, options(max_steps=1))
    (artifact.path / "reward_head.safetensors").unlink()
    with pytest.raises(IntegrityError, match="not a reward model"):
        RewardModel.load(tiny_folder, artifact.path, CPU, FP32)
