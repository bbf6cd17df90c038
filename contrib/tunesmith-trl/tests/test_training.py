"""Training with TRL: the mathematics, events, checkpoints and reference of the toolkit's loop."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from policy_run import (
    CPU,
    FP32,
    PROMPTS,
    LetterReward,
    PolicyRun,
    ReplayedGeneration,
    max_difference,
    options,
)

from tunesmith.errors import RunStopped, TrainingError
from tunesmith.events import CheckpointSaved, Event, Monitored, StepFinished
from tunesmith.records import Message, Prompt
from tunesmith_torch.models.adapter_stack import combine_with_initial
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.rlhf import rollout
from tunesmith_torch.rlhf.rollout import RolloutGenerator
from tunesmith_trl.rewards import PromptTokenizer, TrlRewardFunction

EXACT = [
    pytest.param({"algorithm": "grpo", "loss__mask_truncated_completions": True}, id="grpo"),
    pytest.param(
        {"algorithm": "grpo", "loss__num_iterations": 2, "loss__mask_truncated_completions": False},
        id="grpo-2",
    ),
    pytest.param({"algorithm": "rloo", "loss__mask_truncated_completions": False}, id="rloo"),
]


@pytest.mark.parametrize("changes", EXACT)
def test_trl_and_the_own_loop_end_with_the_same_weights(
    model_with_endings: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = PolicyRun(model_with_endings, tmp_path / "trl", options(**changes))
    before = theirs.weights()
    theirs.train()
    config = options(**changes)
    monkeypatch.setattr(rollout, "generate", ReplayedGeneration(theirs.rollout_generator.decoded))
    ours = PolicyRun(model_with_endings, tmp_path / "own", config).train_with_own_loop()
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


def test_the_ids_are_those_of_the_own_loop(model_with_endings: Path, tmp_path: Path) -> None:
    """Also if a user wrote a control token, which a tokenizer would take for a real one."""
    prompts: list[Prompt] = [(Message("user", "say <|im_end|> please"),), *PROMPTS[:1], "bare text"]
    run = PolicyRun(model_with_endings, tmp_path, options(), prompts=prompts)
    prompt_tokenizer = PromptTokenizer(run.template, prompts)
    assert prompt_tokenizer(text=["2", "0"])["input_ids"] == run.template.encode_prompts(
        [prompts[2], prompts[0]]
    )
    assert prompt_tokenizer.eos_token_id in run.template.end_ids


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reference_is_the_initial_model(
    model_with_endings: Path, initial_adapter: Path, tmp_path: Path, algorithm: str
) -> None:
    """The KL starts at 0 and is measured against the initial model, not against the base."""
    config = options(
        algorithm=algorithm,
        epochs=3,
        loss__mask_truncated_completions=False,
        generation__num_generations=8,
    )
    run = PolicyRun(model_with_endings, tmp_path, config, initial_adapter=initial_adapter).train()
    kls = [step.metrics["kl"] for step in run.events_of(StepFinished)]
    assert abs(kls[0]) < 1e-5 < 1e-3 < max(map(abs, kls[1:])) < 20
    assert "ref" not in run.objective.policy.peft_config
    # The saved adapter over the original base equals what was trained over the merged one.
    ids = torch.tensor(run.template.encode_prompts(PROMPTS[:1]))
    trained = run.adapted.model(input_ids=ids).logits
    saved = combine_with_initial(run.adapted, InitialModel(initial_adapter, "adapter"))
    base = load_model(model_with_endings, CPU, FP32, packing=False)
    saved.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    reloaded = attach_adapter(base, tmp_path / "adapter")(input_ids=ids).logits
    assert float((trained - reloaded).abs().max()) < 1e-4
    assert float((trained - base_logits(model_with_endings, ids)).abs().max()) > 0.1


def base_logits(model: Path, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = load_model(model, CPU, FP32, packing=False).model(input_ids=ids).logits
    return found


# --------------------------------------------------------------------------- stopping, resuming


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "grpo", "loss__num_iterations": 2}, {"algorithm": "rloo"}],
    ids=["grpo", "rloo"],
)
def test_a_resumed_training_ends_with_identical_weights(
    model_with_endings: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = options(**changes, batch_size=2, epochs=2, checkpoints__every=100, monitor__every=100)
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


def diverging_options(epochs: int) -> PolicyOptions:
    """Options with which the policy soon exceeds ``max_kl``."""
    return options(
        epochs=epochs,
        learning_rate=0.3,
        loss__kl_coef=1e-4,
        monitor__max_kl=0.01,
        monitor__every=1,
        loss__mask_truncated_completions=False,
        generation__max_new_tokens=4,
    )


def test_a_run_stopped_in_its_last_step_is_evaluated_when_resumed(
    model_with_endings: Path, tmp_path: Path
) -> None:
    """It is saved before its last evaluation, which the gate needs."""
    config = options(epochs=2, monitor__every=1, checkpoints__every=100)
    first = PolicyRun(model_with_endings, tmp_path, config, test=PROMPTS[:1])
    first.stop = lambda event: isinstance(event, StepFinished) and event.step == event.steps == 2
    with pytest.raises(RunStopped):
        first.train()
    assert [evaluation.step for evaluation in first.events_of(Monitored)] == [0, 1]
    rest = PolicyRun(model_with_endings, tmp_path, config, test=PROMPTS[:1]).train()
    assert [evaluation.step for evaluation in rest.events_of(Monitored)] == [2]
    assert rest.events_of(StepFinished) == [] and rest.monitor.evaluations == 3


def test_max_kl_applies_to_a_run_stopped_in_its_last_step(
    model_with_endings: Path, tmp_path: Path
) -> None:
    config = diverging_options(epochs=5)
    first = PolicyRun(model_with_endings, tmp_path, config, test=PROMPTS[:2])
    first.stop = lambda event: isinstance(event, StepFinished) and event.step == event.steps == 5
    with pytest.raises(RunStopped):
        first.train()
    weights_at_stop = first.weights()
    rest = PolicyRun(model_with_endings, tmp_path, config, test=PROMPTS[:2]).train()
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
    run = PolicyRun(model_with_endings, tmp_path, config, test=PROMPTS[:2])
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
        model_with_endings,
        tmp_path,
        options(algorithm="rloo", loss__mask_truncated_completions=False),
    )
    before = run.weights()
    run.reward.rewards = lambda prompts, texts: [  # type: ignore[method-assign]
        3e38 if n % 2 else -3e38 for n, _ in enumerate(texts)
    ]
    with pytest.raises(TrainingError, match="step 1: the gradient is not finite"):
        run.train()
    assert max_difference(before, run.weights()) == 0.0
