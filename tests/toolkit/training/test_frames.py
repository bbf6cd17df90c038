"""From a technique to the gradient: at most five frames of our code, in three files.

A reader who wants to see the loss must not have to open many files. Decorators count as frames.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from addition_plugin import SteadyOptions, steady_addition
from tables import build

import tunesmith
import tunesmith_plugins
import tunesmith_torch
from tunesmith.additions import Addition
from tunesmith.contracts import Job
from tunesmith.records import Completion, Preference, Record
from tunesmith.records import Message as Turn
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.full.technique import FullFineTuning
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.lora.technique import Lora
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.preference.technique import PreferenceTuning
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_plugins.techniques.qlora.technique import Qlora
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_plugins.techniques.rlhf.stages import Stages
from tunesmith_plugins.techniques.rlhf.technique import Rlhf

MAX_FRAMES, MAX_FILES = 5, 3
SOURCES = tuple(
    f"{Path(str(package.__file__)).parent}{os.sep}"
    for package in (tunesmith, tunesmith_torch, tunesmith_plugins)
)
"""Folders of our code, wherever the clone is and whatever it is called."""
COMPLETIONS: tuple[Record, ...] = tuple(
    Completion(source=f"rows:{n}", prompt=f"What is {n}?", completion="ten") for n in range(4)
)
PAIRS: tuple[Record, ...] = tuple(
    Preference(
        source=f"rows:{n}", prompt=(Turn("user", f"{n}?"),), chosen="ten", rejected="no, never"
    )
    for n in range(4)
)
QUICK = {"max_steps": 1, "precision": "fp32", "batch_size": 4}
STAGES = {
    "supervised": QUICK,
    "reward": {**QUICK, "gate": {"accept_weak": True}},
    "policy": {
        **QUICK,
        "generation": {"num_generations": 2, "max_new_tokens": 4},
        "loss": {"mask_truncated_completions": False},
        "monitor": {"accept_divergence": True},
    },
}


def _record_stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """Record (file, function) of our frames at each ``backward``, the innermost first."""
    stacks: list[list[tuple[str, str]]] = []
    backward = torch.Tensor.backward

    def record(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        frames = [(frame.filename, frame.function) for frame in inspect.stack(0)]
        stacks.append([f for f in frames if f[0].startswith(SOURCES)])
        return backward(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", record)
    return stacks


def _job(
    folder: Path,
    model: Path,
    options: Any,
    records: tuple[Record, ...],
    additions: tuple[Addition, ...] = (),
) -> Job[Any]:
    return Job(
        config=options,
        model=model,
        train=records,
        validation=records,
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=lambda event: None,
        technique="test",
        additions=additions,
    )


def _check(stack: list[tuple[str, str]], entry: Any) -> None:
    """Count the frames from the gradient out to ``entry``."""
    place = (inspect.getsourcefile(entry), entry.__name__)
    assert place in stack, f"{place} is not on the way to the gradient"
    way = stack[: stack.index(place) + 1]
    files = {file for file, _ in way}
    text = " < ".join(f"{Path(file).stem}.{function}" for file, function in way)
    assert len(way) <= MAX_FRAMES, f"{len(way)} frames: {text}"
    assert len(files) <= MAX_FILES, f"{len(files)} files: {text}"


@pytest.mark.parametrize(
    ("technique", "options", "records"),
    [
        (FullFineTuning, FullOptions, COMPLETIONS),
        (Lora, LoraOptions, COMPLETIONS),
        (Qlora, QloraOptions, COMPLETIONS),
        (PreferenceTuning, PreferenceOptions, PAIRS),
    ],
)
def test_technique_to_gradient(
    technique: Any,
    options: Any,
    records: tuple[Record, ...],
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stacks = _record_stacks(monkeypatch)
    config = build(options, **QUICK)
    technique(config).train(_job(tmp_path, tiny_folder, config, records))
    assert stacks
    for stack in stacks:
        _check(stack, technique.train)


def test_technique_to_gradient_of_an_addition(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks = _record_stacks(monkeypatch)
    config = build(FullOptions, **QUICK)
    addition = steady_addition(SteadyOptions(l2=1.0, kl=1.0))
    assert addition is not None
    job = _job(tmp_path, tiny_folder, config, COMPLETIONS, (addition,))
    FullFineTuning(config).train(job)
    assert len(stacks) == 2
    for stack in stacks:
        _check(stack, FullFineTuning.train)


def test_stage_to_gradient(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks = _record_stacks(monkeypatch)
    config = build(RlhfOptions, **STAGES)
    Rlhf(config).train(_job(tmp_path, tiny_folder, config, PAIRS))
    assert len(stacks) >= 3
    for stack in stacks:
        _check(stack, Stages._run_stage)
