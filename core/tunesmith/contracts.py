"""The contracts between the core and what plugins build.

Five small protocols over plain data. A loader gives records, a technique turns records and a base
model into an artifact, a text model answers and scores, an evaluator measures a text model, a
reporter shows events. Tensors appear nowhere here: they exist inside techniques only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from tunesmith.errors import UsageError
from tunesmith.events import Event
from tunesmith.records import Prompt, Record

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tunesmith.storage import Checkpoints

C = TypeVar("C", bound="BaseModel")


# --------------------------------------------------------------------------- data


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A row that could not be used, and why."""

    where: str
    """``file:line``."""
    cause: str
    """A short, stable phrase that rows with the same fault share: ``answer is empty``."""
    detail: str = ""
    """What was found, at most 80 characters."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a loader read: records to learn from and, where the user named them, held-out ones.

    Both parts are sized and can be read again in the same order. ``left_out`` accounts for every
    row that is in neither: nothing is dropped without a word.
    """

    train: Sequence[Record]
    heldout: Sequence[Record] | None = None
    """None: the core splits the held-out part off ``train``."""
    left_out: Sequence[LeftOut] = ()
    description: str = ""
    """One line for people: which files, which format was detected."""


class DataLoader(Protocol):
    """Reads a team's data into records."""

    def load(self) -> Dataset:
        """Read everything once and account for every row.

        Raises:
            DataError: nothing usable, or more unusable rows than the options allow.
        """
        ...


# --------------------------------------------------------------------------- models


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities, in nats, of a completion's tokens given its prompt.

    The token that ends the answer is one of them, because it is trained too.
    """

    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model answered."""

    text: str
    tokens: int
    stopped: Literal["end", "limit"]
    ids: tuple[int, ...] = ()
    """The tokens themselves, the one that ended the answer included; empty where not told.

    A text may be told in other tokens than those it was said in, so it takes these to ask how
    likely exactly this was.
    """


Progress = Callable[[int], None]
"""Told how many prompts are finished so far."""


class TextModel(Protocol):
    """A model behind its own template and tokenizer: conversations in, text and scores out.

    Results come in the order of the prompts and do not depend on how prompts are batched.
    """

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """How likely the model finds each completion after its prompt."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], limit: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Greedy answers of at most ``limit`` tokens."""
        ...


@runtime_checkable
class SamplingModel(TextModel, Protocol):
    """A text model that can also draw answers at random. Not every text model can."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """Answers of at most ``limit`` tokens, drawn.

        What is drawn depends on the seed, the prompt, and how often it was asked for before; not
        on the other prompts.
        """
        ...

    def score_drawn(
        self,
        prompts: Sequence[Prompt],
        drawn: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """How likely the model finds drawn answers, token by token as they were said.

        They may be another model's that has the same tokenizer.
        """
        ...


def sampling(model: TextModel) -> SamplingModel:
    """The model, if it can draw answers.

    Raises:
        UsageError: it cannot.
    """
    if not isinstance(model, SamplingModel):
        raise UsageError(f"{type(model).__name__}: this model cannot draw answers at random")
    return model


# --------------------------------------------------------------------------- techniques


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What training left behind: a folder that the wider ecosystem can load."""

    path: Path
    format: Literal["adapter", "model"]


@dataclass(frozen=True, kw_only=True)
class Job(Generic[C]):
    """Everything that a technique needs to train, and all that it may touch.

    It writes below ``out`` and nowhere else, and it says what happens through ``emit``.
    ``emit`` raises :class:`tunesmith.errors.RunStopped` when a guard or a signal wants the run to
    end: save a checkpoint if you can, and let it pass.
    """

    config: C
    model: Path
    train: Sequence[Record]
    heldout: Sequence[Record]
    out: Path
    seed: int
    device: str
    checkpoints: Checkpoints
    emit: Callable[[Event], None]
    technique: str
    """The offer's name, for the record."""
    base_name: str = ""
    """Name under which others can load the base model, a hub id; empty where it has none."""
    name: str = ""
    """The stage, where a technique has several; empty otherwise."""

    def stage(self, name: str, config: Any, **changes: Any) -> Job[Any]:
        """The same job one level down, for one stage of several: own folder, own checkpoints.

        What the stage tells is told with paths from here.
        """
        from tunesmith.storage import Checkpoints

        out = self.out / name
        held = self.checkpoints
        stage = {
            "config": config,
            "out": out,
            "checkpoints": Checkpoints(
                out / "checkpoints", on_problem=held.on_problem, owned=held.owned
            ),
            "emit": lambda event: self.emit(event.below(name)),
            "name": name,
        }
        return replace(self, **{**stage, **changes})


