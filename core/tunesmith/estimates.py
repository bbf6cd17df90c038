"""Estimate the memory and compute of a run without importing torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tunesmith.records import Record

C = TypeVar("C", bound="BaseModel")


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Row sizes to plan with instead of a data file. None: a default, which a note states."""

    sequence: int | None = None
    """Number of tokens in each row."""
    micro_batch: int | None = None
    """Number of rows in a micro-batch."""
    rows: int | None = None
    """Number of training rows."""


@dataclass(frozen=True, kw_only=True)
class EstimateRequest:
    """The input of an estimate. An estimate must not read weights or use the network."""

    config: Mapping[str, Any]
    """The base model's ``config.json``."""
    tokenizer: Path | None
    """A folder with the model's tokenizer; None: lengths are estimated from characters."""
    train: Sequence[Record]
    test: Sequence[Record]
    assumed: Assumptions | None
    """If given, ``train`` and ``test`` are empty, and rows of these sizes are assumed."""
    device: Literal["cuda", "cpu"]
    """Type of the device whose operators and allocator are modeled."""
    seed: int = 0
    """The run's seed, which determines the order of the rows."""
    model_count: int = 1
    """Number of models that an evaluation keeps in memory at the same time."""
    processes: int = 1
    """Number of processes that train together."""
    process_memory: int | None = None
    """Bytes that each process may use, needed to resolve ``auto`` options; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class PhaseMemory:
    """Predicted peak memory of one phase, in bytes: ``expected``, between ``low`` and ``high``."""

    low: int
    expected: int
    high: int
    components: Mapping[str, int]
    """The parts of ``expected``: weights, gradients, optimizer, and others. Two names are fixed,
    because a GPU's memory counter does not include them: ``framework`` (driver, libraries) and
    ``fragmentation``."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The predicted memory and compute of a run of ``steps`` steps."""

    method: Literal["analytic", "traced"]
    memory: Mapping[str, PhaseMemory]
    """Memory by phase, in order: ``load``, ``train``, ``evaluate`` and others. For several
    processes, the memory of each process."""
    flops: float
    """Floating-point operations of the training run, including recomputation."""
    steps: int
    tokens: int
    """Number of tokens processed in training, over all epochs."""
    longest_row: int
    """Number of tokens in the longest training row."""
    micro_batch_tokens: int
    """Largest number of tokens in a micro-batch, including padding."""
    notes: tuple[str, ...] = ()
    """The assumptions of the estimate, as sentences."""
    pilot_steps: int = 0
    """Number of steps in pilot runs before training, which the other numbers do not include."""
    compute_bytes: int = 0
    """Bytes per number in the compute format: 4 for fp32, 2 for bf16, 0 if unknown."""
    has_guessed_lengths: bool = False
    """True if row lengths are guessed from characters, and the next estimate counts tokens."""


@dataclass(frozen=True, kw_only=True)
class MemorySaving(Generic[C]):
    """A change of the options that saves memory."""

    changes: tuple[str, ...]
    """The changes as run-file settings, such as ``technique.gradient_checkpointing = true``."""
    cost: str
    """The disadvantage of the changes in words, such as ``about a third more time``."""
    config: C
    """The options after the changes."""
