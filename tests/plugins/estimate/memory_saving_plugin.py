"""A single-file plugin of techniques with estimates and memory savings, for tests of the planner.

``saving`` takes a given number of MiB for weights, and activations that depend on its rows; its
second estimate is a narrower interval. Nothing is computed and nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_plugin import ByHeart, ByHeartOptions
from pydantic import Field

from tunesmith.contracts import Artifact, FoundModel, Job, Technique
from tunesmith.estimates import Assumptions, Estimate, EstimateRequest, MemorySaving, PhaseMemory
from tunesmith.events import Event, StepFinished, TrainingFinished
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import TechniqueOffer
from tunesmith.records import Completion

MIB = 1 << 20


class SavingOptions(ByHeartOptions):
    """Options of the technique."""

    weights: int = Field(1000, ge=1, description="MiB of weights.")
    gradient_checkpointing: bool = Field(False, description="Store fewer activations.")
    shards: int = Field(1, ge=1, le=4, description="Parts in which the weights are loaded.")


class WideOptions(ByHeartOptions):
    """Options of a technique that takes more memory."""

    weights: int = Field(1000, ge=1, description="MiB of weights.")
    shards: int = Field(1, ge=1, le=1, description="Always one part.")


class Saving(ByHeart):
    """Memorizes answers, and reports the memory of its weights plus a tenth."""

    def train(self, job: Job[Any]) -> Artifact:
        memory_bytes = int(job.config.weights * MIB * 1.1)

        def emit(event: Event) -> None:
            if isinstance(event, StepFinished):
                event = replace(event, memory_bytes=memory_bytes)
            elif isinstance(event, TrainingFinished):
                event = replace(event, peak_memory_bytes=memory_bytes)
            job.emit(event)

        return super().train(replace(job, emit=emit))


def estimate(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
    """Estimate weights, and activations by the tokens per micro-batch."""
    assumed = request.assumed or Assumptions(sequence=100, micro_batch=1, rows=len(request.train))
    sequence, micro = assumed.sequence or 100, assumed.micro_batch or 1
    rows, width = assumed.rows or 1000, int(request.config["width"])
    weights = options.weights * MIB // options.shards
    activations = sequence * micro * width
    if options.gradient_checkpointing:
        activations //= 4
    for method, spread in (("analytic", 0.3), ("traced", 0.02)):
        result = _estimate(method, (weights, activations), (sequence, micro, rows), spread)
        if request.model_count > 1:
            result = _with_evaluation(result, weights * request.model_count)
        yield result


def _with_evaluation(estimate: Estimate, weights: int) -> Estimate:
    components = {"weights": weights}
    memory = PhaseMemory(low=weights, expected=weights, high=weights, components=components)
    return replace(estimate, memory={**estimate.memory, "evaluate": memory})


def wide(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
    """Estimate ten times the weights, in a single analytic estimate."""
    yield _estimate("analytic", (options.weights * MIB * 10, 1), (10, 1, 10), 0.1)


def _estimate(
    method: Any, bytes_: tuple[int, int], work: tuple[int, int, int], spread: float
) -> Estimate:
    weights, activations = bytes_
    sequence, micro, rows = work

    def memory(**components: int) -> PhaseMemory:
        total = sum(components.values())
        return PhaseMemory(
            low=int(total * (1 - spread)),
            expected=total,
            high=int(total * (1 + spread)),
            components=components,
        )

    return Estimate(
        method=method,
        memory={
            "load": memory(weights=weights),
            "train": memory(weights=weights, activations=activations),
        },
        flops=6e6 * weights / MIB * sequence * rows,
        steps=rows,
        tokens=sequence * rows,
        longest_row=sequence,
        micro_batch_tokens=sequence * micro,
        notes=("half of it is a guess",) if method == "analytic" else (),
    )


def memory_savings(options: SavingOptions) -> Sequence[MemorySaving[SavingOptions]]:
    """Propose fewer activations, then more shards."""
    savings = []
    if not options.gradient_checkpointing:
        changed = options.model_copy(update={"gradient_checkpointing": True})
        savings.append(
            MemorySaving(
                changes=("technique.gradient_checkpointing = true",),
                cost="more time",
                config=changed,
            )
        )
    for shards in (2, 4):
        if options.shards < shards:
            changed = options.model_copy(update={"shards": shards})
            change = f"technique.shards = {shards}"
            savings.append(MemorySaving(changes=(change,), cost="more patience", config=changed))
    return savings


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    def build(options: Any) -> Technique:
        return Saving(options)

    def offer(
        name: str, config: Any, estimate: Any, memory_savings: Any = None
    ) -> TechniqueOffer[Any]:
        return TechniqueOffer(
            name=name,
            summary="estimates its memory",
            config=config,
            build=build,
            accepts=frozenset({Completion}),
            estimate=estimate,
            memory_savings=memory_savings,
        )

    def fail_after_first(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
        yield from [next(estimate(options, request))]
        raise ZeroDivisionError("no trace")

    def fail(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
        raise KeyError("width of what?")
        yield

    return [
        offer("saving", SavingOptions, estimate, memory_savings),
        offer("wide", WideOptions, wide),
        offer("failing-later", SavingOptions, fail_after_first),
        offer("failing", SavingOptions, fail),
    ]


@hookimpl
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    if not reference.startswith("paper:"):
        return None
    kind, _, folder = reference.removeprefix("paper:").partition("@")
    config = {"width": 1_000_000}

    def fetch() -> Path:
        path = Path(folder)
        (path / "config.json").write_text(json.dumps(config))
        return path

    return FoundModel(
        reference=reference,
        description=f"model on paper, {kind}",
        fetch=fetch,
        config={} if kind == "late" else config,
        missing="there are no weights" if kind == "empty" else "",
    )
