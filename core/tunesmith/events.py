"""Events: everything that a run reports while it runs.

An event is a small frozen value that becomes one line of ``events.jsonl``. Reporters show events,
guards check them, and the report is a fold over them, so that the live display and the report can
never differ. Byte counts are bytes, durations seconds, losses nats per token.
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
"""A JSON object. ``Any`` because its content is checked where it is read."""

EVENT_TYPES: dict[str, type[Event]] = {}
"""Event classes by their ``kind``, the name under ``event`` in a line of ``events.jsonl``."""
PATH_FIELDS = frozenset({"artifact", "path", "records"})
"""Fields of events that are paths, relative to the folder of the run or of its stage."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base class of all events. Subclasses give their ``kind`` as a class argument."""

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind
        EVENT_TYPES[kind] = cls

    def to_json(self) -> JSON:
        """Return the event as a JSON object; its kind comes first, under ``event``."""
        return {"event": self.kind, **dataclasses.asdict(self)}

    def with_path_prefix(self, folder: str) -> Event:
        """Return the event with ``folder`` put before its relative paths."""
        paths = {name: f"{folder}/{vars(self)[name]}" for name in PATH_FIELDS & vars(self).keys()}
        return dataclasses.replace(self, **paths)


def from_json(line: JSON) -> Event | None:
    """Return the event of a line of ``events.jsonl``, or None if its kind is unknown.

    Raises:
        ValueError: a field is missing, or has a value of another type.
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
    from pydantic import TypeAdapter  # not above: it is slow, and help needs the kinds of events

    return TypeAdapter(EVENT_TYPES[kind])


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event, kind="run-started"):
    """The run folder is locked and the plan resolved. Emitted again when a run is resumed."""

    run: str
    name: str
    started: str
    plan: JSON
    versions: dict[str, str]
    plugins: list[JSON]
    resumed: bool = False
    trains: bool = True
    """False if the run ends when its baselines are measured."""


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event, kind="phase-started"):
    """A phase of the run begins; ``phase`` is its name, ``total`` the number of units of work."""

    phase: str
    total: int | None = None
    unit: str = "rows"


@dataclass(frozen=True, kw_only=True)
class PhaseAdvanced(Event, kind="phase-advanced"):
    """``done`` units of the current phase are finished. Shown, but not stored in the log."""

    phase: str
    done: int


@dataclass(frozen=True, kw_only=True)
class PhaseEnded(Event, kind="phase-ended"):
    """A phase of the run has ended."""

    phase: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DataLoaded(Event, kind="data-loaded"):
    """The data is loaded and split. ``skipped`` counts the unusable rows by cause."""

    description: str
    train: int
    test: int
    validation: int = 0
    skipped: dict[str, int]
    examples: list[JSON] = field(default_factory=list)
    """Some of the skipped rows, each with ``where``, ``cause`` and ``detail``."""
    fingerprint: str = ""
    """SHA-256 over the content and the parts, in order. Resuming with other data is refused."""


@dataclass(frozen=True, kw_only=True)
class ModelResolved(Event, kind="model-resolved"):
    """The files of the base model are available. ``files`` maps each name to a short hash.

    A hash covers the size, the beginning and samples of the rest of a file. Resuming with another
    base model is refused.
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
    """The number of rows that the message is about; 0 if it is not about rows."""
    examples: list[str] = field(default_factory=list)
    hint: str = ""
    test_rows: list[int] = field(default_factory=list)
    """Numbers of the test rows that show nothing, because of what the message is about."""

    @property
    def text(self) -> str:
        """The message with its examples and the next thing to do."""
        message = ": ".join(filter(None, [self.message, "; ".join(self.examples)]))
        return "; ".join(filter(None, [message, self.hint]))


