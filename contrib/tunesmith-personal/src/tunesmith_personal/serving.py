"""Serve extension ``users``: the user's own adapter or best baseline, opened when it is needed."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from tunesmith_personal.store import OWN, Entry, Store

if TYPE_CHECKING:
    from tunesmith_personal.baselines import UserBaselines
    from tunesmith_personal.row_adapters import RowAdaptedModel


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
            "judged: a user gets what the evaluator `user-gain` decided, the own adapter or the "
            "best baseline. all: every user with an own adapter gets it."
        ),
    )
    resident: int = Field(
        default=64,
        ge=8,
        le=100_000,
        description="Maximum number of users in memory; the least recently used is removed.",
    )


@dataclass(frozen=True)
class _Opened:
    """The parts that the models of all users share."""

    own: RowAdaptedModel
    baselines: UserBaselines
    """Has models that all users share, which run in the thread that answers."""

    @classmethod
    def read(cls, folder: Path, load: Callable[[Path], TextModel]) -> _Opened:
        """Open the shared adapter in a folder."""
        from tunesmith_personal.baselines import UserBaselines
        from tunesmith_personal.row_adapters import RowAdaptedModel
        from tunesmith_personal.segments import Layout
        from tunesmith_personal.user_models import open_base

        layout, shared_P = Layout.read(folder)
        shared: Any = load(folder)
        own, base = RowAdaptedModel(shared, layout, shared_P), open_base(shared, layout)
        # The server encodes prompts for the users' own models in another thread.
        shared.template = base.template = shared.template.copy()
        return cls(own, UserBaselines(shared, base))


class PersonalServing(ServeExtension):
    """Chooses the model of the user in a header; a request with an unknown user is rejected."""

    def __init__(self, options: PersonalServingOptions) -> None:
        self._options, self._run = options, Path(options.run)
        self._key = secrets.token_bytes(16)
        self._store: Store | None = None
        self._opened: _Opened | None = None
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
        served = self._decide(entry)
        if served == "shared":
            return "tuned"
        name = self._name(user, served, entry.sha256 or "")
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
                render.print_note(f"users: cannot open a user's model: {error}", style="bad")
            else:
                self._loaded.add(name)
        return changes

    def _decide(self, entry: Entry) -> str:
        """Return what a user gets: the own adapter, or the name of a baseline."""
        if entry.has_adapter and self._options.serve == "all":
            return OWN
        return entry.served or "shared"

    def _load(self, user: str, load: Callable[[Path], TextModel]) -> TextModel:
        from tunesmith_personal.technique import SHARED_ADAPTER

        if self._opened is None:
            self._opened = _Opened.read(self._run / SHARED_ADAPTER, load)
        opened, entry = self._opened, self.store.require(user)
        served = self._decide(entry)
        if served == OWN:
            return opened.own.adapt(self.store.vector(entry))
        return opened.baselines.build(served, *self.store.read_examples(user))

    def _name(self, user: str, served: str, digest: str) -> str:
        """Return a name that reveals nothing about the user, and is new for a new adapter."""
        content = f"{user}\0{served}\0{digest}".encode("utf-8", "surrogatepass")
        return f"personal-{blake2b(content, key=self._key, digest_size=12).hexdigest()}"


USERS: ServeExtensionOffer[PersonalServingOptions] = ServeExtensionOffer(
    name="users",
    summary="the own adapter, or the best baseline, of the user that a header names",
    config=PersonalServingOptions,
    build=PersonalServing,
    headers=lambda options: (options.header,),
)
