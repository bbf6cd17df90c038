"""A one-file plugin whose techniques say what they take: for tests of the planner.

``thrifty`` takes a given number of MiB for weights and what its rows take for activations; its
second estimate is narrower. Nothing is computed and nothing heavy imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_plugin import ByHeart, ByHeartOptions
from pydantic import Field

from tunesmith.contracts import (
    Artifact,
    Assumed,
    Economy,
    Estimate,
    EstimateRequest,
    FoundModel,
    Job,
    Memory,
    Technique,
)
from tunesmith.events import Event, Stepped, Trained
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import TechniqueOffer
from tunesmith.records import Completion

MIB = 1 << 20


class ThriftyOptions(ByHeartOptions):
    """Options of the technique."""

    weights: int = Field(1000, ge=1, description="MiB of weights.")
    gradient_checkpointing: bool = Field(False, description="Keep fewer activations.")
    shards: int = Field(1, ge=1, le=4, description="Parts that the weights are loaded in.")


class WideOptions(ByHeartOptions):
    """Options of a technique that takes more."""

    weights: int = Field(1000, ge=1, description="MiB of weights.")
    shards: int = Field(1, ge=1, le=1, description="Nothing but one here.")


class Thrifty(ByHeart):
    """Learns by heart, and says that it took what its weights take, and a tenth more."""

    def train(self, job: Job[Any]) -> Artifact:
        taken = int(job.config.weights * MIB * 1.1)

        def emit(event: Event) -> None:
            if isinstance(event, Stepped):
                event = replace(event, memory_bytes=taken)
            elif isinstance(event, Trained):
                event = replace(event, peak_memory_bytes=taken)
            job.emit(event)

        return super().train(replace(job, emit=emit))


def estimate(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
    """Weights, and activations by the tokens that are computed at once."""
    assumed = request.assumed or Assumed(sequence=100, micro_batch=1, rows=len(request.train))
    sequence, micro = assumed.sequence or 100, assumed.micro_batch or 1
    rows, width = assumed.rows or 1000, int(request.config["width"])
    weights = options.weights * MIB // options.shards
    activations = sequence * micro * width
    if options.gradient_checkpointing:
        activations //= 4
    for method, unsure in (("analytic", 0.3), ("traced", 0.02)):
        found = _estimate(method, (weights, activations), (sequence, micro, rows), unsure)
        yield found if request.models == 1 else _evaluating(found, weights * request.models)


def _evaluating(found: Estimate, weights: int) -> Estimate:
    alone = Memory(low=weights, expected=weights, high=weights, components={"weights": weights})
    return replace(found, memory={**found.memory, "evaluate": alone})


def wide(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
    """Ten times as much, known at once."""
    yield _estimate("analytic", (options.weights * MIB * 10, 1), (10, 1, 10), 0.1)


def _estimate(
    method: Any, bytes_: tuple[int, int], work: tuple[int, int, int], unsure: float
) -> Estimate:
    weights, activations = bytes_
    sequence, micro, rows = work
    expected = weights + activations

    def memory(**components: int) -> Memory:
        whole = sum(components.values())
        return Memory(
            low=int(whole * (1 - unsure)),
            expected=whole,
            high=int(whole * (1 + unsure)),
            components=components,
        )

    return Estimate(
        method=method,
        memory={
            "load": memory(weights=weights),
            "train": memory(weights=weights, activations=activations),
            "merge": memory(weights=expected * 50),
        },
        flops=6e6 * weights / MIB * sequence * rows,
        steps=rows,
        tokens=sequence * rows,
        longest=sequence,
        micro_batch_tokens=sequence * micro,
        notes=("half of it is a guess",) if method == "analytic" else (),
    )


def economies(options: ThriftyOptions) -> Sequence[Economy[ThriftyOptions]]:
    """Fewer activations, then more shards."""
    found = []
    if not options.gradient_checkpointing:
        changed = options.model_copy(update={"gradient_checkpointing": True})
        found.append(
            Economy(
                changes=("technique.gradient_checkpointing = true",),
                price="more time",
                config=changed,
            )
        )
    for shards in (2, 4):
        if options.shards < shards:
            changed = options.model_copy(update={"shards": shards})
            change = f"technique.shards = {shards}"
            found.append(Economy(changes=(change,), price="more patience", config=changed))
    return found


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    def build(options: Any) -> Technique:
        return Thrifty(options)

    def offer(name: str, config: Any, tells: Any, saves: Any = None) -> TechniqueOffer[Any]:
        return TechniqueOffer(
            name=name,
            summary="says what it takes",
            config=config,
            build=build,
            accepts=frozenset({Completion}),
            estimate=tells,
            economies=saves,
        )

    def stumbling(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
        yield from [next(estimate(options, request))]
        raise ZeroDivisionError("no trace")

    def clueless(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
        raise KeyError("width of what?")
        yield

    return [
        offer("thrifty", ThriftyOptions, estimate, economies),
        offer("wide", WideOptions, wide),
        offer("stumbling", ThriftyOptions, stumbling),
        offer("clueless", ThriftyOptions, clueless),
    ]


@hookimpl
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    if not reference.startswith("paper:"):
        return None
    kind, _, folder = reference.removeprefix("paper:").partition("@")
    config = {"width": 1_000_000}

    def fetch() -> Path:
        place = Path(folder)
        (place / "config.json").write_text(json.dumps(config))
        return place

    return FoundModel(
        reference=reference,
        description=f"model on paper, {kind}",
        fetch=fetch,
        config={} if kind == "late" else config,
        lacking="there are no weights" if kind == "empty" else "",
    )
