"""Models by name: a run's, what a stage of a run left behind, or anything that is found as a base.

For what needs a second model beside the one at hand: a rival, a reference, a judge.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith import api, plugins
from tunesmith.catalog import Catalog
from tunesmith.contracts import TextModel
from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith.plan import Plan

_OF_A_RUN = ("run.toml", "events.jsonl")
_WEIGHTS = ("adapter_config.json", "config.json")


def open_by_name(where: str, *, device: str = "auto", option: str = "model") -> TextModel:
    """The text model of a run folder, of an artifact below one, or of a model reference.

    ``option`` is what errors call the name.

    Raises:
        UsageError: there is no such model, or the run has none yet.
    """
    folder = Path(where)
    if _is_run(folder):
        place, plan, _ = api.reopen(folder)
        return api.open_models(place, plan)["tuned"]
    if (inside := run_around(folder)) and any((folder / name).is_file() for name in _WEIGHTS):
        technique = inside.technique.offer.build(inside.technique.config)
        return technique.open(inside.found_model.fetch(), folder, device=inside.run.device)
    from tunesmith_torch.generation.text_model import open_text_model
    from tunesmith_torch.options.training import FitOptions

    return open_text_model(
        base_by_name(where, option), None, device=device, options=from_table(FitOptions, {})
    )


def base_by_name(where: str, option: str) -> Path:
    """The folder of a model that an installed plugin recognises.

    Raises:
        UsageError: none does.
    """
    found = Catalog(plugins.find(plugins.Selection.from_environment())).find_model(where, None)
    if found is None:
        raise UsageError(
            f'{option}: no run and no model is found, got "{where}"',
            hint="name a run folder, an artifact below one, or what [model] base may be",
        )
    return found.fetch()


def run_around(folder: Path) -> Plan | None:
    """The plan of the run that an artifact lies in; None where it lies in none."""
    for parent in folder.absolute().parents:
        if _is_run(parent):
            return api.reopen(parent)[1]
    return None


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _OF_A_RUN)
