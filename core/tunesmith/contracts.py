"""The contracts between the core and the components that plugins build.

Small protocols over plain data, without tensors: a data loader reads records, a technique makes an
artifact, a text model generates and scores, an evaluator measures it, a reporter shows events.
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
    """A row of the data that could not be used, with the cause."""

    where: str
    """``file:line``, or ``file, row number`` where rows share a line."""
    cause: str
    """A short, stable phrase that is the same for rows with the same fault: ``answer is empty``."""
    detail: str = ""
    """The offending content, at most 80 characters."""
    row: str = ""
    """The row as it is written in the data, for ``skipped.jsonl`` in the run folder."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The result of a data loader: training records and, if the user named them, other parts.

    All parts have a length and can be read again in the same order. ``skipped`` lists every row
    that is in none: nothing is dropped silently.
    """

    train: Sequence[Record]
    test: Sequence[Record] | None = None
    """None if the test part is to be split off ``train``."""
    validation: Sequence[Record] | None = None
    """None if the validation part is to be split off ``train``."""
    skipped: Sequence[SkippedRow] = ()
    description: str = ""
    """One line for the user: the files and the detected format."""
    warnings: Sequence[str] = ()
    """Facts to know before training, such as columns that are not used."""


class DataLoader(Protocol):
    """Reads data of the user into records."""

    def load(self) -> Dataset:
        """Read all data once and account for every row.

        Raises:
            DataError: no row is usable, or more rows are unusable than the options allow.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """The parts to split off the training records, and how; ``seed`` decides what is random."""

    records: Sequence[Record]
    """All records, to be read again if need be."""
    seed: int
    test: bool
    """True to split off rows for evaluation; the loader may have returned them."""
    test_size: float | int | None
    """Share or number of the rows to hold out; None: the default of the splitter."""
    validation: bool
    """True to split off rows by which choices are made."""
    needs_validation: bool
    """True if there must be validation rows, however few rows there are."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Ascending record numbers of ``train``, ``test`` and ``validation``, which are disjoint."""

    train: Sequence[int]
    test: Sequence[int] = ()
    validation: Sequence[int] = ()
    clusters: Sequence[int] = ()
    """The cluster of each record, which is in one part as a whole; empty: not known."""
    folds: Sequence[Sequence[int]] = ()
    """Training records that are left out in turn, to choose by where there are no validation
    records."""
    findings: Sequence[Finding] = ()


class Splitter(Protocol):
    """Divides records into parts, so that what is measured on one was not learned from another."""

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Return the parts; ``records`` are those of the request, to be read once, to the end.

        Raises:
            DataError: the records cannot be split.
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities (``logprobs``), in nats, of a completion's tokens given its prompt.

    The end token is one of them, because it is trained too.
    """

    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """A completion that a model generated, of ``tokens`` tokens, the end token included."""

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    ids: tuple[int, ...] = ()
    """The generated token ids, with the end token, which alone give the log-probability: the text
    may tokenize to others. Empty if the model does not return them."""


Progress = Callable[[int], None]
"""Callback that receives the number of prompts finished so far."""


class TextModel(Protocol):
    """A model with its own chat template and tokenizer: conversations in, text and scores out.

    Results come in the order of the prompts and do not depend on how prompts are batched.
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
    """A text model that can also sample completions at random. Not every text model can."""

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

        A completion depends on the seed, on its prompt and on how often that prompt came before
        it in ``prompts``; it does not depend on the other prompts.
        """
        ...

    def score_generations(
        self,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of generated completions, by their token ids.

        The completions may be of another model with the same tokenizer.
        """
        ...