@dataclass(frozen=True, kw_only=True)
class Forecast(Event, kind="forecast"):
    """The predicted memory and time of the training, emitted before it begins."""

    technique: str
    method: Literal["analytic", "traced"]
    device: str
    device_type: Literal["cuda", "cpu"]
    available: int | None
    """Bytes available to the run; None if not known."""
    memory: dict[str, int]
    """Bytes at the peak over all phases: ``low``, ``expected``, ``high``."""
    phase: str
    """The phase with the predicted peak."""
    uncalibrated_peak: int
    """Expected peak in bytes before the calibration by earlier runs on this device."""
    untracked_bytes: int
    """Bytes of the expected peak that the device's memory counter, which measures runs, misses."""
    calibration_runs: int
    """Number of earlier runs that the calibration is based on."""
    seconds: list[float]
    """Shortest and longest predicted training time; empty if not known."""
    flops: float
    steps: int = 0
    tokens: int
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
    """Tokens per pass over the data, without padding; None if they are not known in advance."""
    trained_tokens: int | None
    """Those of the tokens that contribute to the loss."""
    trainable_parameters: int
    parameters: int
    device: str
    precision: str
    details: JSON = field(default_factory=dict)
    """Further facts that the technique records: target modules, batch size, template hash."""
    first_step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepFinished(Event, kind="step-finished"):
    """One optimizer step is finished. Token counts and seconds are those of this step alone."""

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
    """Metrics of this technique: reward, KL, clip fraction, accuracy and the like."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event, kind="checkpoint-saved"):
    """A checkpoint was committed; the run can be resumed from here."""

    step: int
    path: str
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingFinished(Event, kind="training-finished"):
    """Training has ended and the artifact is committed; token counts are None if not known."""

    stage: str = ""
    technique: str
    steps: int
    tokens: int | None
    trained_tokens: int | None
    seconds: float
    """Seconds of this process only. The steps hold those of earlier processes of a resumed run."""
    peak_memory_bytes: int
    artifact: str
    """Relative to the run folder."""
    format: Literal["adapter", "model"]
    is_text_model: bool = True
    """False if the artifact cannot generate text, as a reward model."""
    affected_rows: dict[str, int] = field(default_factory=dict)
    """Numbers of rows that were left out of training or changed, by cause."""


@dataclass(frozen=True, kw_only=True)
class Monitored(Event, kind="monitored"):
    """The model was evaluated during training, on validation records.

    ``metrics`` holds ``validation_loss``, with ``train_loss`` on training records; of a policy the
    reward that is optimized (``reward``) beside the one that it stands for (``gold_reward``).
    """

    stage: str = ""
    step: int
    metrics: dict[str, float]
    best: bool
    """True if this is the best evaluation so far, and its checkpoint was kept."""


@dataclass(frozen=True, kw_only=True)
class CompletionSampled(Event, kind="completion-sampled"):
    """A completion that the model generated during training, with its reward."""

    stage: str = ""
    step: int
    prompt: str
    completion: str
    reward: float


@dataclass(frozen=True, kw_only=True)
class GateChecked(Event, kind="gate-checked"):
    """A gate inside a technique was checked.

    A run with a gate that did not pass ends with exit code 6 even if everything else succeeded,
    unless the run file accepts the failure of that gate.
    """

    stage: str = ""
    gate: str
    passed: bool
    message: str
    """The finding in words."""
    accepted: bool = False
    """True if the run file lets the run continue although the gate did not pass."""
    metrics: dict[str, float] = field(default_factory=dict)


TUNED = "tuned"
"""The model name of the trained model, as it was read back from disk."""


@dataclass(frozen=True, kw_only=True)
class BaselineChosen(Event, kind="baseline-chosen"):
    """A variant of a baseline was chosen, on validation rows or out of fold, or it was skipped."""

    baseline: str
    variant: str = ""
    solution: Literal["constant", "classifier", "prompt", "retrieval"]
    cost: int
    evaluator: str = ""
    metric: str = ""
    higher_is_better: bool = True
    validation_score: float | None = None
    """None if there were no rows to choose by."""
    validation_rows: int = 0
    folds: int = 0
    """Folds of training rows that took the place of validation rows: the score is out of fold."""
    variants: list[JSON] = field(default_factory=list)
    """The variants that were tried, each with ``name``, ``score``, ``rows`` and ``seconds``."""
    not_tried: list[JSON] = field(default_factory=list)
    """The variants that were not compared, each with ``name`` and ``reason``: no time, or an error.
    The name is empty if the variant could not be built."""
    seconds: float = 0.0
    skipped: str = ""
    """The reason why the baseline is not measured; empty if it is."""
    excluded: bool = False
    """True if it suits the rows, and is skipped because ``[baselines] use`` does not name it."""


@dataclass(frozen=True, kw_only=True)
class Measured(Event, kind="measured"):
    """One metric of one model over rows that it was not trained on, with its 95 % interval.

    The file ``records`` below the run folder holds the value of each record.
    """

    model: str
    """``base``, ``few-shot`` or ``tuned``; the stages of a technique may add others."""
    evaluator: str
    """Id of the evaluator: its name, unless several of one name measure in the run."""
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
    """``value``, ``low``, ``high``, ``n`` and ``units`` without the rows that a finding has as
    ``test_rows``; empty if there are none, or no others."""
    details: JSON = field(default_factory=dict)
    """Further results that the evaluator adds."""
    lowest: float | None = None
    """Smallest value that the metric can have; None: there is none, or it is unknown."""
    highest: float | None = None
    """Largest value that the metric can have, or None."""
    version: str = ""
    """Version of the distribution with the evaluator; empty if it has none."""
    units: int = 0
    """Independent units among the rows: fewer than ``n`` if rows depend on each other."""
    cut: int = 0
    """Rows whose answer ended at the limit of tokens."""
    part: Literal["test", "validation"] = "test"
    """The part of the data that was measured; ``validation`` if something is decided by the
    result."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The bounds of the metric, as ``Metric.limits``; None for shares without their own."""
        if self.lowest is None and self.highest is None:
            return (-math.inf, math.inf) if self.unit else None
        return (
            -math.inf if self.lowest is None else self.lowest,
            math.inf if self.highest is None else self.highest,
        )


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event, kind="run-finished"):
    """The run has ended. ``status`` is ok, failed or stopped.

    It is the last event, but for findings of reporters that could not be closed.
    """

    status: Literal["ok", "failed", "stopped"]
    exit_code: int
    finished: str
    seconds: float
    verdict: JSON = field(default_factory=dict)
    error: str = ""
    hint: str = ""
    will_repeat: bool | None = None
    """True if the run fails again when it is resumed."""
