"""The ablation: train with and without the synthetic rows, and compare on the same rows and seeds.

Three arms have the same number of training rows and optimizer steps:

- ``real``: each real row equally often
- ``upsampled``: real rows with the answers of the synthetic ones
- ``synthetic``: the real rows and the synthetic ones

The rows *helped* if the interval of the difference is above 0 in comparison with both controls. If
it is below 0 with one of them, they *harmed*. Otherwise the gain is *not shown*.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import api
from tunesmith.errors import ConfigError, DataError, Problem, UsageError
from tunesmith.execution import execute
from tunesmith.execution.execute import load_report
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.plan import Component
from tunesmith.records import Record
from tunesmith.storage import RunFolder, write_atomic
from tunesmith.storage.atomic import make_folder
from tunesmith_evidence.comparison import RunResults
from tunesmith_evidence.number_text import format_difference, format_interval
from tunesmith_synthetic.dataset import digest_rows, read_dataset, with_data
from tunesmith_synthetic.interval import Difference, compare_over_rows_and_seeds
from tunesmith_synthetic.loader import Arm, add_rows
from tunesmith_synthetic.request import Request

ARMS: tuple[Arm, ...] = ("real", "upsampled", "synthetic")
CONTROLS: tuple[Arm, ...] = ARMS[:2]
FOLDER = "ablation"
LEAKS = "leaks"
"""Plugin that compares the splits. It reviewed the real rows when they were generated from; with
validation rows instead of test rows, it would report each of them."""


@dataclass(frozen=True)
class Score:
    """The value of a metric on each row that decides, with the row's weight and group."""

    values: Mapping[str, float]
    weights: Mapping[str, float]
    """The weights in the mean; a row of weight 0 was not scored."""
    groups: Mapping[str, str | None]

    @property
    def mean(self) -> float:
        """The weighted mean over the rows."""
        weights = [self.weights[key] for key in self.values]
        return float(np.average([*self.values.values()], weights=weights))


@dataclass(frozen=True)
class Ablation:
    """An ablation of the rows in the folder of a request."""

    request: Request

    @property
    def seeds(self) -> Sequence[int]:
        """The run's seed and the following ones; each arm is trained with all of them."""
        return range(self.request.seed, self.request.seed + self.request.options.ablate.seeds)

    @cached_property
    def part(self) -> str:
        """The rows that decide: validation rows, if there are any and test rows are not named."""
        wants_test = self.request.options.ablate.rows == "test"
        return "test" if wants_test or not self.request.parts.validation else "validation"

    @cached_property
    def scored(self) -> Sequence[Record]:
        """The records of :attr:`part`; no arm is trained on them.

        Raises:
            DataError: there are no such rows.
        """
        parts = self.request.parts
        found = parts.test if self.part == "test" else parts.validation
        if not found:
            raise DataError(
                "data",
                "there are no validation or test rows to score the arms on",
                hint="set split.validation_size, for example to 0.2",
            )
        return found

    @cached_property
    def evaluator(self) -> tuple[Component[EvaluatorOffer[Any]], Metric]:
        """The evaluator that measures the metric: one in the run file, or an installed one.

        Raises:
            ConfigError: no evaluator measures it row by row.
        """
        name, catalog = self.request.options.ablate.metric, self.request.catalog
        own = list(self.request.plan.evaluators)
        own += [Component(o, o.offer.config(), o.offer.name) for o in _simple(catalog)]
        for component in own:
            for metric in component.offer.metrics:
                if metric.name == name and metric.is_row_mean:
                    return component, metric
        what = f"no evaluator measures `{name}` row by row"
        raise ConfigError([Problem("ablate.metric", what, "choose a metric such as exact-match")])

    def jobs(self) -> list[tuple[Arm, int]]:
        """Return the arms and seeds in the order of their training, all arms of a seed together."""
        return [(arm, seed) for seed in self.seeds for arm in ARMS]

    def is_done(self, arm: Arm, seed: int) -> bool:
        """Return True if an arm is already measured."""
        return self._file(arm, seed).is_file()

    def measure(self, arm: Arm, seed: int) -> Score:
        """Train an arm with one seed, unless it is done, and return its score."""
        path = self._file(arm, seed)
        if not path.is_file():
            make_folder(path.parent)
            train = self.request.options.ablate.train
            score = self._train(arm, seed) if train == "technique" else self._fit(arm, seed)
            write_atomic(path, json.dumps(asdict(score)))
        return Score(**json.loads(path.read_bytes()))

    def _file(self, arm: Arm, seed: int) -> Path:
        """Return the file of an arm's score, whose name has everything that determines it."""
        request = self.request
        options = request.options.ablate.model_dump_json(exclude={"seeds"})
        content = f"{digest_rows(request.folder)}{options}{request.parts.fingerprint}"
        name = hashlib.sha256(f"{content}{request.plan.to_toml()}".encode()).hexdigest()[:12]
        return self.request.folder / FOLDER / name / f"{arm}-{seed}.json"

    def _fit(self, arm: Arm, seed: int) -> Score:
        """Train a classifier, and measure it."""
        real, added = self.request.parts.train, read_dataset(self.request.folder).records
        train = [*real, *add_rows(real, added, arm, seed)]
        name = self.request.options.ablate.classifier
        variant = next(iter(self.request.solve(name, train, seed)), None)
        if variant is None:
            raise UsageError(
                f"ablate.classifier: the baseline {name} does not support these rows",
                hint="choose a baseline that suits the rows, such as linear",
            )
        component, metric = self.evaluator
        with attribute_errors_to(component.offered.plugin):
            measured = component.offer.build(component.config).measure(variant.model, self.scored)
        (found,) = (m for m in measured if m.metric == metric.name)
        weights = found.weights or [1.0] * len(found.values)
        return Score(
            {str(n): value for n, value in enumerate(found.values)},
            {str(n): weight for n, weight in enumerate(weights)},
            {str(n): record.group for n, record in enumerate(self.scored)},
        )

    def _train(self, arm: Arm, seed: int) -> Score:
        """Train with the run file's technique, or continue, and read its scores."""
        path = self._file(arm, seed).with_suffix("")
        if path.is_dir():
            folder, plan, catalog = api.load_run(path)
            if load_report(folder).status != "ok":
                api.continue_run(folder, plan, catalog)
        else:
            plan, catalog = api.load_plan(self._tables(arm, seed))
            api.require_runnable(plan)
            execute.run(plan, catalog, api.create_run_folder(plan, path))
        results, (component, metric) = RunResults.read(RunFolder.open(path).path), self.evaluator
        rows = results.rows(component.id, metric.name)
        found = {repr(key): row for key, row in rows.items()}
        return Score(
            {key: float(row[metric.name]["value"]) for key, row in found.items()},
            {key: float(row[metric.name]["weight"]) for key, row in found.items()},
            {key: row.get("group") for key, row in found.items()},
        )

    def _tables(self, arm: Arm, seed: int) -> dict[str, Any]:
        plain = tomllib.loads(self.request.plan.to_toml())
        plain.pop("gate", None)
        component, _ = self.evaluator
        options = {"arm": arm, "seed": seed, "score": self.part}
        tables = with_data(self.request, plain, options)
        tables["evaluators"] = [component.to_json()]
        tables["baselines"] = {"use": []}
        tables["run"] |= {"name": f"{arm}-{seed}", "seed": seed, "side_effects": False}
        plugins = tables.setdefault("plugins", {})
        plugins["disable"] = sorted({*plugins.get("disable", ()), LEAKS})
        return tables


