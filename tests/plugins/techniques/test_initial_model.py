"""``from`` in full, lora and qlora: training goes on from an adapter or a full model."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tables import build
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.contracts import Job, TextModel
from tunesmith.errors import RunStopped, UsageError
from tunesmith.events import Event, StepFinished, TrainingStarted
from tunesmith.offers import TechniqueOffer
from tunesmith.records import Completion, last_exchange
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.offer import FULL
from tunesmith_plugins.techniques.lora.offer import LORA
from tunesmith_plugins.techniques.qlora.offer import QLORA
from tunesmith_torch.generation.open_model import open_text_model
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.prefix.completion_groups import CompletionGroup, GroupLayout, score_groups
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import trainer
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import TrainingSession

OFFERS: dict[str, TechniqueOffer] = {"full": FULL, "lora": LORA, "qlora": QLORA}
EARLIER = tuple(
    Completion(source=f"earlier:{n}", prompt=f"Who is {n}?", completion="one two three")
    for n in range(8)
)
RECORDS = tuple(
    Completion(source=f"rows:{n}", prompt=f"What is {n}?", completion="ten " * (1 + n % 3))
    for n in range(8)
)
INITIAL = ["adapter run", "adapter folder", "model run", "model folder"]
RATE = 1e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model whose rows are multiples of a block, so that all layers are quantized."""
    folder = save_tiny_model(tmp_path_factory.mktemp("base") / "llama")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    config = AutoConfig.from_pretrained(folder, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network.save_pretrained(folder)
    return folder


def options(technique: str, **changes: Any) -> Any:
    keys = {"batch_size": 8, "precision": "fp32", "learning_rate": RATE, "max_steps": 2}
    schedule = {"schedule__type": "constant", "schedule__warmup_ratio": 0.0}
    adapter = {} if technique == "full" else {"adapter__rank": 4, "adapter__alpha": 8.0}
    return build(OFFERS[technique].config, **{**keys, **schedule, **adapter, **changes})


def make_job(
    model: Path, out: Path, config: Any, emit: Callable[[Event], None], records: Any = RECORDS
) -> Job[Any]:
    out.mkdir(parents=True, exist_ok=True)
    return Job(
        config=config,
        model=model,
        train=records,
        validation=(),
        out=out,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"),
        emit=emit,
        technique="test",
    )


@pytest.fixture(scope="module")
def earlier(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders that `from` may name: finished runs, and their artifacts."""
    runs = {}
    for technique, kind in (("lora", "adapter"), ("full", "model")):
        out = tmp_path_factory.mktemp("earlier") / kind
        rate = 2e-2 if technique == "lora" else 2e-3
        changes = {"learning_rate": rate, "max_steps": 6, "checkpoints__every": 2, "epochs": 6}
        job = make_job(model, out, options(technique, **changes), lambda event: None, EARLIER)
        artifact = OFFERS[technique].build(job.config).train(job)
        runs[f"{kind} run"], runs[f"{kind} folder"] = out, artifact.path
    return runs


def scores(opened: TextModel, records: Any = RECORDS) -> Tensor:
    """Return the log-probability of each record's completion."""
    prompts, completions = zip(*map(last_exchange, records), strict=True)
    return torch.tensor([sum(s.logprobs) for s in opened.score(prompts, completions)])


def initial_text_model(technique: str, model: Path, initial: Path) -> TextModel:
    """Open the model that training begins with, without `from`."""
    adapter = (initial / "adapter_config.json").is_file()
    base, artifact = (model, initial) if adapter else (initial, None)
    return open_text_model(base, artifact, device="cpu", options=options(technique))


def mean_loss(opened: TextModel) -> float:
    prompts, completions = zip(*map(last_exchange, RECORDS), strict=True)
    logprobs = [lp for score in opened.score(prompts, completions) for lp in score.logprobs]
    return -sum(logprobs) / len(logprobs)


class ScoredTask(SupervisedTask):
    """Scores the records with the trained model in memory, before its adapters are combined."""

    scores: Tensor

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        exchanges = session.template.encode_exchanges(
            *zip(*map(last_exchange, RECORDS), strict=True)
        )
        groups = [CompletionGroup(prompt, (completion,)) for prompt, completion in exchanges]
        found = score_groups(session.adapted.model, groups, GroupLayout(packing=True), 4096)
        self.scores = torch.cat(found)
        return super().finalize(session)


@pytest.mark.parametrize("kind", INITIAL)
@pytest.mark.parametrize("technique", OFFERS)
def test_training_begins_with_the_initial_model_and_its_artifact_is_complete(
    tmp_path: Path, model: Path, earlier: dict[str, Path], technique: str, kind: str
) -> None:
    """The first loss is that of the initial model, and the artifact scores like the trained one."""
    config = options(technique, **{"from": str(earlier[kind])})
    initial = InitialModel.find(str(earlier[kind]))
    events: list[Event] = []
    job, task = make_job(model, tmp_path / "run", config, events.append), ScoredTask()
    artifact = trainer.train(job, task)
    first = next(event for event in events if isinstance(event, StepFinished))
    begun = initial_text_model(technique, model, initial.path)
    assert first.loss == pytest.approx(mean_loss(begun), rel=1e-4)
    plain = open_text_model(model, None, device="cpu", options=options(technique))
    assert abs(first.loss - mean_loss(plain)) > 0.05

    offered = OFFERS[technique].build(config)
    opened = scores(offered.open(model, artifact.path, device="cpu"))
    torch.testing.assert_close(opened, task.scores, rtol=0, atol=2e-3)
    assert (opened - scores(begun)).abs().max() > 0.05
    # Without the initial model: only an adapter that was trained over a full model needs it.
    alone = scores(open_text_model(model, artifact.path, device="cpu", options=options(technique)))
    if technique != "full" and initial.format == "model":
        assert (alone - opened).abs().max() > 0.05
    else:
        torch.testing.assert_close(alone, opened, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["adapter run", "model run"])
@pytest.mark.parametrize("technique", OFFERS)
def test_the_initial_model_is_reported(
    tmp_path: Path, model: Path, earlier: dict[str, Path], technique: str, kind: str
) -> None:
    initial = InitialModel.find(str(earlier[kind]))
    events: list[Event] = []
    config = options(technique, max_steps=1, **{"from": str(earlier[kind])})
    job = make_job(model, tmp_path / "run", config, events.append)
    OFFERS[technique].build(config).train(job)
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert {key: started.details[key] for key in ("from", "from_format", "from_sha256")} == {
        "from": str(initial.path),
        "from_format": initial.format,
        "from_sha256": initial.sha256(),
    }
    plain = make_job(model, tmp_path / "plain", options(technique, max_steps=1), events.append)
    OFFERS[technique].build(plain.config).train(plain)
    started = [event for event in events if isinstance(event, TrainingStarted)][-1]
    assert not {"from", "from_format", "from_sha256"} & set(started.details)


# --------------------------------------------------------------------------- nothing else is kept


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["adapter run", "model run"])
@pytest.mark.parametrize("technique", ["full", "lora"])
def test_steps_and_optimizer_of_the_earlier_run_are_not_carried_over(
    tmp_path: Path, model: Path, earlier: dict[str, Path], technique: str, kind: str
) -> None:
    """AdamW without a past moves every weight by the learning rate in its first step."""
    before = digests(earlier[kind])
    assert any(name.startswith("checkpoints/step-") for name in before)
    events: list[Event] = []
    config = options(technique, max_steps=1, **{"from": str(earlier[kind])})
    job = make_job(model, tmp_path / "run", config, events.append)
    artifact = OFFERS[technique].build(config).train(job)
    assert digests(earlier[kind]) == before
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert started.first_step == 0
    assert [event.step for event in events if isinstance(event, StepFinished)] == [1]
    (file,) = artifact.path.glob("*model.safetensors")
    trained = load_file(file)
    if technique == "full":
        moved = _moved_from(model, earlier[kind], trained)
    else:
        # The columns of the new adapter are the last ones; its scale, alpha / rank, is 2.
        scale = 2 if kind == "adapter run" else 1
        moved = torch.cat([b[:, -4:].flatten() for n, b in trained.items() if "lora_B" in n])
        moved = moved / scale
    moved = moved.abs()
    assert moved.max() < 1.01 * RATE
    assert moved.median() == pytest.approx(RATE, rel=0.02)


def _moved_from(model: Path, run: Path, trained: dict[str, Tensor]) -> Tensor:
    """Return the changes of the matrices of a full model since it was the initial one."""
    initial = InitialModel.find(str(run))
    opened: Any = initial_text_model("full", model, initial.path)
    network = opened.model
    if initial.format == "adapter":
        network = network.merge_and_unload()
    state = network.state_dict()
    return torch.cat(
        [(trained[n] - state[n]).flatten() for n in trained if "layers" in n and "proj" in n]
    )


# --------------------------------------------------------------------------- resuming


def stop_after_one_step(event: Event) -> None:
    if isinstance(event, StepFinished) and event.step == 1:
        raise RunStopped("enough")


@pytest.mark.parametrize("technique", OFFERS)
def test_a_resumed_run_ends_with_identical_weights(
    tmp_path: Path, model: Path, earlier: dict[str, Path], technique: str
) -> None:
    config = options(technique, max_steps=3, epochs=3, **{"from": str(earlier["adapter run"])})
    offered = OFFERS[technique].build(config)
    whole = offered.train(make_job(model, tmp_path / "whole" / "run", config, lambda event: None))
    job = make_job(model, tmp_path / "resumed" / "run", config, stop_after_one_step)
    with pytest.raises(RunStopped):
        offered.train(job)
    steps: list[Event] = []
    resumed = offered.train(replace(job, emit=steps.append))
    assert [event.step for event in steps if isinstance(event, StepFinished)] == [2, 3]
    ours, theirs = (next(a.path.glob("*model.safetensors")) for a in (whole, resumed))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("technique", OFFERS)
def test_a_resumed_run_whose_initial_model_changed_is_refused(
    tmp_path: Path, model: Path, earlier: dict[str, Path], technique: str
) -> None:
    copy = tmp_path / "initial"
    shutil.copytree(earlier["adapter folder"], copy)
    config = options(technique, max_steps=2, **{"from": str(copy)})
    job = make_job(model, tmp_path / "run", config, stop_after_one_step)
    offered = OFFERS[technique].build(config)
    with pytest.raises(RunStopped):
        offered.train(job)
    shutil.rmtree(copy)
    shutil.copytree(earlier["model folder"], copy)
    quiet = replace(job, emit=lambda event: None)
    with pytest.raises(UsageError, match="is not the model that training started from") as caught:
        offered.train(quiet)
    assert caught.value.hint == "restore the files, or start a new run"
    shutil.rmtree(copy)
    shutil.copytree(earlier["adapter folder"], copy)
    assert offered.train(quiet).path.is_dir()
