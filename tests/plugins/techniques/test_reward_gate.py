"""The gate of a reward model: which test accuracies let the policy be trained."""

from __future__ import annotations

import random

import pytest

from tunesmith.errors import GateError
from tunesmith_plugins.techniques.rlhf.reward_gate import decide_gate, enforce_gate
from tunesmith_plugins.techniques.rlhf.reward_metrics import build_reward_report


def lengths_of(share: float, n: int) -> list[tuple[int, int]]:
    """Return lengths of chosen and rejected completions; the chosen is longer in this share."""
    return [(30, 20) if i < share * n else (20, 30) for i in range(n)]


@pytest.mark.parametrize("share", [0.65, 0.75, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("n", [40, 100, 400])
@pytest.mark.parametrize("longer", [True, False], ids=["longer", "shorter"])
def test_length_alone_never_passes_the_gate(share: float, n: int, longer: bool) -> None:
    """For any share of pairs with the longer (or the shorter) completion chosen, up to all."""
    lengths = lengths_of(share, n)
    good, bad = [float(a) for a, _ in lengths], [float(b) for _, b in lengths]
    if not longer:
        lengths = [(b, a) for a, b in lengths]
        good, bad = [-float(a) for a, _ in lengths], [-float(b) for _, b in lengths]
    gate = decide_gate(build_reward_report(good, bad, lengths), accept_weak=False)
    assert not gate.passed
    assert "length" in gate.message.split("accuracy")[0] or "chance" in gate.message


def test_data_where_the_longer_is_always_chosen_cannot_pass() -> None:
    """The model is always right, but so is length; a few pairs of equal length decide it."""
    lengths, rng = lengths_of(1.0, 100), random.Random(0)
    good = [1.0 if rng.random() < 0.999 else -1.0 for _ in lengths]
    bad = [0.0] * 100
    unclear = decide_gate(build_reward_report(good, bad, lengths), accept_weak=False)
    assert not unclear.passed
    assert (
        "the reward model may only measure length, which alone is right in 1.000" in unclear.message
    )
    decided = build_reward_report(
        [*good, *[1.0] * 8], [*bad, *[0.0] * 8], [*lengths, *[(9, 9)] * 8]
    )
    assert decide_gate(decided, accept_weak=False).passed


def test_five_pairs_are_too_few() -> None:
    """Random guessing gets five of five right (or wrong) once in sixteen; six pairs are enough."""
    five, six = (build_reward_report([1.0] * n, [0.0] * n, [(5, 5)] * n) for n in (5, 6))
    gate = decide_gate(five, accept_weak=False)
    assert not gate.passed
    assert "does not beat chance (only 5 independent validation pairs" in gate.message
    assert decide_gate(six, accept_weak=False).passed
    copies = build_reward_report(
        [1.0] * 50, [0.0] * 50, [(5, 5)] * 50, [f"g{n % 5}" for n in range(50)]
    )
    assert copies.has_too_few_pairs and not copies.is_above_chance


@pytest.mark.parametrize("accept_weak", [False, True])
def test_a_failed_gate_stops_the_run_unless_it_is_accepted(accept_weak: bool) -> None:
    failed = decide_gate(None, accept_weak=accept_weak)
    assert not failed.passed and failed.accepted == accept_weak
    assert failed.message == "there are no validation pairs to evaluate the reward model on"
    if accept_weak:
        enforce_gate(failed)
        return
    with pytest.raises(GateError, match="no validation pairs") as caught:
        enforce_gate(failed)
    assert "technique.reward.gate.accept_weak = true" in str(caught.value.hint)
