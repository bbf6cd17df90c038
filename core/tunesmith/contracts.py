"""The contracts between the core and the components that plugins build.

They are small protocols over plain data, without tensors. A data loader reads records, a technique
makes an artifact, an evaluator measures a text model, and a reporter shows events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from tunesmith.errors import UsageError
from tunesmith.text import mask_personal_data

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tunesmith.additions import Addition
    from tunesmith.encoders import Encoder, Vectors
    from tunesmith.events import Event, FindingReported, Forecast
    from tunesmith.records import Answer, Message, Prompt, Record
    from tunesmith.storage import Checkpoints

C = TypeVar("C", bound="BaseModel")


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedRow:
    """A row of the data that could not be used, with the cause."""

    where: str
    """``file:line``, or ``file, row number`` where rows share a line."""
    cause: str
    """A short, fixed phrase, the same for all rows with the same fault: ``answer is empty``."""
    detail: str = ""
    """The offending content, at most 80 characters."""
    row: str = ""
    """The row as written in the data, for ``skipped.jsonl`` in the run folder."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The result of a data loader: the training records, and other splits if the user gave any.

    All splits have a length and can be read repeatedly, in the same order. ``skipped`` lists every
    row that is not in any split: nothing is dropped silently.
    """

    train: Sequence[Record]
    test: Sequence[Record] | None = None
    """None: the splitter takes the test rows from ``train``."""
    validation: Sequence[Record] | None = None
    """None: the splitter takes the validation rows from ``train``."""
    skipped: Sequence[SkippedRow] = ()
    description: str = ""
    """One line for the user that names the files and the detected format."""
    warnings: Sequence[str] = ()
    """Facts to know before training, such as unused columns."""


class DataLoader(Protocol):
    """Reads the user's data into records."""

    def load(self) -> Dataset:
        """Read all data once and account for every row.

        Raises:
            DataError: no row is usable, or more rows are skipped than the options allow.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """The input of a splitter; ``seed`` drives all random choices."""

    records: Sequence[Record]
    """All records; they can be read repeatedly."""
    seed: int
    test: bool
    """True to split off test rows; False if the loader returned them."""
    test_size: float | int | None
    """Share or number of test rows; None: the splitter's default."""
    validation: bool
    """True to split off validation rows, used to choose settings."""
    needs_validation: bool
    """True if validation rows are required even if there are few rows."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The result of a splitter, as record numbers.

    ``train``, ``test`` and ``validation`` are disjoint, and each is in ascending order.
    """

    train: Sequence[int]
    test: Sequence[int] = ()
    validation: Sequence[int] = ()
    clusters: Sequence[int] = ()
    """The cluster of each record; a cluster is never divided between splits. Empty if unknown."""
    folds: Sequence[Sequence[int]] = ()
    """Folds of training records, to choose settings if there are no validation records."""
    findings: Sequence[Finding] = ()


class Splitter(Protocol):
    """Divides records into splits that share no information, so test scores are not inflated."""

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Return the split; read ``records``, the records of the request, once and to the end.

        Raises:
            DataError: the records cannot be split.
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities (``logprobs``), in nats, of a completion's tokens given its prompt.

    The end token is included, because models are trained on it too.
    """

    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated completion, with its number of ``tokens``, including the end token."""

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    ids: tuple[int, ...] = ()
    """The generated token ids, including the end token. Compute log-probabilities from these: the
    text may tokenize differently. Empty if the model does not return them."""
    confidence: float | None = None
    """A number that grows with the model's confidence in this answer, such as the margin of the
    chosen label. None: the answer's log-probability is used instead."""


Progress = Callable[[int], None]
"""Callback that receives the number of finished prompts."""


class TextModel(Protocol):
    """A model with its own chat template and tokenizer: conversations in, text and scores out.

    Results have the order of the prompts and do not depend on how prompts are batched.
    """

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of each completion given its prompt.

        A completion is a message if it has more than text (:func:`~tunesmith.records.to_answer`).
        """
        ...

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate a greedy completion of at most ``max_new_tokens`` tokens for each prompt."""
        ...


@runtime_checkable
class EmbeddingModel(TextModel, Protocol):
    """A text model that can also return its own hidden states."""

    def embed(self, prompts: Sequence[Prompt], *, progress: Progress | None = None) -> Vectors:
        """Return the mean of the last layer's hidden states over the tokens of each prompt.

        A vector does not depend on the other prompts.
        """
        ...


