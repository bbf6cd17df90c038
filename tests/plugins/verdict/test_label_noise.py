"""Wrong labels are estimated before training, where the answers are labels that words can tell."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tunesmith.install import install_extra
from tunesmith.records import Completion, Preference, Record, Text
from tunesmith_data.label_errors import LabelErrors
from tunesmith_plugins.verdict import label_noise
from tunesmith_plugins.verdict.label_noise import WHERE, estimate_label_noise

TOPICS = {
    "card": ["card lost in town", "new card please", "the card was stolen", "card is broken"],
    "loan": ["pay the loan back", "loan for a house", "rate of the loan", "loan is too high"],
    "login": ["cannot sign in", "password forgotten", "sign in fails", "reset my password"],
}


def rows(count: int, wrong: float, seed: int = 0) -> list[Record]:
    rng = random.Random(seed)
    made: list[Record] = []
    for number in range(count):
        label = rng.choice(list(TOPICS))
        prompt = f"{rng.choice(TOPICS[label])} {rng.choice(['now', 'today', 'soon'])} {number}"
        if rng.random() < wrong:
            label = rng.choice([other for other in TOPICS if other != label])
        made.append(Completion(source=f"f:{number}", prompt=prompt, completion=label))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_wrong_labels_is_a_finding(seed: int) -> None:
    (finding,) = estimate_label_noise(rows(240, 0.2, seed), 0.1, 42)
    assert finding.where == WHERE and finding.level == "warning"
    assert 24 < finding.count < 72
    assert "% of the training labels are wrong" in finding.message


@pytest.mark.parametrize(("count", "is_found"), [(120, False), (1_200, True)])
def test_the_interval_decides_and_not_the_estimate(
    count: int, is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 % of 120 labels may be 10 % of all; of 1,200 labels, it is at least 13 %."""
    found = LabelErrors(count, 3, 0.85, 0.15, 0.2, ())
    monkeypatch.setattr("tunesmith_data.label_errors.find_label_errors", lambda rows: found)
    findings = estimate_label_noise(rows(count, 0.0), 0.1, 42)
    assert len(findings) == is_found
    assert not findings or "at least 13 %" in findings[0].message


@pytest.mark.parametrize("seed", range(3))
def test_clean_labels_are_no_finding(seed: int) -> None:
    assert not estimate_label_noise(rows(240, 0.0, seed), 0.1, 42)


def test_the_count_is_for_all_rows() -> None:
    """Of 3,000 rows a sample is looked at, always the same one."""
    many = rows(3_000, 0.3)
    (finding,) = estimate_label_noise(many, 0.1, 42)
    assert 600 < finding.count < 1_200
    assert estimate_label_noise(many, 0.1, 42) == [finding]


def test_labels_that_no_word_tells_are_not_called_wrong() -> None:
    """They may be right, and follow from something else."""
    rng = random.Random(1)
    found: Sequence[Record] = [
        Completion(source=f"f:{n}", prompt=f"case {rng.random()}", completion=rng.choice("abc"))
        for n in range(240)
    ]
    assert not estimate_label_noise(found, 0.1, 42)


def test_other_rows_are_left_alone() -> None:
    free = [
        Completion(source=f"f:{n}", prompt=f"question {n}", completion=f"answer {n}")
        for n in range(200)
    ]
    texts = [Text(source=f"f:{n}", text="card") for n in range(200)]
    pairs = [
        Preference(source=f"f:{n}", prompt="p", chosen=f"a {n % 2}", rejected="b")
        for n in range(200)
    ]
    for records in (free, texts, pairs, rows(20, 0.5)):
        assert not estimate_label_noise(records, 0.1, 42)
    assert not estimate_label_noise(rows(240, 0.5), 1.0, 42), "switched off"


def test_a_missing_library_is_noted_for_labels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_noise, "find_spec", lambda name: None)
    (finding,) = estimate_label_noise(rows(240, 0.2), 0.1, 42)
    assert finding.level == "info" and finding.where != WHERE and not finding.count
    assert install_extra("data") in finding.hint
    assert not estimate_label_noise(rows(240, 0.2), 1.0, 42), "it is not asked for"
    texts = [Completion(source=f"f:{n}", prompt=f"p{n}", completion=f"a{n}") for n in range(240)]
    assert not estimate_label_noise(texts, 0.1, 42)
