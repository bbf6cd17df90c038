"""Offers: descriptions of the components that a plugin provides, as data.

An offer names a component, describes it in a phrase, has the class of its options (a pydantic
model) and a class or function that builds it. The core reads offers; it builds only the components
of the run. What imports a heavy library is named by an import string, ``package.module:name``. Each
kind of component has a kind of offer; two more kinds are commands and tables of the run file.
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
"""The tables of a run file that the core reads; a plugin cannot have another one of that name."""


class ImportString(str):
    """The import string of a class or function, ``package.module:name``.

    A call with arguments imports it and calls it; a call without arguments returns it.
    """

    def __call__(self, *arguments: Any) -> Any:
        found = self.load()
        return found(*arguments) if arguments else found

    def load(self) -> Any:
        """Import what the string names.

        Raises:
            ImportError: there is no such module, or nothing of that name in it.
        """
        path, _, name = self.partition(":")
        try:
            module = import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):  # a library that the module needs
                raise
            raise ImportError(f'"{self}": no module "{error.name}"; {_CORRECT_IT}') from None
        if name not in vars(module):
            raise ImportError(f'"{self}": {module.__file__} has no "{name}"; {_CORRECT_IT}')
        return vars(module)[name]


class _Imported(Generic[T]):
    """A field of a dataclass: a function, or the import string of one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> T:
        if instance is None:  # the dataclass asks for a default, and there is none
            raise AttributeError(self.name)
        value: T = vars(instance)[self.name]
        return value

    def __set__(self, instance: object, value: T | str) -> None:
        vars(instance)[self.name] = ImportString(value) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Promises:
    """The promises of a technique; the conformance kit checks each of them."""

    deterministic: bool = True
    """The same seed on the same machine gives the same losses."""
    resumable: bool = True
    """An interrupted run ends with the same weights as an uninterrupted one."""
    base_weights_unchanged: bool = False
    """The base model's own weights are not touched: the artifact is an adapter."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Base of all kinds of offers."""

    kind: ClassVar[str]
    """Name of the kind, for messages."""
    hook: ClassVar[str]
    """Name of the hook that returns offers of this kind."""
    reserved: ClassVar[frozenset[str]] = frozenset()
    """Names that offers of this kind must not have."""
    name: str
    """Lower-case letters, digits and hyphens."""
    summary: str
    """One line, for ``tunesmith plugins list``."""
    needs: tuple[str, ...] = ()
    """Requirements such as ``bitsandbytes>=0.46``: checked from metadata, never by importing."""


@dataclass(frozen=True, kw_only=True)
class ConfiguredOffer(Offer, Generic[C]):
    """Base of the kinds of offers that have options, most of them in a run file."""

    config: type[C]
    """Frozen pydantic model that refuses unknown keys; every field has help, bounds and unit."""


@dataclass(frozen=True, kw_only=True)
class ComponentOffer(ConfiguredOffer[C]):
    """Base of the kinds of offers that build a component, most of them by ``use`` in a run file."""

    build: _Imported[Callable[..., Any]] = _Imported()
    """Class or function that makes the component from its options, or its import string."""


@dataclass(frozen=True, kw_only=True)
class DataLoaderOffer(ComponentOffer[C]):
    """An offer of a data loader, which reads records."""

    kind: ClassVar[str] = "data loader"
    hook: ClassVar[str] = "tunesmith_data_loaders"
    build: _Imported[Callable[[C], DataLoader]] = _Imported()
    recognizes: Callable[[str], bool] = lambda name: False
    """Returns True for a value of ``train`` that it reads if the run file names no loader: a path,
    a pattern or an address. Built-in loaders are asked last."""


@dataclass(frozen=True, kw_only=True)
class SplitterOffer(ComponentOffer[C]):
    """An offer of a splitter, which divides the records into parts: ``[split]`` in a run file."""

    kind: ClassVar[str] = "splitter"
    hook: ClassVar[str] = "tunesmith_splitters"
    build: _Imported[Callable[[C], Splitter]] = _Imported()
    by_default: bool = False
    """True if it is used when the run file names no splitter."""
    find_clusters: FindClusters | None = None
    """Return the cluster of each record: test and validation records of one cluster depend on each
    other, and count as one unit. None: those of the default splitter."""