@runtime_checkable
class SamplingModel(TextModel, Protocol):
    """A text model that can also sample completions at random."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """Sample a completion of at most ``max_new_tokens`` tokens for each prompt.

        A completion depends on the seed, on its prompt, and on how often that prompt occurs earlier
        in ``prompts``. It does not depend on the other prompts.
        """
        ...

    def score_generations(
        self,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of generated completions, computed from their token ids.

        Another model with the same tokenizer may have generated the completions.
        """
        ...


def require_sampling(model: TextModel) -> SamplingModel:
    """Return the model if it can sample; raise UsageError otherwise."""
    if not isinstance(model, SamplingModel):
        raise UsageError(f"{type(model).__name__}: this model cannot sample completions at random")
    return model


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The result of training: an adapter or model folder that transformers and peft can load."""

    path: Path
    format: Literal["adapter", "model"]


@dataclass(frozen=True)
class Scorer:
    """Measures the first metric of an evaluator on validation rows, to choose a checkpoint."""

    higher_is_better: bool
    answer_limit: int
    """Maximum number of tokens in an answer."""
    measure: Callable[[TextModel, Sequence[Record]], Measurement]


@dataclass(frozen=True, kw_only=True)
class Job(Generic[C]):
    """Everything that a technique needs to train.

    The technique writes only under ``out``, and reports its progress with ``emit``. ``emit`` raises
    :class:`tunesmith.errors.RunStopped` when a guard or a signal ends the run: save a checkpoint if
    possible, and do not catch the exception. Derive all random numbers from ``seed``.
    """

    config: C
    model: Path
    train: Sequence[Record]
    validation: Sequence[Record]
    """Rows used for all choices, such as the best checkpoint. Never train on them."""
    out: Path
    seed: int
    device: str
    checkpoints: Checkpoints
    emit: Callable[[Event], None]
    technique: str
    """Name of the technique's offer, for events and the model card."""
    base_name: str = ""
    """Hub id of the base model, otherwise its reference in the run file; may be empty."""
    stage: str = ""
    """Name of the stage if the technique has several; empty otherwise."""
    additions: Sequence[Addition] = ()
    """Additions to each stage of the training, requested by run-file tables."""
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    """Evaluators that can choose on validation rows, by id; only rank 0 has them."""

    def for_stage(self, name: str, config: Any, **changes: Any) -> Job[Any]:
        """Return the job of one stage, with its own folder and checkpoints under ``out``.

        Paths in the stage's events become relative to this job's ``out``.
        """
        from tunesmith.storage import Checkpoints

        out = self.out / name
        parent = self.checkpoints
        fields = {
            "config": config,
            "out": out,
            "checkpoints": Checkpoints(
                out / "checkpoints", on_problem=parent.on_problem, owned=parent.owned
            ),
            "emit": lambda event: self.emit(event.with_path_prefix(name)),
            "stage": name,
        }
        return replace(self, **{**fields, **changes})


class Technique(Protocol):
    """A way to change a model's weights."""

    def train(self, job: Job[Any]) -> Artifact:
        """Train, or continue from ``job.checkpoints.newest()``, and commit the artifact."""
        ...

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Load the saved artifact from disk; None loads the untouched base model."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric: ``values`` has one value per record, in order. The core computes their mean."""

    metric: str
    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None
    """Weight of each value, such as a number of tokens; None: equal weights."""
    outputs: tuple[str, ...] | None = None
    """Generated text of each record, stored with the values; None if nothing was generated."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON object with further results. Reports show its ``finding``. If ``holds`` is false,
    thresholds on the metric fail. ``void`` gives the reason why there can be no verdict."""
    records: Sequence[Record] | None = None
    """Records that the evaluator made itself, for all its metrics; None: the given records."""
    interval: tuple[float, float] | None = None
    """95 % interval of the mean; None: computed from the values as independent samples."""
    counts: tuple[tuple[float, ...], ...] | None = None
    """Numbers of each record for ``Metric.compute``, if ``is_row_mean`` is False."""
    exchanges: Sequence[tuple[Prompt, Message]] | None = None
    """The measured prompt and answer of each record; None: the record's last exchange."""


class Evaluator(Protocol):
    """Measures a text model on records; see :class:`tunesmith.prepared.PreparedEvaluator`."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Measure the model on the records; return a measurement for each metric of the offer."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The run's test rows and other models, for an evaluator that compares models."""

    model: Path
    """Folder of the base model."""
    device: str
    artifacts: Mapping[str, Path]
    """Artifacts of the finished stages, by stage name; ``""`` is the result of the run itself."""
    open: Callable[[Path | None], TextModel]
    """Load an artifact of the run as a text model; None loads the untouched base model."""
    train: Sequence[Record] = ()
    """The training records, for evaluators that need them, for example to look for secrets."""
    test: Sequence[Record] = ()
    """All test records, from which evaluators derive their rules; empty: the measured records."""
    validation: Sequence[Record] = ()
    """The validation records, for evaluators that choose something, such as a threshold."""
    measure_first: Callable[[TextModel, Sequence[Record]], Measurement] | None = None
    """Measure a model on any records by the first metric of the run's first evaluator, which
    decides the verdict; None outside of a run."""


