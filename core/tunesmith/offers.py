"""Offers: descriptions of the components that a plugin provides.

An offer names a component, summarizes it, and gives the class of its options (a pydantic model) and
a class or function that builds it. The core reads all offers, but builds only the components of
the run. The class or function can be an import string, ``package.module:name``, so that a large
library is imported only when it is needed. Each kind of component has its own kind of offer, and so
do commands and run-file tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from tunesmith.command_offers import BUILTIN_DISTRIBUTION as BUILTIN_DISTRIBUTION
from tunesmith.command_offers import FILE_DISTRIBUTION as FILE_DISTRIBUTION
from tunesmith.command_offers import CommandOffer as CommandOffer
from tunesmith.command_offers import O as O
from tunesmith.command_offers import Offer as Offer
from tunesmith.command_offers import Offered as Offered
from tunesmith.command_offers import Plugin as Plugin
from tunesmith.import_strings import Imported

if TYPE_CHECKING:
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
    from tunesmith.records import Feature, Part, Record

C = TypeVar("C", bound="BaseModel")
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
    """False if the technique trains nothing, and only opens an existing model."""


@dataclass(frozen=True, kw_only=True)
class ConfiguredOffer(Offer, Generic[C]):
    """Base class of the kinds of offers that have options, usually in a run file."""

    config: type[C]
    """Class of the options: a frozen pydantic model without unknown keys, whose fields have
    descriptions."""
    sample: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Options for the conformance kit: those without a default, and those that let a technique
    learn eight examples in seconds."""


@dataclass(frozen=True, kw_only=True)
class ComponentOffer(ConfiguredOffer[C]):
    """Base class of offers that build a component, usually chosen by ``use`` in a run file."""

    build: Imported[Callable[..., Any]] = Imported()
    """Class or function that builds the component from its options, or its import string."""


@dataclass(frozen=True, kw_only=True)
class DataLoaderOffer(ComponentOffer[C]):
    """An offer of a data loader, which reads records."""

    kind: ClassVar[str] = "data loader"
    hook: ClassVar[str] = "tunesmith_data_loaders"
    build: Imported[Callable[[C], DataLoader]] = Imported()
    recognizes: Callable[[str], bool] = lambda name: False
    """Return True if the loader can read this value of ``train``: a path, a pattern or a URL. It is
    called only if the user chose no loader. Built-in loaders are asked last."""
    read_media: Callable[[C, Path | str], Part] | None = None
    """Return the part of a message that a file or a ``data:`` URL holds, such as an image, for
    ``tunesmith chat --image`` and for messages to ``tunesmith serve``. It raises a ``DataError``
    for a file or a URL that it cannot read, and never opens other URLs. None: rows have only
    text."""


@dataclass(frozen=True, kw_only=True)
class SplitterOffer(ComponentOffer[C]):
    """An offer of a splitter, which divides the records into splits: ``[split]`` in a run file."""

    kind: ClassVar[str] = "splitter"
    hook: ClassVar[str] = "tunesmith_splitters"
    build: Imported[Callable[[C], Splitter]] = Imported()
    by_default: bool = False
    """True if this splitter is used when the run file names no splitter."""
    find_clusters: FindClusters | None = None
    """Return the cluster of each record. Validation and test records in one cluster depend on each
    other and count as one unit. None: use the clusters of the default splitter."""
    divides_groups: bool = False
    """True if rows of one group belong in several splits, for example to train a model per user."""


@dataclass(frozen=True, kw_only=True)
class TechniqueOffer(ComponentOffer[C]):
    """An offer of a technique, which changes the weights of a model."""

    kind: ClassVar[str] = "technique"
    hook: ClassVar[str] = "tunesmith_techniques"
    build: Imported[Callable[[C], Technique]] = Imported()
    accepts: frozenset[type[Record]]
    """Kinds of records that the technique trains on, checked before any weight is read."""
    trains_on: frozenset[Feature] = frozenset()
    """Record features that the technique uses. A run whose records have other features is
    rejected."""
    promises: Promises = field(default_factory=Promises)
    estimate: Callable[[C, EstimateRequest], Iterator[Estimate]] | None = None
    """Yield predictions of memory and compute: first a quick prediction without importing torch,
    then more accurate predictions.

    Each estimate replaces the previous one, and a caller may stop after the first. None: no
    estimate."""
    can_score: Callable[[C], bool] = lambda config: True
    """Return False if the tuned model answers without probabilities, like a model behind an
    endpoint. Default evaluators then measure only answers."""
    needs_validation: bool = False
    """True if the technique needs validation rows for a choice, even if there are few rows."""
    divides_groups: bool = False
    """True if the technique needs rows of each group in all splits, also in files of the user."""
    data_parallel: bool = False
    """True if several torchrun processes can train together. Each process gets the same job. Worker
    ranks (above 0) must not write files, and the events that they emit are dropped."""
    accepts_additions: bool = False
    """True if the technique applies the ``additions`` of its job, as the shared trainer does.
    Otherwise, a run file with a table that adds to the training is rejected."""
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
    """True if the evaluator may leave the metric out when rows are too few or unsuitable for it."""
    compute: Callable[[Any], Any] | None = None
    """Compute a metric with ``is_row_mean=False`` from the summed ``counts`` of rows, with the same
    argument as in ``row_contributions``. Two models are then compared on the rows that both
    answered. Without it, baselines are measured on all test rows."""

    @property
    def limits(self) -> tuple[float, float] | None:
        """The bounds. If ``bounds`` is None: infinite for a metric with a unit, None for a share.

        A metric with a unit is not a share, even if all its values are 0.
        """
        return self.bounds or ((-math.inf, math.inf) if self.unit else None)


