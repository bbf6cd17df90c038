"""The fit of a training: one diagnosis, by stated rules, the first that applies."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.errors import IntegrityError
from tunesmith.events import Measured, StepFinished, TrainingFinished, TrainingStarted
from tunesmith.execution.report import TRAINING_ROWS, Report, build_report
from tunesmith.testing import sample_event
from tunesmith_evidence import fit
from tunesmith_evidence.fit import FitDiagnosis, diagnose_fit, rate_fit

RNG = random.Random(5)
LEVEL = [1.0 + RNG.gauss(0, 0.05) for _ in range(60)]
"""Losses of rows, or of steps, that do not change."""
LOW = [value - 0.6 for value in LEVEL]


def measure(folder: Path, model: str, losses: Sequence[float], first: int = 0) -> Measured:
    """Write the losses of rows, of which the first has the number ``first``."""
    path = f"{model}.loss.jsonl"
    lines = [
        {"row": n, "source": f"r:{n}", "loss": {"value": value, "weight": 1.0 + n % 2}}
        for n, value in enumerate(losses, first)
    ]
    (folder / path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sample_event(
        Measured,
        model=model,
        evaluator="loss",
        metric="loss",
        higher_is_better=False,
        records=path,
        value=statistics.fmean(losses),
        unit="nats/token",
        n=len(losses),
    )


def write_validation(folder: Path, best: Sequence[float], last: Sequence[float]) -> None:
    steps = {"best": (3, best), "last": (9 if best is not last else 3, last)}
    content = {
        name: {"step": step, "losses": list(losses), "weights": [1.0] * len(losses)}
        for name, (step, losses) in steps.items()
    }
    folder.mkdir(exist_ok=True)
    (folder / "validation.json").write_text(json.dumps(content))


def report(
    folder: Path,
    *,
    train: Sequence[float] = LEVEL,
    tuned: Sequence[float] = LEVEL,
    base: Sequence[float] | None = [value + 1 for value in LEVEL],
    steps: Sequence[float] = (4.0, 2.0, *LEVEL),
    stage: str = "",
    metrics: dict[str, float] | None = None,
) -> Report:
    events = [
        sample_event(TrainingStarted, stage=stage, steps=len(steps)),
        *(
            sample_event(StepFinished, stage=stage, step=n, loss=x, metrics=metrics or {})
            for n, x in enumerate(steps, 1)
        ),
        sample_event(TrainingFinished, stage=""),
        measure(folder, "tuned", tuned),
        measure(folder, TRAINING_ROWS, train),
    ]
    if base is not None:
        events.append(measure(folder, fit.ZERO_SHOT, base))
    return build_report(events)


def state(folder: Path, found: Report) -> str:
    diagnosis = diagnose_fit(folder, found)
    assert diagnosis is not None
    return diagnosis.state


def test_the_rating(tmp_path: Path) -> None:
    """A fit is good news only if the model gets rows right."""
    found = report(tmp_path)
    ratings = {
        name: rate_fit(FitDiagnosis(name, ""), found)
        for name in ("memorized", "overfitted", "underfitted", "fitted", "unclear")
    }
    assert ratings == dict.fromkeys(ratings, "warning") | {"fitted": "good", "unclear": ""}
    for value in (0.0, 0.1):
        found.add_event(sample_event(Measured, model="tuned", metric="same", value=value))
        assert rate_fit(FitDiagnosis("fitted", ""), found) == ("good" if value else "")


def test_a_fitted_model(tmp_path: Path) -> None:
    write_validation(tmp_path, LEVEL, LEVEL)
    diagnosis = diagnose_fit(tmp_path, report(tmp_path))
    assert diagnosis is not None and diagnosis.state == "fitted"
    assert diagnosis.values["auc"] == pytest.approx(0.5)
    assert diagnosis.values["gain"] == pytest.approx(1.0)
    assert "in 50 % of train/test pairs" in diagnosis.sentence
    assert diagnosis.sentence.endswith("the training loss has leveled off")
    assert diagnosis.to_json()["state"] == "fitted"


def test_training_rows_with_lower_losses_are_memorized(tmp_path: Path) -> None:
    """Whatever the other rules would say."""
    write_validation(tmp_path, LEVEL, [value + 1 for value in LEVEL])
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, train=LOW, base=LEVEL))
    assert diagnosis is not None and diagnosis.state == "memorized"
    assert "100 % of the time" in diagnosis.sentence
    assert "has also learned the task" not in diagnosis.sentence


def test_a_model_may_memorize_rows_and_learn_the_task(tmp_path: Path) -> None:
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, train=LOW))
    assert diagnosis is not None and diagnosis.state == "memorized"
    assert diagnosis.sentence.endswith("the test loss is 1.000 below the base model's")


def test_the_threshold(tmp_path: Path) -> None:
    test = [float(n) for n in range(100)]
    for share, expected in ((fit.MEMORIZED_AUC, "memorized"), (0.7, "fitted")):
        train = [100 * (1 - share) - 0.5] * 20  # below this share of the test losses
        found = report(tmp_path, train=train, tuned=test, base=[x + 9 for x in test])
        assert state(tmp_path, found) == expected


def test_few_rows_say_nothing(tmp_path: Path) -> None:
    found = report(tmp_path, train=LOW[:9])
    diagnosis = diagnose_fit(tmp_path, found)
    assert diagnosis is not None and "auc" not in diagnosis.values


def test_a_validation_loss_that_has_risen(tmp_path: Path) -> None:
    """By more than its interval; in the folder of the last stage."""
    noise = [value + RNG.gauss(0, 0.3) for value in LEVEL]
    write_validation(tmp_path / "policy", LEVEL, noise)
    found = report(tmp_path, stage="policy")
    assert state(tmp_path, found) == "fitted"
    write_validation(tmp_path / "policy", LEVEL, [value + 0.3 for value in noise])
    diagnosis = diagnose_fit(tmp_path, found)
    assert diagnosis is not None and diagnosis.state == "overfitted"
    assert "at step 9 is above that of step 3 by" in diagnosis.sentence


def test_a_rise_in_few_groups_may_be_chance(tmp_path: Path) -> None:
    """Two of five patients have risen: by rows it is clear, by patients it is not."""
    last = [value + (0.3 if n % 5 < 2 else 0.0) for n, value in enumerate(LEVEL)]
    found = report(tmp_path)
    write_validation(tmp_path, LEVEL, last)
    assert state(tmp_path, found) == "overfitted"
    file = tmp_path / "validation.json"
    losses = json.loads(file.read_text())
    groups = [f"patient {n % 5}" for n in range(len(LEVEL))]
    file.write_text(json.dumps({name: {**x, "groups": groups} for name, x in losses.items()}))
    assert state(tmp_path, found) == "fitted"


def test_a_model_that_is_as_good_as_the_base(tmp_path: Path) -> None:
    noise = [value + RNG.gauss(0, 0.3) for value in LEVEL]
    assert state(tmp_path, report(tmp_path, base=noise)) == "underfitted"
    assert state(tmp_path, report(tmp_path, base=None)) == "fitted"


def test_a_model_that_is_worse_than_the_base(tmp_path: Path) -> None:
    """The numbers are positive, and a higher learning rate alone is no advice."""
    losses = [1.0 + n / 100 for n in range(60)]
    found = report(tmp_path, train=losses, tuned=losses, base=[loss - 0.5 for loss in losses])
    diagnosis = diagnose_fit(tmp_path, found)
    assert diagnosis is not None and diagnosis.state == "underfitted"
    assert "is 0.500 [0.500, 0.500] above that of zero-shot" in diagnosis.sentence
    assert "another learning rate" in diagnosis.sentence


def test_the_base_model_may_have_been_asked_for_some_rows_only(tmp_path: Path) -> None:
    """Row by row: the losses grow with the row's number, and the base has the last rows."""
    tuned = [float(n) for n in range(60)]
    found = report(tmp_path, train=tuned, tuned=tuned, base=None)
    found.add_event(measure(tmp_path, fit.ZERO_SHOT, [n + 0.5 for n in range(40, 60)], first=40))
    diagnosis = diagnose_fit(tmp_path, found)
    assert diagnosis is not None and diagnosis.state == "fitted"
    assert diagnosis.values["gain"] == pytest.approx(0.5)


