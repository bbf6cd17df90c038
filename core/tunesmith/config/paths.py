"""Make paths in options absolute, relative to the folder of the run file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunesmith.machine import expand_home

M = TypeVar("M", bound=BaseModel)


def with_absolute_paths(options: M, folder: Path) -> M:
    """Return the options with every path option made absolute; web addresses are kept.

    Some path options also accept ``names`` of built-in resources, which are not paths.
    """
    changes = {}
    for name, info in type(options).model_fields.items():
        value = options.__dict__[name]
        if is_path(info):
            extra = info.json_schema_extra
            names = extra.get("names") if isinstance(extra, dict) else None
            if not (isinstance(names, list) and value in names):
                changes[name] = _absolute_path(value, folder)
        elif isinstance(value, BaseModel):
            changes[name] = with_absolute_paths(value, folder)
        elif isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
            changes[name] = [with_absolute_paths(item, folder) for item in value]
    return options.model_copy(update=changes) if changes else options


def is_path(info: FieldInfo) -> bool:
    """Return True if an option's type is a path or a union with one, like ``DataPath | None``."""
    branches = (item for branch in get_args(info.annotation) for item in get_args(branch)[1:])
    extras = [f.json_schema_extra for f in (info, *branches) if isinstance(f, FieldInfo)]
    return any(isinstance(extra, dict) and bool(extra.get("path")) for extra in extras)


def _absolute_path(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value if "://" in value else str(folder / expand_home(value))
    if isinstance(value, (list, tuple)):
        return type(value)(_absolute_path(item, folder) for item in value)
    return value
