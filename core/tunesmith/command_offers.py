"""Offers of commands, and the parts that all kinds of offers share.

``tunesmith --help`` needs only these. Plugins import them from :mod:`tunesmith.offers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from tunesmith.import_strings import Imported

if TYPE_CHECKING:
    import click


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Base class of all kinds of offers."""

    kind: ClassVar[str]
    """Name of the kind, for messages."""
    hook: ClassVar[str]
    """Name of the hook that returns offers of this kind."""
    reserved: ClassVar[frozenset[str]] = frozenset()
    """Reserved names, which offers of this kind must not have."""
    name: str
    """Name of the offer, in lower-case letters, digits and hyphens."""
    summary: str
    """One-line summary, shown by ``tunesmith plugins list``."""
    needs: tuple[str, ...] = ()
    """Required packages such as ``bitsandbytes>=0.46``, checked without importing them."""


O = TypeVar("O", bound=Offer)  # noqa: E741 - O as in offer


@dataclass(frozen=True, kw_only=True)
class CommandOffer(Offer):
    """An offer of a command, ``tunesmith NAME``, whose ``summary`` is its help line.

    The name has one or two words: ``data check`` is the command ``check`` in the group ``data``.
    """

    kind: ClassVar[str] = "command"
    hook: ClassVar[str] = "tunesmith_commands"
    load: Imported[Callable[[], click.Command]] = Imported()
    """The import string of the command, or a function that returns it."""
    section: str = "More"
    """Heading in ``tunesmith --help`` that lists the command: ``Start``, ``Decide``, ``Data``,
    ``Results``, ``Use``, ``Maintain``, or a heading of your own."""
    position: int = 100
    """Position under the heading: lower numbers first, equal numbers in alphabetical order."""


BUILTIN_DISTRIBUTION = "tunesmith"
"""Name of the distribution of the built-in plugins."""
FILE_DISTRIBUTION = "file"
"""Replaces the distribution's name if the plugin is a single file."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin and the result of loading it, which took ``seconds``."""

    name: str
    distribution: str
    version: str
    module: str
    api: str = ""
    """Version of the plugin API that the distribution declares; empty if it declares none."""
    state: Literal["active", "broken", "blocked", "new"] = "active"
    reason: str = ""
    seconds: float = 0.0
    hooks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Requirements of the review and verdict hooks (``NEEDS`` in the module)."""

    @property
    def full_name(self) -> str:
        """Unique name, ``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def is_builtin(self) -> bool:
        """True if the plugin is part of tunesmith itself."""
        return self.distribution == BUILTIN_DISTRIBUTION


@dataclass(frozen=True)
class Offered(Generic[O]):
    """An offer, together with the plugin that makes it."""

    plugin: Plugin
    offer: O

    @property
    def full_name(self) -> str:
        """Name to use in a run file if the short name is ambiguous: ``distribution:name``.

        Single files share a distribution, so their offers are named ``file:STEM:name``.
        """
        plugin = self.plugin
        prefix = (
            plugin.full_name if plugin.distribution == FILE_DISTRIBUTION else plugin.distribution
        )
        return f"{prefix}:{self.offer.name}"
