"""Offers together with the plugin that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from tunesmith.offers import Offer

O = TypeVar("O", bound=Offer)  # noqa: E741 - O as in offer

BUILTIN_DISTRIBUTION = "tunesmith"
"""Name of the distribution of the built-in plugins."""
FILE_DISTRIBUTION = "file"
"""Used in place of the distribution if the plugin is a single file."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plugin, with the result of loading it."""

    name: str
    distribution: str
    version: str
    module: str
    state: Literal["active", "broken", "blocked"] = "active"
    reason: str = ""
    seconds: float = 0.0
    hooks: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """Unique name, ``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def is_builtin(self) -> bool:
        return self.distribution == BUILTIN_DISTRIBUTION


@dataclass(frozen=True)
class Offered(Generic[O]):
    """An offer with the plugin that makes it."""

    plugin: Plugin
    offer: O

    @property
    def full_name(self) -> str:
        """Name for a run file in which the short name is ambiguous, ``distribution:name``.

        Single files share a distribution, so their offers are named ``file:STEM:name``.
        """
        plugin = self.plugin
        prefix = (
            plugin.full_name if plugin.distribution == FILE_DISTRIBUTION else plugin.distribution
        )
        return f"{prefix}:{self.offer.name}"