@dataclass(frozen=True, kw_only=True)
class TechniqueOffer(ComponentOffer[C]):
    """An offer of a technique, which changes the weights of a model."""

    kind: ClassVar[str] = "technique"
    hook: ClassVar[str] = "tunesmith_techniques"
    build: _Imported[Callable[[C], Technique]] = _Imported()
    accepts: frozenset[type[Record]]
    """Kinds of records that it trains on; checked before any weight is read."""
    trains_on: frozenset[Feature] = frozenset()
    """Features of records that it takes into account; records with others are refused."""
    promises: Promises = field(default_factory=Promises)
    estimate: Callable[[C, EstimateRequest], Iterator[Estimate]] | None = None
    """Predicts memory and work: a first estimate quickly, without heavy imports, then better ones.

    Each estimate replaces the one before; a caller may use the first alone. None: no estimate.
    """
    needs_validation: bool = False
    """True if it chooses by its validation rows, so that there must be some in small data too."""
    data_parallel: bool = False
    """True if several processes of torchrun can train together. Each of them gets the same job;
    worker ranks (above 0) write nothing, and the events that they emit are dropped."""
    accepts_additions: bool = False
    """True if it trains with the ``additions`` of its job, as the shared trainer does. With another
    technique, a run file with a table that adds to the training is refused."""
    options_for: Callable[[Sequence[Record]], Mapping[str, object]] = lambda records: {}
    """Returns options that these records need, by dotted key, for ``tunesmith init``."""
    memory_savings: Callable[[C], Sequence[MemorySaving[C]]] | None = None
    """Proposes changes of the options that save memory, the cheapest first."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named number that an evaluator measures, with the direction that is better."""

    name: str
    higher_is_better: bool
    unit: str = ""
    is_descriptive: bool = False
    """True if it describes a model (a length, a distance) and does not rate it."""
    bounds: tuple[float, float] | None = None
    """Smallest and largest value that it can have, which intervals stay within; None: not known."""
    is_row_mean: bool = True
    """False if it is computed from all rows together, as macro F1 or BLEU. The values of the rows
    are then their contributions, whose mean is the metric, and which depend on all rows:
    ``tunesmith_evidence.statistics.row_contributions`` computes them."""
    compute: Callable[[Any], Any] | None = None
    """Of such a metric, computes it from sums of the ``counts`` of rows, as ``row_contributions``
    calls it. Two models are then compared on the rows that both answered; without it, baselines
    are measured on all test rows."""

    @property
    def limits(self) -> tuple[float, float] | None:
        """The bounds; without any, none for a quantity, and None for a share.

        A quantity with a unit is no share, even where all its values are 0.
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
    """Kinds of records that it measures; None: all. With others a run is refused before it begins,
    and ``tunesmith check`` too."""
    default_for: Callable[[Sequence[Record]], bool] = lambda records: False
    """Returns True for records on which it is used if the run file names no evaluator."""
    model_count: Callable[[C], int] = lambda config: 1
    """Returns the number of models in memory at the same time, the measured one included."""
    generates: bool = False
    """True if it measures generated answers alone, so that it can measure a classifier too."""
    answer_limit: Callable[[C, Sequence[Record]], int | None] = lambda config, records: None
    """Returns the largest number of tokens that it lets a model generate for one of the records;
    None: it generates no answers to their prompts. A review refuses rows whose prompt leaves no
    room for so many."""
    scores_references: bool = False
    """True if it scores the reference answers of the records, which must fit in the context."""
    on_training_rows: bool = False
    """True if it also measures the tuned model on a sample of training rows, to compare both."""
    reads_media: bool = False
    """True if it measures records with parts that are not text: it passes prompts to the model as
    they are. With others a run is refused if it names them; by default they are not used."""


Solution = Literal["constant", "classifier", "prompt", "retrieval"]
"""Kind of a baseline: one answer to everything; a classifier or another small program; a prompt; a
prompt with what is retrieved for each question, such as similar training rows."""


@dataclass(frozen=True, kw_only=True)
class BaselineOffer(ComponentOffer[C]):
    """An offer of a baseline, which solves the task without tuning: ``[baselines]``."""

    kind: ClassVar[str] = "baseline"
    hook: ClassVar[str] = "tunesmith_baselines"
    reserved: ClassVar[frozenset[str]] = frozenset({"tuned", "use", "rows", "budget"})
    build: _Imported[Callable[[C], Baseline]] = _Imported()
    solution: Solution
    """Alternative that a team would use instead of a tuned model. FINE-TUNE has to beat one of each
    kind that suits the rows."""
    cost: int
    """Order of the costs of an answer in production: of equally good baselines the cheapest
    counts."""
    needs_model: bool = False
    """True if it asks the base model. It is scored on ``[baselines] rows`` within the budget."""
    is_reference: bool = False
    """True if all evaluators measure it although it needs the model: what tuning starts from."""
    can_score: bool = True
    """False if its answers have no probabilities, so that only evaluators of answers measure it."""
    suits: Callable[[Sequence[Record]], bool] = lambda records: False
    """Returns True for training records on which it is used if the run file names no baselines; it
    gets a sample."""
    reads_media: bool = False
    """True if it solves the task from records with parts that are not text, as an evaluator's."""
    is_configured: Callable[[C], bool] = lambda config: False
    """Returns True for options with which it is used on any records if no baselines are named."""

    @property
    def has_probabilities(self) -> bool:
        """True if its answers have probabilities: constants and classifiers have none."""
        return self.can_score and self.solution in ("prompt", "retrieval")


