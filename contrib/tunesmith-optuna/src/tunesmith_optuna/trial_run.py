"""Create the run of a trial: the tuned run with different options, scored on validation rows."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.config.run_file import set_value
from tunesmith.errors import ConfigError, Problem, UsageError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.plan import Plan
from tunesmith.storage import write_atomic
from tunesmith.text import suggest_name
from tunesmith_cli.launch import create_run_once
from tunesmith_optuna.space import Space
from tunesmith_optuna.validation_part import NAME

SKIPPED = ("tune", "split", "gate")
"""Tables that a trial does not have: its splits are given, and it has no verdict or gate."""
LEAKS = "leaks"
"""Plugin that compares the splits of the data; it is disabled in trials.

The data is reviewed once before the first trial. In a trial, the test split contains the validation
rows, so the plugin would report every row as a leak.
"""


@dataclass(frozen=True)
class Objective:
    """The metric to optimize, and the evaluator that measures it."""

    metric: Metric
    evaluator: Mapping[str, Any]
    """The evaluator's table in the run file of a trial."""
    id: str

    @property
    def direction(self) -> str:
        """The direction of the study in Optuna's terms, ``maximize`` or ``minimize``."""
        return "maximize" if self.metric.higher_is_better else "minimize"


def find_objective(plan: Plan, catalog: Catalog, name: str) -> Objective:
    """Return the objective for a metric, named ``ID.METRIC`` if several evaluators measure it.

    An evaluator in the run file keeps its options; any other evaluator uses its defaults.

    Raises:
        UsageError: no installed evaluator measures the metric, or several do.
    """
    own_id, _, short = name.rpartition(".")
    offers = [offered.offer for offered in catalog.offers(EvaluatorOffer)]
    own = [(e.offer, e.id, {**e.to_json(), "use": e.use}) for e in plan.evaluators]
    for evaluators in (own, [(offer, offer.name, {"use": offer.name}) for offer in offers]):
        found = [
            Objective(metric, table, evaluator_id)
            for offer, evaluator_id, table in evaluators
            for metric in offer.metrics
            if metric.name == name or (metric.name, evaluator_id) == (short, own_id)
        ]
        if len(found) > 1:
            names = ", ".join(f"{objective.id}.{name}" for objective in found)
            raise UsageError(
                f"tune.metric: {len(found)} evaluators measure `{name}`",
                hint=f"choose one of: {names}",
            )
        if found:
            return found[0]
    known = sorted({m.name for offer in offers for m in offer.metrics if not m.is_descriptive})
    guess = suggest_name(name, known)
    raise UsageError(
        f"tune.metric: no installed evaluator measures `{name}`",
        hint=f'did you mean "{guess}"?' if guess else f"metrics: {', '.join(known)}",
    )


@dataclass(frozen=True)
class TrialRuns:
    """Creates the runs of a study's trials."""

    plan_file: Path
    """The resolved run file to tune, in the search folder."""
    plan: Plan
    objective: Objective

    def make_plan(self, number: int, options: Mapping[str, Any]) -> Plan:
        """Return the plan of a trial, validated by the technique.

        Raises:
            ConfigError: the technique does not accept these options.
        """
        tables = tomllib.loads(self.plan.to_toml())
        for name in SKIPPED:
            tables.pop(name, None)
        tables["data"] = {"use": NAME, "plan": str(self.plan_file.absolute())}
        tables["evaluators"] = [dict(self.objective.evaluator)]
        tables["baselines"] = {"use": []}
        tables["run"] |= {"name": name_trial(number), "folder": str(self.plan_file.parent)}
        plugins = tables.setdefault("plugins", {})
        plugins["disable"] = [*{**dict.fromkeys(plugins.get("disable", [])), LEAKS: None}]
        return api.load_plan(tables, sets=options)[0]

    def check_space(self, space: Space) -> None:
        """Check both ends of each range, and each choice, before anything is trained.

        Raises:
            ConfigError: the technique does not accept some values. The error lists all of them.
        """
        problems: dict[str, Problem] = {}
        for dimension in space.dimensions:
            for value in dimension.ends():
                try:
                    self.make_plan(0, {dimension.key: dimension.decode(value)})
                except ConfigError as error:
                    for problem in error.problems:
                        where = f"tune.search.{problem.where}"
                        problems.setdefault(where, Problem(where, problem.what, problem.hint))
        if problems:
            raise ConfigError([*problems.values()])

    def prepare(self, number: int, options: Mapping[str, Any]) -> Path:
        """Return the run folder of a trial, after creating it if it does not exist.

        Raises:
            ConfigError: the technique does not accept this combination of options.
        """
        folder = self.plan_file.parent / name_trial(number)
        create_run_once(folder, lambda: self.make_plan(number, options))
        return folder


def name_trial(number: int) -> str:
    """Return the name of a trial and of its folder."""
    return f"trial-{number:03d}"


def find_options(plan: Plan, keys: Iterable[str]) -> dict[str, Any]:
    """Return the values of some dotted keys in a plan."""
    tables = plan.to_json()
    found = {}
    for key in keys:
        node: Any = tables
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        found[key] = node
    return found


def select_named_keys(plan: Plan) -> dict[str, Any]:
    """Return the tables of a plan with only the keys set in the run file or on the command line.

    The plan's values are resolved, so the tables keep their meaning in a different folder.
    """
    tables: dict[str, Any] = _select(plan.to_json(), "", plan.origins.keys())
    # Set explicitly, because the defaults would depend on the new file.
    tables["run"] = {**tables.get("run", {}), "name": plan.name, "folder": plan.run.folder}
    return tables


def write_best(plan: Plan, options: Mapping[str, Any], path: Path, sentence: str) -> None:
    """Write a run file with the user's own keys and the best options."""
    import tomli_w

    tables = select_named_keys(plan)
    tables.pop("tune", None)
    for key, value in options.items():
        set_value(tables, key, value, where="tune.search")
    lines = ["Written by `tunesmith tune`.", *textwrap.wrap(sentence, 98)]
    comment = "".join(f"# {line}\n" for line in lines)
    write_atomic(path, f"{comment}\n{tomli_w.dumps(tables)}")


def _select(value: Any, key: str, named: Collection[str]) -> Any:
    """Return the named parts of a table or of a list of tables, or None if no name matches."""
    if any(key == name or key.startswith(f"{name}.") for name in named):
        return value
    if not isinstance(value, dict | list):
        return None
    items = value.items() if isinstance(value, dict) else enumerate(value)
    start = f"{key}." if key else ""
    found = {k: _select(item, f"{start}{k}", named) for k, item in items}
    kept = {k: item for k, item in found.items() if item is not None}
    return (kept if isinstance(value, dict) else [*kept.values()]) or None
