"""Watch a stream of requests: three layers, one budget, and a state of constant size.

The state is JSON. It contains everything that the next request depends on, so a process that
continues from it raises the same alarms as one that was never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.events import JSON
from tunesmith_monitor.budget import Budget
from tunesmith_monitor.features import MAX_CHARACTERS, Array, FeatureSpace
from tunesmith_monitor.label_test import LabelTest
from tunesmith_monitor.traffic import Request
from tunesmith_monitor.window_test import Group, Reference, WindowTest

LONG = 4
"""A long window has this many times the requests of a short one."""
MIN_WINDOW = 10
SHOWN_CHARACTERS = 500
EXAMPLES = 5
RECENT_LABELS = 200


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A change that one layer detected, with the evidence for it."""

    layer: str
    """``inputs``, ``confidence`` or ``labels``."""
    what: str
    """The group of features that changed, or the layer."""
    request: int
    """Number of the request (of the label, for labels) that completed the evidence."""
    before: float
    """Mean in the reference."""
    now: float
    """Mean in the window."""
    p_value: float | None = None
    words: list[str] = field(default_factory=list)
    """New words or languages that are frequent in the window."""
    examples: list[str] = field(default_factory=list)
    """Requests that differ most."""

    @property
    def is_page(self) -> bool:
        """True if answers became worse, as far as this layer can see; inputs alone mean *look*."""
        return self.layer != "inputs"


@dataclass
class WindowLayer:
    """Tests the latest rows of a stream in short and in long windows."""

    tests: Sequence[WindowTest]
    count: int = 0
    rows: list[list[float]] = field(default_factory=list)
    """The latest rows, at most those of a long window."""

    @classmethod
    def build(cls, reference: Reference, window: int, rate: float) -> WindowLayer:
        """Build the tests; the windows are shorter if the reference is small.

        Args:
            rate: false alarms per request.
        """
        most = len(reference.rows) // 3
        sizes = sorted({min(window, most), min(LONG * window, most)})
        if most < MIN_WINDOW:
            raise UsageError(
                f"{len(reference.rows)} reference requests are too few",
                hint=f"use --reference FILE with at least {3 * MIN_WINDOW} requests",
            )
        return cls(
            [
                WindowTest.build(reference, size, min(0.5, size * rate / len(sizes)), seed=size)
                for size in sizes
            ]
        )

    def add(self, row: list[float], ignored: Sequence[str]) -> tuple[WindowTest, JSON] | None:
        """Add a row; return the test that found a change with the p-values, usually None."""
        longest = self.tests[-1].size
        self.count += 1
        self.rows = [*self.rows[-(longest - 1) :], row]
        for test in self.tests:
            if self.count % test.size == 0:
                window_WF = np.array(self.rows[-test.size :])
                if found := test.find_changed(window_WF, self.count, ignored):
                    return test, dict(found)
        return None


