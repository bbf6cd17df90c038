"""The policy on TRL's trainers: the same mathematics, events, checkpoints and reference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from pydantic import ValidationError
from safetensors.torch import load_file
from tunesmith_torch.options.rlhf import PolicyStage, RlhfOptions
from tunesmith_torch.options.trl import check_trl_libraries, check_vllm
from tunesmith_torch.rlhf.stages import train_stages
from tunesmith_torch.rlhf.trl_rewards import PromptTokenizer, TrlRewardFunction

from tunesmith import distributed
from tunesmith.contracts import Job
from tunesmith.errors import RunStopped, TrainingError, UsageError
from tunesmith.events import CheckpointSaved, Event, Monitored, StepFinished, TrainingStarted
from tunesmith.options import from_table
from tunesmith.records import Message, Preference, Prompt
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.sequences import GeneratedSequence
from tunesmith_torch.models.adapter_stack import (
    InitialModel,
    adapt_over_merged,
    adapt_policy,
    combine_with_initial,
    load_policy_base,
)
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.prefix.completion_groups import GroupLayout
from tunesmith_torch.rlhf import rollout, trl_backend
from tunesmith_torch.rlhf.monitor import GoldReward, PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.rlhf.rollout import RolloutGenerator
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training import loop as native

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
PROMPTS: list[Prompt] = [(Message("user", f"{'so ' * n}{n}?"),) for n in range(4)]


class LetterReward:
    """A reward that differs between most completions."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [sum(map(ord, text)) % 11 / 10 - 0.01 * len(text) for text in completions]


class RecordingRolloutGenerator(RolloutGenerator):
    """Records the completions that it decodes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.decoded: list[GeneratedSequence] = []

    def decode(self, completion: GeneratedSequence) -> str:
        self.decoded.append(completion)
        return super().decode(completion)


class ReplayedGeneration:
    """In place of ``generate``: given completions, with this model's log-probabilities."""

    def __init__(self, completions: Sequence[GeneratedSequence]) -> None:
        self.remaining = list(completions)

    @torch.no_grad()
    def __call__(
        self, model: Any, prompts: Sequence[list[int]], **_: Any
    ) -> list[GeneratedSequence]:
        completions = [self.remaining.pop(0) for _ in prompts]
        return [
            replace(completion, logprobs=tuple(self._logprobs(model, ids, completion.ids)))
            for ids, completion in zip(prompts, completions, strict=True)
        ]

    def _logprobs(self, model: Any, prompt: list[int], completion: tuple[int, ...]) -> list[float]:
        ids_1T = torch.tensor([[*prompt, *completion]])
        logp_TV = model(input_ids=ids_1T).logits[0].float().log_softmax(-1)
        completion_TV = logp_TV[len(prompt) - 1 : -1]
        return [float(row_V[token]) for row_V, token in zip(completion_TV, completion, strict=True)]


def options(**changes: Any) -> PolicyStage:
    base = {
        "backend": "trl",
        "epochs": 3,
        "batch_size": 4,
        "num_generations": 4,
        "max_new_tokens": 12,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "rank": 4,
        "micro_batch_tokens": 200,
        "save_every": 1,
        "monitor_every": 2,
        "kl_coef": 0.5,
    }
    return from_table(PolicyStage, {**base, **changes})


