"""Open text models by name: a run's model, a stage's model, or any base model.

Evaluators that compare models open the second one here.
"""

from __future__ import annotations

from pathlib import Path

from tunesmith import api, plugins
from tunesmith.catalog import Catalog
from tunesmith.contracts import FoundModel, TextModel
from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith.plan import Plan

__all__ = ["fetch_base", "find_tokenizer", "open_by_name"]

_RUN_FILES = ("run.toml", "events.jsonl")
_ARTIFACT_CONFIGS = ("adapter_config.json", "config.json")


def open_by_name(
    reference: str, *, device: str = "auto", option: str = "model", precision: str = "auto"
) -> TextModel:
    """Return the text model of a run folder, of an artifact in a run, or of a model reference.

    ``option`` is the option's name for error messages. A run's model has the run's precision.

    Raises:
        UsageError: there is no such model, or the run has not produced one yet.
    """
    folder = Path(reference)
    if _is_run_folder(folder):
        run_folder, plan, _ = api.load_run(folder)
        return api.open_models(run_folder, plan)["tuned"]
    if (enclosing_plan := find_enclosing_run(folder)) and any(
        (folder / name).is_file() for name in _ARTIFACT_CONFIGS
    ):
        technique = enclosing_plan.technique.offer.build(enclosing_plan.technique.config)
        return technique.open(
            enclosing_plan.found_model.fetch(), folder, device=enclosing_plan.run.device
        )
    from tunesmith_torch.generation.open_model import open_text_model
    from tunesmith_torch.options.training import TrainingOptions

    options = from_table(TrainingOptions, {"precision": precision})
    return open_text_model(fetch_base(reference, option), None, device=device, options=options)


def fetch_base(reference: str, option: str) -> Path:
    """Return the folder of a model that an installed plugin recognizes.

    Raises:
        UsageError: no plugin recognizes it.
    """
    return _find_base(reference, option).fetch()


def find_tokenizer(reference: str, option: str) -> Path | None:
    """Return the folder with the tokenizer of what :func:`open_by_name` opens, without opening it.

    None: the tokenizer is not on this machine.

    Raises:
        UsageError: there is no such model.
    """
    folder = Path(reference)
    plan = api.load_run(folder)[1] if _is_run_folder(folder) else find_enclosing_run(folder)
    return (plan.found_model if plan else _find_base(reference, option)).tokenizer()


def _find_base(reference: str, option: str) -> FoundModel:
    found = Catalog(plugins.find_plugins(plugins.Selection.from_environment())).find_model(
        reference, None
    )
    if found is None:
        raise UsageError(
            f'{option}: no run or model found, got "{reference}"',
            hint="use a run folder, an artifact in a run, or anything that [model] base accepts",
        )
    return found


def find_enclosing_run(folder: Path) -> Plan | None:
    """Return the plan of the run whose folder contains ``folder``, or None."""
    for parent in folder.absolute().parents:
        if _is_run_folder(parent):
            return api.load_run(parent)[1]
    return None


def _is_run_folder(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _RUN_FILES)
