"""The plan: a run as a checked, printable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from tunesmith.contracts import FoundModel
from tunesmith.offered import Offered
from tunesmith.offers import (
    ConfiguredOffer,
    DataLoaderOffer,
    EvaluatorOffer,
    ReporterOffer,
    TechniqueOffer,
)
from tunesmith.options import (
    BaselineOptions,
    GateOptions,
    ModelOptions,
    PlanOptions,
    PluginsOptions,
    RunOptions,
)

O = TypeVar("O", bound=ConfiguredOffer)  # noqa: E741 - O as in offer


@dataclass(frozen=True)
class Component(Generic[O]):
    """An offer that the run file names, with its validated options."""

    offered: Offered[O]
    config: BaseModel
    use: str = ""
    """Name in the run file, if it is not the short name."""

    @property
    def offer(self) -> O:
        return self.offered.offer

    def to_json(self) -> dict[str, Any]:
        """Return the table of the component: ``use`` and every option, defaults included."""
        return {
            "use": self.use or self.offer.name,
            **self.config.model_dump(mode="json", by_alias=True),
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run as a value: all settings, resolved and checked."""

    run: RunOptions
    model: ModelOptions
    found_model: FoundModel
    data: Component[DataLoaderOffer[Any]]
    holdout: float | int | None
    technique: Component[TechniqueOffer[Any]]
    evaluators: tuple[Component[EvaluatorOffer[Any]], ...]
    """Empty: the default evaluators for the held-out records, chosen when those are read."""
    reporters: tuple[Component[ReporterOffer[Any]], ...]
    baselines: BaselineOptions
    gate: GateOptions
    plan_options: PlanOptions
    plugins: PluginsOptions
    origins: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.run.name

    def to_json(self) -> dict[str, Any]:
        """Return the resolved run file: every key with its value, paths absolute."""
        return {
            "run": self.run.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "data": {**self.data.to_json(), "holdout": self.holdout},
            "technique": self.technique.to_json(),
            "evaluators": [evaluator.to_json() for evaluator in self.evaluators],
            "reporters": [reporter.to_json() for reporter in self.reporters],
            "baselines": self.baselines.model_dump(mode="json"),
            "gate": self.gate.model_dump(mode="json"),
            "plan": self.plan_options.model_dump(mode="json"),
            "plugins": self.plugins.model_dump(mode="json"),
        }

    def to_toml(self) -> str:
        """Return the plan as a run file that gives the same plan again.

        TOML has no null, so unset options are left out.
        """
        import tomli_w

        return tomli_w.dumps(_without_none(self.to_json()))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
