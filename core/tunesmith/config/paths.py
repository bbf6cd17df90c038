"""Make paths in options absolute, relative to the run file's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunesmith.machine import expand_home

M = TypeVar("M", bound=BaseModel)


def with_absolute_paths(options: M, folder: Path) -> M:
    """Return the options with every path option made absolute; web addresses are kept.

    Some path options also accept names: names of built-in resources, or any text that is not an
    existing path. Names are kept as they are.
    """
    changes = {}
    for name, info in type(options).model_fields.items():
        value = options.__dict__[name]
        if is_path(info):
            if not _is_name(info, value, folder):
                changes[name] = _absolute_path(value, folder)
        elif isinstance(value, BaseModel):
            changes[name] = with_absolute_paths(value, folder)
        elif isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
            changes[name] = [with_absolute_paths(item, folder) for item in value]
    return options.model_copy(update=changes) if changes else options


def is_path(info: FieldInfo) -> bool:
    """Return True if an option's type is a path, or a union such as ``DataPath | None``."""
    return any(extra.get("path") for extra in _extras(info))


def _is_name(info: FieldInfo, value: Any, folder: Path) -> bool:
    """Return True if a path option's value is a listed name, or a possible name and not a path."""
    for extra in _extras(info):
        if isinstance(names := extra.get("names"), list) and value in names:
            return True
        if extra.get("or_name") and not (folder / expand_home(value)).exists():
            return True
    return False


def _extras(info: FieldInfo) -> Iterator[dict[str, Any]]:
    """Yield the additional JSON schema of an option and of each branch of its type."""
    branches = (item for branch in get_args(info.annotation) for item in get_args(branch)[1:])
    for field in (info, *branches):
        if isinstance(field, FieldInfo) and isinstance(field.json_schema_extra, dict):
            yield field.json_schema_extra


def _absolute_path(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value if "://" in value else str(folder / expand_home(value))
    if isinstance(value, (list, tuple)):
        return type(value)(_absolute_path(item, folder) for item in value)
    return value
