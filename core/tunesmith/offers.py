"""Offers: descriptions of the components that a plugin provides.

An offer names a component, summarizes it, and gives the class of its options (a pydantic model) and
a class or function that builds it. The core reads all offers, but builds only the components of
the run. The class or function can be an import string, ``package.module:name``, so that a large
library is only imported when needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

    import click
    from pydantic import BaseModel

    from tunesmith.additions import Addition
    from tunesmith.contracts import (
        Baseline,
        DataLoader,
        Evaluator,
        Reporter,
        Splitter,
        Technique,
    )
    from tunesmith.data.units import FindClusters
    from tunesmith.encoders import Encoder
    from tunesmith.estimates import Estimate, EstimateRequest, MemorySaving
    from tunesmith.generators import Generator
    from tunesmith.records import Feature, Record

C = TypeVar("C", bound="BaseModel")
T = TypeVar("T")
_CORRECT_IT = 'correct the import string, "package.module:name"'
RUN_FILE_TABLES = (
    "run",
    "model",
    "data",
    "split",
    "technique",
    "evaluators",
    "reporters",
    "baselines",
    "encoder",
    "gate",
    "plugins",
)
"""The tables of a run file that the core reads. A plugin's table cannot have one of these names."""


class ImportString(str):
    """The import string of a class or function, ``package.module:name``.

    A call with arguments imports the object and calls it; a call without arguments returns it.
    """

    def __call__(self, *arguments: Any) -> Any:
        found = self.load()
        return found(*arguments) if arguments else found

    def load(self) -> Any:
        """Import the object that the string names.

        Raises:
            ImportError: the module does not exist, or does not define the name.
        """
        path, _, name = self.partition(":")
        try:
            module = import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):  # a library that the module needs
                raise
            raise ImportError(f'"{self}": no module named "{error.name}"; {_CORRECT_IT}') from None
        if name not in vars(module):
            raise ImportError(f'"{self}": {module.__file__} has no "{name}"; {_CORRECT_IT}')
        return vars(module)[name]


class _Imported(Generic[T]):
    """A dataclass field that contains a function or an import string of one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> T:
        if instance is None:  # dataclasses ask a descriptor for the default; this field has none
            raise AttributeError(self.name)
        value: T = vars(instance)[self.name]
        return value

    def __set__(self, instance: object, value: T | str) -> None:
        vars(instance)[self.name] = ImportString(value) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Promises:
    """The guarantees that a technique makes; the conformance kit checks each of them."""

    deterministic: bool = True
    """The same seed on the same machine gives the same losses."""
    resumable: bool = True
    """An interrupted run ends with the same weights as an uninterrupted one."""
    base_weights_unchanged: bool = False
    """The base model's own weights do not change: the artifact is an adapter."""
    trains: bool = True
    """False if it trains nothing, and only opens a model that exists."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Base class of all kinds of offers."""

    kind: ClassVar[str]
    """Name of the kind, for messages."""
    hook: ClassVar[str]
    """Name of the hook that returns offers of this kind."""
    reserved: ClassVar[frozenset[str]] = frozenset()
    """Reserved names, which offers of this kind must not have."""
    name: str
    """Name of the offer, in lower-case letters, digits and hyphens."""
    summary: str
    """One-line summary, shown by ``tunesmith plugins list``."""
    needs: tuple[str, ...] = ()
    """Required packages such as ``bitsandbytes>=0.46``, checked without importing them."""


@dataclass(frozen=True, kw_only=True)
class ConfiguredOffer(Offer, Generic[C]):
    """Base class of the kinds of offers that have options, usually in a run file."""

    config: type[C]
    """Class of the options: a frozen pydantic model without unknown keys, whose fields have
    descriptions."""


@dataclass(frozen=True, kw_only=True)
class ComponentOffer(ConfiguredOffer[C]):
    """Base class of offers that build a component, usually chosen by ``use`` in a run file."""

    build: _Imported[Callable[..., Any]] = _Imported()
    """Class or function that builds the component from its options, or its import string."""


@dataclass(frozen=True, kw_only=True)
class DataLoaderOffer(ComponentOffer[C]):
    """An offer of a data loader, which reads records."""

    kind: ClassVar[str] = "data loader"
    hook: ClassVar[str] = "tunesmith_data_loaders"
    build: _Imported[Callable[[C], DataLoader]] = _Imported()
    recognizes: Callable[[str], bool] = lambda name: False
    """Return True if the loader can read this value of ``train``: a path, a pattern or a URL.
    Only called if the run file names no loader. Built-in loaders are asked last."""


