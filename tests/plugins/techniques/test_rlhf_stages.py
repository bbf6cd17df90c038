"""The three stages of RLHF: their artifacts, their gates, and resuming."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import lay_out
from pydantic import ValidationError
from tables import tables

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError, GateError, IntegrityError, RunStopped
from tunesmith.events import (
    CompletionSampled,
    Event,
    FindingReported,
    GateChecked,
    Measured,
    Monitored,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.options import from_table
from tunesmith.records import Chat, Completion, Message, Preference, Prompt, Record, Text
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.rlhf import stages
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_plugins.techniques.rlhf.stages import train_stages
from tunesmith_torch.generation.open_model import open_text_model
from tunesmith_torch.models.adapter_stack import reference_policy
from tunesmith_torch.models.initial_model import LINEAGE_FILE, InitialModel
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.prefix.completion_groups import GroupLayout, score_groups, tokenize_pairs
from tunesmith_torch.rlhf import reward_model
from tunesmith_torch.rlhf.monitor import PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.rlhf.policy_task import PolicyTask
from tunesmith_torch.rlhf.reward_model import RewardModel
from tunesmith_torch.rlhf.reward_source import (
    REWARD_ADAPTER,
    RewardModelSource,
    SharedBaseRewardModel,
)
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.training import trainer
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]
STAGES = ("supervised", "reward", "policy")


def polite(n: int) -> Preference:
    """Return a pair of random lengths whose polite completion was chosen."""
    words = random.Random(n)
    completions = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
    return pair(n, f"please {completions[0]}", f"never {completions[1]}")


def longer(n: int) -> Preference:
    """Return a pair whose longer completion was mostly chosen; some have equal lengths."""
    words = random.Random(n)
    size = words.randint(2, 5)
    completions = [" ".join(words.choices(WORDS, k=size)) for _ in range(2)]
    if n % 3:
        completions[0] += " ten ten ten ten"
        completions = completions[::-1] if n % 5 == 0 else completions
    return pair(n, *completions)


def noise(n: int) -> Preference:
    words = random.Random(n)
    return pair(n, *(" ".join(words.choices(WORDS, k=3)) for _ in range(2)))


def pair(n: int, chosen: str, rejected: str) -> Preference:
    prompt = (Message("user", f"What is {n}?"),)
    return Preference(source=f"rows:{n}", prompt=prompt, chosen=chosen, rejected=rejected)


def pairs(rule: Callable[[int], Preference], first: int, last: int) -> tuple[Preference, ...]:
    return tuple(rule(n) for n in range(first, last))


TRAIN, TEST = pairs(polite, 0, 24), pairs(polite, 1000, 1030)


def options(**stages: dict[str, Any]) -> RlhfOptions:
    quick = {
        "precision": "fp32",
        "learning_rate": 1e-2,
        "epochs": 1,
        "batch_size": 8,
        "adapter__rank": 4,
    }
    policy = {
        "generation__num_generations": 3,
        "generation__max_new_tokens": 6,
        "loss__mask_truncated_completions": False,
        "monitor__every": 2,
    }
    base = {
        "supervised": {**quick, "epochs": 2},
        "reward": {**quick, "epochs": 3},
        "policy": {**quick, **policy},
    }
    merged = {name: {**base[name], **stages.get(name, {})} for name in base}
    for stage in merged.values():
        if stage.get("adapt") == "full":
            del stage["adapter__rank"]
    return from_table(RlhfOptions, {name: tables(**stage) for name, stage in merged.items()})


class RlhfRun:
    """A run of all stages and its events."""

    def __init__(self, out: Path, model: Path, config: RlhfOptions, **changes: Any) -> None:
        self.out, self.events = out, list[Event]()
        self.stop: Callable[[Event], bool] = lambda event: False
        out.mkdir(parents=True, exist_ok=True)
        self.job: Job[Any] = Job(
            **{
                "config": config,
                "model": model,
                "train": TRAIN,
                "validation": TEST,
                "out": out,
                "seed": 3,
                "device": "cpu",
                "checkpoints": Checkpoints(out / "checkpoints"),
                "emit": self.emit,
                "technique": "rlhf",
                **changes,
            }
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if self.stop(event):
            raise RunStopped("enough")

    def train(self) -> Artifact:
        return train_stages(self.job)

    def events_of(self, kind: type[Any], stage: str | None = None) -> list[Any]:
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if stage is None or event.stage == stage]


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


@pytest.fixture(scope="session")
def finished(model_with_preferences: Path, tmp_path_factory: pytest.TempPathFactory) -> RlhfRun:
    """A run of all three stages without interruption."""
    run = RlhfRun(tmp_path_factory.mktemp("finished") / "run", model_with_preferences, options())
    run.train()
    return run


def weights(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for stage in STAGES
        for path in sorted((run / stage).glob("*/*.safetensors"))
    }


# --------------------------------------------------------------------------- artifacts


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.processes
def test_each_stage_and_the_gate_begin_with_freed_memory(
    tmp_path: Path,
    model_with_preferences: Path,
    finished: RlhfRun,
    monkeypatch: pytest.MonkeyPatch,
    trained: bool,
) -> None:
    """Models and optimizers hold reference cycles: their tensors stay until gc collects them."""
    earlier = {} if trained else {"skip": True, "from": str(finished.out)}
    config = options(supervised=earlier, reward=earlier)
    gc.collect()
    before, found = _tensor_bytes(), []

    def measuring(load: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found.append(_tensor_bytes() - before)
            return load(*args, **kwargs)

        return call

    for module in (trainer, reward_model):
        monkeypatch.setattr(module, "load_model", measuring(load_model))
    gc.disable()
    try:
        RlhfRun(tmp_path / "run", model_with_preferences, config).train()
    finally:
        gc.enable()
    assert found == [0] * (4 if trained else 2)


def _tensor_bytes() -> int:
    """Return the bytes of all tensors of this process, each storage counted once."""
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) in (torch.Tensor, torch.nn.Parameter)
    }
    return sum(storages.values())


def test_each_stage_leaves_an_artifact_steps_and_metrics(finished: RlhfRun) -> None:
    trained = finished.events_of(TrainingFinished)
    assert [event.artifact for event in trained] == [
        "supervised/adapter",
        "reward/adapter",
        "policy/adapter",
        "policy/adapter",
    ]
    assert [event.stage for event in trained] == [*STAGES, ""]
    assert [event.is_text_model for event in trained] == [True, False, True, True]
    for event in trained:
        assert (finished.out / event.artifact / "adapter_config.json").is_file()
        assert event.steps == len(finished.events_of(StepFinished, event.stage or None))
    accuracy = finished.events_of(Measured)[0]
    assert (accuracy.model, accuracy.metric, accuracy.n) == (
        "reward",
        "reward-accuracy",
        len(TEST),
    )
    assert 0.5 < accuracy.low <= accuracy.value <= accuracy.high <= 1
    assert len((finished.out / accuracy.records).read_text().splitlines()) == len(TEST)
    evaluations = finished.events_of(Monitored, "policy")
    assert [evaluation.step for evaluation in evaluations] == [0, 2, 3]
    assert all(set(evaluation.metrics) >= {"reward", "gold_reward"} for evaluation in evaluations)
    assert [event.prompt for event in finished.events_of(CompletionSampled)] == [
        "What is 1000?"
    ] * 3
    assert [gate.passed for gate in finished.events_of(GateChecked)] == [True, True]


def test_the_fine_tuned_model_is_initial_policy_and_reference(
    finished: RlhfRun, model_with_preferences: Path
) -> None:
    """The first KL is zero; with the bare base as reference it would be far from that."""
    first = finished.events_of(StepFinished, "policy")[0]
    assert abs(first.metrics["kl"]) < 1e-4
    policy = open_policy(stage_job(finished, "policy"), finished.out / "supervised", None)
    inputs = [pair.prompt for pair in TRAIN], [pair.chosen for pair in TRAIN]
    tuned, base = (
        opened(model_with_preferences, path).score(*inputs)
        for path in (finished.out / "supervised/adapter", None)
    )
    groups = tokenize_pairs(TRAIN, policy.session.template)
    layout = GroupLayout(share_prompts=policy.prepared.details["shared_prompts"])
    with reference_policy(policy.session.adapted):
        reference = score_groups(policy.session.adapted.model, groups, layout, 4096)
    for score_2, good, bare in zip(reference, tuned, base, strict=True):
        assert float(score_2[0]) == pytest.approx(sum(good.logprobs), abs=1e-3)
        assert abs(float(score_2[0]) - sum(bare.logprobs)) > 0.5


def opened(model: Path, artifact: Path | None) -> Any:
    config = options().supervised
    return open_text_model(model, artifact, device="cpu", options=config)


def stage_job(run: RlhfRun, name: str) -> Job[Any]:
    """Return the job of a stage, in a folder without checkpoints."""
    stage = run.job.for_stage(name, getattr(run.job.config, name))
    out = run.out.with_name(f"{run.out.name}-{name}")
    out.mkdir(exist_ok=True)
    return replace(stage, out=out, checkpoints=Checkpoints(out / "checkpoints"))


class OpenedError(Exception):
    """Ends training once the policy is ready for it."""


class OpenedPolicy(PolicyTask):
    """A policy ready for its first step, with its reference and its rewards."""

    session: TrainingSession
    prepared: PreparedTraining

    def prepare(self, session: TrainingSession, data: list[Prompt]) -> PreparedTraining:
        self.session, self.prepared = session, super().prepare(session, data)
        raise OpenedError

    @property
    def objective(self) -> PolicyObjective:
        assert isinstance(self.prepared.objective, PolicyObjective)
        return self.prepared.objective

    @property
    def reward(self) -> Reward:
        assert isinstance(self.prepared.monitor, PolicyMonitor)
        return self.prepared.monitor.reward


def open_policy(
    job: Job[Any], initial: Path | None, source: RewardModelSource | None
) -> OpenedPolicy:
    """Load the policy of a job as training does, and stop before the first step."""
    location = None if initial is None else str(initial)
    task = OpenedPolicy(source)
    (job.out / LINEAGE_FILE).unlink(missing_ok=True)
    changed = job.config.model_copy(update={"initial_model": location})
    with pytest.raises(OpenedError):
        trainer.train(replace(job, config=changed), task)
    return task


@pytest.mark.processes
def test_no_stage_trains_on_test_rows(
    tmp_path: Path, finished: RlhfRun, model_with_preferences: Path
) -> None:
    """Other validation rows give identical weights in all three stages."""
    other = RlhfRun(
        tmp_path / "run", model_with_preferences, options(), validation=pairs(polite, 5000, 5040)
    )
    other.train()
    assert weights(other.out) == weights(finished.out)
    assert other.events_of(Measured)[0].n == 40


def test_demonstrations_are_used_if_there_are_any(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    demonstrations: list[Record] = [
        Completion(source=f"demonstrations:{n}", prompt=f"Say {n}", completion="ten")
        for n in range(5)
    ]
    demonstrations += [
        Chat(source="chat:1", messages=(Message("user", "a"), Message("assistant", "b")))
    ]
    config = options(policy={"skip": True})
    run = RlhfRun(tmp_path / "run", model_with_preferences, config, train=(*TRAIN, *demonstrations))
    artifact = run.train()
    rows_by_stage = {event.stage: event.rows for event in run.events_of(TrainingStarted)}
    assert rows_by_stage == {"supervised": len(demonstrations), "reward": len(TRAIN)}
    assert artifact.path == run.out / "supervised" / "adapter"  # a reward model generates no text


@pytest.mark.parametrize(
    ("records", "match"),
    [
        ((), "no rows to train on"),
        (
            (Text(source="x:1", text="t"),),
            "rlhf needs conversations or .* is a Text",
        ),
        ((Completion(source="x:2", prompt="a", completion="b"),), "the data contains none"),
    ],
)
def test_records_that_no_stage_can_use_are_refused(
    tmp_path: Path, model_with_preferences: Path, records: tuple[Record, ...], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        RlhfRun(tmp_path / "run", model_with_preferences, options(), train=records).train()


# --------------------------------------------------------------------------- shared base


def test_the_reward_model_shares_the_policys_base(
    finished: RlhfRun, model_with_preferences: Path
) -> None:
    """One set of base weights; both give the results of separate models, in any order."""
    job, source = (
        stage_job(finished, "policy"),
        RewardModelSource(finished.out / "reward" / "adapter", None),
    )
    policy = open_policy(job, finished.out / "supervised", source)
    model, objective = policy.session.adapted, policy.objective
    ((_, shared),) = policy.reward.parts  # type: ignore[attr-defined]
    assert isinstance(shared, SharedBaseRewardModel)
    assert policy.prepared.details["shares_base_with_reward_model"] is True
    assert shared.model.net.model is model.model
    prompts, completions = [p.prompt for p in TEST], [p.chosen for p in TEST]
    separate = RewardModel.load(model_with_preferences, source.path, CPU, FP32).rewards(
        prompts, completions
    )
    trained = [name for name, _ in model.named_trainable_parameters]
    assert trained and all(".policy." in name for name in trained)
    before = objective.rollout_generator.generate_greedy(prompts[:4])
    assert shared.rewards(prompts, completions) == pytest.approx(separate, abs=1e-4)
    assert shared.rewards(prompts, completions) == shared.rewards(prompts, completions)
    assert objective.rollout_generator.generate_greedy(prompts[:4]) == before
    assert [name for name, _ in model.named_trainable_parameters] == trained
    saved: Any = policy.finalize(policy.session).model
    assert REWARD_ADAPTER not in saved.peft_config
    bare = open_policy(job, None, source)  # no fine-tuned adapter: one adapter less
    assert bare.prepared.details["shares_base_with_reward_model"] is True
    saved = bare.finalize(bare.session).model
    assert set(saved.peft_config) == {"default"}


def test_a_reward_model_on_another_base_is_loaded_separately(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    """After full fine-tuning, adapters over the new weights share them, others do not."""
    config = options(supervised={"adapt": "full", "learning_rate": 1e-3})
    run = RlhfRun(tmp_path / "run", model_with_preferences, config)
    run.train()
    (started,) = run.events_of(TrainingStarted, "policy")
    assert started.details["shares_base_with_reward_model"] is True
    assert InitialModel.find(str(run.out / "supervised")).format == "model"
    source = RewardModelSource(run.out / "reward" / "adapter", None)
    policy = open_policy(stage_job(run, "policy"), None, source)
    assert policy.prepared.details["shares_base_with_reward_model"] is False


def test_rewards_and_reference_are_computed_without_dropout(finished: RlhfRun) -> None:
    """In training mode too, both are computed in eval mode: the same result twice."""
    changed = options(policy={"algorithm": "ppo"})
    job = replace(stage_job(finished, "policy"), config=changed.policy)
    source = RewardModelSource(finished.out / "reward" / "adapter", None)
    policy = open_policy(job, finished.out / "supervised", source)
    objective, adapted = policy.objective, policy.prepared.adapted
    with torch.no_grad():
        for name, parameter in policy.session.adapted.named_trainable_parameters:
            if "lora_B" in name:  # initially zero: dropout would have no effect
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    for module in adapted.model.train().modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    (micro_batch,) = lay_out(objective, [0, 1], 4096)
    with eval_mode(adapted.model), torch.no_grad():
        logprobs_N, _ = objective._logprobs(micro_batch.completions)
    assert float((logprobs_N - micro_batch.old_logprobs_N).abs().max()) < 1e-3
    prompts, completions = [p.prompt for p in TEST], [p.chosen for p in TEST]
    first = policy.reward.rewards(prompts, completions)
    assert policy.reward.rewards(prompts, completions) == first


# --------------------------------------------------------------------------- gates


@pytest.mark.processes
def test_a_reward_model_of_length_stops_the_run(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    biased = {"train": pairs(longer, 0, 96), "validation": pairs(longer, 1000, 1150)}
    config = options(reward={"epochs": 4})
    run = RlhfRun(tmp_path / "run", model_with_preferences, config, **biased)
    with pytest.raises(GateError, match="rewards length instead of quality: accuracy 0"):
        run.train()
    assert (run.out / "reward" / "adapter").is_dir()
    assert not (run.out / "policy").exists()
    (gate,) = run.events_of(GateChecked)
    assert not gate.passed and not gate.accepted
    assert gate.metrics["length_correlation"] > 0.5
    assert gate.metrics["shorter_accuracy"] < 0.3
    measured = {event.metric: event for event in run.events_of(Measured)}
    assert {event.part for event in measured.values()} == {"validation"}
    assert measured["reward-accuracy"].low > 0.5  # it beats chance, by length alone
    before = len(run.events)
    with pytest.raises(
        GateError, match="the reward model rewards length"
    ):  # resumed: it is stopped again
        run.train()
    assert not [e for e in run.events[before:] if isinstance(e, (StepFinished, GateChecked))]
    forced = options(reward={"epochs": 4, "gate__accept_weak": True}, policy={"max_steps": 1})
    accepted = RlhfRun(tmp_path / "run", model_with_preferences, forced, **biased)
    accepted.train()
    assert [gate.accepted for gate in accepted.events_of(GateChecked)] == [True, False]
    assert accepted.events_of(StepFinished, "policy")


def test_a_reward_model_trained_on_noise_stops_the_run(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    data = {"train": pairs(noise, 0, 24), "validation": pairs(noise, 100, 130)}
    run = RlhfRun(tmp_path / "run", model_with_preferences, options(), **data)
    with pytest.raises(GateError, match="the reward model does not beat chance"):
        run.train()
    assert not run.events_of(StepFinished, "policy")


def test_pairs_of_one_group_count_once_in_the_gate(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    """Thirty copies of three pairs are three observations: too few to beat chance."""
    test = tuple(replace(TEST[n % 3], group=f"g{n % 3}") for n in range(30))
    run = RlhfRun(tmp_path / "run", model_with_preferences, options(), validation=test)
    with pytest.raises(GateError, match="the reward model does not beat chance"):
        run.train()


def test_the_gate_fails_without_test_pairs(tmp_path: Path, model_with_preferences: Path) -> None:
    with pytest.raises(GateError, match="no validation pairs"):
        RlhfRun(tmp_path / "run", model_with_preferences, options(), validation=()).train()


REWARD = "def reward(prompt, answer):\n    return sum(answer.count(x) for x in 'aeiou') / 4\n"
GOLD = "def gold(prompt, answer):\n    return -sum(answer.count(x) for x in 'aeiou') / 4\n"


def hackable_options(tmp_path: Path, **policy: Any) -> RlhfOptions:
    (tmp_path / "rules.py").write_text(REWARD + GOLD, encoding="utf-8")
    return options(
        reward={"skip": True},
        policy={
            "rewards": [{"function": f"{tmp_path}/rules.py:reward"}],
            "monitor__gold": f"{tmp_path}/rules.py:gold",
            "epochs": 20,
            "generation__num_generations": 8,
            "loss__kl_coef": 0.0,
            "monitor__max_kl": 0.0,
            "schedule__type": "constant",
            "monitor__every": 5,
            "learning_rate": 2e-2,
            **policy,
        },
    )


@pytest.mark.processes
def test_a_rising_reward_with_a_falling_gold_reward_stops_training(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    """Stopped long before its last step, with the weights of the best checkpoint."""
    run = RlhfRun(tmp_path / "run", model_with_preferences, hackable_options(tmp_path))
    artifact = run.train()
    (gate,) = run.events_of(GateChecked)
    assert not gate.passed
    assert (
        "while the gold reward fell" in gate.message
        and "the artifact is the checkpoint" in gate.message
    )
    steps = run.events_of(StepFinished, "policy")
    assert steps[-1].step < steps[-1].steps
    evaluations = run.events_of(Monitored, "policy")
    best = max(evaluations, key=lambda evaluation: evaluation.metrics["gold_reward"])
    assert evaluations[-1].metrics["reward"] > best.metrics["reward"]
    assert f"checkpoint of step {best.step}" in gate.message
    prompts = [p.prompt for p in TEST]
    generated = opened(model_with_preferences, artifact.path).generate(prompts, 6)
    gold_rewards = [-sum(g.text.count(x) for x in "aeiou") / 4 for g in generated]
    assert sum(gold_rewards) / len(gold_rewards) == pytest.approx(
        best.metrics["gold_reward"], abs=1e-6
    )


@pytest.mark.processes
def test_a_harmless_reward_passes_the_gate(tmp_path: Path, model_with_preferences: Path) -> None:
    config = hackable_options(tmp_path, monitor__gold=f"{tmp_path}/rules.py:reward", epochs=5)
    run = RlhfRun(tmp_path / "run", model_with_preferences, config)
    run.train()
    assert [gate.passed for gate in run.events_of(GateChecked)] == [True]
    assert (
        len(run.events_of(StepFinished, "policy"))
        == run.events_of(StepFinished, "policy")[-1].steps
    )


@pytest.mark.processes
def test_a_policy_beyond_max_kl_returns_to_its_best_checkpoint(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    config = hackable_options(tmp_path, monitor__gold=None, monitor__max_kl=0.5)
    run = RlhfRun(tmp_path / "run", model_with_preferences, config)
    run.train()
    (gate,) = run.events_of(GateChecked)
    assert not gate.passed and "nats per completion" in gate.message
    assert run.events_of(StepFinished, "policy")[-1].metrics["kl"] > 0.25


def test_a_missing_gold_reward_is_reported(tmp_path: Path, model_with_preferences: Path) -> None:
    config = hackable_options(tmp_path, monitor__gold=None, max_steps=1)
    demonstrations = [
        Completion(source=f"s:{n}", prompt=f"{n}?", completion="ten") for n in range(8)
    ]
    run = RlhfRun(
        tmp_path / "run",
        model_with_preferences,
        config,
        train=demonstrations,
        validation=demonstrations[:2],
    )
    run.train()
    messages = [event.message for event in run.events_of(FindingReported)]
    assert any("no gold reward and no validation pairs" in text for text in messages)


# --------------------------------------------------------------------------- resuming


@pytest.mark.processes
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_stopped_in_any_stage_ends_with_identical_weights(
    tmp_path: Path, finished: RlhfRun, model_with_preferences: Path, stage: str
) -> None:
    run = RlhfRun(tmp_path / "run", model_with_preferences, options())
    run.stop = lambda e: isinstance(e, StepFinished) and e.stage == stage and e.step == 2
    with pytest.raises(RunStopped):
        run.train()
    run.stop, count = lambda event: False, len(run.events)
    run.train()
    again = [event for event in run.events[count:] if isinstance(event, StepFinished)]
    finished_stages = STAGES[: STAGES.index(stage)]
    assert not [event for event in again if event.stage in finished_stages]
    assert next(e.step for e in again if e.stage == stage) == 3
    assert weights(run.out) == weights(finished.out)


@pytest.mark.processes
@pytest.mark.parametrize("changes", [{"loss__num_iterations": 2, "loss__kl_target": 2.0}], ids=str)
def test_kl_coefficient_and_evaluations_are_resumed(
    tmp_path: Path, model_with_preferences: Path, changes: dict[str, Any]
) -> None:
    """The adapted coefficient, the best evaluation and the rollout are the same after a resume."""
    config = options(policy={"algorithm": "ppo", "checkpoints__every": 2, **changes})
    runs = [
        RlhfRun(tmp_path / name / "run", model_with_preferences, config)
        for name in ("uninterrupted", "resumed")
    ]
    runs[0].train()
    runs[1].stop = lambda e: isinstance(e, StepFinished) and e.stage == "policy" and e.step == 2
    with pytest.raises(RunStopped):
        runs[1].train()
    runs[1].stop = lambda event: False
    runs[1].train()
    assert weights(runs[0].out) == weights(runs[1].out)
    coefficients = [event.metrics["kl_coef"] for event in runs[0].events_of(StepFinished, "policy")]
    assert [
        event.metrics["kl_coef"] for event in runs[1].events_of(StepFinished, "policy")
    ] == coefficients
    assert len(set(coefficients)) > 1
    assert {evaluation.step: evaluation for evaluation in runs[1].events_of(Monitored)} == {
        evaluation.step: evaluation for evaluation in runs[0].events_of(Monitored)
    }


def test_a_stage_can_begin_with_the_result_of_an_earlier_run(
    tmp_path: Path, finished: RlhfRun, model_with_preferences: Path
) -> None:
    """Only the policy is trained, and its weights equal those of the earlier run."""
    earlier = {"skip": True, "from": str(finished.out)}
    run = RlhfRun(
        tmp_path / "run", model_with_preferences, options(supervised=earlier, reward=earlier)
    )
    run.train()
    assert {event.stage for event in run.events_of(StepFinished)} == {"policy"}
    policies = [
        path / "policy/adapter/adapter_model.safetensors" for path in (run.out, finished.out)
    ]
    assert policies[0].read_bytes() == policies[1].read_bytes()
    assert run.events_of(GateChecked)[0].message == finished.events_of(GateChecked)[0].message


def test_a_damaged_finished_stage_is_trained_again(
    tmp_path: Path, finished: RlhfRun, model_with_preferences: Path
) -> None:
    import shutil

    shutil.copytree(finished.out, tmp_path / "run")
    (tmp_path / "run/reward/adapter/adapter_model.safetensors").write_bytes(b"other")
    run = RlhfRun(tmp_path / "run", model_with_preferences, options())
    run.train()
    assert {event.stage for event in run.events_of(StepFinished)} <= {"reward", "policy"}
    assert weights(run.out) == weights(finished.out)


# --------------------------------------------------------------------------- full fine-tuning


def test_full_training_keeps_a_copy_as_reference(
    tmp_path: Path, model_with_preferences: Path
) -> None:
    config = options(
        reward={"skip": True},
        policy={
            "adapt": "full",
            "learning_rate": 1e-3,
            "rewards": [{"function": str(tmp_path / "rules.py") + ":reward"}],
        },
    )
    (tmp_path / "rules.py").write_text(REWARD, encoding="utf-8")
    run = RlhfRun(tmp_path / "run", model_with_preferences, config)
    artifact = run.train()
    assert artifact.format == "model"
    steps = run.events_of(StepFinished, "policy")
    assert abs(steps[0].metrics["kl"]) < 1e-4
    assert abs(steps[-1].metrics["kl"]) > 1e-4


# --------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"supervised": {"skip": True}, "reward": {"skip": True}}, "set `reward.from`"),
        ({name: {"skip": True} for name in STAGES}, "nothing to train"),
        ({"policy": {"rewards": []}}, "at least 1"),
        ({"policy": {"rewards": [{"function": "a.py:b", "plugin": "c:d"}]}}, "are both set"),
        ({"supervised": tables(quantization__bits=8)}, "only has an effect with"),
        ({"policy": tables(loss__kl_target=3.0)}, "ppo"),
    ],
)
def test_contradictory_options_are_refused(table: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        from_table(RlhfOptions, table)


def test_full_training_has_its_own_default_learning_rates() -> None:
    config = from_table(RlhfOptions, {name: {"adapt": "full"} for name in STAGES})
    rates = [getattr(config, name).learning_rate for name in STAGES]
    assert rates == [2e-5, 1e-5, 1e-6]
    explicit = from_table(RlhfOptions, {"policy": {"adapt": "full", "learning_rate": 0.5}})
    assert explicit.policy.learning_rate == 0.5


def test_a_function_of_an_installed_package_is_a_reward() -> None:
    from tunesmith.errors import UsageError
    from tunesmith_torch.rlhf.reward_functions import FunctionReward

    reward = FunctionReward.from_package("operator:countOf")
    assert reward.rewards(["banana"], ["a"]) == [3.0]
    with pytest.raises(UsageError, match="cannot import the module"):
        FunctionReward.from_package("no_such_module_at_all:f")


# --------------------------------------------------------------------------- files of a stage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"artifact": "../elsewhere"}', "outside the run folder"),
        ('{"artifact": "/etc"}', "outside the run folder"),
        ('{"artifact": "adapter", "unknown": 1}', "not written by the stage"),
        ("[1]", "JSON object"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_stage_that_names_an_artifact_elsewhere_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    """The folder can come from a stranger, or be damaged."""
    fields = {
        "technique": "rlhf", "steps": 1, "tokens": 1, "trained_tokens": 1, "seconds": 1.0,
        "peak_memory_bytes": 1, "format": "adapter",
    }  # fmt: skip
    if content.startswith("{"):
        content = json.dumps({**fields, **json.loads(content)})
    (tmp_path / stages.DONE_FILE).write_text(content)
    with pytest.raises(IntegrityError, match=message):
        stages.load_finished(tmp_path)
