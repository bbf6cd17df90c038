"""Events: everything that a run reports while it runs.

An event is a small frozen value that becomes one line of ``events.jsonl``. Reporters show events,
guards check them, and the report is built from them, so the live display and the report always
agree. Memory sizes are in bytes, durations in seconds, and losses in nats per token.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from pydantic import TypeAdapter

JSON = dict[str, Any]
"""A JSON object. Values are ``Any``, because they are checked where they are read."""

EVENT_TYPES: dict[str, type[Event]] = {}
"""Event classes by ``kind``: the value of ``event`` in a line of ``events.jsonl``."""
PATH_FIELDS = frozenset({"artifact", "path", "records"})
"""Event fields that are paths, relative to the folder of the run or of its stage."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base class of all events; each subclass gives its ``kind`` as a class argument."""

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind
        EVENT_TYPES[kind] = cls

    def to_json(self) -> JSON:
        """Return the event as a JSON object, with its kind first, under ``event``."""
        return {"event": self.kind, **dataclasses.asdict(self)}

    def with_path_prefix(self, folder: str) -> Event:
        """Return the event with ``folder`` prepended to its relative paths."""
        paths = {name: f"{folder}/{vars(self)[name]}" for name in PATH_FIELDS & vars(self).keys()}
        return dataclasses.replace(self, **paths)


def from_json(line: JSON) -> Event | None:
    """Build an event from a line of ``events.jsonl``; return None if its kind is unknown.

    Raises:
        ValueError: a field is missing or has the wrong type.
    """
    kind = str(line.get("event"))
    if kind not in EVENT_TYPES:
        return None
    from pydantic import ValidationError

    try:
        return _type_adapter(kind).validate_python(line)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
        raise ValueError(f'the field "{where}" of an event "{kind}": {message}') from None


@cache
def _type_adapter(kind: str) -> TypeAdapter[Event]:
    from pydantic import TypeAdapter  # slow, and help imports this module

    return TypeAdapter(EVENT_TYPES[kind])


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event, kind="run-started"):
    """The run has started: its folder is locked and its plan resolved. A resume emits it again."""

    run: str
    name: str
    started: str
    plan: JSON
    versions: dict[str, str]
    plugins: list[JSON]
    resumed: bool = False
    trains: bool = True
    """False if the run only measures baselines."""
    additions: list[str] = field(default_factory=list)
    """Tables of the run file that add to the training, such as a further loss term."""


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event, kind="phase-started"):
    """A phase of the run has started; ``total`` is its number of work units."""

    phase: str
    total: int | None = None
    unit: str = "rows"


@dataclass(frozen=True, kw_only=True)
class PhaseAdvanced(Event, kind="phase-advanced"):
    """``done`` units of the current phase are finished. Reporters get it; the log does not."""

    phase: str
    done: int


