"""Offers: data that describes the components of a plugin.

An offer names a component, summarizes it, and gives the class of its options (a pydantic model) and
a class or function that builds it. The core reads all offers, but builds only the components of
the run. An import string, ``package.module:name``, avoids importing a heavy library early. Each
kind of component has its own kind of offer, and so do commands and tables of the run file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

if TYPE_CHECKING:
    import click
    from pydantic import BaseModel

    from tunesmith.additions import Addition
    from tunesmith.contracts import Baseline, DataLoader, Evaluator, Reporter, Splitter, Technique
    from tunesmith.data.units import FindClusters
    from tunesmith.estimates import Estimate, EstimateRequest, MemorySaving
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
    """A dataclass field that holds a function, or the import string of one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> T:
        if instance is None:  # the dataclass asks for a default; the field has none
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


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Base class of all kinds of offers."""

    kind: ClassVar[str]
    """Name of the kind, for messages."""
    hook: ClassVar[str]
    """Name of the hook that returns offers of this kind."""
    reserved: ClassVar[frozenset[str]] = frozenset()
    """Names that offers of this kind must not have."""
    name: str
    """Lower-case letters, digits and hyphens."""
    summary: str
    """One line, shown by ``tunesmith plugins list``."""
    needs: tuple[str, ...] = ()
    """Requirements such as ``bitsandbytes>=0.46``, checked from metadata without importing."""


@dataclass(frozen=True, kw_only=True)
class ConfiguredOffer(Offer, Generic[C]):
    """Base class of the kinds of offers that have options, usually in a run file."""

    config: type[C]
    """Frozen pydantic model that refuses unknown keys. Each field has a help text, bounds, a
    unit."""


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
    """Return True if the loader reads this value of ``train``: a path, a pattern or an address.
    Only called if the run file names no loader. Built-in loaders are asked last."""


@dataclass(frozen=True, kw_only=True)
class SplitterOffer(ComponentOffer[C]):
    """An offer of a splitter, which divides the records into parts: ``[split]`` in a run file."""

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
    refused."""
    promises: Promises = field(default_factory=Promises)
    estimate: Callable[[C, EstimateRequest], Iterator[Estimate]] | None = None
    """Yield predictions of memory and work: first a quick one without heavy imports, then better
    ones.

    Each estimate replaces the previous one, and a caller may stop after the first. None: no
    estimate. """
    needs_validation: bool = False
    """True if the technique needs validation rows to choose by, even if the dataset is small."""
    data_parallel: bool = False
    """True if several torchrun processes can train together. Each process gets the same job. Worker
    ranks (above 0) must not write files, and the events that they emit are dropped."""
    accepts_additions: bool = False
    """True if the technique applies the ``additions`` of its job, like the shared trainer.
    Otherwise a run file with a table that adds to the training is refused."""
    options_for: Callable[[Sequence[Record]], Mapping[str, object]] = lambda records: {}
    """Return the options that these records need, by dotted key, for ``tunesmith init``."""
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
    compute: Callable[[Any], Any] | None = None
    """For a metric with ``is_row_mean=False``: compute it from sums of the rows' ``counts``, as
    ``row_contributions`` calls it. Two models are then compared on the rows that both answered.
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
    run`` refuse other kinds before the run starts."""
    default_for: Callable[[Sequence[Record]], bool] = lambda records: False
    """Return True if the evaluator measures these records when the run file names no evaluator."""
    model_count: Callable[[C], int] = lambda config: 1
    """Return the number of models in memory at the same time, including the measured one."""
    generates: bool = False
    """True if it only measures generated answers, so that it can also measure a classifier."""
    answer_limit: Callable[[C, Sequence[Record]], int | None] = lambda config, records: None
    """Return the largest number of tokens that the evaluator generates for one of the records.
    None: it does not generate answers to the records' prompts. A review refuses rows whose prompt
    leaves no room for that many tokens."""
    scores_references: bool = False
    """True if it scores the reference answers of the records, which must fit in the context."""
    on_training_rows: bool = False
    """True if it also measures the tuned model on a sample of training rows, for comparison."""
    reads_media: bool = False
    """True if it can measure records with parts that are not text, by passing prompts to the model
    unchanged. Otherwise naming it for such records is refused, and it is not used by default."""


