"""The checks of additions fail on techniques that say they accept them and ignore a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mutations import specimen

from tunesmith.additions import Addition
from tunesmith.contracts import Artifact
from tunesmith.offers import TechniqueOffer
from tunesmith.testing.checks import NotApplicable
from tunesmith.testing.kit import collect_checks
from tunesmith.testing.techniques.additions import Freeze, Spectator
from tunesmith_plugins.techniques.full.offer import FULL

pytestmark = pytest.mark.processes
"""Each mutation is caught by whole trainings."""

Change = Callable[[Any, Addition], Iterator[Addition]]


def keep(job: Any, addition: Addition) -> Iterator[Addition]:
    yield addition


def drop(job: Any, addition: Addition) -> Iterator[Addition]:
    yield from ()


def build_only(*kinds: str) -> Change:
    """Build all additions, and apply those of these kinds."""

    def change(job: Any, addition: Addition) -> Iterator[Addition]:
        def build(context: Any) -> object:
            built = addition.build(context)
            return built if type(built).__name__ in kinds else Spectator(context)

        yield replace(addition, build=build)

    return change


def pull_the_other_way(job: Any, addition: Addition) -> Iterator[Addition]:
    def build(context: Any) -> object:
        built = addition.build(context)
        if hasattr(built, "term"):
            term = type(built).term
            return type("Push", (type(built),), {"term": lambda self, x: -term(self, x)})(context)
        return built

    yield replace(addition, build=build)


def train_longer(job: Any, addition: Addition) -> Iterator[Addition]:
    """Change the training as soon as there is an addition."""
    object.__setattr__(job, "seed", job.seed + 1)
    yield addition


def add_undone_steps(job: Any, addition: Addition) -> Iterator[Addition]:
    """Undo all updates but the first."""

    def build(context: Any) -> object:
        built = addition.build(context)

        class Late(Freeze):
            def transform_update(self, update: Any) -> None:
                if update.step:
                    super().transform_update(update)

        return Late(context) if isinstance(built, Freeze) else built

    yield replace(addition, build=build)


def offer(change: Change) -> TechniqueOffer[Any]:
    """Return full fine-tuning with this change of the additions of its job."""

    def build(options: Any) -> Any:
        technique = FULL.build(options)

        class Changed:
            def train(self, job: Any) -> Artifact:
                additions = [a for addition in job.additions for a in change(job, addition)]
                return technique.train(replace(job, additions=additions))

            def open(self, *args: Any, **kwargs: Any) -> Any:
                return technique.open(*args, **kwargs)

        return Changed()

    return replace(FULL, name="mutant", build=build)


def failures(change: Change, model: Path, **changes: Any) -> dict[str, str]:
    """Return the checks of additions that fail or do not apply, with their messages."""
    module = specimen("techniques", replace(offer(change), **changes))
    samples = {"mutant": {"epochs": 3.0, "batch_size": 4, "learning_rate": 1e-2}}
    found = {}
    for check in collect_checks(module, model=model, samples=samples):
        if check.check.name.startswith("applies_"):
            try:
                check()
            except (AssertionError, NotApplicable) as error:
                found[check.check.name] = str(error)
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("kit") / "tiny")


def test_a_technique_that_applies_them_passes(tiny: Path) -> None:
    assert failures(keep, tiny) == {}


def test_one_that_accepts_none_is_not_checked(tiny: Path) -> None:
    found = failures(keep, tiny, accepts_additions=False)
    assert set(found.values()) == {"the technique does not accept additions"} and len(found) == 2


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (drop, "applies_added_terms", "does not build"),
        (build_only("Freeze"), "applies_added_terms", "with a term that pulls them back"),
        (pull_the_other_way, "applies_added_terms", "with a term that pulls them back"),
        (train_longer, "applies_added_terms", "with an addition that does nothing"),
        (build_only("Pull"), "applies_changes_of_updates", "although each update is undone"),
        (add_undone_steps, "applies_changes_of_updates", "although each update is undone"),
    ],
)
def test_one_that_ignores_a_part_fails(
    tiny: Path, change: Change, check: str, message: str
) -> None:
    found = failures(change, tiny)
    assert message in found[check]
    if change is not drop:
        assert list(found) == [check]
