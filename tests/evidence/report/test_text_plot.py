"""A curve as lines of text."""

from __future__ import annotations

from tunesmith_evidence.report.curves import Curve, Points
from tunesmith_evidence.report.text_plot import ASCII_MARKS, plot_curve


def plot(points: Points, validation: Points = (), **options: int) -> list[str]:
    return plot_curve(Curve("loss", "nats", points, validation), marks=ASCII_MARKS, **options)


def test_a_curve_with_its_axes() -> None:
    assert plot([(1, 3.0), (2, 2.0), (3, 1.0)], height=3) == [
        "loss (nats)",
        "3.000 |*",
        "      | *",
        "1.000 |  *",
        "      +---",
        " step  1 3",
    ]


def test_validation_values_are_in_the_same_curve() -> None:
    lines = plot([(1, 3.0), (2, 2.0), (3, 2.0)], [(0, 9.0), (2, 1.0), (3, 3.0)], height=3)
    assert lines[:4] == [
        "loss (nats); o = validation rows",
        "3.000 |* o",
        "      | **",
        "1.000 | o",
    ]


def test_values_that_differ_much_have_a_log_scale() -> None:
    lines = plot([(n, 10.0**-n) for n in range(5)], height=5)
    assert lines[0] == "loss (nats), log scale"
    assert [line.partition("|")[2] for line in lines[1:6]] == ["*", " *", "  *", "   *", "    *"]
    assert lines[1].startswith("1.000 |") and lines[5].startswith(" 1e-4 |")
    assert plot([(1, 0.0), (2, 1.0)])[0] == "loss (nats)"


def test_a_long_curve_is_as_wide_as_it_may_be() -> None:
    lines = plot([(n, 1.0 + n % 7) for n in range(1, 1001)], width=40)
    assert max(map(len, lines)) <= 40 + 8 and lines[-1].split() == ["step", "1", "1,000"]


def test_a_constant_and_a_single_value() -> None:
    assert plot([(1, 2.0), (2, 2.0)], height=2)[2] == "2.000 |**"
    assert plot([(1, 2.0)]) == []
