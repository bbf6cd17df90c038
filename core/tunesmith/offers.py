"""Offers: descriptions of the components that a plugin provides, as data.

An offer names a component, describes it in a phrase, has the class of its options (a pydantic
model) and a function that builds it. The core reads offers; it builds only the components of the
run, and heavy libraries are imported inside ``build``. Each kind of component has a kind of offer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from tunesmith.contracts import (
    DataLoader,
    Estimate,
    EstimateRequest,
    Evaluator,
    MemorySaving,
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
    """The promises of a technique; the conformance kit checks each of them."""

    deterministic: bool = True
    """The same seed on the same machine gives the same losses."""
    resumable: bool = True
    """An interrupted run ends with the same weights as an uninterrupted one."""
    base_weights_unchanged: bool = False
    """The base model's own weights are not touched: the artifact is an adapter."""
    mergeable: bool = False
    """The artifact can be merged into the base model."""


@dataclass(frozen=True, kw_only=True)
class DataLoaderOffer(Generic[C]):
    """An offer of a data loader, which reads records."""

    kind: ClassVar[str] = "data loader"
    name: str
    summary: str
    config: type[C]
    build: Callable[[C], DataLoader]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TechniqueOffer(Generic[C]):
    """An offer of a technique, which changes the weights of a model."""

    kind: ClassVar[str] = "technique"
    name: str
    """Lower-case letters, digits and hyphens."""
    summary: str
    """One line, for ``tunesmith plugins list``."""
    config: type[C]
    """Frozen pydantic model that refuses unknown keys; every field has help, bounds and unit."""
    build: Callable[[C], Technique]
    """Builds the technique; heavy libraries are imported inside this function."""
    accepts: frozenset[type[Record]]
    """Kinds of records that it trains on; checked before any weight is read."""
    needs: tuple[str, ...] = ()
    """Requirements such as ``bitsandbytes>=0.46``: checked from metadata, never by importing."""
    promises: Promises = field(default_factory=Promises)
    estimate: Callable[[C, EstimateRequest], Iterator[Estimate]] | None = None
    """Predicts memory and work: a first estimate quickly, without heavy imports, then better ones.

    Each estimate replaces the one before; a caller may use the first alone. None: no estimate.
    """
    data_parallel: bool = False
    """True if several processes of torchrun can train together. Each of them gets the same job;
    worker ranks (above 0) write nothing, and the events that they emit are dropped."""
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


def _no_default(records: Sequence[Record]) -> bool:
    return False


def _one_model(config: Any) -> int:
    return 1


@dataclass(frozen=True, kw_only=True)
class EvaluatorOffer(Generic[C]):
    """An offer of an evaluator, which measures a text model."""

    kind: ClassVar[str] = "evaluator"
    name: str
    summary: str
    config: type[C]
    build: Callable[[C], Evaluator]
    metrics: tuple[Metric, ...]
    needs: tuple[str, ...] = ()
    default_for: Callable[[Sequence[Record]], bool] = _no_default
    """Returns True for records on which it is used if the run file names no evaluator."""
    model_count: Callable[[C], int] = _one_model
    """Returns the number of models in memory at the same time, the measured one included."""


@dataclass(frozen=True, kw_only=True)
class ReporterOffer(Generic[C]):
    """An offer of a reporter, which receives the events of a run."""

    kind: ClassVar[str] = "reporter"
    name: str
    summary: str
    config: type[C]
    build: Callable[[C, Any], Reporter]
    """Builds it from the options and the :class:`tunesmith.storage.RunFolder` of the run."""
    needs: tuple[str, ...] = ()
    by_default: bool = False
    """True if it is used when the run file names no reporter."""


@dataclass(frozen=True, kw_only=True)
class CommandOffer:
    """An offer of a command, ``tunesmith NAME``."""

    kind: ClassVar[str] = "command"
    name: str
    """One word, or two: ``data check`` is the command ``check`` in the group ``data``."""
    summary: str
    """Help line, shown without loading the command."""
    load: Callable[[], click.Command]
    """Imports and returns the command."""


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
