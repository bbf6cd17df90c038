"""Save and open the winning baseline of a run where fine-tuning was not worth it.

The folder ``winner`` in the run folder contains everything to rebuild the baseline, without
pickle::

    winner/
      winner.json      the baseline, its options and its variant
      train.jsonl      the training rows that it learns from or shows in its prompts
      files/           files and folders named in its options, such as prompts
      MANIFEST.json    checksums of these files

Opening the folder builds the baseline again. The result is deterministic for the same rows and
seed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith import api
from tunesmith.config.paths import is_path
from tunesmith.contracts import BaselineTask, TextModel
from tunesmith.errors import IntegrityError, UsageError
from tunesmith.events import BaselineChosen
from tunesmith.execution.encoder import build_baseline_task
from tunesmith.fence import fence
from tunesmith.offers import BaselineOffer
from tunesmith.plan import Component, Evidence, Plan
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    TextPart,
    ToolCall,
    UnpairedPreference,
    has_media,
)
from tunesmith.storage import RunFolder, commit_folder, verify_folder

__all__ = [
    "WINNER_FOLDER",
    "discard_winner",
    "has_probabilities",
    "open_winner",
    "rebuild_baseline",
    "save_winner",
]

SCHEMA = "tunesmith.winner/1"
WINNER_FOLDER = "winner"
"""Name of the winner's folder in the run folder."""
_KINDS: Mapping[str, Any] = {
    kind.__name__: kind for kind in (Text, Completion, Chat, Preference, UnpairedPreference)
}


def save_winner(evidence: Evidence, name: str) -> str:
    """Save the baseline called ``name`` in the run folder, replacing an earlier winner.

    Returns:
        The path of the folder, relative to the run folder. It is empty, and nothing is saved, if
        there are no training rows, or if they have media or a kind that a plugin defines.
    """
    chosen = next(event for event in evidence.baselines if event.baseline == name)
    rows = evidence.train
    if not rows or has_media(rows) or any(type(r).__name__ not in _KINDS for r in rows):
        return ""
    baseline = _find_baseline(evidence.plan, name)
    commit_folder(
        evidence.folder / WINNER_FOLDER, lambda folder: _write(folder, evidence, baseline, chosen)
    )
    return WINNER_FOLDER


def discard_winner(folder: Path) -> None:
    """Remove the winner of an earlier verdict, if there is one."""
    shutil.rmtree(folder / WINNER_FOLDER, ignore_errors=True)


def open_winner(run: RunFolder, plan: Plan) -> tuple[str, TextModel]:
    """Rebuild the winning baseline of a run from its folder ``winner``.

    Returns:
        The baseline's name with its variant, and the baseline as a text model.

    Raises:
        UsageError: the run has no winning baseline, or the installed one does not have its variant.
        IntegrityError: a file in the folder ``winner`` is missing or damaged.
    """
    folder = run.path / WINNER_FOLDER
    if not (folder / "winner.json").is_file():
        raise UsageError(
            f"{run.path}: the run has no winner, because its verdict does not recommend a prompt "
            "or a small classifier",
            hint=f"`tunesmith report {run.path}` shows the verdict",
        )
    problems = verify_folder(folder)
    if problems:
        raise IntegrityError(
            f"{folder}: {problems[0]}",
            hint=f"`tunesmith verify {run.path}` lists all missing or damaged files",
        )
    saved = json.loads((folder / "winner.json").read_text(encoding="utf-8"))
    baseline = _find_baseline(plan, saved["baseline"])
    base = cache(lambda: api.open_models(run, plan, tuned=False, base=True)["base"])
    task = replace(
        build_baseline_task(plan, read_records(folder / "train.jsonl"), base),
        seed=saved["seed"],
        system_prompt=saved["system_prompt"],
    )
    config = _read_options(baseline.offer, saved["options"], saved["files"], folder)
    names = (saved["variant"], str(folder / saved["variant"]))
    model = _build_variant(baseline, config, task, names)
    if model is None:
        raise UsageError(
            f"{folder}: the installed baseline {saved['baseline']} has no variant "
            f"{saved['variant']!r}",
            hint="install the plugin versions that are listed in report.json",
        )
    return " ".join(filter(None, [saved["baseline"], saved["variant"]])), model


def has_probabilities(run: RunFolder) -> bool:
    """Return False if the winner is a constant or a classifier; True otherwise, or if unknown."""
    try:
        saved = json.loads((run.path / WINNER_FOLDER / "winner.json").read_text(encoding="utf-8"))
        return saved["solution"] in ("prompt", "retrieval")
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return True


