"""Build the template environment for HTML pages, which share a base template and a style.

A page contains everything that it shows, so it loads nothing from the network. The environment
escapes and redacts all text from users.
"""

from __future__ import annotations

import shlex
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tunesmith.text import format_count, one_line, redact, safe_text
from tunesmith_evidence.number_text import format_date, format_number, format_rows, format_share

__all__ = ["MAX_CELL_CHARACTERS", "build_environment"]

MAX_TEXT_CHARACTERS = 2_000
"""Maximum length of a message; the rest is cut off."""
MAX_CELL_CHARACTERS = 600
"""Maximum length of a prompt or an answer; the rest is cut off."""


def build_environment(package: str) -> Environment:
    """Return the environment of a package's templates, which extend ``base.html``."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__package__, ".")]),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        safe=_refuse_safe,
        line=_line,
        text=_shorten,
        cell=_shorten_cell,
        token=_show_token,
        date=lambda time: one_line(format_date(time)),
        number=format_number,
        count=format_count,
        share=format_share,
        quote=shlex.quote,
    )
    environment.globals["rows"] = format_rows
    css = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    environment.globals["css"] = Markup(css)  # noqa: S704 - a constant
    return environment


def _refuse_safe(value: object) -> str:
    """Reject the filter ``safe``, because only charts are markup, and code marks them as safe."""
    raise TypeError("a template must not use the filter `safe`, which turns off escaping")


def _line(value: str, limit: int = 80) -> str:
    return one_line(redact(value), limit)


def _shorten(value: str) -> str:
    # Redact before cutting: half a secret would not be recognized.
    return safe_text(redact(value), MAX_TEXT_CHARACTERS)


def _shorten_cell(value: str) -> str:
    return safe_text(redact(value).strip(), MAX_CELL_CHARACTERS)


def _show_token(value: str) -> str:
    return safe_text(value).replace("\n", "↵\n").replace("\t", "⇥\t")
