"""Offers: what a plugin can do, said in data.

An offer names a component, describes it in a sentence, owns its options (a pydantic model) and
knows how to build the real thing. The core reads offers; it builds only what a run uses, and heavy
libraries are imported inside ``build``. One kind of offer for each kind of component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from tunesmith.contracts import (
    DataLoader,
    Economy,
    Estimate,
    EstimateRequest,
    Evaluator,
    Reporter,
    Technique,
)
from tunesmith.records import Record

if TYPE_CHECKING:
    import click
    from pydantic import BaseModel

C = TypeVar("C", bound="BaseModel")


@dataclass(frozen=True, kw_only=True)
class Promises:
    """What a technique promises; the conformance kit holds it to each."""

    deterministic: bool = True
    """The same seed on the same machine gives the same losses."""
    resumable: bool = True
    """An interrupted run continues to the very weights of an uninterrupted one."""
    base_weights_unchanged: bool = False
    """The base model's own weights are not touched: the artifact is an adapter."""
    mergeable: bool = False
    """The artifact can be folded into the base model."""


@dataclass(frozen=True, kw_only=True)
class DataLoaderOffer(Generic[C]):
    """A way to read records."""

    kind: ClassVar[str] = "data loader"
    name: str
    summary: str
    config: type[C]
    build: Callable[[C], DataLoader]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TechniqueOffer(Generic[C]):
    """A way to change a model's weights."""

    kind: ClassVar[str] = "technique"
    name: str
    """Lower case, digits, hyphens."""
    summary: str
    """One line, for ``tunesmith plugins list``."""
    config: type[C]
    """A frozen pydantic model that refuses unknown keys; every field with help, bounds and unit."""
    build: Callable[[C], Technique]
    """Imports its heavy libraries inside."""
    accepts: frozenset[type[Record]]
    """Kinds of records it can learn from; checked before any weight is read."""
    needs: tuple[str, ...] = ()
    """Requirements such as ``bitsandbytes>=0.46``: checked from metadata, never by importing."""
    promises: Promises = field(default_factory=Promises)
    estimate: Callable[[C, EstimateRequest], Iterator[Estimate]] | None = None
    """What a run would take: at once and without heavy imports, then again and better.

    Each estimate replaces the one before; who is in a hurry takes the first. None: not known.
    """
    data_parallel: bool = False
    """Whether several processes that torchrun started may train together. Each of them is given the
    same job; those above rank 0 write nothing, and what they emit is heard by nobody."""
    economies: Callable[[C], Sequence[Economy[C]]] | None = None
    """Changes of the options that save memory, the least painful first."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that an evaluator produces, and which way is better."""

    name: str
    higher_is_better: bool
    unit: str = ""
    describes: bool = False
    """It says what a model is like (a length, a distance), and not how good it is."""


def _never(records: Sequence[Record]) -> bool:
    return False


def _one(config: Any) -> int:
    return 1


@dataclass(frozen=True, kw_only=True)
class EvaluatorOffer(Generic[C]):
    """A measurement of a text model."""

    kind: ClassVar[str] = "evaluator"
    name: str
    summary: str
    config: type[C]
    build: Callable[[C], Evaluator]
    metrics: tuple[Metric, ...]
    needs: tuple[str, ...] = ()
    suits: Callable[[Sequence[Record]], bool] = _never
    """Whether it is used on such records when the run file names no evaluator."""
    models: Callable[[C], int] = _one
    """How many models it holds in memory at once, the measured one included; for plans."""


@dataclass(frozen=True, kw_only=True)
class ReporterOffer(Generic[C]):
    """A place to send a run's events."""

    kind: ClassVar[str] = "reporter"
    name: str
    summary: str
    config: type[C]
    build: Callable[[C, Any], Reporter]
    """Called with the options and the run's :class:`tunesmith.storage.RunFolder`."""
    needs: tuple[str, ...] = ()
    by_default: bool = False
    """Whether it is used when the run file names no reporter."""


@dataclass(frozen=True, kw_only=True)
class CommandOffer:
    """A command: ``tunesmith NAME``. The help line stands here so that --help imports nothing."""

    kind: ClassVar[str] = "command"
    name: str
    summary: str
    load: Callable[[], click.Command]


Offer = (
    DataLoaderOffer[Any]
    | TechniqueOffer[Any]
    | EvaluatorOffer[Any]
    | ReporterOffer[Any]
    | CommandOffer
)
ConfiguredOffer = (
    DataLoaderOffer[Any] | TechniqueOffer[Any] | EvaluatorOffer[Any] | ReporterOffer[Any]
)