def test_a_training_loss_that_still_falls(tmp_path: Path) -> None:
    falling = [3 - 2 * n / 60 + RNG.gauss(0, 0.02) for n in range(60)]
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, steps=falling))
    assert diagnosis is not None and diagnosis.state == "underfitted"
    assert "still fell by" in diagnosis.sentence


@pytest.mark.parametrize(("above", "expected"), [(1.5, "unclear"), (0.0, "underfitted")])
def test_a_falling_training_loss_far_below_the_validation_loss(
    tmp_path: Path, above: float, expected: str
) -> None:
    """Without losses of training rows: such a loss falls whatever the model learns for new rows."""
    falling = [3 - 2 * n / 60 + RNG.gauss(0, 0.02) for n in range(60)]
    write_validation(tmp_path, validation := [value + above for value in LEVEL], validation)
    found = report(tmp_path, steps=falling)
    found.training_rows.clear()
    assert state(tmp_path, found) == expected


def test_the_advice_follows_the_pilot_runs(tmp_path: Path) -> None:
    """A higher rate is no advice if pilot runs have tried one, and it was not better."""
    found = report(tmp_path, steps=[3 - 2 * n / 60 + RNG.gauss(0, 0.02) for n in range(60)])
    for n, step in found.steps.items():
        found.steps[n] = replace(step, learning_rate=1e-4)
    sentences = []
    for details in ({}, {"is_largest": True}, {"is_largest": False}):
        facts = {"rate_pilots": details} if details else {}
        found.training_started[""] = replace(found.training_started[""], details=facts)
        sentences.append(str(diagnose_fit(tmp_path, found)))
    assert ["3e-4 instead of 1e-4" in sentence for sentence in sentences] == [True, True, False]
    assert all("180 steps instead of 60" in sentence for sentence in sentences)