def _simple(catalog: Any) -> list[Any]:
    """Return the evaluators of generated answers that need no options."""
    offers = catalog.offers(EvaluatorOffer)
    return [
        o for o in offers if not any(f.is_required() for f in o.offer.config.model_fields.values())
    ]


def conclude(ablation: Ablation, scores: Mapping[tuple[Arm, int], Score]) -> dict[str, Any]:
    """Compare the arms; return the result for the card."""
    metric, seeds = ablation.evaluator[1], ablation.seeds
    sign = 1 if metric.higher_is_better else -1
    bounds = metric.limits or (0.0, 1.0)
    found = {control: compare_arms(scores, seeds, control, bounds) for control in CONTROLS}
    gains = [sorted((sign * each.low, sign * each.high)) for each in found.values()]
    helped, harmed = all(low > 0 for low, _ in gains), any(high < 0 for _, high in gains)
    word = "helped" if helped else "harmed" if harmed else "not shown"
    options = ablation.request.options.ablate
    trained = options.classifier if options.train == "classifier" else "technique"
    texts = [
        f"{format_difference(d.value)} {format_interval(d.low, d.high, signed=True)} against {name}"
        for name, d in found.items()
    ]
    sentence = (
        f"{word}: {metric.name} changed by {' and '.join(texts)} on {len(ablation.scored):,} "
        f"{ablation.part} rows, {len(seeds)} seeds"
    )
    return {
        "word": word,
        "sentence": sentence,
        "metric": metric.name,
        "trained": trained,
        "rows": ablation.part,
        "n": len(ablation.scored),
        "sha256": digest_rows(ablation.request.folder),
        "seeds": [*seeds],
        "scores": {arm: [scores[arm, seed].mean for seed in seeds] for arm in ARMS},
        "differences": {name: asdict(difference) for name, difference in found.items()},
    }


def compare_arms(
    scores: Mapping[tuple[Arm, int], Score],
    seeds: Sequence[int],
    control: Arm,
    bounds: tuple[float, float],
) -> Difference:
    """Return the difference between the synthetic arm and a control, over rows and seeds.

    Rows that were not scored in one of the trainings are skipped.
    """
    pairs = [(scores["synthetic", seed], scores[control, seed]) for seed in seeds]
    first = pairs[0][0]
    keys = [key for key in first.values if all(a.weights[key] and b.weights[key] for a, b in pairs)]
    table = np.array([[a.values[key] - b.values[key] for key in keys] for a, b in pairs])
    return compare_over_rows_and_seeds(
        table,
        [first.groups[key] for key in keys],
        weights=[first.weights[key] for key in keys],
        bounds=bounds,
    )
