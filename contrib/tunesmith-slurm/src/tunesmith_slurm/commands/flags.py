"""Flags of ``tunesmith slurm submit``: the options of ``[slurm]`` that often differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from tunesmith.config.problems import convert_problems
from tunesmith.errors import ConfigError
from tunesmith.options import from_table
from tunesmith_slurm.options import SlurmOptions

F = TypeVar("F", bound=Callable[..., Any])

FLAGS: Mapping[str, type] = {
    "partition": str,
    "account": str,
    "qos": str,
    "constraint": str,
    "nodes": int,
    "gpus": str,
    "processes": int,
    "cpus_per_task": int,
    "mem": str,
    "time": str,
}
"""The options that have a flag, by key, with the type of its value."""
_GIVEN = "tunesmith_slurm.flags"


def slurm_flags(function: F) -> F:
    """Add the flags; :func:`override_options` reads them."""
    for key, kind in reversed([*FLAGS.items()]):
        description = SlurmOptions.model_fields[key].description
        function = click.option(
            f"--{key.replace('_', '-')}",
            key,
            type=kind,
            help=f"{description} Overrides slurm.{key}.",
            callback=_collect,
            expose_value=False,
        )(function)
    return function


def _collect(ctx: click.Context, option: click.Parameter, value: str | int | None) -> None:
    if value is not None:
        ctx.meta.setdefault(_GIVEN, {})[option.name] = value


def override_options(options: SlurmOptions, ctx: click.Context) -> SlurmOptions:
    """Return the options with those that were given as flags.

    Raises:
        ConfigError: a flag has a value that it cannot have.
    """
    given = ctx.meta.get(_GIVEN, {})
    try:
        return from_table(SlurmOptions, {**options.model_dump(mode="json"), **given})
    except ValidationError as error:
        problems = list(convert_problems(error, "slurm", SlurmOptions))
        raise ConfigError(problems) from None
