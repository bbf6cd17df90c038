"""An offer together with the plugin that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from tunesmith.offers import Offer

O = TypeVar("O", bound=Offer)  # noqa: E741 - O as in offer

BUILTIN = "tunesmith"
"""The distribution that the built-in plugins come from."""
FILES = "file"
"""What stands in the place of the distribution for a one-off file."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plugin, and what became of it."""

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
        """``distribution:name``: unique."""
        return f"{self.distribution}:{self.name}"

    @property
    def builtin(self) -> bool:
        return self.distribution == BUILTIN


@dataclass(frozen=True)
class Offered(Generic[O]):
    """An offer and the plugin that makes it."""

    plugin: Plugin
    offer: O

    @property
    def full_name(self) -> str:
        """``distribution:name``, which a run file may use where the short name is ambiguous.

        Single files share a distribution, so theirs is ``file:STEM:name``.
        """
        plugin = self.plugin
        home = plugin.full_name if plugin.distribution == FILES else plugin.distribution
        return f"{home}:{self.offer.name}"
