"""Let plugins review a run before training, once its base model's config is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.errors import EnvironmentProblem
from tunesmith.events import FindingReported
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.gate import check_warnings, refuses
from tunesmith.offers import TechniqueOffer
from tunesmith.plan import ModelReview, Plan
from tunesmith.records import Record


@dataclass
class ModelReviewer:
    """Reviews a run as soon as the config of the base model is known.

    If its tokenizer is not known yet, row lengths are guessed, and the run is reviewed again once
    it is. Only new findings are emitted then.

    A resumed run is reviewed again only if it was refused, or if its review did not take place.
    """

    plan: Plan
    catalog: Catalog
    emit: Emitter
    force: bool
    """True replaces each error with its ``if_forced`` finding, for ``--force``."""

    def __post_init__(self) -> None:
        report = self.emit.report
        forecast = report.forecast
        # A forecast shows that the review passed. Without one, only training that has started
        # shows it: a run may have stopped after its baselines.
        done = bool(report.training_started) if forecast is None else not forecast.refused
        self.is_pending = self.plan.trains and not done
        self._has_guessed = False
        self._emitted: list[FindingReported] = []

    def review(
        self, train: Sequence[Record], test: Sequence[Record], config: Mapping[str, Any]
    ) -> None:
        """Review the run and emit the results, if it is still to be reviewed.

        Raises:
            EnvironmentProblem: a review found an error.
            GateError: a review found a warning, and ``[gate] strict`` is set.
        """
        guesses = self.plan.found_model.tokenizer() is None
        if not self.is_pending or not config or (guesses and self._has_guessed):
            return
        self.is_pending = self._has_guessed = guesses
        with self.emit.phase("forecast"):
            results = self.catalog.review_model(
                ModelReview(
                    plan=self.plan,
                    config=config,
                    train=train,
                    test=test,
                    techniques=self.catalog.offers(TechniqueOffer),
                )
            )
        findings = [(plugin, finding) for plugin, result in results for finding in result.findings]
        if self.force:
            findings = [(plugin, finding.if_forced or finding) for plugin, finding in findings]
        errors = [finding for _, finding in findings if finding.level == "error"]
        events = [f.to_event(plugin.full_name) for plugin, f in findings if f.level != "error"]
        events = [event for event in events if event not in self._emitted]
        self._emitted += events
        is_refused = refuses(self.plan.gate, events)
        for _, result in results:
            if result.forecast is not None:
                self.emit(replace(result.forecast, refused=bool(errors) or is_refused))
        for event in events:
            self.emit(event)
        if errors:
            texts = [f"{e.where}: {e.message}" if e.where else e.message for e in errors]
            hints = [error.hint for error in errors if error.hint]
            raise EnvironmentProblem("; ".join(texts), hint="\n".join(hints) or None)
        check_warnings(self.plan.gate, events)


def read_model_config(model: Path) -> Mapping[str, Any]:
    """Read ``config.json`` of a model folder; return an empty mapping if it cannot be read."""
    try:
        found = json.loads((model / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