@dataclass
class Watch:
    """The three layers; a layer without a reference is None."""

    space: FeatureSpace
    inputs: WindowLayer
    confidence: WindowLayer | None
    labels: LabelTest | None
    requests: int = 0
    audited: int = 0
    unusable: int = 0
    texts: list[tuple[str, str, float | None, bool]] = field(default_factory=list)
    """The latest requests: id, text, confidence, and True if the text is the whole request."""
    outcomes: list[float] = field(default_factory=list)
    """1.0 (right) or 0.0 (wrong) for each of the latest audited answers."""
    alarms: list[Alarm] = field(default_factory=list)
    """Alarms that nobody has closed."""

    @classmethod
    def build(  # noqa: PLR0913 - what the layers consist of
        cls,
        space: FeatureSpace,
        reference_NF: Array,
        confidences: Sequence[float],
        floor: float | None,
        budget: Budget,
        *,
        window: int,
        tolerance: float,
    ) -> Watch:
        """Build the layers.

        Args:
            confidences: calibrated confidences of the reference; empty: no such layer.
            floor: smallest share of right answers without an alarm; None: no such layer.
            tolerance: fall of the estimated share of right answers without an alarm.

        Raises:
            UsageError: the reference is too small.
        """
        inputs = WindowLayer.build(
            Reference(reference_NF, space.groups), window, budget.rate("inputs")
        )
        sure = None
        if len(confidences) >= 3 * MIN_WINDOW:
            group = Group("confidence", slice(0, 1), falls=True, tolerance=tolerance)
            reference = Reference(np.array(confidences)[:, None], [group])
            sure = WindowLayer.build(reference, window, budget.rate("confidence"))
        labels = None
        if floor is not None:
            labels = LabelTest.start(floor, 1 / budget.rate("labels"))
        return cls(space, inputs, sure, labels)

    def add(self, requests: Sequence[Request | None]) -> list[Alarm]:
        """Add requests in their order, and return the new alarms; None: an unusable line."""
        texts = [r.text for r in requests if r is not None and r.text is not None]
        rows = iter(self.space.transform(texts).tolist() if texts else ())
        before = len(self.alarms)
        for request in requests:
            if request is None:
                self.unusable += 1
                continue
            if request.text is not None:
                self._add_input(request, next(rows))
            if request.confidence is not None and self.confidence is not None:
                self._add_confidence(request.confidence)
            if request.right is not None:
                self._add_label(request.right)
        return self.alarms[before:]

    def _add_input(self, request: Request, row: list[float]) -> None:
        assert request.text is not None
        self.requests += 1
        kept = self.inputs.tests[-1].size
        text = request.text[:MAX_CHARACTERS]
        is_whole = request.is_single and text == request.text
        item = (request.id, text, request.confidence, is_whole)
        self.texts = [*self.texts[-(kept - 1) :], item]
        if found := self.inputs.add(row, self._open()):
            test, changed = found
            for name, p in changed.items():
                self.alarms.append(self._describe_change(test, name, p))

    def _add_confidence(self, value: float) -> None:
        assert self.confidence is not None
        if found := self.confidence.add([value], self._open()):
            test, changed = found
            now = float(np.mean(self.confidence.rows[-test.size :]))
            before = float(test.reference.mean[0])
            order = sorted(self.texts, key=lambda item: 1.0 if item[2] is None else item[2])
            self.alarms.append(
                Alarm(
                    layer="confidence", what="confidence", request=self.requests, before=before,
                    now=now, p_value=changed["confidence"],
                    examples=[item[1][:SHOWN_CHARACTERS] for item in order[:EXAMPLES]],
                )
            )  # fmt: skip

    def _add_label(self, value: float) -> None:
        self.audited += 1
        self.outcomes = [*self.outcomes[-(RECENT_LABELS - 1) :], value]
        if self.labels is not None and self.labels.add(value) and "labels" not in self._open():
            now = float(np.mean(self.outcomes))
            self.alarms.append(
                Alarm(layer="labels", what="labels", request=self.audited,
                      before=self.labels.floor, now=now)
            )  # fmt: skip

    def _describe_change(self, test: WindowTest, name: str, p: float) -> Alarm:
        rows_WF = np.array(self.inputs.rows[-test.size :])
        recent = [item[1] for item in self.texts[-test.size :]]
        group = next(g for g in test.reference.groups if g.name == name)
        distances = np.square(
            (rows_WF - test.reference.mean) / test.reference.scale
        )[:, group.columns].sum(axis=1)  # fmt: skip
        first = group.columns.start
        if name == "topic":
            before, now = (
                0.0,
                float(np.sqrt(test.reference.scores(rows_WF.mean(axis=0)[None])[0, 0])),
            )
        else:
            before = float(test.reference.mean[first])
            now = float(rows_WF[:, first].mean())
        order = np.argsort(-distances, kind="stable")[:EXAMPLES]
        return Alarm(
            layer="inputs", what=name, request=self.requests, before=before, now=now, p_value=p,
            words=self._list_new(name, recent),
            examples=[recent[i][:SHOWN_CHARACTERS] for i in order],
        )  # fmt: skip

    def _list_new(self, name: str, texts: Sequence[str]) -> list[str]:
        """Return frequent words, or languages, that the training rows do not have."""
        found: Counter[str] = Counter()
        for text in texts:
            if name == "language":
                found.update(filter(None, [self.space.find_new_language(text)]))
            else:
                found.update(sorted(set(self.space.list_unknown_words(text))))
        return [word for word, n in found.most_common(8) if n > 1]

    def _open(self) -> list[str]:
        return [alarm.what for alarm in self.alarms]

    def choose_rows_to_label(self, most: int = 20) -> list[tuple[str, str]]:
        """Return the id and text of recent requests that are unusual or answered with doubt.

        Requests that are close to a chosen one are skipped, so that the rows are diverse; and those
        that a row with this text as prompt would not be equal to.
        """
        if not self.texts:
            return []
        rows_NF = np.array(self.inputs.rows[-len(self.texts) :])
        reference = self.inputs.tests[-1].reference
        scaled_NF = (rows_NF - reference.mean) / reference.scale
        sure = [1.0 if c is None else c for _, _, c, _ in self.texts]
        priority = _rank(np.square(scaled_NF).sum(axis=1)) + _rank(1 - np.array(sure))
        gap = np.median(np.linalg.norm(scaled_NF - scaled_NF.mean(axis=0), axis=1)) / 2
        chosen: list[int] = []
        for i in np.argsort(-priority, kind="stable").tolist():
            gaps = np.linalg.norm(scaled_NF[chosen] - scaled_NF[i], axis=1)
            is_whole = self.texts[i][3]
            if len(chosen) < most and is_whole and (not chosen or gaps.min() > gap):
                chosen.append(i)
        return [self.texts[i][:2] for i in chosen]

    def close_alarms(self) -> None:
        """Close the open alarms, so that the same change raises an alarm again."""
        self.alarms = []

    def to_json(self) -> JSON:
        """Return the state, without what is built from the reference."""
        return {
            "requests": self.requests,
            "audited": self.audited,
            "unusable": self.unusable,
            "texts": self.texts,
            "outcomes": self.outcomes,
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "inputs": [self.inputs.count, self.inputs.rows],
            "confidence": self.confidence and [self.confidence.count, self.confidence.rows],
            "evidence": self.labels and self.labels.evidence_by_bet.tolist(),
        }

    def restore(self, state: JSON) -> None:
        """Continue from a state of :meth:`to_json`."""
        self.requests, self.audited = state["requests"], state["audited"]
        self.unusable, self.outcomes = state["unusable"], state["outcomes"]
        self.texts = [tuple(item) for item in state["texts"]]
        self.alarms = [Alarm(**alarm) for alarm in state["alarms"]]
        self.inputs.count, self.inputs.rows = state["inputs"]
        if self.confidence is not None:
            self.confidence.count, self.confidence.rows = state["confidence"]
        if self.labels is not None:
            self.labels.evidence_by_bet = np.array(state["evidence"])


def _rank(values: Any) -> Array:
    """Return the ranks of values, scaled to 0 to 1; equal values have equal ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = np.cumsum(counts)[places] / len(values)
    return ranks
