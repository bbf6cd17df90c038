"""The policy as a task of the trainer: its prompts, its gold reward, and its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tables import build

from tunesmith.contracts import Job
from tunesmith.errors import DataError
from tunesmith.events import (
    Event,
    FindingReported,
    GateChecked,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.records import Completion, Message, Preference, Record
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.rlhf.policy_task import PolicyTask, gold_reward
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training.trainer import train

ENDS = (GateChecked, TrainingFinished)

VOWELS = "def reward(prompt, answer):\n    return sum(answer.count(x) for x in 'aeiou') / 4\n"
ROWS: tuple[Record, ...] = tuple(
    Completion(source=f"rows:{n}", prompt=f"What is {n % 6}?", completion="ten") for n in range(8)
)
PAIRS: tuple[Record, ...] = tuple(
    Preference(source=f"pairs:{n}", prompt=(Message("user", f"{n}?"),), chosen="yes", rejected="no")
    for n in range(5)
)


@pytest.fixture(scope="module")
def template(tiny_folder: Path) -> Template:
    return Template.from_tokenizer(load_tokenizer(tiny_folder))


@dataclass
class Run:
    """A job and its events."""

    job: Job[Any]
    events: list[Event]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def make_run(
    folder: Path,
    model: Path,
    records: Sequence[Record] = ROWS,
    test: Sequence[Record] = (),
    **changes: Any,
) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.py").write_text(VOWELS, encoding="utf-8")
    keys = {
        "precision": "fp32",
        "batch_size": 3,
        "learning_rate": 1e-3,
        "generation__num_generations": 3,
        "generation__max_new_tokens": 6,
        "loss__mask_truncated_completions": False,
        "rewards": [{"function": f"{folder}/rules.py:reward"}],
    }
    events: list[Event] = []
    job: Job[Any] = Job(
        config=build(PolicyOptions, **{**keys, **changes}),
        model=model,
        train=records,
        validation=test,
        out=folder,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=events.append,
        technique="test",
    )
    return Run(job, events)


@pytest.mark.parametrize(
    ("algorithm", "checkpointing"), [("grpo", True), ("rloo", False), ("ppo", False)]
)
def test_dropout_in_the_model_does_not_change_ratios(
    tmp_path: Path, algorithm: str, checkpointing: bool
) -> None:
    """On its own completions the policy has the probabilities at which it sampled them."""
    noisy = {"attn_pdrop": 0.3, "embd_pdrop": 0.3, "resid_pdrop": 0.3}
    model = save_tiny_model(tmp_path / "model", "gpt2", changes=noisy)
    run = make_run(
        tmp_path / "run", model, algorithm=algorithm, gradient_checkpointing=checkpointing
    )
    train(run.job, PolicyTask(None))
    for step in run.of(StepFinished):
        assert step.metrics["sampler_gap"] == pytest.approx(0, abs=1e-5)
        assert step.metrics["clip_fraction"] == 0


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_a_rollout_without_a_trained_token_changes_nothing(
    tmp_path: Path, tiny_folder: Path, algorithm: str
) -> None:
    """Neither do the moments of earlier steps move the weights, nor does their decay."""
    run = make_run(
        tmp_path, tiny_folder, adapt="full", algorithm=algorithm,
        loss__mask_truncated_completions=True, optimizer__weight_decay=0.5,
        checkpoints__every=1, generation__max_new_tokens=1,
    )  # fmt: skip
    train(run.job, PolicyTask(None))
    steps = run.of(StepFinished)
    assert [step.metrics["truncated"] for step in steps] == [1, 1]
    assert [(step.trained_tokens, step.loss, step.gradient_norm) for step in steps] == [
        (0, 0, 0)
    ] * 2
    first, second = (
        load_file(checkpoint / "training.safetensors")
        for checkpoint in sorted((tmp_path / "checkpoints").glob("*"))
        if checkpoint.is_dir()
    )
    names = [name for name in first if name.startswith("master.")]
    assert names and all(torch.equal(first[name], second[name]) for name in names)


def test_distinct_prompts_that_leave_room_for_a_completion_are_trained_on(
    tmp_path: Path, template: Template
) -> None:
    long = Completion(source="rows:long", prompt="a word " * 60, completion="ten")
    run = make_run(tmp_path, tmp_path, (*ROWS, long), max_skipped=0.2)
    prompts = PolicyTask(None).tokenize(run.job, template, 60)
    assert [prompt[0].content for prompt in prompts] == [f"What is {n}?" for n in range(6)]
    (finding,) = run.of(FindingReported)
    assert "skipped 1 row: row is too long; first: rows:long" in finding.message
    assert "54 are allowed" in finding.message
    strict = make_run(tmp_path, tmp_path, (*ROWS, long))
    with pytest.raises(DataError, match="skipped 1 of 7 rows"):
        PolicyTask(None).tokenize(strict.job, template, 60)
    (length, *_) = map(len, template.encode_prompts([prompts[0]]))
    assert PolicyTask(None).tokenize(run.job, template, length + 6)
    with pytest.raises(DataError, match="none of the 7 prompts leaves room for a completion"):
        PolicyTask(None).tokenize(run.job, template, 7)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_a_policy_is_trained_without_a_reward_model(
    tmp_path: Path, tiny_folder: Path, adapt: str, algorithm: str
) -> None:
    """All in one: the first KL is zero, the gate is reported last, and all tokens are counted."""
    run = make_run(tmp_path, tiny_folder, test=PAIRS, adapt=adapt, algorithm=algorithm)
    artifact = train(run.job, PolicyTask(None))
    assert artifact.format == ("adapter" if adapt == "lora" else "model")
    (started,) = run.of(TrainingStarted)
    assert (started.rows, started.trained_tokens) == (6, 0)
    details = {
        "algorithm": algorithm,
        "num_generations": 3,
        "max_new_tokens": 6,
        "shares_base_with_reward_model": False,
    }
    assert {name: started.details[name] for name in details} == details
    steps = run.of(StepFinished)
    assert len(steps) == 2 and abs(steps[0].metrics["kl"]) < 1e-4
    assert [type(event) for event in run.events if isinstance(event, ENDS)] == [*ENDS]
    (finished,) = run.of(TrainingFinished)
    assert finished.tokens == sum(step.tokens for step in steps)
    assert finished.trained_tokens == sum(step.trained_tokens for step in steps)


def test_the_gold_reward_is_a_function_or_test_pairs(tmp_path: Path, template: Template) -> None:
    run = make_run(tmp_path, tmp_path, test=(*ROWS, *PAIRS), monitor__rows=3)
    by_pairs = gold_reward(run.job, template)
    assert [prompt[0].content for prompt in by_pairs.prompts] == ["0?", "1?", "2?"]
    assert len(by_pairs.pairs) == 3 and by_pairs.function is None
    gold = f"{tmp_path}/rules.py:reward"
    run = make_run(tmp_path, tmp_path, test=(*ROWS, *PAIRS), monitor__rows=3, monitor__gold=gold)
    by_function = gold_reward(run.job, template)
    assert [prompt[0].content for prompt in by_function.prompts] == [
        "What is 0?",
        "What is 1?",
        "What is 2?",
    ]
    assert by_function.function is not None and not by_function.pairs
    assert not run.events
    run = make_run(tmp_path, tmp_path, test=ROWS)
    assert gold_reward(run.job, template).function is None
    (finding,) = run.of(FindingReported)
    assert "no gold reward and no validation pairs" in finding.message