def rebuild_baseline(
    plan: Plan, train: Sequence[Record], chosen: BaselineChosen, base: TextModel
) -> TextModel | None:
    """Rebuild the chosen variant of a baseline from the training rows.

    Args:
        plan: the plan with the baseline's options.
        train: the training rows.
        chosen: the baseline and its variant.
        base: the untuned base model.

    Returns:
        The variant as a text model, or None if the installed baseline has no such variant.
    """
    baseline = _find_baseline(plan, chosen.baseline)
    task = build_baseline_task(plan, train, lambda: base)
    return _build_variant(baseline, baseline.config, task, (chosen.variant,))


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records with their kinds as JSON lines, to a file that only this user can read."""
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps({"kind": type(record).__name__, **asdict(record)}) + "\n")


def read_records(path: Path) -> list[Record]:
    """Read records written by :func:`write_records`."""
    with path.open(encoding="utf-8") as file:
        return [_read_record(json.loads(line)) for line in file]


def _read_record(row: dict[str, Any]) -> Record:
    kind = _KINDS[row.pop("kind")]
    for name in ("messages", "prompt"):
        if isinstance(row.get(name), list):
            row[name] = tuple(map(_read_message, row[name]))
    record: Record = kind(**row)
    return record


def _read_message(row: dict[str, Any]) -> Message:
    if isinstance(row["content"], list):
        row["content"] = tuple(TextPart(**part) for part in row["content"])
    row["tool_calls"] = tuple(ToolCall(**call) for call in row["tool_calls"])
    row["tools"] = tuple(row["tools"])
    return Message(**row)


def _write(
    folder: Path,
    evidence: Evidence,
    baseline: Component[BaselineOffer[Any]],
    chosen: BaselineChosen,
) -> None:
    plan, files = evidence.plan, _copy_files(baseline.config, folder)
    copies = {path: copy for copied in files.values() for path, copy in copied.items()}
    write_records(folder / "train.jsonl", evidence.train)
    saved = {
        "schema": SCHEMA,
        "baseline": chosen.baseline,
        "solution": chosen.solution,
        "variant": _rename(chosen.variant, copies),
        "options": baseline.config.model_dump(mode="json"),
        "files": files,
        "model": plan.model.model_dump(mode="json"),
        "seed": plan.run.seed,
        "system_prompt": plan.baseline_options.system_prompt,
    }
    text = json.dumps(saved, indent=2, ensure_ascii=True) + "\n"
    (folder / "winner.json").write_text(text, encoding="utf-8")


def _rename(variant: str, copies: Mapping[str, str]) -> str:
    """Replace a file name at the start of a variant's name with the name of its copy."""
    for path, copy in copies.items():
        if variant == path or variant.startswith(f"{path}, "):
            return copy + variant.removeprefix(path)
    return variant


def _copy_files(config: BaseModel, folder: Path) -> dict[str, dict[str, str]]:
    """Copy the files and folders in options, and return the copies by option and original path."""
    files: dict[str, dict[str, str]] = {}
    for name, info in type(config).model_fields.items():
        if not is_path(info):
            continue
        value = getattr(config, name) or ()
        for path in [value] if isinstance(value, str) else value:
            copied = files.setdefault(name, {})
            if path in copied or not Path(path).exists():
                continue
            copy = f"files/{name}/{len(copied)}/{Path(path).name}"
            (folder / copy).parent.mkdir(parents=True)
            if Path(path).is_dir():
                shutil.copytree(path, folder / copy, ignore=_list_uncopied)
            else:
                shutil.copyfile(path, folder / copy)
            copied[path] = copy
    return files


def _list_uncopied(folder: str, names: Sequence[str]) -> list[str]:
    """Return the files not to copy: hidden files, and links, which may lead out of the folder."""
    return [name for name in names if name.startswith(".") or Path(folder, name).is_symlink()]


def _read_options(
    offer: BaselineOffer[Any],
    options: dict[str, Any],
    files: dict[str, dict[str, str]],
    folder: Path,
) -> BaseModel:
    for name, copied in files.items():
        copies = {path: str(folder / copy) for path, copy in copied.items()}
        value = options[name]
        is_text = isinstance(value, str)
        options[name] = copies.get(value, value) if is_text else [copies.get(p, p) for p in value]
    try:
        config: BaseModel = offer.config(**options)
    except ValidationError as error:
        raise UsageError(
            f"{folder}: the installed baseline {offer.name} does not accept the winner's options: "
            f"{error.errors()[0]['msg']}",
            hint="install the plugin versions that are listed in report.json",
        ) from None
    return config


def _build_variant(
    baseline: Component[BaselineOffer[Any]],
    config: BaseModel,
    task: BaselineTask,
    names: Sequence[str],
) -> TextModel | None:
    """Build the first variant that has one of the names, or return None if no variant has."""
    with fence(baseline.offered.plugin, "variants", may_take_long=True):
        variants = baseline.offer.build(config).variants(task)
        return next((v.model for v in variants if v.name in names), None)


def _find_baseline(plan: Plan, name: str) -> Component[BaselineOffer[Any]]:
    baseline = next((baseline for baseline in plan.baselines if baseline.offer.name == name), None)
    if baseline is None:
        raise UsageError(
            f"{name}: no installed plugin offers this baseline",
            hint="install the plugin of this baseline; `tunesmith plugins list` shows those that "
            "are installed",
        )
    return baseline