@dataclass(frozen=True, kw_only=True)
class PhaseEnded(Event, kind="phase-ended"):
    """A phase of the run, such as loading or training, has ended."""

    phase: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PartEnded(Event, kind="part-ended"):
    """A part of the run has ended or was stopped; ``seconds`` is the time in this process.

    The parts are ``preparation``, ``baselines``, ``training`` and ``evaluation``.
    """

    part: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DataLoaded(Event, kind="data-loaded"):
    """The data is loaded and split. ``skipped`` counts the skipped rows by cause."""

    description: str
    train: int
    test: int
    validation: int = 0
    skipped: dict[str, int]
    examples: list[JSON] = field(default_factory=list)
    """Some of the skipped rows, each with ``where``, ``cause`` and ``detail``."""
    fingerprint: str = ""
    """SHA-256 of each split's records, in order. A run cannot be resumed with different data."""
    lengths: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Number of texts by length, rounded up to a power of 2 characters, for ``prompt`` and
    ``answer`` of ``train`` and ``test``. In a large split, only some rows are counted."""


@dataclass(frozen=True, kw_only=True)
class ModelResolved(Event, kind="model-resolved"):
    """The files of the base model are available. ``files`` maps each name to a hash.

    A hash covers the size of a file, its start, and samples of the rest. A run cannot be resumed
    with a different base model.
    """

    reference: str
    description: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FindingReported(Event, kind="finding"):
    """A message for the user; a warning is also listed in the report."""

    level: Literal["info", "warning", "error"]
    source: str
    message: str
    count: int = 0
    """Number of rows that the message is about; 0 if it is not about rows."""
    examples: list[str] = field(default_factory=list)
    hint: str = ""
    test_rows: list[int] = field(default_factory=list)
    """Numbers of the test rows that are not valid evidence because of this finding."""

    @property
    def text(self) -> str:
        """The message, followed by its examples and hint."""
        message = ": ".join(filter(None, [self.message, "; ".join(self.examples)]))
        return "; ".join(filter(None, [message, self.hint]))


@dataclass(frozen=True, kw_only=True)
class Forecast(Event, kind="forecast"):
    """The predicted memory of training and duration of the run, emitted before the baselines."""

    technique: str
    method: Literal["analytic", "traced"]
    device: str
    device_type: Literal["cuda", "cpu"]
    available: int | None
    """Bytes available to the run; None if unknown."""
    memory: dict[str, int]
    """Peak bytes over all phases: ``low``, ``expected``, ``high``."""
    phase: str
    """Name of the phase with the highest expected memory."""
    uncalibrated_peak: int
    """Expected peak in bytes, before calibration with earlier runs on this device."""
    untracked_bytes: int
    """Bytes of the expected peak that the device's memory counter does not include."""
    calibration_runs: int
    """Number of earlier runs used for the calibration."""
    seconds: list[float]
    """Shortest and longest predicted training time; empty if unknown."""
    flops: float
    steps: int = 0
    tokens: int
    compute_bytes: int = 0
    """Bytes per number in the compute format: 4 for fp32, 2 for bf16, 0 if unknown."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Shortest and longest predicted seconds of each remaining part of the run: ``baselines``,
    ``training`` (with loading and saving) and ``evaluation``. Parts without a prediction are
    missing."""
    uncalibrated_parts: dict[str, float] = field(default_factory=dict)
    """Predicted seconds of each part, before calibration with earlier runs on this device."""
    refused: bool = False
    """True if the run was refused because it does not fit."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TrainingStarted(Event, kind="training-started"):
    """Training is about to take its first step, or its first step after a resume."""

    stage: str = ""
    technique: str
    steps: int
    epochs: float
    rows: int
    tokens: int | None
    """Number of tokens per pass over the data, without padding; None if not known in advance."""
    trained_tokens: int | None
    """Number of tokens per pass that contribute to the loss."""
    trainable_parameters: int
    parameters: int
    device: str
    precision: str
    details: JSON = field(default_factory=dict)
    """Further facts that the technique records, such as target modules, batch size and template
    hash."""
    first_step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepFinished(Event, kind="step-finished"):
    """One optimizer step is finished. Token counts and seconds are for this step only."""

    stage: str = ""
    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    rows: int
    tokens: int
    trained_tokens: int
    seconds: float
    memory_bytes: int
    epoch: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    """Technique-specific metrics, such as reward, KL, clip fraction or accuracy."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event, kind="checkpoint-saved"):
    """A checkpoint was committed; the run can be resumed from it."""

    step: int
    path: str
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingFinished(Event, kind="training-finished"):
    """Training has ended and the artifact is committed. Token counts are None if unknown."""

    stage: str = ""
    technique: str
    steps: int
    tokens: int | None
    trained_tokens: int | None
    seconds: float
    """Training time in this process only. For a resumed run, add the seconds of all steps."""
    peak_memory_bytes: int
    artifact: str
    """Path of the artifact, relative to the run folder."""
    format: Literal["adapter", "model"]
    is_text_model: bool = True
    """False if the artifact cannot generate text, like a reward model."""
    affected_rows: dict[str, int] = field(default_factory=dict)
    """Numbers of rows that were changed or not trained on, by cause."""


@dataclass(frozen=True, kw_only=True)
class Monitored(Event, kind="monitored"):
    """The model was evaluated on validation records during training.

    ``metrics`` has ``validation_loss``, and ``train_loss`` on training records. For reinforcement
    learning it has ``reward``, which is optimized, and ``gold_reward``, the true reward that
    ``reward`` approximates.
    """

    stage: str = ""
    step: int
    metrics: dict[str, float]
    best: bool
    """True if this is the best evaluation so far; its checkpoint was kept."""


@dataclass(frozen=True, kw_only=True)
class CompletionSampled(Event, kind="completion-sampled"):
    """A completion that the model generated during training, and its reward."""

    stage: str = ""
    step: int
    prompt: str
    completion: str
    reward: float