@dataclass(frozen=True, kw_only=True)
class SplitterOffer(ComponentOffer[C]):
    """An offer of a splitter, which divides the records into splits: ``[split]`` in a run file."""

    kind: ClassVar[str] = "splitter"
    hook: ClassVar[str] = "tunesmith_splitters"
    build: _Imported[Callable[[C], Splitter]] = _Imported()
    by_default: bool = False
    """True if this splitter is used when the run file names none."""
    find_clusters: FindClusters | None = None
    """Return the cluster of each record. Validation and test records in one cluster depend on each
    other and count as one unit. None: use the clusters of the default splitter."""


@dataclass(frozen=True, kw_only=True)
class TechniqueOffer(ComponentOffer[C]):
    """An offer of a technique, which changes the weights of a model."""

    kind: ClassVar[str] = "technique"
    hook: ClassVar[str] = "tunesmith_techniques"
    build: _Imported[Callable[[C], Technique]] = _Imported()
    accepts: frozenset[type[Record]]
    """Kinds of records that the technique trains on, checked before any weight is read."""
    trains_on: frozenset[Feature] = frozenset()
    """Record features that the technique uses. A run whose records have other features is
    rejected."""
    promises: Promises = field(default_factory=Promises)
    estimate: Callable[[C, EstimateRequest], Iterator[Estimate]] | None = None
    """Yield predictions of memory and compute: first a quick one without importing torch, then more
    accurate ones.

    Each estimate replaces the previous one, and a caller may stop after the first. None: no
    estimate. """
    can_score: Callable[[C], bool] = lambda config: True
    """Return False if the tuned model answers, but has no probabilities, like a model at an
    endpoint. Default evaluators then measure answers only."""
    needs_validation: bool = False
    """True if the technique needs validation rows for a choice, even if the dataset is small."""
    data_parallel: bool = False
    """True if several torchrun processes can train together. Each process gets the same job. Worker
    ranks (above 0) must not write files, and the events that they emit are dropped."""
    accepts_additions: bool = False
    """True if the technique applies the ``additions`` of its job, like the shared trainer.
    Otherwise a run file with a table that adds to the training is rejected."""
    options_for: Callable[[Sequence[Record]], Mapping[str, object]] = lambda records: {}
    """Return the options that these records need, by dotted key, for ``tunesmith init``."""
    find_initial_model: Callable[[C], Path | None] = lambda config: None
    """Return the artifact that training starts from, which is then evaluated like a stage. None:
    the base model, or a model that need not be evaluated."""
    memory_savings: Callable[[C], Sequence[MemorySaving[C]]] | None = None
    """Propose option changes that save memory, the cheapest first."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named number that an evaluator measures, and whether higher values are better."""

    name: str
    higher_is_better: bool
    unit: str = ""
    is_descriptive: bool = False
    """True if the metric describes a model (a length, a distance) without rating it."""
    bounds: tuple[float, float] | None = None
    """Smallest and largest possible value. Intervals stay within them. None: unknown."""
    is_row_mean: bool = True
    """False if the metric is computed from all rows together, like macro F1 or BLEU. The values of
    the rows are then contributions that depend on all rows and whose mean is the metric. Compute
    them with ``tunesmith_evidence.statistics.row_contributions``."""
    is_optional: bool = False
    """True if the evaluator does not measure it on rows that are too few or unsuitable for it."""
    compute: Callable[[Any], Any] | None = None
    """Compute a metric with ``is_row_mean=False`` from the summed ``counts`` of rows. It is called
    as by ``row_contributions``. Two models are then compared on the rows that both answered.
    Without it, baselines are measured on all test rows."""

    @property
    def limits(self) -> tuple[float, float] | None:
        """The bounds. Without ``bounds``: infinite for a metric with a unit, None for a share.

        A metric with a unit is not a share, even if all its values are 0.
        """
        return self.bounds or ((-math.inf, math.inf) if self.unit else None)


