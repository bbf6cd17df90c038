"""Options that select a second model to compare with, or a reward that scores answers.

torch is only imported when a model is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from pydantic import Field, model_validator

from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.errors import UsageError
from tunesmith.options import DataPath, Options
from tunesmith.prepared import RowWise
from tunesmith.records import Prompt, Record

__all__ = [
    "ComparingEvaluator",
    "ComparisonOptions",
    "RewardOptions",
    "RewardScorer",
    "load_reward_scorer",
    "open_comparison_model",
    "open_tuned_comparison_model",
]

BASE_MODEL = "base"


class ComparisonOptions(Options):
    """Options of an evaluator that compares with another model."""

    stage: str = Field(
        BASE_MODEL,
        min_length=1,
        description=(
            "Model of this run to compare with: base, or a stage such as supervised. Nothing is "
            "measured before that stage is trained."
        ),
    )
    run: DataPath | None = Field(
        None,
        description=(
            "Run folder, artifact or model folder to compare with instead of a model of this run."
        ),
    )


class RewardOptions(Options):
    """Options of a reward: a Python function or a reward model."""

    reward: DataPath | None = Field(
        None,
        description=(
            'A Python function as "file.py:function" that takes a prompt and an answer, both text, '
            "and returns a number, or the folder of a reward model."
        ),
    )
    plugin: str | None = Field(
        None,
        description='A function in an installed package, as "package.module:function".',
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if self.reward is not None and self.plugin is not None:
            raise ValueError("`reward` and `plugin` are both set; remove one")
        return self

    @property
    def uses_reward_model(self) -> bool:
        """True if the reward comes from a reward model, False if it comes from a function."""
        return self.plugin is None and not (self.reward and is_function_reference(self.reward))


def open_comparison_model(options: ComparisonOptions, run: RunContext | None) -> TextModel | None:
    """Return the model to compare with; None if its stage has not been trained yet.

    Raises:
        UsageError: there is no such model, or ``options.run`` is not set outside a run.
    """
    from tunesmith_torch.compare.open_by_name import open_by_name

    if options.run is not None:
        device = "auto" if run is None else run.device
        return open_by_name(options.run, device=device, option="evaluators.run")
    if run is None:
        raise UsageError(
            "evaluators.stage: outside a run, there is no model of a stage to compare with",
            hint="set `run` to a run folder or a model folder",
        )
    if options.stage == BASE_MODEL:
        return run.open(None)
    artifact = _stage_artifact(options.stage, run, "evaluators.stage")
    return None if artifact is None else run.open(artifact)


def open_tuned_comparison_model(
    options: ComparisonOptions, run: RunContext | None
) -> TextModel | None:
    """Return the model to compare with the tuned one; None until the run has trained a model."""
    is_early = run is not None and "" not in run.artifacts
    return None if is_early else open_comparison_model(options, run)


def _stage_artifact(name: str, run: RunContext, option: str) -> Path | None:
    """Return the artifact of a stage; None if the run has not trained that stage yet.

    Raises:
        UsageError: training has ended without such a stage.
    """
    if name not in run.artifacts and "" in run.artifacts:
        known = ", ".join([BASE_MODEL, *filter(None, run.artifacts)])
        raise UsageError(f'{option}: the run has no stage "{name}"', hint=f"its stages: {known}")
    return run.artifacts.get(name)


class ComparingEvaluator(RowWise, ABC):
    """Base class of evaluators that compare the measured model with another model.

    The core calls ``compare`` during a run, and ``measure`` otherwise. A subclass that computes
    more than one value per row overrides ``prepare``.
    """

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Compare the models outside a run; the options must select the other model."""
        return self.compare(model, records, None)

    @abstractmethod
    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Compare the models; return an empty list if the other model has not been trained yet."""


class RewardScorer(Protocol):
    """Protocol of an object that scores answers: a reward model or a function."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """Return one number per answer; higher is better."""
        ...


REWARD_STAGE = "reward"


def is_function_reference(reference: str) -> bool:
    """Return True if the reference names a Python function in a file: ``file.py:function``."""
    return Path(reference.rpartition(":")[0]).suffix == ".py"


def load_reward_scorer(
    options: RewardOptions, run: RunContext | None, option: str = "evaluators"
) -> RewardScorer | None:
    """Return the reward model or function in the options, or the run's own reward model.

    Return None if the run's reward model has not been trained yet. ``option`` is the name of the
    options' table, for error messages.

    Raises:
        UsageError: there is no such reward model or function.
    """
    from tunesmith_torch.rlhf.reward_functions import FunctionReward

    if options.plugin is not None:
        return FunctionReward.from_package(options.plugin, f"{option}.plugin")
    if options.reward is None:
        if run is None:
            raise UsageError(
                f"{option}.reward: is required outside a run",
                hint='set it to the folder of a reward model, or a function as "file.py:function"',
            )
        artifact = _stage_artifact(REWARD_STAGE, run, f"{option}.reward")
        return None if artifact is None else _load_reward_model(artifact, run.model, run.device)
    if is_function_reference(options.reward):
        return FunctionReward.from_file(options.reward, f"{option}.reward")
    return _find_reward_model(Path(options.reward), run, f"{option}.reward")


def _find_reward_model(folder: Path, run: RunContext | None, option: str) -> RewardScorer:
    artifact = next((f for f in (folder, folder / REWARD_STAGE) if _has_reward_head(f)), None)
    artifact = artifact or next(filter(_has_reward_head, sorted(folder.glob("*/*"))), None)
    if artifact is None:
        raise UsageError(
            f"{option}: no reward model found in {folder}",
            hint='set it to the folder of a reward model, or a function as "file.py:function"',
        )
    from tunesmith_torch.compare.open_by_name import find_enclosing_run

    plan, device = find_enclosing_run(artifact), "auto" if run is None else run.device
    if plan is not None:
        return _load_reward_model(artifact, plan.found_model.fetch(), device)
    if run is None:
        raise UsageError(
            f"{option}: {artifact} is not in a run folder, so its base model is unknown",
            hint="use the artifact in its run folder, not a copy",
        )
    return _load_reward_model(artifact, run.model, device)


def _has_reward_head(folder: Path) -> bool:
    return (folder / "reward_head.safetensors").is_file()


def _load_reward_model(artifact: Path, base: Path, device: str) -> RewardScorer:
    from tunesmith_torch.models.artifacts import detect_artifact_format
    from tunesmith_torch.models.initial_model import find_adapter_base
    from tunesmith_torch.models.loading import pick_model_precision
    from tunesmith_torch.rlhf.reward_model import RewardModel
    from tunesmith_torch.runtime.device import pick_device

    if detect_artifact_format(artifact) == "adapter":
        base = find_adapter_base(artifact, base)
    torch_device = pick_device(device)
    precision = pick_model_precision(base, torch_device)
    return RewardModel.load(base, artifact, torch_device, precision)
