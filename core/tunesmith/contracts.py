"""The contracts between the core and the components that plugins build.

They are small protocols over plain data, without tensors. A data loader reads records, a technique
makes an artifact, a text model generates and scores, an evaluator measures the model, and a
reporter shows events.
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
    from tunesmith.events import Event, FindingReported, Forecast
    from tunesmith.records import Answer, Prompt, Record
    from tunesmith.storage import Checkpoints

C = TypeVar("C", bound="BaseModel")


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedRow:
    """A row of the data that could not be used, and the cause."""

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
    """The result of a data loader: the training records and any other parts that the user named.

    All parts have a length and can be read repeatedly, in the same order. ``skipped`` lists every
    row that is not in any part: nothing is dropped silently."""

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
    """The parts to split off the training records, and how. ``seed`` drives all random choices."""

    records: Sequence[Record]
    """All records; they can be read repeatedly."""
    seed: int
    test: bool
    """True to split off test rows; False if the loader returned them."""
    test_size: float | int | None
    """Share or number of test rows; None: the splitter's default."""
    validation: bool
    """True to split off validation rows, which settings are chosen on."""
    needs_validation: bool
    """True if validation rows are required even if there are few rows."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Disjoint parts: ascending record numbers of ``train``, ``test`` and ``validation``."""

    train: Sequence[int]
    test: Sequence[int] = ()
    validation: Sequence[int] = ()
    clusters: Sequence[int] = ()
    """The cluster of each record. A cluster is never divided between parts. Empty: unknown."""
    folds: Sequence[Sequence[int]] = ()
    """Folds of training records for cross-validation, to choose settings on if there are no
    validation records."""
    findings: Sequence[Finding] = ()


class Splitter(Protocol):
    """Divides records into parts that share no information, so that test scores are honest."""

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Return the parts; ``records`` are those of the request, to be read once, to the end.

        Raises:
            DataError: the records cannot be split.
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities (``logprobs``), in nats, of a completion's tokens given its prompt.

    The end token is included, because it is trained too.
    """

    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated completion; ``tokens`` is its number of tokens, including the end token."""

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    ids: tuple[int, ...] = ()
    """The generated token ids, including the end token. Compute log-probabilities from these: the
    text may tokenize differently. Empty if the model does not return them."""


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
class SamplingModel(TextModel, Protocol):
    """A text model that can also sample completions at random, which not every text model can."""

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


@dataclass(frozen=True, kw_only=True)
class Job(Generic[C]):
    """Everything that a technique needs to train.

    The technique writes only below ``out``, and reports its progress with ``emit``. ``emit`` raises
    :class:`tunesmith.errors.RunStopped` when a guard or a signal ends the run: save a checkpoint if
    possible, and do not catch the exception. Derive all random numbers from ``seed``.
    """

    config: C
    model: Path
    train: Sequence[Record]
    validation: Sequence[Record]
    """Rows for every choice, such as the best checkpoint. Never train on them."""
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
    """What tables of the run file add to each stage of the training."""

    def for_stage(self, name: str, config: Any, **changes: Any) -> Job[Any]:
        """Return the job of one stage, with its own folder and checkpoints below ``out``.

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
    """JSON. Reports show ``finding``; a false ``holds`` fails thresholds; ``void``: why no
    verdict."""
    records: Sequence[Record] | None = None
    """The evaluator's own records, such as texts, used for all its metrics; None: the given
    ones."""
    interval: tuple[float, float] | None = None
    """95 % interval of the mean; None: computed from the values as independent samples."""
    counts: tuple[tuple[float, ...], ...] | None = None
    """Numbers of each record for the metric's ``compute``, for a metric with
    ``is_row_mean=False``."""


class Evaluator(Protocol):
    """Measures a text model on records; see :class:`tunesmith.prepared.PreparedEvaluator`."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one measurement for each of the offer's metrics."""
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
    """The training records, for evaluators that search them, for example for secrets."""
    test: Sequence[Record] = ()
    """All test records, which evaluators are prepared from; empty: the measured records."""


@runtime_checkable
class ComparingEvaluator(Evaluator, Protocol):
    """An evaluator that needs another model of the run besides the measured one."""

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Measure instead of ``measure``; return nothing until the other model exists."""
        ...


@dataclass(frozen=True, kw_only=True)
class BaselineTask:
    """The technique's task, to be solved without fine-tuning; ``seed`` is the seed of the run."""

    train: Sequence[Record]
    """The rows to learn from, or to show as examples."""
    base: Callable[[], TextModel]
    """Return the untouched base model, which is opened only once."""
    seed: int
    system_prompt: str | None = None
    """The system prompt that the user would write without fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class BaselineVariant:
    """One setting of a baseline, such as a number of examples in the prompt."""

    name: str
    """Short text, unique among the variants; empty if there is only one."""
    model: TextModel
    """Answers prompts. A classifier has no probabilities: its ``score`` raises UsageError."""


class Baseline(Protocol):
    """A way to solve the task from the same training rows without fine-tuning."""

    def variants(self, task: BaselineTask) -> Iterable[BaselineVariant]:
        """Yield the settings to choose from, the default first; build each only when needed."""
        ...


class Reporter(Protocol):
    """Shows or sends events. It is closed even if the run fails."""

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
    """The run-file key or the position in the data that the finding is about."""
    message: str
    hint: str = ""
    """What the user should do next."""
    count: int = 0
    """Number of rows that the finding is about; 0 if it is not about rows."""
    examples: tuple[str, ...] = ()
    """Up to three of these rows as ``file:line`` and a short text, with personal data masked."""
    test_rows: Sequence[int] = ()
    """Numbers of test rows that are not valid evidence, such as copies of training rows. Scores are
    also reported without them. An error about such rows does not stop the run, but blocks its
    verdict."""
    if_forced: Finding | None = None
    """Replaces an error of ``tunesmith_review_model`` under ``--force``; None: cannot be forced."""

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
    """What is missing to run the model, although planning is possible; empty: nothing."""
    find_obstacle: Callable[[], str] = lambda: ""
    """Return why ``fetch`` would fail now, or an empty string. May ask a server for seconds."""
