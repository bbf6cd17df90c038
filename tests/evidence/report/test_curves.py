"""The series of a training, smoothed and thinned."""

from __future__ import annotations

import math

import pytest

from tunesmith.events import Event, Monitored, StepFinished
from tunesmith.execution.report import build_report
from tunesmith.testing import sample_event
from tunesmith_evidence.report.curves import (
    build_loss_curve,
    build_other_curves,
    smooth,
    thin_points,
)


def steps(*losses: float, **fields: object) -> list[Event]:
    return [
        sample_event(StepFinished, step=n, steps=len(losses), loss=loss, **fields)
        for n, loss in enumerate(losses, 1)
    ]


def test_a_step_that_was_repeated_after_a_resume_counts_once() -> None:
    report = build_report([*steps(3.0, 2.0), *steps(3.0, 1.5, 1.0)])
    assert build_loss_curve(report, "").points == [(1, 3.0), (2, 1.5), (3, 1.0)]


def test_the_validation_loss_is_beside_the_loss_and_only_finite_values_count() -> None:
    evaluations = [
        Monitored(step=n, metrics={"validation_loss": loss, "reward": 1.0}, best=False)
        for n, loss in ((0, 2.5), (2, math.nan), (3, 2.0))
    ]
    report = build_report([*steps(3.0, math.inf, 1.0), *evaluations])
    curve = build_loss_curve(report, "")
    assert curve.points == [(1, 3.0), (3, 1.0)] and curve.validation == [(0, 2.5), (3, 2.0)]
    titles = [curve.title for curve in build_other_curves(report, "")]
    assert titles == ["learning rate", "gradient norm", "speed", "memory", "sample", "reward"]


def test_only_a_loss_over_tokens_has_their_unit() -> None:
    assert (
        build_loss_curve(build_report(steps(1.0, metrics={})), "").axis == "loss (nats per token)"
    )
    assert build_loss_curve(build_report(steps(1.0, metrics={"kl": 1.0})), "").axis == "loss"


def test_smoothing_keeps_a_line_and_removes_noise() -> None:
    line = [(n, 2.0 * n) for n in range(100)]
    assert [value for _, value in smooth(line)] == pytest.approx([value for _, value in line])
    noisy = [(n, 5.0 + (-1) ** n) for n in range(200)]
    inner = [value for _, value in smooth(noisy)][20:-20]
    assert max(abs(value - 5.0) for value in inner) < 0.2
    assert smooth(line[:5]) == ()


def test_thinning_keeps_extremes() -> None:
    series = [(n, math.sin(n)) for n in range(50_000)]
    series[31_234] = (31_234, 99.0)
    kept = thin_points(series, 1_000)
    assert len(kept) <= 1_002
    assert (31_234, 99.0) in kept and kept == sorted(kept)
