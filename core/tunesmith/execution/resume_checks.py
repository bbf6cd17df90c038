"""Drift: what a run began with and no longer finds when it is resumed.

A resumed run gives the weights of an uninterrupted one only if its data, options, base model and
plugins are the same. Whatever differs is named and refused; accepted, it becomes an event of the
run, so that nobody takes the result for what the first run file says.
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
from tunesmith.events import JSON, DataRead, ModelRead, Noticed, RunStarted
from tunesmith.execution.emitter import Telling

DECISIVE = ("model", "data", "technique", "evaluators", "baselines", "gate")
"""Tables of a plan that decide what a run gives; of ``[run]``, these do: seed and device."""
READ_BY_TRAINING = frozenset({".json", ".safetensors", ".jinja", ".model", ".txt"})
_HEAD, _SAMPLE, _SAMPLES = 1 << 20, 1 << 14, 64


@dataclass(frozen=True)
class Drift:
    """Judges one difference after the other: refuse it, or note that it was accepted."""

    tell: Telling
    accepted: bool

    def judge(self, what: str, changes: list[str], way_back: str) -> None:
        """Pass if nothing changed.

        Raises:
            UsageError: something did, and that was not accepted.
        """
        if not changes:
            return
        said = f"{what} changed since the run began: {'; '.join(changes)}"
        if not self.accepted:
            raise UsageError(said, hint=f"{way_back}, or resume with --accept-drift")
        self.tell(Noticed(level="warning", source="resume", message=f"accepted: {said}"))


def plugins(then: Sequence[JSON], now: Sequence[JSON]) -> list[str]:
    """Plugins of today that the run did not use, or not in this version.

    One that is gone and decides anything has left its place to another: that one is named.
    """
    versions = _versions(now)
    before = {name: version for name, version in _versions(then).items() if name in versions}
    return list(_differences(before, versions))


def options(then: RunStarted, now: RunStarted) -> list[str]:
    """Keys of the run file that decide the result and have another value."""
    return list(_differences(dict(_decisive(then.plan)), dict(_decisive(now.plan))))


def libraries(then: RunStarted, now: RunStarted) -> list[str]:
    """Libraries with another version: no reason to refuse, but bits may differ from here on."""
    return list(_differences(then.versions, now.versions))


def data(then: DataRead, now: DataRead) -> list[str]:
    """Rows that came, went or were edited."""
    if then.fingerprint == now.fingerprint:
        return []
    return [
        f"{then.train} + {then.heldout} rows then, {now.train} + {now.heldout} now, "
        f"fingerprint {then.fingerprint[:12]} then, {now.fingerprint[:12]} now"
    ]


def model(then: ModelRead, now: ModelRead) -> list[str]:
    """Files of the base model that are not what they were."""
    return list(_differences(_short(then.files), _short(now.files)))


def model_event(found: FoundModel, folder: Path) -> ModelRead:
    """What there is to say about the base model whose files were fetched to ``folder``."""
    return ModelRead(
        reference=found.reference, description=found.description, files=fingerprints(folder)
    )


def fingerprints(folder: Path) -> dict[str, str]:
    """A short hash for each file that training reads.

    It covers the size, the first megabyte (a safetensors header and more) and 64 samples of the
    rest: training on changes nearly every weight and is found, in milliseconds for gigabytes.
    One flipped bit deep in a large file is not.
    """
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.iterdir() if path.suffix in READ_BY_TRAINING)
    return {path.name: _fingerprint(path) for path in files if path.is_file()}


def _fingerprint(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_HEAD))
        if size > _HEAD:
            for n in range(1, _SAMPLES + 1):
                file.seek(max(_HEAD, (size * n) // _SAMPLES - _SAMPLE), os.SEEK_SET)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _versions(plugins: Sequence[JSON]) -> dict[str, str]:
    return {f"{p['distribution']}:{p['name']}": p["version"] for p in plugins}


def _short(files: Mapping[str, str]) -> dict[str, str]:
    return {name: digest[:12] for name, digest in files.items()}


def _decisive(plan: JSON) -> Iterator[tuple[str, Any]]:
    for table in DECISIVE:
        yield from _leaves(table, plan.get(table))
    for key in ("seed", "device"):
        yield f"run.{key}", plan.get("run", {}).get(key)


def _leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value below a table, with its dotted key; None is the same as absent."""
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
            yield f"{name} {_said(then, name)} then, {_said(now, name)} now"


def _said(values: Mapping[str, Any], name: str) -> str:
    return str(values[name]) if values.get(name) is not None else "absent"