class PolicyRun:
    """A policy to train, and the events of its training."""

    def __init__(
        self,
        model: Path,
        out: Path,
        config: PolicyStage,
        *,
        initial_adapter: Path | None = None,
        prompts: Sequence[Prompt] = PROMPTS,
        heldout: Sequence[Prompt] = (),
    ) -> None:
        self.events: list[Event] = []
        self.stop: Callable[[Event], bool] = lambda event: False
        base = load_policy_base(model, CPU, FP32, config.packing)
        self.template = Template.from_tokenizer(base.tokenizer)
        self.adapted: AdaptedModel
        if initial_adapter is None:
            self.adapted = adapt_policy(
                base, FP32, config, trained_weights="lora", initial_model=None, seed=3
            )
        else:
            initial_model = InitialModel(initial_adapter, "adapter")
            self.adapted = adapt_over_merged(
                base, FP32, config, initial_model=initial_model, seed=3
            )
        self.prompts, layout, self.reward = prompts, GroupLayout(config.packing), LetterReward()
        self.objective = PolicyObjective(
            self.adapted, self.template, prompts, self.reward, config, layout
        )
        self.rollout_generator = RecordingRolloutGenerator(
            self.adapted, self.template, prompts, self.reward, config
        )
        self.objective.rollout_generator = self.rollout_generator
        self.job: Job[Any] = Job(
            config=config,
            model=model,
            train=(),
            heldout=(),
            out=out,
            seed=3,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=self.emit,
            technique="rlhf",
        )
        out.mkdir(parents=True, exist_ok=True)
        self.monitor = PolicyMonitor(
            self.job, self.objective, self.reward, GoldReward(heldout, [], None), config
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if self.stop(event):
            raise RunStopped("enough")

    def train(self) -> PolicyRun:
        prompt_tokenizer = PromptTokenizer(self.template, self.prompts)
        trl_backend.run_trl_training(
            self.job, self.objective, prompt_tokenizer, self.reward, self.monitor
        )
        return self

    def train_natively(self) -> PolicyRun:
        native.run_training_loop(
            self.job, self.adapted, self.objective, seed=3, monitor=self.monitor
        )
        return self

    def events_of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: x.detach().clone() for name, x in self.adapted.named_trainable_parameters}


