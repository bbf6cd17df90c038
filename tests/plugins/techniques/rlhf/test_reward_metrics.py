"""The metrics of a reward model: accuracy, its bias towards length, and calibration."""

from __future__ import annotations

import math
import random

import pytest

from tunesmith_plugins.techniques.rlhf.reward_metrics import build_reward_report


def test_a_model_that_rewards_length_is_detected() -> None:
    rng = random.Random(0)
    lengths, good, bad = [], [], []
    for n in range(300):
        a = rng.randint(20, 60)
        b = a if n % 3 == 0 else a - rng.randint(10, 15)  # people often chose the longer one
        lengths.append((a, b))
        good.append(a + rng.gauss(0, 0.1))
        bad.append(b + rng.gauss(0, 0.1))
    report = build_reward_report(good, bad, lengths)
    assert report.is_above_chance
    assert report.is_length_biased
    assert report.matched_accuracy is not None
    assert report.matched_accuracy.low < 0.5 < report.matched_accuracy.high
    assert report.longer_wins == 1.0
    assert "equally long" in report.summary()


@pytest.mark.parametrize("sign", [1, -1], ids=["longer", "shorter"])
def test_a_model_that_is_wrong_whenever_length_misleads_is_detected(sign: int) -> None:
    """It beats chance because people mostly chose by length; no pair has equal lengths."""
    lengths = [(30, 20) if n % 4 else (20, 30) for n in range(80)][::sign]
    lengths = [(a, b) if sign == 1 else (b, a) for a, b in lengths]
    good, bad = ([sign * float(pair[side]) for pair in lengths] for side in (0, 1))
    report = build_reward_report(good, bad, lengths)
    assert report.is_above_chance and report.is_length_biased
    assert report.matched_accuracy is None
    assert report.length_correlation == pytest.approx(sign)


def test_a_preference_for_longer_content_is_no_length_bias() -> None:
    """Longer completions win for people and model, but pairs of equal length are ranked as well."""
    rng = random.Random(3)
    lengths = [(20, 20) if n % 2 else (40, 20) for n in range(200)]
    good = [1.0 if rng.random() < 0.8 else -1.0 for _ in lengths]
    report = build_reward_report(good, [0.0] * len(good), lengths)
    assert report.is_above_chance and not report.is_length_biased


def test_pairs_of_one_group_count_as_one() -> None:
    good, bad, lengths = [1.0] * 40, [0.0] * 40, [(5, 5)] * 40
    assert build_reward_report(good, bad, lengths).is_above_chance
    tied = build_reward_report(good, bad, lengths, groups=[f"g{n % 3}" for n in range(40)])
    assert tied.accuracy.value == 1.0
    assert not tied.is_above_chance


def test_confidence_equal_to_accuracy_has_no_calibration_error() -> None:
    rng = random.Random(1)
    margins = [rng.uniform(0, 3) for _ in range(5_000)]
    signed = [g if rng.random() < 1 / (1 + math.exp(-g)) else -g for g in margins]
    lengths = [(5, 5)] * len(margins)
    zeros = [0.0] * len(margins)
    assert build_reward_report(signed, zeros, lengths).calibration_error < 0.02
    bold = [3 * gap for gap in signed]
    assert build_reward_report(bold, zeros, lengths).calibration_error > 0.1


def test_random_rewards_do_not_beat_chance() -> None:
    rng = random.Random(2)
    good, bad = ([rng.random() for _ in range(100)] for _ in range(2))
    assert not build_reward_report(good, bad, [(5, 5)] * 100).is_above_chance
    tied = build_reward_report([1.0] * 50, [1.0] * 50, [(5, 5)] * 50)
    assert tied.accuracy.value == 0.5
    assert not tied.is_above_chance


def confounded(
    share: float, n: int, accuracy: float, seed: int = 0
) -> tuple[list[float], list[float], list[tuple[int, int]]]:
    """Return pairs of unequal length, the longer one chosen in this share, and a model's rewards.

    The model is right in a share ``accuracy`` of the pairs; 0: it rewards length alone.
    """
    rng = random.Random(seed)
    lengths = [(30, 20) if i < share * n else (20, 30) for i in range(n)]
    if not accuracy:
        return [float(a) for a, _ in lengths], [float(b) for _, b in lengths], lengths
    good = [1.0 if rng.random() < accuracy else -1.0 for _ in lengths]
    return good, [0.0] * n, lengths


@pytest.mark.parametrize("share", [0.5, 0.65, 0.75])
def test_a_good_model_passes_although_people_chose_longer_completions(share: float) -> None:
    """Right in four of five pairs, independent of length: 60 validation pairs are enough."""
    passed = 0
    for seed in range(20):
        report = build_reward_report(*confounded(share, 60, 0.8, seed))
        assert not report.is_length_biased
        passed += not report.is_length_unclear and report.is_above_chance
    assert passed >= 18


def test_accuracy_balanced_by_length_by_hand() -> None:
    lengths = [(9, 5)] * 30 + [(5, 9)] * 10
    good = [1.0] * 24 + [-1.0] * 6 + [1.0] * 5 + [-1.0] * 5
    report = build_reward_report(good, [0.0] * 40, lengths)
    balanced = report.balanced_accuracy
    assert balanced is not None
    assert balanced.value == pytest.approx((24 / 30 + 5 / 10) / 2)
    assert report.length_accuracy.value == pytest.approx(30 / 40)  # the rewards prefer longer ones
    assert build_reward_report(good[:30], [0.0] * 30, lengths[:30]).balanced_accuracy is None


def test_a_constant_reward_does_not_beat_chance() -> None:
    report = build_reward_report([0.3] * 40, [0.3] * 40, [(9, 5)] * 30 + [(5, 9)] * 10)
    assert not report.is_above_chance
    assert report.accuracy.low < 0.5 < report.accuracy.high
    assert report.longer_wins == 0.5