@dataclass(frozen=True, kw_only=True)
class EvaluatorOffer(ComponentOffer[C]):
    """An offer of an evaluator, which measures a text model."""

    kind: ClassVar[str] = "evaluator"
    hook: ClassVar[str] = "tunesmith_evaluators"
    build: Imported[Callable[[C], Evaluator]] = Imported()
    metrics: tuple[Metric, ...]
    accepts: frozenset[type[Record]] | None = None
    """Kinds of records that the evaluator measures; None: all. ``tunesmith check`` and ``tunesmith
    run`` reject other kinds before the run starts."""
    default_for: Callable[[Sequence[Record]], bool] = lambda records: False
    """Return True if the evaluator measures these records when the run file names no evaluator."""
    model_count: Callable[[C], int] = lambda config: 1
    """Return the number of models in memory at the same time, including the measured one."""
    generates: bool = False
    """True if the evaluator needs only generated answers, not probabilities, and so can measure a
    classifier."""
    answer_limit: Callable[[C, Sequence[Record]], int | None] = lambda config, records: None
    """Return the largest number of tokens that the evaluator generates for one of the records.
    None: it does not generate answers to the records' prompts. A review rejects rows whose prompt
    leaves no room for that many tokens."""
    scores_references: bool = False
    """True if the evaluator scores reference answers, which must then fit into the context."""
    ranks_answers: bool = False
    """True if the evaluator only ranks the records' answers by their scores. It can then also
    measure a baseline that ranks answers without probabilities."""
    on_training_rows: bool = False
    """True if the evaluator also measures the tuned model on some training rows, for comparison."""
    is_side_effect: bool = False
    """True if the evaluator measures abilities outside the task, on records that it makes itself.

    It measures the untuned base model (``base``) and the tuned model, but no baselines. It is used
    even if the run file names other evaluators, unless ``run.side_effects`` is false."""
    needs_run: bool = False
    """True if the evaluator measures only models of a run, with ``compare``."""
    reads_media: bool = False
    """True if the evaluator can measure records with media, because it passes prompts to the model
    unchanged. If False, a run file that names it for such records is rejected, and it is not used
    by default."""
    sample_records: tuple[Record, ...] = field(default=(), hash=False)
    """Records for the conformance kit, if its own lack what the metrics rate; at least two."""


Solution = Literal["constant", "classifier", "prompt", "retrieval"]
"""Kind of a baseline: a constant answer; a classifier or another small program; a prompt; or a
prompt with text retrieved for each question, such as similar training rows."""


@dataclass(frozen=True, kw_only=True)
class BaselineOffer(ComponentOffer[C]):
    """An offer of a baseline, which solves the task without fine-tuning: ``[baselines]``."""

    kind: ClassVar[str] = "baseline"
    hook: ClassVar[str] = "tunesmith_baselines"
    reserved: ClassVar[frozenset[str]] = frozenset({"tuned", "use", "rows", "budget"})
    build: Imported[Callable[[C], Baseline]] = Imported()
    solution: Solution
    """The kind of solution that a team would use instead of a tuned model. FINE-TUNE requires that
    the tuned model beats a baseline of each kind that suits the rows."""
    cost: int
    """Rank of the cost per answer in production. Among equally good baselines, the cheapest
    baseline counts."""
    needs_model: bool = False
    """True if the baseline queries the base model. It is then scored on ``[baselines] rows`` test
    rows, within the budget."""
    is_reference: bool = False
    """True for the untuned model itself. All evaluators measure it, although it queries the
    model."""
    can_score: bool = True
    """False if the baseline's answers have no probabilities. Only evaluators of answers can then
    measure it."""
    ranks_answers: bool = False
    """True if the baseline only ranks given answers, like a rule by length. Its scores are not
    probabilities, and it cannot generate. Only evaluators that rank answers can measure it."""
    suits: Callable[[Sequence[Record]], bool] = lambda records: False
    """Return True if the baseline suits these training records (a sample). It is not called for
    baselines that the run file lists."""
    reads_media: bool = False
    """True if the baseline can solve tasks whose records have media."""
    is_configured: Callable[[C], bool] = lambda config: False
    """Return True if these options enable the baseline for any records, without its name in
    ``[baselines] use``."""

    @property
    def has_probabilities(self) -> bool:
        """True if the baseline's answers have probabilities, unlike constants and classifiers."""
        return self.can_score and self.solution in ("prompt", "retrieval")