class Technique(Protocol):
    """A way to change a model's weights."""

    def train(self, job: Job[Any]) -> Artifact:
        """Train, or continue from ``job.checkpoints.newest()``, and commit the artifact."""
        ...

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """The saved artifact read back from disk; with None, the untouched base model."""
        ...


# --------------------------------------------------------------------------- estimates


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What stands in for a data file where there is none yet; None: a default, which is noted."""

    sequence: int | None = None
    """Tokens of every row."""
    micro_batch: int | None = None
    """Rows that are computed at once."""
    rows: int | None = None
    """Rows of the training part."""


@dataclass(frozen=True, kw_only=True)
class EstimateRequest:
    """What is known before a run. An estimate reads no weights and fetches nothing."""

    config: Mapping[str, Any]
    """The base model's ``config.json``."""
    tokenizer: Path | None
    """A folder with the model's tokenizer; None: lengths are guessed from characters."""
    train: Sequence[Record]
    heldout: Sequence[Record]
    assumed: Assumed | None
    """Given: ``train`` and ``heldout`` are empty, and these rows are thought of instead."""
    device: Literal["cuda", "cpu"]
    """The kind of device whose operators and allocator count."""
    seed: int = 0
    models: int = 1
    """How many models an evaluation holds in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory of one phase, in bytes, as an interval that should hold the truth."""

    low: int
    expected: int
    high: int
    components: Mapping[str, int]
    """What makes up ``expected``: weights, gradients, optimizer, activations, logits, ...

    Two have fixed names, because a GPU's own counter of allocated memory does not see them:
    ``framework`` (the driver's context, loaded libraries) and ``fragmentation``.
    """


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would take."""

    method: Literal["analytic", "traced"]
    memory: Mapping[str, Memory]
    """By phase, in their order: ``load``, ``train``, ``evaluate``, ``merge`` and others.

    ``merge`` is what folding the adapter into its base would take; it is no part of the run.
    """
    flops: float
    """Floating-point operations of the whole training, recomputation included."""
    steps: int
    tokens: int
    """Tokens that training computes, over all epochs."""
    longest: int
    """Tokens of the longest row that training can see."""
    micro_batch_tokens: int
    """Most tokens that are computed at once, padding included."""
    notes: tuple[str, ...] = ()
    """What was assumed, in sentences."""


@dataclass(frozen=True, kw_only=True)
class Economy(Generic[C]):
    """A change of the options that saves memory."""

    changes: tuple[str, ...]
    """Settings, each as it would stand in the run file: ``technique.gradient_checkpointing = true``."""
    price: str
    """What it costs: ``about a third more time``."""
    config: C
    """The options with the change made."""


# --------------------------------------------------------------------------- evaluation


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric, a value for each record, in the records' order.

    The core aggregates (mean of ``values`` weighted by ``weights``), adds intervals and slices.
    """

    metric: str
    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None
    """What each value counts for: tokens, say. None: every record counts the same."""
    outputs: tuple[str, ...] | None = None
    """What the model said, where it said something; kept beside the values."""


class Evaluator(Protocol):
    """Measures a text model on records."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """One measurement for each metric that the offer names."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunSoFar:
    """What else there is in a run when one of its models is measured."""

    model: Path
    """Folder of the base model."""
    device: str
    artifacts: Mapping[str, Path]
    """What stages have left behind by now, by stage; ``""`` is the run's own result."""
    open: Callable[[Path | None], TextModel]
    """An artifact of the run as a text model; with None, the untouched base model."""


@runtime_checkable
class ComparingEvaluator(Evaluator, Protocol):
    """An evaluator that needs another model of the run beside the one that it measures."""

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunSoFar
    ) -> Sequence[Measurement]:
        """Called in place of ``measure``; nothing where what is needed is not there yet."""
        ...


# --------------------------------------------------------------------------- reporting


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
        """Take note of one event. Raising mutes this reporter after three times."""
        ...


# --------------------------------------------------------------------------- advice and models


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Advice of a reviewing hook. An error stops the run before any weight is read."""

    level: Literal["info", "warning", "error"]
    where: str
    """The key of the run file, or the place in the data, that it is about."""
    message: str


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A base model that a plugin recognised; nothing is read or fetched yet.

    ``fetch`` gives the folder with ``config.json`` and safetensors weights. It may take its time
    (download, dequantise) and is called once, when the run needs the weights.
    """

    reference: str
    description: str
    fetch: Callable[[], Path]
    revision: str | None = None
    public_name: str = ""
    """A name under which anybody can load it, a hub id; empty where there is none."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The model's ``config.json`` where it can be had cheaply; empty otherwise."""
    tokenizer: Callable[[], Path | None] = lambda: None
    """The folder with the model's tokenizer, if it is on this machine already; fetches nothing."""
    lacking: str = ""
    """What is missing before a run can use it: enough is there to plan with. Empty: nothing."""