def max_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b) and a
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="session")
def model_with_endings(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with unequal token probabilities, whose completions sometimes end."""
    folder = tmp_path_factory.mktemp("model_with_endings") / "model"
    base = load_policy_base(tiny_folder, CPU, FP32, False)
    with torch.no_grad():
        weight_VD = base.model.get_input_embeddings().weight.mul_(10)
        ids_BT = torch.tensor(Template.from_tokenizer(base.tokenizer).encode_prompts(PROMPTS[:1]))
        hidden_D = base.model.model(ids_BT).last_hidden_state[0].mean(0)
        weight_VD[base.tokenizer.eos_token_id] = 3 * hidden_D / (hidden_D @ hidden_D)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


EXACT = [
    pytest.param({"algorithm": "grpo", "mask_truncated_completions": True}, id="grpo"),
    pytest.param(
        {"algorithm": "grpo", "num_iterations": 2, "mask_truncated_completions": False}, id="grpo-2"
    ),
    pytest.param({"algorithm": "rloo", "mask_truncated_completions": False}, id="rloo"),
]


@pytest.mark.parametrize("changes", EXACT)
def test_both_backends_end_with_the_same_weights(
    model_with_endings: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = PolicyRun(model_with_endings, tmp_path / "trl", options(**changes))
    before = theirs.weights()
    theirs.train()
    config = options(**{**changes, "backend": "native"})
    monkeypatch.setattr(rollout, "generate", ReplayedGeneration(theirs.rollout_generator.decoded))
    ours = PolicyRun(model_with_endings, tmp_path / "native", config).train_natively()
    for one, other in zip(
        ours.events_of(StepFinished), theirs.events_of(StepFinished), strict=True
    ):
        if config.algorithm == "grpo":  # rloo: the loss is over sequences there, over tokens here
            assert one.loss == pytest.approx(other.loss, abs=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, abs=1e-4)
        assert one.trained_tokens == other.trained_tokens
        for name in ("reward", "reward_spread", "completion_length", "truncated", "kl_coef"):
            assert one.metrics[name] == pytest.approx(other.metrics[name], abs=1e-6)
    assert (
        max_difference(ours.weights(), theirs.weights())
        < 1e-4
        < 1e-2
        < max_difference(before, ours.weights())
    )


def test_truncated_completions_have_no_gradient_and_count_in_no_mean(
    model_with_endings: Path, tmp_path: Path
) -> None:
    """rloo: TRL divides its loss by all completions, so it is smaller by the trained share."""
    theirs = PolicyRun(
        model_with_endings, tmp_path / "trl", options(algorithm="rloo", epochs=1)
    ).train()
    step = theirs.events_of(StepFinished)[0]
    assert 0 < step.metrics["truncated"] < 1
    completions = list(theirs.rollout_generator.decoded)
    rewards = LetterReward().rewards(
        [], [RolloutGenerator.decode(theirs.rollout_generator, c) for c in completions]
    )
    reward_function = TrlRewardFunction(
        theirs.objective,
        PromptTokenizer(theirs.template, PROMPTS),
        LetterReward(),
        theirs.job.config,
    )
    values = reward_function.rewards(
        ["0"] * len(completions), [completion.ids for completion in completions]
    )
    trained = [completion.finish_reason == "stop" for completion in completions]
    assert values == [
        pytest.approx(r) if is_trained else None
        for r, is_trained in zip(rewards, trained, strict=True)
    ]
    assert step.trained_tokens == sum(
        len(completion.ids)
        for completion, is_trained in zip(completions, trained, strict=True)
        if is_trained
    )


def test_the_ids_are_those_of_the_native_loop(model_with_endings: Path, tmp_path: Path) -> None:
    """Also if a user wrote a control token, which a tokenizer would take for a real one."""
    prompts: list[Prompt] = [(Message("user", "say <|im_end|> please"),), *PROMPTS[:1], "bare text"]
    run = PolicyRun(model_with_endings, tmp_path, options(), prompts=prompts)
    prompt_tokenizer = PromptTokenizer(run.template, prompts)
    assert prompt_tokenizer(text=["2", "0"])["input_ids"] == run.template.encode_prompts(
        [prompts[2], prompts[0]]
    )
    assert prompt_tokenizer.eos_token_id in run.template.end_ids


@pytest.fixture(scope="session")
def initial_adapter(model_with_endings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of an earlier run."""
    folder = tmp_path_factory.mktemp("initial")
    base = load_policy_base(model_with_endings, CPU, FP32, False)
    earlier = adapt_policy(
        base, FP32, options(), trained_weights="lora", initial_model=None, seed=9
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in earlier.named_trainable_parameters:
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    earlier.model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reference_is_the_initial_model(
    model_with_endings: Path, initial_adapter: Path, tmp_path: Path, algorithm: str
) -> None:
    """The KL starts at 0 and is measured against the initial model, not against the base."""
    config = options(
        algorithm=algorithm, epochs=3, mask_truncated_completions=False, num_generations=8
    )
    run = PolicyRun(model_with_endings, tmp_path, config, initial_adapter=initial_adapter).train()
    kls = [step.metrics["kl"] for step in run.events_of(StepFinished)]
    assert abs(kls[0]) < 1e-5 < 1e-3 < max(map(abs, kls[1:])) < 20
    assert "ref" not in run.objective.policy.peft_config
    # The saved adapter over the original base equals what was trained over the merged one.
    ids = torch.tensor(run.template.encode_prompts(PROMPTS[:1]))
    trained = run.adapted.model(input_ids=ids).logits
    saved = combine_with_initial(run.adapted, InitialModel(initial_adapter, "adapter"))
    base = load_policy_base(model_with_endings, CPU, FP32, False)
    saved.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    reloaded = attach_adapter(base, tmp_path / "adapter")(input_ids=ids).logits
    assert float((trained - reloaded).abs().max()) < 1e-4
    assert float((trained - base_logits(model_with_endings, ids)).abs().max()) > 0.1


def test_policy_and_reward_model_share_one_base(model_with_endings: Path, tmp_path: Path) -> None:
    """Without an initial adapter nothing is merged, and all three share one base model."""
    quick = {"precision": "fp32", "rank": 4, "batch_size": 8}
    table = {
        "supervised": {"skip": True},
        "reward": {**quick, "accept_weak": True, "max_steps": 1},
        "policy": {
            **quick,
            "backend": "trl",
            "num_generations": 2,
            "max_new_tokens": 4,
            "epochs": 2,
        },
    }
    rows = [
        Preference(source=f"{n}", prompt=PROMPTS[n % 4], chosen=f"yes {n}", rejected=f"no {n}")
        for n in range(12)
    ]
    events: list[Event] = []
    job = replace(
        PolicyRun(model_with_endings, tmp_path, options()).job,
        config=from_table(RlhfOptions, table),
        train=tuple(rows[:8]),
        heldout=tuple(rows[8:]),
        emit=events.append,
    )
    artifact = train_stages(job)
    started = [event for event in events if isinstance(event, TrainingStarted)][-1]
    assert started.details["shares_base_with_reward_model"] and started.details["backend"] == "trl"
    stored = load_file(artifact.path / "adapter_model.safetensors")
    assert stored and not [name for name in stored if "ref" in name or "judge" in name]
    assert len([event for event in events if isinstance(event, StepFinished)]) == 3


def base_logits(model: Path, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = load_policy_base(model, CPU, FP32, False).model(input_ids=ids).logits
    return found


# --------------------------------------------------------------------------- stopping, resuming


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "grpo", "num_iterations": 2}, {"algorithm": "rloo"}],
    ids=["grpo", "rloo"],
)
def test_a_resumed_training_ends_with_identical_weights(
    model_with_endings: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = options(**changes, batch_size=2, epochs=2, save_every=100, monitor_every=100)
    uninterrupted = PolicyRun(model_with_endings, tmp_path / "uninterrupted", config).train()
    first = PolicyRun(model_with_endings, tmp_path / "resumed", config)
    first.stop = lambda event: isinstance(event, StepFinished) and event.step == 2
    with pytest.raises(RunStopped):
        first.train()
    assert [event.step for event in first.events_of(CheckpointSaved)] == [
        0,
        2,
    ]  # the first evaluation is the best so far
    assert first.job.checkpoints.newest().step == 2  # type: ignore[union-attr]
    rest = PolicyRun(model_with_endings, tmp_path / "resumed", config).train()
    assert [event.step for event in rest.events_of(StepFinished)] == [3, 4]
    expected = [
        (x.step, x.loss, x.gradient_norm, x.metrics) for x in uninterrupted.events_of(StepFinished)
    ]
    parts = [*first.events_of(StepFinished), *rest.events_of(StepFinished)]
    assert [(x.step, x.loss, x.gradient_norm, x.metrics) for x in parts] == expected
    assert max_difference(uninterrupted.weights(), rest.weights()) == 0.0


def diverging_options(epochs: int) -> PolicyStage:
    """Options with which the policy soon exceeds ``max_kl``."""
    return options(
        epochs=epochs,
        learning_rate=0.3,
        kl_coef=1e-4,
        max_kl=0.01,
        monitor_every=1,
        mask_truncated_completions=False,
        max_new_tokens=4,
    )


def test_a_run_stopped_in_its_last_step_is_evaluated_when_resumed(
    model_with_endings: Path, tmp_path: Path
) -> None:
    """It is saved before its last evaluation, which the gate needs."""
    config = options(epochs=2, monitor_every=1, save_every=100)
    first = PolicyRun(model_with_endings, tmp_path, config, heldout=PROMPTS[:1])
    first.stop = lambda event: isinstance(event, StepFinished) and event.step == event.steps == 2
    with pytest.raises(RunStopped):
        first.train()
    assert [evaluation.step for evaluation in first.events_of(Monitored)] == [0, 1]
    rest = PolicyRun(model_with_endings, tmp_path, config, heldout=PROMPTS[:1]).train()
    assert [evaluation.step for evaluation in rest.events_of(Monitored)] == [2]
    assert rest.events_of(StepFinished) == [] and rest.monitor.evaluations == 3


def test_max_kl_applies_to_a_run_stopped_in_its_last_step(
    model_with_endings: Path, tmp_path: Path
) -> None:
    config = diverging_options(epochs=5)
    first = PolicyRun(model_with_endings, tmp_path, config, heldout=PROMPTS[:2])
    first.stop = lambda event: isinstance(event, StepFinished) and event.step == event.steps == 5
    with pytest.raises(RunStopped):
        first.train()
    weights_at_stop = first.weights()
    rest = PolicyRun(model_with_endings, tmp_path, config, heldout=PROMPTS[:2]).train()
    assert not rest.monitor.gate_result().passed
    assert max_difference(weights_at_stop, rest.weights()) > 0.0


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("stopped", [False, True], ids=["to the end", "stopped"])
def test_model_and_process_are_restored_afterwards(
    model_with_endings: Path, tmp_path: Path, algorithm: str, stopped: bool
) -> None:
    """RLOO would warn about each truncated completion, so its logger is silent in training."""
    logger = logging.getLogger(trl.RLOOTrainer.__module__)
    levels: list[int] = []
    run = PolicyRun(model_with_endings, tmp_path, options(algorithm=algorithm, epochs=1))
    config = run.objective.policy.generation_config
    config.eos_token_id, config.pad_token_id = 1, 2

    def stop(event: Event) -> bool:
        levels.append(logger.level)
        return stopped and isinstance(event, StepFinished)

    run.stop = stop
    before = logger.level
    with pytest.raises(RunStopped) if stopped else nullcontext():
        run.train()
    assert (config.eos_token_id, config.pad_token_id) == (1, 2)
    assert logger.level == before
    assert levels and set(levels) == {logging.ERROR if algorithm == "rloo" else before}


def test_a_policy_beyond_max_kl_ends_as_its_best_checkpoint(
    model_with_endings: Path, tmp_path: Path
) -> None:
    config = diverging_options(epochs=12)
    run = PolicyRun(model_with_endings, tmp_path, config, heldout=PROMPTS[:2])
    before = run.weights()
    run.train()
    assert not run.monitor.gate_result().passed
    assert len(run.events_of(StepFinished)) == 5  # max_kl is compared with the mean of five
    assert [evaluation.step for evaluation in run.events_of(Monitored)] == [0, 1, 2, 3, 4]
    best = [evaluation.step for evaluation in run.events_of(Monitored) if evaluation.best][-1]
    assert (max_difference(before, run.weights()) == 0.0) == (best == 0)
    assert run.job.checkpoints.best().step == best  # type: ignore[union-attr]


def test_a_gradient_that_is_not_finite_updates_nothing(
    model_with_endings: Path, tmp_path: Path
) -> None:
    run = PolicyRun(
        model_with_endings, tmp_path, options(algorithm="rloo", mask_truncated_completions=False)
    )
    before = run.weights()
    run.reward.rewards = lambda prompts, texts: [  # type: ignore[method-assign]
        3e38 if n % 2 else -3e38 for n, _ in enumerate(texts)
    ]
    with pytest.raises(TrainingError, match="step 1: the gradient is not finite"):
        run.train()
    assert max_difference(before, run.weights()) == 0.0


# --------------------------------------------------------------------------- refused options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "ppo"}, "has grpo and rloo, but no ppo"),
        ({"adapt": "full"}, 'trains adapt = "lora" only, got "full"'),
        ({"adapt": "qlora"}, 'trains adapt = "lora" only, got "qlora"'),
        ({"dropout": 0.1}, "`dropout` must be 0"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` must be empty"),
        ({"kl_coef": 0.0}, "`max_kl` must be 0 too"),
        ({"vllm": True, "backend": "native"}, '`vllm` is read by backend = "trl" only'),
    ],
    ids=str,
)
def test_options_without_effect_on_trl_are_refused(changes: dict[str, Any], message: str) -> None:
    table = {"backend": "trl", **changes}
    with pytest.raises(ValidationError, match=message):
        from_table(PolicyStage, table)


def test_vllm_without_a_gpu_is_refused_before_the_first_stage(
    model_with_endings: Path, tmp_path: Path
) -> None:
    pair = Preference(source="1", prompt=PROMPTS[0], chosen="yes", rejected="no")
    table = {"policy": {"backend": "trl", "vllm": True}}
    run = PolicyRun(model_with_endings, tmp_path, options())
    job = replace(run.job, config=from_table(RlhfOptions, table), train=(pair,))
    with pytest.raises(UsageError, match=r"technique.policy.vllm: .* this run is on cpu") as caught:
        train_stages(job)
    assert caught.value.hint and "vllm = false" in caught.value.hint
    assert run.events == [] and list(tmp_path.iterdir()) == []
    check_vllm(options(vllm=True), "cuda")
    check_vllm(options(vllm=True, skip=True), "cpu")
    check_vllm(options(), "cpu")


def test_a_missing_library_is_reported_at_plan_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = metadata.version

    def version(name: str) -> str:
        if name in ("trl", "vllm"):
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    found = check_trl_libraries(options(vllm=True))
    assert [(f.level, f.where) for f in found] == [
        ("error", "technique.policy.backend"),
        ("error", "technique.policy.vllm"),
    ]
    assert "tunesmith[trl]" in found[0].message
    monkeypatch.undo()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert "torchrun started 2" in check_trl_libraries(options())[0].message
    assert (
        check_trl_libraries(options(backend="native"))
        == check_trl_libraries(options(skip=True))
        == []
    )
