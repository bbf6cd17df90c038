"""Move adapters between a store and PEFT folders, and add users to a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tunesmith.contracts import SplitRequest
from tunesmith.errors import UsageError
from tunesmith.events import Event
from tunesmith.plan import Plan
from tunesmith.storage import commit_folder
from tunesmith.text import one_line
from tunesmith_personal.options import PersonalOptions
from tunesmith_personal.segments import Layout
from tunesmith_personal.splitter import PerUser
from tunesmith_personal.store import Entry, Store
from tunesmith_personal.technique import SHARED_ADAPTER, UserTrainer, group_by_user
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS_FILE

COPIED = ("adapter_config.json", "chat_template.jinja", "generation_config.json")


def export_adapter(run: Path, user: str, out: Path) -> None:
    """Write a user's adapter as a PEFT folder with the tokenizer.

    Raises:
        UsageError: the user is unknown or has no own adapter.
    """
    store, shared = Store(run), run / SHARED_ADAPTER
    vector_P = store.vector(store.require(user))
    layout = Layout.read(shared)[0]

    def write(folder: Path) -> None:
        for path in shared.iterdir():
            if path.name in COPIED or path.name.startswith("tokenizer"):
                shutil.copyfile(path, folder / path.name)
        tensors = {name: t.contiguous() for name, t in layout.split(vector_P).items()}
        save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})

    commit_folder(out, write, {"format": "adapter"})


def import_adapter(run: Path, user: str, folder: Path, *, replace: bool) -> None:
    """Store the adapter in a PEFT folder as a user's adapter.

    Raises:
        UsageError: the user has an adapter already, or it differs from the shared one in shape.
    """
    store = Store(run)
    known = store.find(user)
    if known is not None and known.has_adapter and not replace:
        raise UsageError(f"{one_line(user)} has an adapter already", hint="add --replace")
    layout, vector_P = Layout.read(folder)
    if layout != Layout.read(run / SHARED_ADAPTER)[0]:
        raise UsageError(
            f"{folder}: its modules, rank or scale differ from those of the shared adapter",
            hint=f"train it from a copy of {run / SHARED_ADAPTER}",
        )
    if not vector_P.isfinite().all():
        raise UsageError(f"{folder}: the adapter has values that are not finite")
    if known is not None:
        store.forget(user)  # not one byte of the replaced adapter is kept
    store.add([Entry(user=user, note="", rows=known.rows if known else 0)], {user: vector_P})


def add_users(run: Path, plan: Plan, file: Path, emit: Callable[[Event], None]) -> list[Entry]:
    """Train adapters for the users in a file that the store does not have; return their entries.

    Raises:
        UsageError: the run has another technique, or its data is not read from a file.
    """
    options, config = plan.technique.config, plan.data.config
    if not isinstance(options, PersonalOptions) or "train" not in type(config).model_fields:
        raise UsageError(f"{run}: not a run of the technique personal with data from files")
    tables: dict[str, Any] = {**config.model_dump(by_alias=True), "train": str(file.absolute())}
    tables |= {key: None for key in ("validation", "test") if key in tables}
    records = plan.data.offer.build(type(config).model_validate(tables)).load().train
    request = SplitRequest(
        records=records, seed=plan.run.seed, test=False, test_size=None, validation=True,
        needs_validation=False,
    )  # fmt: skip
    split_config: Any = plan.split.config
    split = PerUser(split_config).split(records, request)
    train = group_by_user([records[row] for row in split.train])
    validation = group_by_user([records[row] for row in split.validation])
    known = {entry.user for entry in Store(run).entries()}
    new = {user: rows for user, rows in train.items() if user not in known}
    if new:
        model = plan.found_model.fetch()
        trainer = UserTrainer.open(run, model, options, plan.run.device, plan.run.seed)
        trainer.train(new, validation, emit)
    store = Store(run)
    return [store.require(user) for user in new]
