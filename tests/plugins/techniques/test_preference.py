"""The offer of ``preference``: a policy is trained and opened through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tables import build

from tunesmith.contracts import Job
from tunesmith.events import Event, FindingReported, StepFinished, TrainingFinished
from tunesmith.records import Message, Preference, UnpairedPreference
from tunesmith.storage import Checkpoints
from tunesmith_plugins.evaluators.preference_accuracy import (
    PREFERENCE_ACCURACY,
    PreferenceAccuracyOptions,
)
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference.offer import PREFERENCE
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.preference.review import review_labels
from tunesmith_torch.testing.tiny_model import save_tiny_model

PAIRS = tuple(
    Preference(
        source=f"rows:{n}", prompt=(Message("user", f"{n}?"),), chosen="yes", rejected="no no no no"
    )
    for n in range(8)
)


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_policy_is_trained_saved_and_opened(tmp_path: Path, adapt: Any) -> None:
    model = save_tiny_model(tmp_path / "base")
    config = build(
        PreferenceOptions,
        adapt=adapt,
        epochs=10,
        batch_size=4,
        learning_rate=1e-2,
        precision="fp32",
        loss__beta=0.01,
    )
    technique = PREFERENCE.build(config)
    artifact = technique.train(
        Job(
            config=config,
            model=model,
            train=PAIRS,
            validation=(),
            out=tmp_path,
            seed=0,
            device="cpu",
            checkpoints=Checkpoints(tmp_path / "checkpoints"),
            emit=lambda event: None,
            technique="preference",
        )
    )
    assert artifact.format == {"lora": "adapter", "full": "model"}[adapt]
    evaluator = PREFERENCE_ACCURACY.build(PreferenceAccuracyOptions(length_normalized=True))
    base = technique.open(model, None, device="cpu")
    tuned = technique.open(model, artifact.path, device="cpu")
    gaps = []
    for opened in (base, tuned):
        good, bad = (
            opened.score([p.prompt for p in PAIRS], [getattr(p, name) for p in PAIRS])
            for name in ("chosen", "rejected")
        )
        gaps.append(sum(sum(g.logprobs) - sum(b.logprobs) for g, b in zip(good, bad, strict=True)))
    assert gaps[1] > gaps[0] + 8
    (measured,) = evaluator.measure(tuned, PAIRS)
    assert measured.values == (1.0,) * len(PAIRS)


def test_pairs_that_do_not_fit_are_not_trained_on(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "base")
    long = replace(PAIRS[0], source="long:1", chosen="no " * 100)
    events: list[Event] = []
    config = build(PreferenceOptions, epochs=1, batch_size=4, max_length=64, max_skipped=0.2)
    PREFERENCE.build(config).train(
        Job(
            config=config,
            model=model,
            train=(*PAIRS, long),
            validation=(),
            out=tmp_path,
            seed=0,
            device="cpu",
            checkpoints=Checkpoints(tmp_path / "checkpoints"),
            emit=events.append,
            technique="preference",
        )
    )
    (finding,) = [e for e in events if isinstance(e, FindingReported) and e.level == "warning"]
    assert "skipped 1 row: row is too long; first: long:1" in finding.message
    (finished,) = [e for e in events if isinstance(e, TrainingFinished)]
    assert finished.affected_rows == {"row is too long": 1}
    assert sum(event.rows for event in events if isinstance(event, StepFinished)) == len(PAIRS)


def test_accepts_pairs_and_labeled_answers() -> None:
    assert PREFERENCE.accepts == {Preference, UnpairedPreference}


LABELLED = tuple(
    UnpairedPreference(source=pair.source, prompt=pair.prompt, completion="yes", label=n > 1)
    for n, pair in enumerate(PAIRS)
)


@pytest.mark.parametrize(
    ("rows", "changes", "level", "where", "text"),
    [
        (LABELLED, {}, "error", "technique.loss.type", 'set technique.loss.type = "kto"'),
        (LABELLED[2:], {"loss__type": "kto"}, "error", "technique.loss.type", "are all good"),
        (LABELLED, {"loss__type": "kto"}, "warning", "technique.loss", "undesirable_weight = 2.6"),
    ],
)
def test_check_names_labels_that_the_loss_cannot_use(
    rows: Any, changes: dict[str, Any], level: str, where: str, text: str
) -> None:
    plan: Any = SimpleNamespace(
        technique=SimpleNamespace(config=build(PreferenceOptions, **changes))
    )
    (finding,) = review_labels(plan, rows)
    assert (finding.level, finding.where) == (level, where)
    assert text in finding.message


def test_check_finds_nothing_where_nothing_is_wrong() -> None:
    for technique, rows in ((PreferenceOptions(), PAIRS), (LoraOptions(), LABELLED)):
        plan: Any = SimpleNamespace(technique=SimpleNamespace(config=technique))
        assert [*review_labels(plan, rows)] == []
