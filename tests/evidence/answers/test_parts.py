"""A whole answer is right only if each of its parts is."""

from __future__ import annotations

from tunesmith_evidence.answers.parts import list_part_metrics, measure_parts


def test_the_whole_is_right_only_if_each_part_is() -> None:
    metrics = list_part_metrics("whole", "left", "right")
    assert all(metric.bounds == (0, 1) and metric.higher_is_better for metric in metrics)
    rows = [(True, True), (True, False), (False, True), (False, False)]
    found = measure_parts(metrics, rows, ("a", "b", "c", "d"))
    assert {m.metric: m.values for m in found} == {
        "whole": (1, 0, 0, 0),
        "left": (1, 1, 0, 0),
        "right": (1, 0, 1, 0),
    }
    assert [m.outputs for m in found] == [("a", "b", "c", "d"), None, None]
    assert [m.values for m in measure_parts(metrics, [], ())] == [(), (), ()]
