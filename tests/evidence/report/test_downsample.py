"""The points of a curve are the means of equal sections."""

from __future__ import annotations

from tunesmith_evidence.report.curves import downsample


def test_a_curve_has_at_most_the_width() -> None:
    assert downsample([1.0, 2.0], 4) == [1.0, 2.0]
    assert downsample([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert len(downsample([float(n) for n in range(1000)], 40)) == 40