def test_a_training_loss_that_has_risen(tmp_path: Path) -> None:
    burst = [4.1, 5, 40, 60, 85, *[9.6, 10.4] * 10]
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, steps=burst))
    assert diagnosis is not None and diagnosis.state == "underfitted"
    assert "risen, from 4.100 at the first step to 10.000 in the last third" in diagnosis.sentence
    write_validation(tmp_path, LEVEL, [value + 1 for value in LEVEL])
    assert state(tmp_path, report(tmp_path, steps=burst)) == "underfitted", "not overfitted"
    policy = diagnose_fit(tmp_path, report(tmp_path, steps=burst, metrics={"kl": 1.0}))
    assert "risen" not in str(policy), "a loss of a policy, not of data"


def test_a_run_without_training_has_no_fit(tmp_path: Path) -> None:
    assert diagnose_fit(tmp_path, Report()) is None
    only_trained = build_report([sample_event(TrainingFinished, stage="")])
    assert diagnose_fit(tmp_path, only_trained) is None


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    found = report(tmp_path)
    (tmp_path / f"{TRAINING_ROWS}.loss.jsonl").write_text("{\n")
    with pytest.raises(IntegrityError, match=r"training-rows\.loss\.jsonl:1"):
        diagnose_fit(tmp_path, found)


def test_a_loss_that_is_far_from_memorized_is_only_a_gap(tmp_path: Path) -> None:
    """All training rows have lower losses, 0.69 beside 0.84: no advice to train for less."""
    train = [0.69 + 0.001 * n for n in range(20)]
    test = [0.84 + 0.001 * n for n in range(20)]
    found = report(tmp_path, train=train, tuned=test, base=[loss + 1 for loss in test])
    diagnosis = diagnose_fit(tmp_path, found)
    assert diagnosis is not None and diagnosis.state == "fitted"
    assert "the loss is 0.699 on training rows and 0.849 on test rows" in diagnosis.sentence
    assert "fewer" not in diagnosis.sentence


