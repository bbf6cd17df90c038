"""Models are opened from disk as they were trained, onto the weights that they need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import build
from torch import Tensor

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import UsageError
from tunesmith.records import Completion, last_exchange
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.generation import open_model
from tunesmith_torch.generation.open_model import open_text_model, open_trained_model
from tunesmith_torch.models.initial_model import LINEAGE_FILE
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train

RECORDS = tuple(
    Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
    for n in range(6)
)


def options(kind: type[TrainingOptions], **changes: Any) -> Any:
    keys = {"batch_size": 6, "epochs": 4, "learning_rate": 5e-3, "precision": "fp32"}
    return build(kind, **{**keys, **changes})


def trained(folder: Path, model: Path, config: TrainingOptions) -> Artifact:
    folder.mkdir()
    job: Job[Any] = Job(
        config=config,
        model=model,
        train=RECORDS,
        validation=(),
        out=folder,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=lambda event: None,
        technique="test",
    )
    return train(job, SupervisedTask())


def scores(opener: Callable[..., Any], model: Path, artifact: Path | None, config: Any) -> Tensor:
    opened = opener(model, artifact, device="cpu", options=config)
    prompts, completions = zip(*map(last_exchange, RECORDS), strict=True)
    return torch.tensor([sum(score.logprobs) for score in opened.score(prompts, completions)])


@pytest.mark.parametrize("kind", [FullOptions, LoraOptions], ids=["full", "lora"])
@pytest.mark.parametrize("opener", [open_text_model, open_trained_model])
def test_the_artifact_or_the_base_is_opened(
    tmp_path: Path, tiny_folder: Path, kind: type[TrainingOptions], opener: Callable[..., Any]
) -> None:
    config = options(kind)
    artifact = trained(tmp_path / "run", tiny_folder, config)
    base = scores(opener, tiny_folder, None, config)
    assert (scores(opener, tiny_folder, artifact.path, config) - base).min() > 1
    if artifact.format == "model":  # complete: it needs no base
        assert (scores(opener, tmp_path / "gone", artifact.path, config) - base).min() > 1


def test_an_adapter_over_a_full_model_is_opened_onto_that_model(
    tmp_path: Path, tiny_folder: Path
) -> None:
    full = trained(tmp_path / "full", tiny_folder, options(FullOptions))
    config = options(LoraOptions, learning_rate=1e-3, **{"from": str(tmp_path / "full")})
    adapter = trained(tmp_path / "run", tiny_folder, config)
    opened = scores(open_trained_model, tiny_folder, adapter.path, config)
    onto_full = scores(open_text_model, full.path, adapter.path, config)
    assert torch.equal(opened, onto_full)
    onto_base = scores(open_text_model, tiny_folder, adapter.path, config)
    assert (opened - onto_base).abs().max() > 1
    # The base model itself is not replaced.
    plain = scores(open_text_model, tiny_folder, None, config)
    assert torch.equal(scores(open_trained_model, tiny_folder, None, config), plain)
    (full.path / "config.json").unlink()
    with pytest.raises(UsageError, match=r"technique\.from: no adapter or model"):
        open_trained_model(tiny_folder, adapter.path, device="cpu", options=config)


def test_an_adapter_over_an_adapter_needs_the_base_alone(tmp_path: Path, tiny_folder: Path) -> None:
    """Also if the initial adapter is gone: the saved adapter contains it."""
    initial = trained(tmp_path / "first", tiny_folder, options(LoraOptions))
    config = options(LoraOptions, **{"from": str(initial.path)})
    adapter = trained(tmp_path / "run", tiny_folder, config)
    lineage = json.loads((tmp_path / "run" / LINEAGE_FILE).read_text())
    assert lineage["from_format"] == "adapter"
    for file in initial.path.iterdir():
        file.unlink()
    opened = scores(open_trained_model, tiny_folder, adapter.path, config)
    assert torch.equal(opened, scores(open_text_model, tiny_folder, adapter.path, config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FullOptions(), None),
        (LoraOptions(), None),
        (QloraOptions(), Quantization()),
        (build(QloraOptions, quantization__bits=8), Quantization(8)),
        (build(PreferenceOptions, adapt="qlora"), Quantization()),
        (PreferenceOptions(), None),
    ],
    ids=str,
)
def test_the_base_is_quantized_as_in_training(
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: TrainingOptions,
    expected: Quantization | None,
) -> None:
    asked: list[Quantization | None] = []

    def load(*args: Any, quantization: Quantization | None = None, **kwargs: Any) -> Any:
        asked.append(quantization)
        return load_model(*args, **kwargs)

    monkeypatch.setattr(open_model, "load_model", load)
    open_text_model(tiny_folder, None, device="cpu", options=config)
    assert asked == [expected]