def require_sampling(model: TextModel) -> SamplingModel:
    """Return the model, typed as one that can sample; raise UsageError if it cannot."""
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

    The technique writes below ``out`` and nowhere else, and reports its progress with ``emit``.
    ``emit`` raises :class:`tunesmith.errors.RunStopped` when a guard or a signal ends the run: save
    a checkpoint if possible, and let the exception pass. Random numbers follow from ``seed``.
    """

    config: C
    model: Path
    train: Sequence[Record]
    validation: Sequence[Record]
    """Rows for everything that chooses, such as the best checkpoint; never trained on."""
    out: Path
    seed: int
    device: str
    checkpoints: Checkpoints
    emit: Callable[[Event], None]
    technique: str
    """Name of the technique's offer, for events and the model card."""
    base_name: str = ""
    """Hub id of the base model, or else its reference in the run file; empty if it has none."""
    stage: str = ""
    """Name of the stage if the technique has several; empty otherwise."""
    additions: Sequence[Addition] = ()
    """What tables of the run file add to the training, in each stage of it."""

    def for_stage(self, name: str, config: Any, **changes: Any) -> Job[Any]:
        """Return the job of one stage: with its own folder and checkpoints below ``out``.

        Paths in the events of the stage are made relative to this job's ``out``.
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
        """Load the saved artifact from disk, or the untouched base model if it is None."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric: ``values`` has one for each record, in order; the core computes their mean."""

    metric: str
    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None
    """Weight of each value, such as a number of tokens; None: all weights are equal."""
    outputs: tuple[str, ...] | None = None
    """Generated text of each record, if there is any; stored with the values."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON: reports show ``finding``, gates need ``holds``; ``void`` is why there is no verdict."""
    records: Sequence[Record] | None = None
    """The evaluator's own records, such as texts, for all of its metrics; None: those given."""
    interval: tuple[float, float] | None = None
    """95 % interval of the mean where the values do not imply it, as of independent samples."""
    counts: tuple[tuple[float, ...], ...] | None = None
    """Of a metric of all rows together: numbers of each record, for the metric's ``compute``."""


class Evaluator(Protocol):
    """Measures a text model on records: see :class:`tunesmith.prepared.PreparedEvaluator`."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one measurement for each metric that the offer names."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The run's test rows and other models, for an evaluator that needs them to measure one."""

    model: Path
    """Folder of the base model."""
    device: str
    artifacts: Mapping[str, Path]
    """Artifacts of the finished stages, by stage; ``""`` is the result of the run itself."""
    open: Callable[[Path | None], TextModel]
    """Load an artifact of the run as a text model, or the untouched base model if it is None."""
    train: Sequence[Record] = ()
    """The training records, for what an evaluator counts in them, such as secrets."""
    test: Sequence[Record] = ()
    """All test records, from which evaluators are prepared; empty: those that are measured."""


@runtime_checkable
class ComparingEvaluator(Evaluator, Protocol):
    """An evaluator that needs another model of the run besides the one that it measures."""

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Measure in place of ``measure``: nothing while the other model does not exist yet."""
        ...


@dataclass(frozen=True, kw_only=True)
class BaselineTask:
    """The same task as the technique's, to be solved without tuning; ``seed`` is the run's."""

    train: Sequence[Record]
    """The rows to learn from, or to show as examples."""
    base: Callable[[], TextModel]
    """Returns the untouched base model, which is opened once."""
    seed: int
    system_prompt: str | None = None
    """The system prompt that the user would write without fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class BaselineVariant:
    """One setting of a baseline, such as a number of examples in the prompt."""

    name: str
    """Short text that no other variant has; empty if there is only one."""
    model: TextModel
    """Answers prompts. That of a classifier has no probabilities: ``score`` raises UsageError."""


class Baseline(Protocol):
    """A way to solve the task from the same training rows without tuning."""

    def variants(self, task: BaselineTask) -> Iterable[BaselineVariant]:
        """Yield the settings to choose from, the default first, each built when it is needed."""
        ...


class Reporter(Protocol):
    """Shows or sends events. It is closed even when the run fails."""

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
    """The next thing to do."""
    count: int = 0
    """The number of rows that the finding is about; 0 if it is not about rows."""
    examples: tuple[str, ...] = ()
    """Up to three of these rows, ``file:line`` and a short text; personal data in it is masked."""
    test_rows: Sequence[int] = ()
    """Numbers of the test rows that show nothing, such as copies of training rows: scores are
    also reported without them. An error about such rows lets the run go on, against its verdict."""
    if_forced: Finding | None = None
    """Replaces an error of ``tunesmith_review_model`` with ``--force``; None: it cannot."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples", tuple(map(mask_personal_data, self.examples)))

    def to_event(self, plugin: str) -> FindingReported:
        """Return the event for the finding; its source is ``plugin`` if it names no position."""
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
    """The result of reviewing a run with its base model."""

    findings: Sequence[Finding] = ()
    forecast: Forecast | None = None
    """The predicted memory and time; the core sets its ``refused`` if the run is refused."""


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A base model that a plugin recognized; nothing is read or downloaded yet.

    ``fetch`` returns the folder with config and weights. It may be slow, and is called once.
    """

    reference: str
    description: str
    fetch: Callable[[], Path]
    revision: str | None = None
    hub_id: str = ""
    """Hub id of the model; empty if it has none."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``config.json`` if it is cheap to read; empty otherwise."""
    tokenizer: Callable[[], Path | None] = lambda: None
    """Return the folder with the tokenizer, or None if it is not on this machine."""
    missing: str = ""
    """The part that is missing to run the model, while planning is possible; empty: nothing."""
