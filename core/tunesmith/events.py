"""Events: everything that a run says while it runs.

An event is a small frozen value that becomes one line of ``events.jsonl``. Reporters show events,
guards judge them, and the report is a fold over them, so that what was seen live and what stands
in the report can never differ. Byte counts are bytes, durations seconds, losses nats per token.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

JSON = dict[str, Any]
"""A JSON object. ``Any`` because JSON is data, not code; it is checked where it is read."""

EVENT_TYPES: dict[str, type[Event]] = {}
"""Event classes by the name that stands in ``events.jsonl``."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """The root of all events. Subclasses name themselves with ``kind``."""

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind
        EVENT_TYPES[kind] = cls

    def to_json(self) -> JSON:
        """The event as one JSON object, ``event`` first."""
        return {"event": self.kind, **dataclasses.asdict(self)}

    def below(self, folder: str) -> Event:
        """The event as it is told one level up: its paths begin with ``folder``."""
        return self


def from_json(line: JSON) -> Event | None:
    """The event that a line of ``events.jsonl`` holds; None for a kind this version lacks."""
    cls = EVENT_TYPES.get(str(line.get("event")))
    if cls is None:
        return None
    known = {f.name for f in dataclasses.fields(cls)}
    return cls(**{key: value for key, value in line.items() if key in known})


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event, kind="run-started"):
    """The run folder is locked and the plan resolved. Comes again when a run is resumed."""

    run: str
    name: str
    started: str
    plan: JSON
    versions: dict[str, str]
    plugins: list[JSON]
    resumed: bool = False


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event, kind="phase-started"):
    """A stretch of work begins: ``phase`` says which in words, ``total`` how many units."""

    phase: str
    total: int | None = None
    unit: str = "rows"


@dataclass(frozen=True, kw_only=True)
class PhaseAdvanced(Event, kind="phase-advanced"):
    """``done`` units of the current phase are finished. Shown, not stored."""

    phase: str
    done: int


@dataclass(frozen=True, kw_only=True)
class PhaseEnded(Event, kind="phase-ended"):
    """The phase is over."""

    phase: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DataRead(Event, kind="data-read"):
    """The data is loaded and split. ``left_out`` counts unusable rows by cause."""

    description: str
    train: int
    heldout: int
    left_out: dict[str, int]
    examples: list[JSON] = field(default_factory=list)
    """Some of the rows left out: ``where``, ``cause``, ``detail``."""
    fingerprint: str = ""
    """SHA-256 over the content of both parts, in order: resuming on other data is refused."""


@dataclass(frozen=True, kw_only=True)
class ModelRead(Event, kind="model-read"):
    """The base model's files are there. ``files`` maps each to a short hash of it.

    The hashes cover the sizes, the beginnings and samples of the rest: resuming on another base
    model is refused.
    """

    reference: str
    description: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Noticed(Event, kind="noticed"):
    """Something a person should know; a warning is also listed in the report."""

    level: Literal["info", "warning", "error"]
    source: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Forecast(Event, kind="forecast"):
    """What the training is expected to take, said before it begins."""

    technique: str
    method: Literal["analytic", "traced"]
    device: str
    kind_of_device: Literal["cuda", "cpu"]
    available: int | None
    """Bytes that the run can have; None: not known."""
    memory: dict[str, int]
    """The peak over all phases: ``low``, ``expected``, ``high``."""
    phase: str
    """The phase that is expected to need it."""
    uncorrected: int
    """The expected peak before earlier runs on the device corrected it."""
    uncounted: int
    """Bytes among it that the device's counter, by which runs are measured, does not see."""
    runs: int
    """Earlier runs that did."""
    seconds: list[float]
    """Shortest and longest time that training may take; empty: not known."""
    flops: float
    steps: int = 0
    tokens: int
    refused: bool = False
    """Whether the run was ended for it."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TrainingStarted(Event, kind="training-started"):
    """Training is about to take its first step (or its first after a resume)."""

    stage: str = ""
    technique: str
    steps: int
    epochs: float
    rows: int
    tokens: int
    """Tokens per pass over the training part, prompts included, padding not."""
    trained_tokens: int
    """Those among them that carry loss."""
    trainable_parameters: int
    parameters: int
    device: str
    precision: str
    details: JSON = field(default_factory=dict)
    """What else the technique wants on record: targets, batch, template hash."""
    first_step: int = 0


@dataclass(frozen=True, kw_only=True)
class Stepped(Event, kind="stepped"):
    """One optimizer step was taken. Token counts and seconds are of this step alone."""

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
    extras: dict[str, float] = field(default_factory=dict)
    """Figures that only this technique has: reward, KL, clip fraction, accuracy."""


@dataclass(frozen=True, kw_only=True)
class Saved(Event, kind="saved"):
    """A checkpoint was committed: from here the run can be resumed."""

    step: int
    path: str
    bytes: int
    seconds: float

    def below(self, folder: str) -> Event:
        return dataclasses.replace(self, path=f"{folder}/{self.path}")


@dataclass(frozen=True, kw_only=True)
class Trained(Event, kind="trained"):
    """Training ended and the artifact is committed below the run folder."""

    stage: str = ""
    technique: str
    steps: int
    tokens: int
    trained_tokens: int
    seconds: float
    """Of this process; what earlier ones of a resumed run took stands in their steps."""
    peak_memory_bytes: int
    artifact: str
    """Relative to the run folder."""
    format: Literal["adapter", "model"]
    answers: bool = True
    """Whether the artifact is a text model; what a reward model leaves only judges."""

    def below(self, folder: str) -> Event:
        return dataclasses.replace(self, artifact=f"{folder}/{self.artifact}")


@dataclass(frozen=True, kw_only=True)
class Watched(Event, kind="watched"):
    """A look at a model in the middle of training, on held-out records.

    What is learned from (``figures["proxy"]``, say) stands beside what is wanted (``gold``).
    """

    stage: str = ""
    step: int
    figures: dict[str, float]
    best: bool
    """Whether it is the best so far, and was saved as such."""


@dataclass(frozen=True, kw_only=True)
class Sampled(Event, kind="sampled"):
    """Something that a model said while it was trained."""

    stage: str = ""
    step: int
    prompt: str
    answer: str
    reward: float


@dataclass(frozen=True, kw_only=True)
class Gated(Event, kind="gated"):
    """A gate inside of a technique was tried.

    A run with a gate that said no ends with exit code 6 even if it ends whole, unless the run file
    accepts that gate's no.
    """

    stage: str = ""
    gate: str
    passed: bool
    sentence: str
    """What was found, for people."""
    accepted: bool = False
    """The run file says to go on in spite of a no."""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measured(Event, kind="measured"):
    """One metric of one model over the held-out part, with its 95 % interval.

    The values record by record are in the file ``records`` below the run folder.
    """

    model: str
    """``base``, ``few-shot`` or ``tuned``; a technique with stages may add others."""
    evaluator: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool
    seconds: float
    records: str
    unit: str = ""

    def below(self, folder: str) -> Event:
        return dataclasses.replace(self, records=f"{folder}/{self.records}")


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event, kind="run-finished"):
    """The last event: how the run ended. ``status`` is ok, failed or stopped."""

    status: Literal["ok", "failed", "stopped"]
    exit_code: int
    finished: str
    seconds: float
    verdict: JSON = field(default_factory=dict)
    error: str = ""
    hint: str = ""
