"""The smallest combination of changes that makes a run fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel

from tunesmith.estimates import Estimate, EstimateRequest, MemorySaving, PhaseMemory
from tunesmith.offers import Plugin
from tunesmith_plugins.estimate import savings
from tunesmith_plugins.estimate.memory_peak import compute_peak
from tunesmith_plugins.estimate.savings import find_savings


class Options(BaseModel):
    rows: int = 8
    train: int = 100
    evaluate: int = 100


def estimate(options: Options) -> Estimate:
    """Estimate two phases, of which the larger one is the peak."""

    def phase(size: int) -> PhaseMemory:
        return PhaseMemory(low=size, expected=size, high=size, components={"weights": size})

    memory = {"train": phase(options.train + options.rows), "evaluate": phase(options.evaluate)}
    return Estimate(
        method="analytic", memory=memory, flops=1.0, steps=1, tokens=1, longest_row=1,
        micro_batch_tokens=1, notes=(),
    )  # fmt: skip


def changes(options: Options) -> Iterator[MemorySaving[Options]]:
    def change(name: str, value: int) -> MemorySaving[Options]:
        changed = options.model_copy(update={name: value})
        return MemorySaving(changes=(f"{name} = {value}",), cost=f"less {name}", config=changed)

    if options.rows > 1:
        yield change("rows", options.rows // 2)
    for name in ("train", "evaluate"):
        if getattr(options, name) > 50:
            yield change(name, 50)


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        savings, "first_estimate", lambda technique, config, request: estimate(config)
    )
    plugin = Plugin(name="odd", distribution="tunesmith-odd", version="1", module="m")
    offer = SimpleNamespace(name="odd", memory_savings=changes)
    technique = cast(Any, SimpleNamespace(offer=offer, plugin=plugin))

    def call(limit: int, options: Options = Options()) -> Sequence[savings.Saving]:  # noqa: B008
        peak = compute_peak(estimate(options))
        return find_savings(technique, options, cast(EstimateRequest, None), peak, limit)

    return call


def test_changes_of_two_phases_are_combined(find: Any) -> None:
    """The first of them saves nothing alone where both phases are equally large."""
    first, *_ = find(60, Options(rows=0))
    assert first.enough
    assert first.changes == ("train = 50", "evaluate = 50")


def test_a_combination_has_no_needless_change(find: Any) -> None:
    first, *_ = find(60)
    assert first.changes == ("train = 50", "evaluate = 50"), "and not rows"
    assert first.costs == ("less train", "less evaluate")


def test_only_the_last_value_of_a_key_is_named(find: Any) -> None:
    first, *_ = find(52)
    assert first.enough
    assert first.changes == ("rows = 2", "train = 50", "evaluate = 50")


def test_no_combination_fits(find: Any) -> None:
    found = find(10)
    assert found and not any(saving.enough for saving in found)