@pytest.mark.parametrize(
    ("last", "advice"),
    [
        (None, "more training rows would help; the model has"),
        (LEVEL, "fewer epochs would not help, since the validation loss was lowest at the end"),
        (
            [value + 1 for value in LEVEL],
            "the validation loss rises after step 3: train for fewer epochs",
        ),
    ],
    ids=["no validation rows", "lowest at the end", "risen"],
)
def test_the_validation_loss_decides_about_epochs(
    tmp_path: Path, last: Sequence[float] | None, advice: str
) -> None:
    if last is not None:
        write_validation(tmp_path, LEVEL, last)
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, train=LOW))
    assert diagnosis is not None and diagnosis.state == "memorized"
    assert advice in diagnosis.sentence


def test_few_steps_are_unclear(tmp_path: Path) -> None:
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, steps=[2.0, 1.9, 1.7, 1.8]))
    assert diagnosis is not None and diagnosis.state == "unclear"
    assert diagnosis.sentence.endswith(
        "4 steps are too few to show whether more training would help"
    )


def test_noise_is_unclear(tmp_path: Path) -> None:
    noise = [2 + RNG.gauss(0, 1) for _ in range(30)]
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, steps=noise))
    assert diagnosis is not None and diagnosis.state == "unclear"
    assert "vary too much to show whether more training would help" in diagnosis.sentence


def test_nothing_left_to_learn(tmp_path: Path) -> None:
    done = [0.02, 0.01, 0.02]
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, train=[0.01] * 9, steps=done))
    assert diagnosis is not None and diagnosis.state == "fitted"
    assert diagnosis.sentence.endswith("hardly anything is left to learn")


def test_no_gain_over_the_base_has_another_cause_if_training_rows_are_known(
    tmp_path: Path,
) -> None:
    train = [value - 0.03 for value in LEVEL]
    diagnosis = diagnose_fit(tmp_path, report(tmp_path, train=train, base=LEVEL))
    assert diagnosis is not None and diagnosis.state == "fitted"
    assert fit.MEMORIZED_AUC > diagnosis.values["auc"] > 0.6
    assert "is not clearly below the base model's" in diagnosis.sentence


@pytest.mark.parametrize(
    ("last", "expected"), [(0.692, "underfitted"), (0.6, "unclear")], ids=["three steps", "moved"]
)
def test_a_loss_of_preferences_that_hardly_moved(
    tmp_path: Path, last: float, expected: str
) -> None:
    steps = [0.693, 0.693, last]
    pairs = report(tmp_path, base=None, steps=steps, metrics={"reward_margin": 0.0})
    diagnosis = diagnose_fit(tmp_path, pairs)
    assert diagnosis is not None and diagnosis.state == expected
    assert ("from that of the untrained model: from 0.693 to 0.692" in diagnosis.sentence) == (
        expected == "underfitted"
    )


def test_other_losses_begin_anywhere(tmp_path: Path) -> None:
    assert state(tmp_path, report(tmp_path, base=None, steps=[0.693] * 3)) == "unclear"


def test_a_perfect_score_leaves_nothing_to_learn(tmp_path: Path) -> None:
    """However the loss falls; a second metric does not count."""
    falling = [3 - 2 * n / 60 for n in range(60)]
    plain = report(tmp_path, steps=falling)
    for first, expected in ((True, "fitted"), (False, "underfitted")):
        found = build_report([])
        scores = [sample_event(
            Measured, model="tuned", evaluator="e", metric=metric, value=value,
            higher_is_better=True, highest=1.0,
        ) for metric, value in (("same", 1.0 if first else 0.5), ("other", 1.0))]  # fmt: skip
        found.training_finished, found.steps = plain.training_finished, plain.steps
        for event in scores:
            found.add_event(event)
        assert state(tmp_path, found) == expected
