"""The second model of an evaluator that compares, and the judge between the two.

Options are read before a run; torch is imported when a model is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import Field

from tunesmith.contracts import Measurement, RunSoFar, TextModel
from tunesmith.errors import UsageError
from tunesmith.options import DataPath, Options
from tunesmith.records import Prompt, Record

BASE = "base"


class RivalOptions(Options):
    """Which model to compare with."""

    stage: str = Field(
        BASE,
        min_length=1,
        description=(
            "The model of this run to compare with: base, or a stage such as supervised. What is "
            "measured before that stage was trained is left out."
        ),
    )
    run: DataPath | None = Field(
        None,
        description=(
            "Run folder, artifact or model folder to compare with, in place of one of this run."
        ),
    )


def rival(options: RivalOptions, run: RunSoFar | None) -> TextModel | None:
    """The model to compare with; None if its stage has not been trained yet.

    Raises:
        UsageError: no such model, or a stage is named outside of a run.
    """
    from tunesmith_torch.compare.open_by_name import open_by_name

    if options.run is not None:
        device = "auto" if run is None else run.device
        return open_by_name(options.run, device=device, option="evaluators.run")
    if run is None:
        raise UsageError(
            "evaluators.stage: there is no run whose models could be compared with",
            hint="name a run or a model folder with `run`",
        )
    if options.stage == BASE:
        return run.open(None)
    artifact = _stage(options.stage, run, "evaluators.stage")
    return None if artifact is None else run.open(artifact)


def _stage(name: str, run: RunSoFar, option: str) -> Path | None:
    """What a stage left behind; None while the run is not that far.

    Raises:
        UsageError: the run has ended its training, and there was no such stage.
    """
    if name not in run.artifacts and "" in run.artifacts:
        known = ", ".join([BASE, *filter(None, run.artifacts)])
        raise UsageError(f'{option}: the run has no stage "{name}"', hint=f"there are: {known}")
    return run.artifacts.get(name)


class Comparing(ABC):
    """An evaluator that needs another model: how it is asked within a run, and outside of one."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Outside of a run."""
        return self.against(model, records, None)

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunSoFar
    ) -> Sequence[Measurement]:
        """Within a run."""
        return self.against(model, records, run)

    @abstractmethod
    def against(
        self, model: TextModel, records: Sequence[Record], run: RunSoFar | None
    ) -> Sequence[Measurement]:
        """What both ways lead to; nothing where what is needed is not there yet."""


class Judge(Protocol):
    """What says how good an answer is: a reward model, or a function."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One number for each answer, higher is better."""
        ...


REWARD = "reward"


def is_function(where: str) -> bool:
    """Whether a name is that of a Python function in a file: ``file.py:function``."""
    return Path(where.rpartition(":")[0]).suffix == ".py"


def judge(where: str | None, run: RunSoFar | None) -> Judge | None:
    """The reward model or function of this name; None: the run's own reward model, if there is one.

    Raises:
        UsageError: there is no such thing.
    """
    from tunesmith_torch.rlhf.reward_functions import FunctionReward

    if where is not None and is_function(where):
        return FunctionReward.read(where)
    if where is None:
        if run is None:
            raise UsageError("evaluators.reward: outside of a run it must be named")
        artifact = _stage(REWARD, run, "evaluators.reward")
        return None if artifact is None else _reward_model(artifact, run.model, run.device)
    folder = Path(where)
    artifact = next((f for f in (folder, folder / REWARD) if _head(f)), None)
    artifact = artifact or next(filter(_head, sorted(folder.glob("*/*"))), None)
    if artifact is None:
        raise UsageError(
            f"evaluators.reward: no reward model is found in {folder}",
            hint='name the folder of a reward model, or a function as "file.py:function"',
        )
    from tunesmith_torch.compare.open_by_name import run_around

    around, device = run_around(artifact), "auto" if run is None else run.device
    if around is not None:
        return _reward_model(artifact, around.found_model.fetch(), device)
    if run is None:
        raise UsageError(f"evaluators.reward: {artifact} lies in no run, so its base is not known")
    return _reward_model(artifact, run.model, device)


def _head(folder: Path) -> bool:
    return (folder / "reward_head.safetensors").is_file()


def _reward_model(artifact: Path, base: Path, device: str) -> Judge:
    from tunesmith_torch.models.adapter_stack import base_of_adapter
    from tunesmith_torch.models.artifacts import artifact_format
    from tunesmith_torch.rlhf.reward_model import RewardModel
    from tunesmith_torch.runtime.device import pick_device, pick_precision

    if artifact_format(artifact) == "adapter":
        base = base_of_adapter(artifact, base)
    place = pick_device(device)
    return RewardModel.load(base, artifact, place, pick_precision(place))