@dataclass(frozen=True, kw_only=True)
class EncoderOffer(ComponentOffer[C]):
    """An offer of an encoder, which turns texts into vectors: ``[encoder]`` in a run file."""

    kind: ClassVar[str] = "encoder"
    hook: ClassVar[str] = "tunesmith_encoders"
    build: Imported[Callable[[C], Encoder]] = Imported()
    is_installed: Callable[[C], bool] = lambda config: False
    """Return True if the encoder can encode without a download. Without ``[encoder]``, classifier
    baselines use the first encoder whose default options are installed."""


@dataclass(frozen=True, kw_only=True)
class GeneratorOffer(ComponentOffer[C]):
    """An offer of a generator, which proposes training rows from those that exist."""

    kind: ClassVar[str] = "generator"
    hook: ClassVar[str] = "tunesmith_generators"
    build: Imported[Callable[[C], Generator]] = Imported()
    makes_variations: bool = False
    """True if a row may be a near-duplicate of the training row that it is derived from."""
    describe_cost: Callable[[C, int], str] = lambda config, count: ""
    """Describe the maximum cost of generating this many rows; empty: only time on this machine."""


@dataclass(frozen=True, kw_only=True)
class ReporterOffer(ComponentOffer[C]):
    """An offer of a reporter, which receives the events of a run."""

    kind: ClassVar[str] = "reporter"
    hook: ClassVar[str] = "tunesmith_reporters"
    build: Imported[Callable[[C, Any], Reporter]] = Imported()
    """Build the reporter from its options and the run's :class:`tunesmith.storage.RunFolder`."""
    by_default: bool = False
    """True if this reporter is used when the run file names no reporter."""
    always: bool = False
    """True if every run uses the reporter, whatever reporters the run file names. Use it for events
    that a plugin must always observe. Such a reporter prints nothing and needs no options."""
    required: bool = False
    """True if an error of this reporter ends the run, as for an audit log. It is closed after all
    other reporters, so their files are complete by then."""
    shows_progress: bool = False
    """True if the reporter shows progress on the terminal; ``--quiet`` turns it off."""


@dataclass(frozen=True, kw_only=True)
class ExporterOffer(ComponentOffer[C]):
    """An offer of an exporter, which writes a model for an engine: ``tunesmith export --to``."""

    kind: ClassVar[str] = "exporter"
    hook: ClassVar[str] = "tunesmith_exporters"
    build: Imported[Callable[[C], Any]] = Imported()
    tolerance: Callable[[C], float | None]
    """Return how much the export may change a log-probability, in nats. None: the export rounds
    weights, so there is no limit."""


@dataclass(frozen=True, kw_only=True)
class ServeExtensionOffer(ComponentOffer[C]):
    """An offer of an extension of the server, a ``tunesmith_cli.serving.ServeExtension``."""

    kind: ClassVar[str] = "serve extension"
    hook: ClassVar[str] = "tunesmith_serve_extensions"
    build: Imported[Callable[[C], Any]] = Imported()
    headers: Callable[[C], Collection[str]] = lambda config: ()
    """Return the names of the request headers that the extension reads. It never gets secrets."""
    needs_logprobs: bool = False
    """True if the extension reads the log-probabilities of tokens."""


@dataclass(frozen=True, kw_only=True)
class RecipeOffer(Offer):
    """An offer of a recipe, a project to start from: ``tunesmith init --recipe NAME``."""

    kind: ClassVar[str] = "recipe"
    hook: ClassVar[str] = "tunesmith_recipes"
    package: str
    """Name of the package that contains the project."""
    folder: str = ""
    """Folder of the project in the package. It has a ``run.toml`` and a ``README.md``."""

    def read_files(self) -> dict[str, bytes]:
        """Return the content of each file of the project, by its path in the project."""
        from importlib import resources  # not needed for `--help`

        folder = Path(str(resources.files(self.package).joinpath(self.folder)))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = {path.relative_to(folder).as_posix(): path for path in files}
        return {n: path.read_bytes() for n, path in names.items() if "__pycache__" not in n}


@dataclass(frozen=True, kw_only=True)
class TableOffer(ConfiguredOffer[C]):
    """An offer of a run-file table, ``[NAME]``, for the plugin's own options.

    Every option needs a default. :meth:`tunesmith.plan.Plan.table` returns the options.
    """

    kind: ClassVar[str] = "table"
    hook: ClassVar[str] = "tunesmith_tables"
    reserved: ClassVar[frozenset[str]] = frozenset(RUN_FILE_TABLES)
    addition: Callable[[C], Addition | None] = lambda options: None
    """Return the table's addition to the training; None if these options add nothing. The default
    options must add nothing."""


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
    RecipeOffer,
    CommandOffer,
    TableOffer,
)
"""All kinds of offers. Lists show them in this order."""
