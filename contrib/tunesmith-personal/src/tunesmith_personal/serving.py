"""Serve extension ``users``: the user's own adapter, loaded for the first request."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith.contracts import TextModel
from tunesmith.errors import TunesmithError, UsageError
from tunesmith.offers import ServeExtensionOffer
from tunesmith.options import Options
from tunesmith_cli import render
from tunesmith_cli.serving import ServedRequest, ServeExtension
from tunesmith_personal.store import Store

if TYPE_CHECKING:
    from tunesmith_personal.segments import Layout


class PersonalServingOptions(Options):
    """Table ``[users]`` of the server's extensions."""

    run: str = Field(
        default="",
        description="Folder of the run whose users are served; the same run that `serve` opens.",
        json_schema_extra={"path": True},
    )
    header: str = Field(
        default="x-tunesmith-user",
        description="Header with the user's name, which your proxy must set and clients must not.",
    )
    serve: Literal["judged", "all"] = Field(
        default="judged",
        description=(
            "judged: a user gets the own adapter only if the evaluator `user-gain` decided so. "
            "all: every user with an own adapter gets it."
        ),
    )
    resident: int = Field(
        default=64,
        ge=8,
        le=100_000,
        description="Maximum number of adapters in memory; the least recently used is removed.",
    )


class PersonalServing(ServeExtension):
    """Chooses the model of the user in a header; a request with an unknown user is rejected."""

    def __init__(self, options: PersonalServingOptions) -> None:
        self._options, self._run = options, Path(options.run)
        self._key = secrets.token_bytes(16)
        self._store: Store | None = None
        self._shared: Any = None
        self._layout: Layout | None = None
        self._resident: OrderedDict[str, str] = OrderedDict()
        """User of each served model's name, the least recently used first."""
        self._loaded: set[str] = set()

    @property
    def store(self) -> Store:
        """The store of the run; opened at the first request."""
        if self._store is None:
            self._store = Store(self._run)
        return self._store

    def choose(self, request: ServedRequest) -> str | None:
        """Return the model of the request's user, whatever model the request names.

        Without a user, that is the run's model. A client could otherwise name another user's model.
        """
        user = request.headers.get(self._options.header.lower())
        if user is None:
            return "tuned"
        entry = self.store.find(user)
        if entry is None:
            raise UsageError("there is no user of this name")
        is_judged = entry.served == "own" or self._options.serve == "all"
        if not entry.has_adapter or not is_judged:
            return "tuned"
        name = self._name(user, entry.sha256 or "")
        self._resident[name] = user
        self._resident.move_to_end(name)
        return name

    def change_models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel | None]:
        """Load the models that were chosen, and remove the least recently used ones."""
        changes: dict[str, TextModel | None] = {}
        while len(self._resident) > self._options.resident:
            name, _ = self._resident.popitem(last=False)
            if name in self._loaded:
                self._loaded.remove(name)
                changes[name] = None
        for name in [name for name in self._resident if name not in self._loaded]:
            try:
                changes[name] = self._load(self._resident[name], load)
            except (TunesmithError, OSError) as error:  # this user's requests fail, no others
                del self._resident[name]
                render.print_note(f"users: cannot load an adapter: {error}", style="bad")
            else:
                self._loaded.add(name)
        return changes

    def _load(self, user: str, load: Callable[[Path], TextModel]) -> TextModel:
        from tunesmith_personal.segments import Layout
        from tunesmith_personal.technique import SHARED_ADAPTER
        from tunesmith_personal.user_models import copy_with_adapter

        if self._layout is None:
            folder = self._run / SHARED_ADAPTER
            self._layout, self._shared = Layout.read(folder)[0], load(folder)
        vector_P = self.store.vector(self.store.require(user))
        return copy_with_adapter(self._shared, self._layout, vector_P)

    def _name(self, user: str, digest: str) -> str:
        """Return a name that reveals nothing about the user, and is new for a new adapter."""
        content = f"{user}\0{digest}".encode("utf-8", "surrogatepass")
        return f"user-{blake2b(content, key=self._key, digest_size=12).hexdigest()}"


USERS: ServeExtensionOffer[PersonalServingOptions] = ServeExtensionOffer(
    name="users",
    summary="the own adapter of the user that a header names",
    config=PersonalServingOptions,
    build=PersonalServing,
    headers=lambda options: (options.header,),
)