@dataclass(frozen=True, kw_only=True)
class EvaluatorOffer(ComponentOffer[C]):
    """An offer of an evaluator, which measures a text model."""

    kind: ClassVar[str] = "evaluator"
    hook: ClassVar[str] = "tunesmith_evaluators"
    build: _Imported[Callable[[C], Evaluator]] = _Imported()
    metrics: tuple[Metric, ...]
    accepts: frozenset[type[Record]] | None = None
    """Kinds of records that the evaluator measures; None: all. ``tunesmith check`` and ``tunesmith
    run`` reject other kinds before the run starts."""
    default_for: Callable[[Sequence[Record]], bool] = lambda records: False
    """Return True if the evaluator measures these records when the run file names no evaluator."""
    model_count: Callable[[C], int] = lambda config: 1
    """Return the number of models in memory at the same time, including the measured one."""
    generates: bool = False
    """True if it measures generated answers only, not probabilities, and so can measure a
    classifier."""
    answer_limit: Callable[[C, Sequence[Record]], int | None] = lambda config, records: None
    """Return the largest number of tokens that the evaluator generates for one of the records.
    None: it does not generate answers to the records' prompts. A review rejects rows whose prompt
    leaves no room for that many tokens."""
    scores_references: bool = False
    """True if it scores the records' reference answers, which must then fit into the context."""
    ranks_answers: bool = False
    """True if it only ranks the records' answers by their scores. It can then also measure a
    baseline that ranks answers without probabilities."""
    on_training_rows: bool = False
    """True if it also measures the tuned model on a sample of training rows, for comparison."""
    is_side_effect: bool = False
    """True if it measures abilities outside the task, on records that it makes itself.

    It measures the untuned base model (``base``) and the tuned model, but no baselines. It is also
    used if the run file names other evaluators, unless ``run.side_effects`` is false."""
    reads_media: bool = False
    """True if it can measure records with media, because it passes prompts to the model unchanged.
    If False, a run file that names it for such records is rejected, and it is not used by
    default."""


Solution = Literal["constant", "classifier", "prompt", "retrieval"]
"""Kind of a baseline: a constant answer; a classifier or another small program; a prompt; or a
prompt with text retrieved for each question, such as similar training rows."""


@dataclass(frozen=True, kw_only=True)
class BaselineOffer(ComponentOffer[C]):
    """An offer of a baseline, which solves the task without fine-tuning: ``[baselines]``."""

    kind: ClassVar[str] = "baseline"
    hook: ClassVar[str] = "tunesmith_baselines"
    reserved: ClassVar[frozenset[str]] = frozenset({"tuned", "use", "rows", "budget"})
    build: _Imported[Callable[[C], Baseline]] = _Imported()
    solution: Solution
    """The kind of solution that a team would use instead of a tuned model. FINE-TUNE requires that
    the tuned model beats a baseline of each kind that suits the rows."""
    cost: int
    """Rank of the cost per answer in production. Among equally good baselines, the cheapest
    counts."""
    needs_model: bool = False
    """True if it queries the base model. It is then scored on ``[baselines] rows``, in the
    budget."""
    is_reference: bool = False
    """True for the untuned model itself: all evaluators measure it, although it queries the
    model."""
    can_score: bool = True
    """False if its answers have no probabilities. Only evaluators of answers can then measure
    it."""
    ranks_answers: bool = False
    """True if it only ranks given answers, like a rule by length: its scores are not probabilities,
    and it cannot generate. Only evaluators that rank answers can measure it."""
    suits: Callable[[Sequence[Record]], bool] = lambda records: False
    """Return True if the baseline suits these training records (a sample). Only called if the run
    file names no baselines."""
    reads_media: bool = False
    """True if it can solve tasks whose records have media."""
    is_configured: Callable[[C], bool] = lambda config: False
    """Return True if the baseline, with these options, is used for any records when none is
    named."""

    @property
    def has_probabilities(self) -> bool:
        """True if its answers have probabilities; those of constants and classifiers do not."""
        return self.can_score and self.solution in ("prompt", "retrieval")


@dataclass(frozen=True, kw_only=True)
class EncoderOffer(ComponentOffer[C]):
    """An offer of an encoder, which turns texts into vectors: ``[encoder]`` in a run file."""

    kind: ClassVar[str] = "encoder"
    hook: ClassVar[str] = "tunesmith_encoders"
    build: _Imported[Callable[[C], Encoder]] = _Imported()
    is_installed: Callable[[C], bool] = lambda config: False
    """Return True if it can encode without a download. Without ``[encoder]``, classifier baselines
    use the first encoder whose default options are installed."""


@dataclass(frozen=True, kw_only=True)
class GeneratorOffer(ComponentOffer[C]):
    """An offer of a generator, which proposes training rows from those that exist."""

    kind: ClassVar[str] = "generator"
    hook: ClassVar[str] = "tunesmith_generators"
    build: _Imported[Callable[[C], Generator]] = _Imported()
    makes_variations: bool = False
    """True if a row may be a near-duplicate of the training row that it is derived from."""
    describe_cost: Callable[[C, int], str] = lambda config, count: ""
    """Describe what so many rows cost at most; empty: only time on this machine."""


@dataclass(frozen=True, kw_only=True)
class ReporterOffer(ComponentOffer[C]):
    """An offer of a reporter, which receives the events of a run."""

    kind: ClassVar[str] = "reporter"
    hook: ClassVar[str] = "tunesmith_reporters"
    build: _Imported[Callable[[C, Any], Reporter]] = _Imported()
    """Build the reporter from its options and the run's :class:`tunesmith.storage.RunFolder`."""
    by_default: bool = False
    """True if this reporter is used when the run file names none."""
    always: bool = False
    """True if every run uses it, whatever reporters the run file names. Use it for events that a
    plugin must always observe. Such a reporter prints nothing and needs no options."""
    shows_progress: bool = False
    """True if it shows the progress of a run on the terminal; ``--quiet`` turns it off."""