@runtime_checkable
class ComparingEvaluator(Evaluator, Protocol):
    """An evaluator that needs another model of the run besides the measured one."""

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Measure as ``measure`` does; return an empty list until the other model exists."""
        ...


@dataclass(frozen=True, kw_only=True)
class BaselineTask:
    """The task that a baseline solves without fine-tuning; ``seed`` is the seed of the run."""

    train: Sequence[Record]
    """The rows to learn from or to show as examples."""
    base: Callable[[], TextModel]
    """Return the untouched base model, which is opened only once."""
    seed: int
    system_prompt: str | None = None
    """The system prompt that the user would write without fine-tuning."""
    encoder: Callable[[], Encoder] | None = None
    """Return the run's encoder, which is opened only once; None if no encoder is installed."""
    encodes_everywhere: bool = False
    """True if the run file has ``[encoder]``: examples and documents are then retrieved with it."""


@dataclass(frozen=True, kw_only=True)
class BaselineVariant:
    """One configuration of a baseline, such as a prompt with a certain number of examples."""

    name: str
    """Short text, unique among the variants; empty if there is only one."""
    model: TextModel
    """The model that answers prompts. Without probabilities, its ``score`` raises UsageError."""
    omitted: str = ""
    """The reason why the baseline omits this variant, which is then reported but not built."""


class Baseline(Protocol):
    """A way to solve the task from the same training rows without fine-tuning."""

    def variants(self, task: BaselineTask) -> Iterable[BaselineVariant]:
        """Yield the variants to choose from, the default first; build each only on request."""
        ...


class Reporter(Protocol):
    """Receives the events of a run, to show or send them. It is closed even if the run fails."""

    def __enter__(self) -> Reporter: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def report(self, event: Event) -> None:
        """Process one event. After three exceptions the reporter gets no more events."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding of a review hook. An error stops the run before any weight is read."""

    level: Literal["info", "warning", "error"]
    where: str
    """Location of the finding: a run-file key, or a position in the data."""
    message: str
    hint: str = ""
    """Advice on what to do next."""
    count: int = 0
    """Number of rows that the finding is about; 0 if it is not about rows."""
    examples: tuple[str, ...] = ()
    """Up to three affected rows as ``file:line`` and a short text, with personal data masked."""
    test_rows: Sequence[int] = ()
    """Numbers of test rows that are not valid evidence, such as copies of training rows. Scores are
    also reported without these rows. A finding with test rows and the level error does not stop the
    run, but there is no verdict."""
    if_forced: Finding | None = None
    """The finding that replaces this error of ``tunesmith_review_model`` if ``--force`` is given.
    None: ``--force`` has no effect on it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples", tuple(map(mask_personal_data, self.examples)))

    def to_event(self, plugin: str) -> FindingReported:
        """Return the event for the finding; its source is ``where``, by default ``plugin``."""
        from tunesmith.events import FindingReported

        return FindingReported(
            level=self.level,
            source=self.where or plugin,
            message=self.message,
            count=self.count,
            examples=list(self.examples),
            hint=self.hint,
            test_rows=list(self.test_rows),
        )


@dataclass(frozen=True, kw_only=True)
class ReviewResult:
    """The result of reviewing a run together with its base model."""

    findings: Sequence[Finding] = ()
    forecast: Forecast | None = None
    """The predicted memory and time; the core sets ``refused`` if the run is refused."""


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A base model that a plugin recognized. Nothing has been read or downloaded yet.

    ``fetch`` returns the folder with config and weights. It may be slow, and is called once.
    """

    reference: str
    description: str
    fetch: Callable[[], Path]
    revision: str | None = None
    hub_id: str = ""
    """Hub id of the model; empty if it has none."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``config.json`` if reading it is cheap; empty otherwise."""
    tokenizer: Callable[[], Path | None] = lambda: None
    """Return the folder with the tokenizer, or None if it is not on this machine."""
    missing: str = ""
    """The message about what is missing to run the model; empty if nothing is missing."""
    find_obstacle: Callable[[], str] = lambda: ""
    """Return the reason why ``fetch`` would fail now, or "". It may wait several seconds for a
    server."""