@dataclass(frozen=True, kw_only=True)
class GateChecked(Event, kind="gate-checked"):
    """A technique checked an exit criterion that it defines.

    A run that misses a criterion ends with exit code 6, even if everything else succeeded, unless
    the run file accepts the failure of that criterion.
    """

    stage: str = ""
    gate: str
    passed: bool
    message: str
    """A sentence with the measured value and the threshold."""
    accepted: bool = False
    """True if the run file accepts the failure of this criterion."""
    metrics: dict[str, float] = field(default_factory=dict)


TUNED = "tuned"
"""Name of the trained model, loaded from disk, in events and reports."""
BASE = "base"
"""Name of the untuned base model, which only evaluators of side effects measure."""


@dataclass(frozen=True, kw_only=True)
class BaselineChosen(Event, kind="baseline-chosen"):
    """A baseline's variant was chosen on validation rows or folds, or the baseline was skipped."""

    baseline: str
    variant: str = ""
    solution: Literal["constant", "classifier", "prompt", "retrieval"]
    cost: int
    evaluator: str = ""
    metric: str = ""
    higher_is_better: bool = True
    validation_score: float | None = None
    """The variant's score on these rows or folds; None if there were no rows to choose on."""
    validation_rows: int = 0
    folds: int = 0
    """Number of cross-validation folds used instead of validation rows; the score is
    out-of-fold."""
    variants: list[JSON] = field(default_factory=list)
    """The variants that were tried, each with ``name``, ``score``, ``rows``, ``seconds`` and
    ``reason``. The reason says why a variant was not chosen; it is empty for the chosen one."""
    omitted: list[JSON] = field(default_factory=list)
    """The variants that the baseline itself omits, each with ``name`` and ``reason``."""
    not_tried: list[JSON] = field(default_factory=list)
    """The variants that were not compared, each with ``name`` and ``reason`` (no time, or an
    error). The name is empty if the variant could not be built. If the error came later, ``score``
    and ``rows`` cover the rows before it."""
    seconds: float = 0.0
    skipped: str = ""
    """The reason why the baseline is not measured; empty if it is measured."""
    test_rows: int | None = None
    """Number of test rows that are enough for a baseline with the worst possible validation score;
    None: the number in ``[baselines] rows``."""
    excluded: bool = False
    """True if the baseline suits the rows but ``[baselines] use`` does not list it."""


@dataclass(frozen=True, kw_only=True)
class Measured(Event, kind="measured"):
    """One metric of one model, with its 95 % interval, over rows that it was not trained on.

    The file ``records`` in the run folder contains the value of each record.
    """

    model: str
    """``tuned``, ``base`` or the name of a baseline; the stages of a technique may add others."""
    evaluator: str
    """Id of the evaluator: its name, or a unique name if the run has several of that name."""
    metric: str
    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool
    seconds: float
    records: str
    unit: str = ""
    leakage_free: dict[str, float] = field(default_factory=dict)
    """``value``, ``low``, ``high``, ``n`` and ``units`` without the ``test_rows`` of findings.
    Empty if no finding has test rows, or if no other rows remain."""
    details: JSON = field(default_factory=dict)
    """Further results from the evaluator."""
    lowest: float | None = None
    """Smallest possible value of the metric; None: unbounded or unknown."""
    highest: float | None = None
    """Largest possible value of the metric; None: unbounded or unknown."""
    version: str = ""
    """Version of the package that provides the evaluator; empty if it has none."""
    units: int = 0
    """Number of independent units among the rows; less than ``n`` if rows depend on each other."""
    cut: int = 0
    """Number of rows whose answer was cut off at the token limit."""
    part: Literal["test", "validation"] = "test"
    """The split that was measured; ``validation`` if the result is used to make a choice."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The bounds of the metric, as in ``Metric.limits``; None without bounds and unit."""
        if self.lowest is None and self.highest is None:
            return (-math.inf, math.inf) if self.unit else None
        return (
            -math.inf if self.lowest is None else self.lowest,
            math.inf if self.highest is None else self.highest,
        )


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event, kind="run-finished"):
    """The run has ended; ``status`` is ok, failed or stopped.

    This is the last event, except for findings about reporters that could not be closed.
    """

    status: Literal["ok", "failed", "stopped"]
    exit_code: int
    finished: str
    seconds: float
    verdict: JSON = field(default_factory=dict)
    error: str = ""
    hint: str = ""
    will_repeat: bool | None = None
    """True if resuming the run would fail in the same way."""