@dataclass(frozen=True, kw_only=True)
class ReporterOffer(ComponentOffer[C]):
    """An offer of a reporter, which receives the events of a run."""

    kind: ClassVar[str] = "reporter"
    hook: ClassVar[str] = "tunesmith_reporters"
    build: _Imported[Callable[[C, Any], Reporter]] = _Imported()
    """Builds it from the options and the :class:`tunesmith.storage.RunFolder` of the run."""
    by_default: bool = False
    """True if it is used when the run file names no reporter."""
    always: bool = False
    """True if every run uses it, whatever reporters the run file names: for what a plugin must
    observe. It prints nothing, and needs no options."""
    shows_progress: bool = False
    """True if it shows the progress of a run on the terminal; ``--quiet`` runs without it."""


@dataclass(frozen=True, kw_only=True)
class ExporterOffer(ComponentOffer[C]):
    """An offer of an exporter, which writes a model for an engine: ``tunesmith export --to``."""

    kind: ClassVar[str] = "exporter"
    hook: ClassVar[str] = "tunesmith_exporters"
    build: _Imported[Callable[[C], Any]] = _Imported()
    tolerance: Callable[[C], float | None]
    """Returns the largest difference of a log-probability, in nats; None: weights are rounded."""


@dataclass(frozen=True, kw_only=True)
class ServeExtensionOffer(ComponentOffer[C]):
    """An offer of an extension of the server, a ``tunesmith_cli.serving.ServeExtension``."""

    kind: ClassVar[str] = "serve extension"
    hook: ClassVar[str] = "tunesmith_serve_extensions"
    build: _Imported[Callable[[C], Any]] = _Imported()
    headers: Callable[[C], Collection[str]] = lambda config: ()
    """Returns the names of the headers that it sees; it gets none that hold secrets."""
    needs_logprobs: bool = False
    """True if it observes log-probabilities of tokens."""


@dataclass(frozen=True, kw_only=True)
class CommandOffer(Offer):
    """An offer of a command, ``tunesmith NAME``, whose ``summary`` is its help line.

    The name has one word, or two: ``data check`` is the command ``check`` in the group ``data``.
    """

    kind: ClassVar[str] = "command"
    hook: ClassVar[str] = "tunesmith_commands"
    load: _Imported[Callable[[], click.Command]] = _Imported()
    """The import string of the command, or a function that returns it."""


@dataclass(frozen=True, kw_only=True)
class TableOffer(ConfiguredOffer[C]):
    """An offer of a table of the run file, ``[NAME]``, which belongs to the plugin.

    Every option has a default. :meth:`tunesmith.plan.Plan.table` returns the options.
    """

    kind: ClassVar[str] = "table"
    hook: ClassVar[str] = "tunesmith_tables"
    reserved: ClassVar[frozenset[str]] = frozenset(RUN_FILE_TABLES)
    addition: Callable[[C], Addition | None] = lambda options: None
    """Returns what the table adds to the training; None: nothing, as with its defaults."""


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
"""All kinds of offers, in the order in which they are listed."""


O = TypeVar("O", bound=Offer)  # noqa: E741 - O as in offer

BUILTIN_DISTRIBUTION = "tunesmith"
"""Name of the distribution of the built-in plugins."""
FILE_DISTRIBUTION = "file"
"""Used in place of the distribution if the plugin is a single file."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plugin, with the result of loading it, which took ``seconds``."""

    name: str
    distribution: str
    version: str
    module: str
    api: str = ""
    """Declared version of the plugin API; empty: none declared."""
    state: Literal["active", "broken", "blocked", "new"] = "active"
    reason: str = ""
    seconds: float = 0.0
    hooks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Requirements of the hooks that review or judge: ``NEEDS`` of the module."""

    @property
    def full_name(self) -> str:
        """Unique name, ``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def is_builtin(self) -> bool:
        """Return True if it is a part of tunesmith itself."""
        return self.distribution == BUILTIN_DISTRIBUTION


@dataclass(frozen=True)
class Offered(Generic[O]):
    """An offer with the plugin that makes it."""

    plugin: Plugin
    offer: O

    @property
    def full_name(self) -> str:
        """Name for a run file in which the short name is ambiguous, ``distribution:name``.

        Single files share a distribution, so their offers are named ``file:STEM:name``.
        """
        plugin = self.plugin
        prefix = (
            plugin.full_name if plugin.distribution == FILE_DISTRIBUTION else plugin.distribution
        )
        return f"{prefix}:{self.offer.name}"
