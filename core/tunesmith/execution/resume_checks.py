"""Compare the inputs of a resumed run with those at its start.

A resumed run gives the weights of an uninterrupted one only if its data, options, base model and
plugins are the same. If they differ, the run is refused with an error that names the difference. If
the user accepts the difference with ``--accept-changes``, it is written to the run's log, because
the stored run file alone no longer explains the result.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.contracts import FoundModel
from tunesmith.errors import UsageError
from tunesmith.events import JSON, DataLoaded, FindingReported, ModelResolved, RunStarted
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.report import Report
from tunesmith.storage import MANIFEST, RunFolder

RESULT_TABLES = ("model", "data", "technique", "evaluators", "baselines", "encoder", "gate")
"""Tables of a plan whose options determine the result, besides tables that add to the training; in
``[run]``, only seed and device do."""
TRAINING_FILE_SUFFIXES = frozenset({".json", ".safetensors", ".jinja", ".model", ".txt"})
_HEAD_BYTES, _SAMPLE_BYTES, _SAMPLE_COUNT = 1 << 20, 1 << 14, 64


@dataclass(frozen=True)
class ResumeCheck:
    """Raises an error for changed inputs, or logs that the user accepted them."""

    emit: Emitter
    accepted: bool
    lost: Sequence[str] = ()
    """Inputs that the event log no longer records. The user accepted that they cannot be
    compared."""

    def require_unchanged(self, inputs: str, changes: list[str], hint: str) -> None:
        """Raise an error if there are changes, or emit a warning if the user accepted them.

        ``inputs`` names the compared inputs. ``hint`` is what to do instead of accepting changes.

        Raises:
            UsageError: there are changes, and they were not accepted.
        """
        if not changes:
            return
        text = f"{inputs} changed since the run started: {'; '.join(changes)}"
        if not self.accepted:
            raise UsageError(text, hint=f"{hint}, or resume with --accept-changes")
        message = f"resumed although {text}"
        self.emit(FindingReported(level="warning", source="resume", message=message))


def find_lost_events(folder: RunFolder, report: Report, accepted: bool) -> list[str]:
    """List the facts that the run has produced but a cut or deleted event log no longer records.

    A run that was killed before its first event also has an empty log, but it has not produced
    anything.

    Raises:
        UsageError: something is missing, and the user has not ``accepted`` this.
    """
    folders = [path for path in folder.path.iterdir() if path.is_dir()]
    trained = any(
        p.name in ("checkpoints", "evaluations") or (p / MANIFEST).is_file() for p in folders
    )
    ended = (folder.path / "report.json").is_file()
    recorded = {
        "the options and plugins of the run": report.started or not (trained or ended),
        "the fingerprint of the data": report.data or not trained,
        "the files of the base model": report.model or not trained,
    }
    lost = [what for what, is_recorded in recorded.items() if not is_recorded]
    if lost and not accepted:
        raise UsageError(
            f"{folder.events}: the event log was emptied, cut or deleted; it no longer records "
            f"{', '.join(lost)}, so changes since the start cannot be detected",
            hint="restore the file, or start a new run; --accept-changes continues from the newest "
            "checkpoint without comparing, and repeats the evaluations",
        )
    return lost


def check_plugins(then: Sequence[JSON], now: Sequence[JSON]) -> list[str]:
    """Return a line for each plugin that was added, or has another version, since the run started.

    An unused plugin is not listed; the plugin that replaced it is.
    """
    versions = _versions(now)
    before = {name: version for name, version in _versions(then).items() if name in versions}
    return list(_differences(before, versions))


def check_options(then: RunStarted, now: RunStarted) -> list[str]:
    """Return a line for each changed run-file key that determines the result."""
    tables = [*RESULT_TABLES, *then.additions, *now.additions]
    options = (dict(_result_options(started.plan, tables)) for started in (then, now))
    return list(_differences(*options))


def check_libraries(then: RunStarted, now: RunStarted) -> list[str]:
    """Return a line for each library whose version has changed since the run started.

    The run continues, because results can differ only in the last bits.
    """
    return list(_differences(then.versions, now.versions))


def check_data(then: DataLoaded, now: DataLoaded) -> list[str]:
    """Return a line that describes how the data changed, or an empty list if it did not change."""
    if then.fingerprint == now.fingerprint:
        return []
    sizes = [f"{event.train} + {event.validation} + {event.test}" for event in (then, now)]
    return [
        f"training + validation + test rows were {sizes[0]}, are now {sizes[1]}; "
        f"the fingerprint was {then.fingerprint[:12]}, is now {now.fingerprint[:12]}"
    ]


def check_model(then: ModelResolved, now: ModelResolved) -> list[str]:
    """Return a line for each file of the base model that was added, removed or changed."""
    return list(_differences(_shorten_digests(then.files), _shorten_digests(now.files)))


def build_model_event(found: FoundModel, folder: Path) -> ModelResolved:
    """Build the event for a base model whose files were fetched to ``folder``."""
    return ModelResolved(
        reference=found.reference, description=found.description, files=fingerprint_files(folder)
    )


def fingerprint_files(folder: Path) -> dict[str, str]:
    """Hash each file of a model folder that training reads.

    The hash covers the size, the first megabyte (more than a safetensors header) and 64 samples
    of the rest. It takes milliseconds for gigabytes. It detects further training of a model, which
    changes nearly every weight, but not a single flipped bit deep in a large file.
    """
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.iterdir() if path.suffix in TRAINING_FILE_SUFFIXES)
    return {path.name: _fingerprint_file(path) for path in files if path.is_file()}


def _fingerprint_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_HEAD_BYTES))
        if size > _HEAD_BYTES:
            for n in range(1, _SAMPLE_COUNT + 1):
                file.seek(
                    max(_HEAD_BYTES, (size * n) // _SAMPLE_COUNT - _SAMPLE_BYTES), os.SEEK_SET
                )
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _versions(plugins: Sequence[JSON]) -> dict[str, str]:
    return {f"{p['distribution']}:{p['name']}": p["version"] for p in plugins}


def _shorten_digests(files: Mapping[str, str]) -> dict[str, str]:
    return {name: digest[:12] for name, digest in files.items()}


def _result_options(plan: JSON, tables: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for table in tables:
        yield from _leaves(table, plan.get(table))
    for key in ("seed", "device"):
        yield f"run.{key}", plan.get("run", {}).get(key)


def _leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value of a table, at any depth, with its dotted key; skip None."""
    match value:
        case None:
            return
        case dict():
            for key, item in value.items():
                yield from _leaves(f"{where}.{key}", item)
        case list() if any(isinstance(item, dict) for item in value):
            for n, item in enumerate(value):
                yield from _leaves(f"{where}.{n}", item)
        case tuple():
            yield where, list(value)
        case _:
            yield where, value


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield f"{name} was {_value_text(then, name)}, is now {_value_text(now, name)}"


def _value_text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "absent" if value is None else str(value) or '""'