Solution = Literal["constant", "classifier", "prompt", "retrieval"]
"""Kind of a baseline: a constant answer; a classifier or another small program; a prompt; or a
prompt with text retrieved for each question, such as similar training rows."""


@dataclass(frozen=True, kw_only=True)
class BaselineOffer(ComponentOffer[C]):
    """An offer of a baseline, which solves the task without tuning: ``[baselines]``."""

    kind: ClassVar[str] = "baseline"
    hook: ClassVar[str] = "tunesmith_baselines"
    reserved: ClassVar[frozenset[str]] = frozenset({"tuned", "use", "rows", "budget"})
    build: _Imported[Callable[[C], Baseline]] = _Imported()
    solution: Solution
    """What a team would use instead of a tuned model. For FINE-TUNE, the tuned model must beat a
    baseline of each kind that suits the rows."""
    cost: int
    """Rank of the cost per answer in production. Among equally good baselines, the cheapest
    counts."""
    needs_model: bool = False
    """True if it queries the base model. It is then scored on ``[baselines] rows``, in the
    budget."""
    is_reference: bool = False
    """True if all evaluators measure it although it queries the model: the point where tuning
    starts."""
    can_score: bool = True
    """False if its answers have no probabilities. Only evaluators of answers can then measure
    it."""
    suits: Callable[[Sequence[Record]], bool] = lambda records: False
    """Return True if the baseline suits these training records (a sample). Only called if the run
    file names no baselines."""
    reads_media: bool = False
    """True if it can solve the task from records with parts that are not text."""
    is_configured: Callable[[C], bool] = lambda config: False
    """Return True if these options request the baseline for any records when none are named."""

    @property
    def has_probabilities(self) -> bool:
        """True if its answers have probabilities; those of constants and classifiers do not."""
        return self.can_score and self.solution in ("prompt", "retrieval")


@dataclass(frozen=True, kw_only=True)
class ReporterOffer(ComponentOffer[C]):
    """An offer of a reporter, which receives the events of a run."""

    kind: ClassVar[str] = "reporter"
    hook: ClassVar[str] = "tunesmith_reporters"
    build: _Imported[Callable[[C, Any], Reporter]] = _Imported()
    """Build it from the options and the :class:`tunesmith.storage.RunFolder` of the run."""
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
    """Return the largest allowed difference of a log-probability, in nats; None: weights are
    rounded."""


@dataclass(frozen=True, kw_only=True)
class ServeExtensionOffer(ComponentOffer[C]):
    """An offer of an extension of the server, a ``tunesmith_cli.serving.ServeExtension``."""

    kind: ClassVar[str] = "serve extension"
    hook: ClassVar[str] = "tunesmith_serve_extensions"
    build: _Imported[Callable[[C], Any]] = _Imported()
    headers: Callable[[C], Collection[str]] = lambda config: ()
    """Return the names of the request headers that it reads. Headers with secrets are withheld."""
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
    """Return what the table adds to the training, or None for nothing, as with its defaults."""


KINDS: tuple[type[Offer], ...] = (
    DataLoaderOffer,
    SplitterOffer,
    TechniqueOffer,
    EvaluatorOffer,
    BaselineOffer,
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
    """One plugin and the result of loading it; ``seconds`` is the time that loading took."""

    name: str
    distribution: str
    version: str
    module: str
    api: str = ""
    """Declared version of the plugin API; empty if not declared."""
    state: Literal["active", "broken", "blocked", "new"] = "active"
    reason: str = ""
    seconds: float = 0.0
    hooks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Requirements of the hooks that review or judge (``NEEDS`` in the module)."""

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
    """An offer and the plugin that makes it."""

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
