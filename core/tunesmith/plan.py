"""The plan of a run: the validated run file with defaults filled in, and the chosen components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from tunesmith.additions import Addition
from tunesmith.contracts import FoundModel
from tunesmith.data.units import FindClusters, cluster_each_record
from tunesmith.events import BaselineChosen, DataLoaded, FindingReported, Measured
from tunesmith.offers import (
    BaselineOffer,
    ConfiguredOffer,
    DataLoaderOffer,
    EncoderOffer,
    EvaluatorOffer,
    Metric,
    Offered,
    ReporterOffer,
    SplitterOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import BaselineOptions, GateOptions, ModelOptions, PluginsOptions, RunOptions
from tunesmith.records import Record

K = TypeVar("K", bound=ConfiguredOffer[Any])
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Component(Generic[K]):
    """A component of the plan: an offer with its validated options."""

    offered: Offered[K]
    config: BaseModel
    use: str = ""
    """Name of the component in the run file; empty if it is a default."""
    id: str = ""
    """Name of an evaluator in events, files and ``[gate]``, unique in the run."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.id or self.offer.name)

    @property
    def offer(self) -> K:
        return self.offered.offer

    def copy(self) -> Component[K]:
        """Return a deep copy, so a plugin that changes it does not change this component."""
        offered = Offered(copy(self.offered.plugin), copy(self.offer))
        return replace(self, offered=offered, config=self.config.model_copy(deep=True))

    def to_json(self) -> dict[str, Any]:
        """Return the table of the component: ``use`` and every option, including defaults."""
        return {
            "use": self.use or self.offer.name,
            **({"id": self.id} if self.id != self.offer.name else {}),
            **self.config.model_dump(mode="json", by_alias=True),
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run with all its options checked; ``test_size`` is a share or a number of rows."""

    run: RunOptions
    model: ModelOptions
    found_model: FoundModel
    data: Component[DataLoaderOffer[Any]]
    test_size: float | int | None
    split: Component[SplitterOffer[Any]]
    technique: Component[TechniqueOffer[Any]]
    evaluators: tuple[Component[EvaluatorOffer[Any]], ...]
    """The evaluators in the run file. Empty: the defaults, which are chosen when the test records
    are read."""
    reporters: tuple[Component[ReporterOffer[Any]], ...]
    baseline_options: BaselineOptions
    baselines: tuple[Component[BaselineOffer[Any]], ...]
    """The baselines to choose from when the records are read; final if ``baselines.use`` is set."""
    encoder: Component[EncoderOffer[Any]] | None
    """The encoder of ``[encoder]``, otherwise an installed encoder, whose ``use`` is empty."""
    gate: GateOptions
    tables: tuple[Component[TableOffer[Any]], ...]
    """The tables of plugins, including tables with only defaults."""
    plugins: PluginsOptions
    origins: Mapping[str, str]
    trains: bool = True
    find_clusters: FindClusters = cluster_each_record
    """Return the clusters of dependent records, from the run's splitter or the default splitter."""
    additions: tuple[Addition, ...] = ()
    """Additions to the training, in the order of the tables that request them."""

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def encodes_everywhere(self) -> bool:
        """True if the run file has ``[encoder]``, so everything that compares texts uses it."""
        return self.encoder is not None and bool(self.encoder.use)

    @property
    def single_process_part(self) -> str:
        """Name of the component that cannot train with several processes; empty if all can."""
        if not self.technique.offer.data_parallel:
            return f"technique {self.technique.offer.name}"
        return next((f"[{a.table}]" for a in self.additions if not a.data_parallel), "")

    def copy(self) -> Plan:
        """Return a deep copy for a hook, so a plugin that changes it does not change this plan."""

        def copy_field(value: Any) -> Any:
            match value:
                case Component():
                    return value.copy()
                case BaseModel():
                    return value.model_copy(deep=True)
                case FoundModel():
                    return replace(value, config=deepcopy(dict(value.config)))
                case tuple():
                    return tuple(map(copy_field, value))
                case Mapping():
                    return dict(value)
            return value

        return Plan(**{name: copy_field(value) for name, value in vars(self).items()})

    def to_json(self) -> dict[str, Any]:
        """Return the resolved run file: every key with its value, paths absolute."""
        return {
            "run": self.run.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "data": {**self.data.to_json(), "test_size": self.test_size},
            "split": self.split.to_json(),
            "technique": self.technique.to_json(),
            "evaluators": [evaluator.to_json() for evaluator in self.evaluators],
            "reporters": [r.to_json() for r in self.reporters if r.use or not r.offer.always],
            "baselines": self.baseline_options.model_dump(mode="json")
            | {b.use: b.config.model_dump(mode="json") for b in self.baselines},
            **({"encoder": self.encoder.to_json()} if self.encoder and self.encoder.use else {}),
            "gate": self.gate.model_dump(mode="json"),
            **{
                table.use: table.config.model_dump(mode="json", by_alias=True)
                for table in self.tables
            },
            "plugins": self.plugins.model_dump(mode="json"),
        }

    def table(self, options: type[M]) -> M:
        """Return the options of a plugin's own table as an instance of their class.

        If the plan was made without the plugin, the options have their defaults.
        """
        found = (t.config for t in self.tables if isinstance(t.config, options))
        return next(found, None) or options()

    def to_toml(self) -> str:
        """Return the plan as a run file that produces the same plan.

        TOML has no null, so options without a value are omitted, and so are tables without options.
        A plugin's own table with only default values is omitted too. Otherwise a run that does not
        use the plugin could not be opened where it is not installed.
        """
        import tomli_w

        own = (table for table in self.tables if not table.offered.plugin.is_builtin)
        unused = {table.use for table in own if table.config == type(table.config)()}
        tables = _without_none(self.to_json())
        return tomli_w.dumps({n: t for n, t in tables.items() if t != {} and n not in unused})


@dataclass(frozen=True, kw_only=True)
class ModelReview:
    """The input of a model review: a run before it starts, with its base model's config."""

    plan: Plan
    config: Mapping[str, Any]
    """The base model's ``config.json``."""
    train: Sequence[Record]
    test: Sequence[Record]
    techniques: Sequence[Offered[TechniqueOffer[Any]]]
    """All installed techniques, so that a review can propose another technique."""

    def copy(self) -> ModelReview:
        """Return a copy for a hook; the copy shares only the records with this review."""
        techniques = [Offered(copy(o.plugin), copy(o.offer)) for o in self.techniques]
        plan, config = self.plan.copy(), deepcopy(dict(self.config))
        return replace(self, plan=plan, config=config, techniques=techniques)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The results of a run, from which a plugin decides whether fine-tuning was worth it."""

    plan: Plan
    folder: Path
    """The run folder. The paths in ``measured``, of files with a value per record, are relative to
    this folder."""
    measured: Sequence[Measured]
    baselines: Sequence[BaselineChosen]
    findings: Sequence[FindingReported]
    data: DataLoaded | None
    train: Sequence[Record] = ()
    """The training records that the baselines learned from."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """The metrics of the run's evaluators, by name."""

    def copy(self) -> Evidence:
        """Return a copy for a hook; the copy shares only the records with this evidence."""
        events = ("measured", "baselines", "findings", "data")
        return replace(
            self, plan=self.plan.copy(), **{name: deepcopy(vars(self)[name]) for name in events}
        )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