@dataclass(frozen=True, kw_only=True)
class ExporterOffer(ComponentOffer[C]):
    """An offer of an exporter, which writes a model for an engine: ``tunesmith export --to``."""

    kind: ClassVar[str] = "exporter"
    hook: ClassVar[str] = "tunesmith_exporters"
    build: _Imported[Callable[[C], Any]] = _Imported()
    tolerance: Callable[[C], float | None]
    """Return how much a log-probability may change by the export, in nats. None: the export rounds
    weights, so there is no limit."""


@dataclass(frozen=True, kw_only=True)
class ServeExtensionOffer(ComponentOffer[C]):
    """An offer of an extension of the server, a ``tunesmith_cli.serving.ServeExtension``."""

    kind: ClassVar[str] = "serve extension"
    hook: ClassVar[str] = "tunesmith_serve_extensions"
    build: _Imported[Callable[[C], Any]] = _Imported()
    headers: Callable[[C], Collection[str]] = lambda config: ()
    """Return the names of the request headers that it reads. It never gets headers with secrets."""
    needs_logprobs: bool = False
    """True if it reads the log-probabilities of tokens."""


@dataclass(frozen=True, kw_only=True)
class CommandOffer(Offer):
    """An offer of a command, ``tunesmith NAME``, whose ``summary`` is its help line.

    The name has one or two words: ``data check`` is the command ``check`` in the group ``data``.
    """

    kind: ClassVar[str] = "command"
    hook: ClassVar[str] = "tunesmith_commands"
    load: _Imported[Callable[[], click.Command]] = _Imported()
    """The import string of the command, or a function that returns it."""
    section: str = "More"
    """Heading in ``tunesmith --help`` that lists the command: ``Start``, ``Decide``, ``Data``,
    ``Results``, ``Use``, ``Maintain``, or a heading of your own."""
    position: int = 100
    """Place below the heading: lower numbers come first, equal ones in alphabetical order."""


@dataclass(frozen=True, kw_only=True)
class TableOffer(ConfiguredOffer[C]):
    """An offer of a table of the run file, ``[NAME]``, for the plugin's own options.

    Every option needs a default. :meth:`tunesmith.plan.Plan.table` returns the options.
    """

    kind: ClassVar[str] = "table"
    hook: ClassVar[str] = "tunesmith_tables"
    reserved: ClassVar[frozenset[str]] = frozenset(RUN_FILE_TABLES)
    addition: Callable[[C], Addition | None] = lambda options: None
    """Return the table's addition to the training; None if these options, like the defaults, add
    none."""


KINDS: tuple[type[Offer], ...] = (
    DataLoaderOffer,
    SplitterOffer,
    TechniqueOffer,
    EvaluatorOffer,
    BaselineOffer,
    EncoderOffer,
    GeneratorOffer,
    ReporterOffer,
    ExporterOffer,
    ServeExtensionOffer,
    CommandOffer,
    TableOffer,
)
"""All kinds of offers, in listing order."""
O = TypeVar("O", bound=Offer)  # noqa: E741 - O as in offer

BUILTIN_DISTRIBUTION = "tunesmith"
"""Name of the distribution of the built-in plugins."""
FILE_DISTRIBUTION = "file"
"""Replaces the distribution's name if the plugin is a single file."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin and the result of loading it, which took ``seconds``."""

    name: str
    distribution: str
    version: str
    module: str
    api: str = ""
    """Version of the plugin API that the distribution declares; empty if it declares none."""
    state: Literal["active", "broken", "blocked", "new"] = "active"
    reason: str = ""
    seconds: float = 0.0
    hooks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Requirements of the review and verdict hooks (``NEEDS`` in the module)."""

    @property
    def full_name(self) -> str:
        """Unique name, ``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def is_builtin(self) -> bool:
        """Return True if the plugin is part of tunesmith itself."""
        return self.distribution == BUILTIN_DISTRIBUTION


@dataclass(frozen=True)
class Offered(Generic[O]):
    """An offer, together with the plugin that makes it."""

    plugin: Plugin
    offer: O

    @property
    def full_name(self) -> str:
        """Name to use in a run file if the short name is ambiguous: ``distribution:name``.

        Single files share a distribution, so their offers are named ``file:STEM:name``.
        """
        plugin = self.plugin
        prefix = (
            plugin.full_name if plugin.distribution == FILE_DISTRIBUTION else plugin.distribution
        )
        return f"{prefix}:{self.offer.name}"
