"""The techniques as the core calls them: train a job, open the artifact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_run import PROMPTS, QUICK, trl_options
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.contracts import Job
from tunesmith.errors import DataError, EnvironmentProblem, RunStopped, UsageError
from tunesmith.events import Event, GateChecked, StepFinished, TrainingFinished, TrainingStarted
from tunesmith.records import Preference
from tunesmith.storage import Checkpoints
from tunesmith_trl.options import TrlOptions
from tunesmith_trl.technique import TrlTechnique

ROWS = [
    Preference(source=f"{n}", prompt=PROMPTS[n % 4], chosen=f"yes {n}", rejected=f"no {n}")
    for n in range(6)
]


class TechniqueRun:
    """A job of a technique, and the events of its training."""

    def __init__(self, model: Path, out: Path, config: TrlOptions) -> None:
        self.events: list[Event] = []
        self.stop: Callable[[Event], bool] = lambda event: False
        out.mkdir(parents=True, exist_ok=True)
        self.job: Job[Any] = Job(
            config=config,
            model=model,
            train=tuple(ROWS[:4]),
            validation=tuple(ROWS[4:]),
            out=out,
            seed=3,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=self.emit,
            technique="trl",
        )
        self.technique = TrlTechnique(config)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if self.stop(event):
            raise RunStopped("enough")

    def train(self) -> Path:
        """Train, and return the folder of the artifact."""
        return self.technique.train(self.job).path

    def events_of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def quick(algorithm: str = "grpo", **changes: Any) -> TrlOptions:
    return trl_options(algorithm, **{**QUICK, "epochs": 2, "batch_size": 2, **changes})


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_policy_is_trained_saved_and_opened(
    model_with_endings: Path, tmp_path: Path, algorithm: str
) -> None:
    run = TechniqueRun(model_with_endings, tmp_path, quick(algorithm))
    artifact = run.train()
    (started,) = run.events_of(TrainingStarted)
    (finished,) = run.events_of(TrainingFinished)
    assert started.steps == finished.steps == len(run.events_of(StepFinished)) == 4
    assert (started.details["trainer"], started.details["algorithm"]) == ("trl", algorithm)
    assert finished.format == "adapter" and finished.is_text_model
    assert finished.tokens == sum(step.tokens for step in run.events_of(StepFinished))
    (gate,) = run.events_of(GateChecked)
    assert gate.gate == "divergence"
    stored = load_file(artifact / "adapter_model.safetensors")
    assert stored and not [name for name in stored if "ref" in name]
    base = run.technique.open(model_with_endings, None, device="cpu")
    tuned = run.technique.open(model_with_endings, artifact, device="cpu")
    prompts, texts = [PROMPTS[0]], ["yes"]
    assert base.score(prompts, texts) != tuned.score(prompts, texts)


def test_a_run_from_an_adapter_resumes_to_the_same_bits(
    model_with_endings: Path, initial_adapter: Path, tmp_path: Path
) -> None:
    config = quick(**{"from": str(initial_adapter)})
    uninterrupted = TechniqueRun(model_with_endings, tmp_path / "uninterrupted", config)
    expected = load_file(uninterrupted.train() / "adapter_model.safetensors")
    first = TechniqueRun(model_with_endings, tmp_path / "resumed", config)
    first.stop = lambda event: isinstance(event, StepFinished) and event.step == 2
    with pytest.raises(RunStopped):
        first.train()
    rest = TechniqueRun(model_with_endings, tmp_path / "resumed", config)
    artifact = rest.train()
    assert [event.step for event in rest.events_of(StepFinished)] == [3, 4]
    resumed = load_file(artifact / "adapter_model.safetensors")
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    (started,) = rest.events_of(TrainingStarted)
    assert started.details["from"] == str(initial_adapter) and started.first_step == 2
    # One adapter for the unchanged base: that of the earlier run plus the trained one.
    ranks = {x.shape[0] for name, x in resumed.items() if "lora_A" in name}
    assert ranks == {8}


def test_the_last_batch_of_an_epoch_is_filled_up(model_with_endings: Path, tmp_path: Path) -> None:
    run = TechniqueRun(model_with_endings, tmp_path, quick(batch_size=3, epochs=1))
    run.train()
    assert [event.rows for event in run.events_of(StepFinished)] == [3, 3]
    assert all(event.tokens > 0 for event in run.events_of(StepFinished))


def test_vllm_without_a_gpu_is_refused_before_training(
    model_with_endings: Path, tmp_path: Path
) -> None:
    run = TechniqueRun(model_with_endings, tmp_path, quick(vllm=True))
    with pytest.raises(UsageError, match=r"technique\.vllm: .* this run uses cpu") as caught:
        run.train()
    assert caught.value.hint and "vllm = false" in caught.value.hint
    assert run.events == [] and list(tmp_path.iterdir()) == []


def test_a_missing_reward_function_is_named_by_its_key(
    model_with_endings: Path, tmp_path: Path
) -> None:
    config = quick(rewards=[{"function": "nowhere.py:f"}])
    run = TechniqueRun(model_with_endings, tmp_path, config)
    with pytest.raises(UsageError, match=r"technique\.rewards: no such file"):
        run.train()
    assert run.events == []


def test_a_missing_gold_function_is_named_by_its_key(
    model_with_endings: Path, tmp_path: Path
) -> None:
    run = TechniqueRun(model_with_endings, tmp_path, quick(monitor__gold="nowhere.py:f"))
    with pytest.raises(UsageError, match=r"technique\.monitor\.gold: no such file"):
        run.train()


def test_a_missing_reward_model_is_named_by_its_key(
    model_with_endings: Path, tmp_path: Path
) -> None:
    config = quick(rewards=[{}], reward_model=str(tmp_path / "nowhere"))
    run = TechniqueRun(model_with_endings, tmp_path, config)
    with pytest.raises(UsageError, match=r"technique\.reward_model: no adapter or model"):
        run.train()


def test_an_adapter_of_the_output_head_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """In a model whose head has weights of its own; others refuse such an adapter anyway."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "untied")
    run = TechniqueRun(
        tmp_path / "untied",
        tmp_path / "out",
        quick(adapter__target_modules=["q_proj", "lm_head"]),
    )
    with pytest.raises(EnvironmentProblem, match="only a plain linear head"):
        run.train()


def test_trl_that_cannot_be_imported_is_reported(
    model_with_endings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(EnvironmentProblem, match="TRL cannot be imported") as caught:
        TechniqueRun(model_with_endings, tmp_path, quick()).train()
    assert caught.value.hint == "pip install 'trl>=1.16'"


def test_prompts_without_room_for_a_completion_are_refused(
    model_with_endings: Path, tmp_path: Path
) -> None:
    config = quick(max_length=16, generation__max_new_tokens=16)
    with pytest.raises(DataError, match="leaves room for a completion"):
        TechniqueRun(model_with_endings, tmp_path, config).train()
