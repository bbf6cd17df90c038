"""Recognise folders and hub ids, and fetch the latter."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.contracts import FoundModel
from tunesmith.errors import EnvironmentProblem, TunesmithError, UsageError
from tunesmith_torch.models.model_folder import check_folder, lacking_weights, read_config

_HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_UNWANTED = ["*/*", "*.bin", "*.py", "*.pt", "*.pth", "*.ckpt", "*.pkl"]
"""Folders hold other formats of the same weights; the rest can run code when read."""
_TIMEOUT_SECONDS = 3.0


def find_folder(reference: str) -> FoundModel | None:
    """The folder ``reference``.

    Raises:
        UsageError: it is written like a path, but is not there.
        TunesmithError: it is there, but is not a model that can be used.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        config = read_config(folder)
        lacking = lacking_weights(folder)
        if not lacking:
            check_folder(folder)
        return FoundModel(
            reference=reference,
            description=f"folder {folder}",
            fetch=lambda: _complete(folder),
            config=config,
            tokenizer=lambda: tokenizer_in(folder),
            lacking=lacking,
        )
    if reference.startswith(("/", "./", "../", "~")):
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise UsageError(f"{what}, got `{reference}`", hint="name the folder with config.json")
    return None


def find_on_hub(reference: str, revision: str | None) -> FoundModel | None:
    """The hub model ``reference``; None where it is not written like one.

    Raises:
        UsageError: it names two different revisions.
    """
    match = _HUB_ID.fullmatch(reference)
    if match is None:
        return None
    name, inline = match["name"], match["revision"]
    if inline and revision and inline != revision:
        raise UsageError(
            f"two revisions, `{inline}` in the reference and `{revision}` beside it",
            hint="name the revision once",
        )
    wanted = inline or revision
    config, snapshot = _cached_config(name, wanted)
    commit = snapshot.name if snapshot else None
    return FoundModel(
        reference=reference,
        description=f"hub model {name}" + (f" at {wanted}" if wanted else ""),
        fetch=lambda: fetch(name, wanted),
        revision=commit or wanted,
        public_name=name,
        config=config,
        tokenizer=lambda: tokenizer_in(snapshot) if snapshot else None,
    )


def tokenizer_in(folder: Path) -> Path | None:
    """The folder, if it holds a tokenizer."""
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return folder if any((folder / name).is_file() for name in names) else None


def _complete(folder: Path) -> Path:
    """The folder, with everything that a run needs.

    Raises:
        TunesmithError: it cannot be used.
    """
    check_folder(folder)
    return folder.resolve()


def offline() -> bool:
    """Whether the environment forbids the network."""
    return any(
        os.environ.get(key, "").strip().lower() in ("1", "true", "yes", "on")
        for key in ("TUNESMITH_OFFLINE", "HF_HUB_OFFLINE")
    )


def fetch(name: str, revision: str | None) -> Path:
    """The model's folder in the hub cache; its last part is the commit it was resolved to.

    Where the hub is out of reach, the copy in the cache is used if there is one. A token comes
    from the environment or from the hub's own login, and goes nowhere else.

    Raises:
        EnvironmentProblem: not in the cache while offline, not on the hub, or out of reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    local = offline()
    at = f"{name}@{revision}" if revision else name
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
            etag_timeout=_TIMEOUT_SECONDS,
            local_files_only=local,
        )
    except LocalEntryNotFoundError:
        why = "the network is off" if local else "the hub cannot be reached"
        raise EnvironmentProblem(
            f"{at}: not on this machine, and {why}",
            hint=f"with a network: hf download {at.replace('@', ' --revision ')}; "
            "a folder or wheel:PACKAGE needs none",
        ) from None
    except HfHubHTTPError as error:
        raise _refused(at, error) from None
    try:
        check_folder(Path(folder))
    except TunesmithError as error:
        raise EnvironmentProblem(
            f"{at}: the copy on this machine cannot be used, {error.message}",
            hint=error.hint or f"fetch it again: hf download {name} --force-download",
        ) from error
    return Path(folder)


def _refused(at: str, error: Exception) -> EnvironmentProblem:
    """The hub said no. Its own text is left out: it can hold the address with a token in it."""
    return EnvironmentProblem(
        f"{at}: the hub refused it, {type(error).__name__}",
        hint="is the name right? Private and gated models need a token: hf auth login, or HF_TOKEN",
    )


def _cached_config(name: str, revision: str | None) -> tuple[Mapping[str, Any], Path | None]:
    """What the cache already knows: the config and the folder of the commit.

    Reads two small files, no more.

    The layout is the hub's documented one: ``refs/REVISION`` holds a commit,
    ``snapshots/COMMIT`` the files.
    """
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    model = cache / f"models--{name.replace('/', '--')}"
    try:
        reference = model / "refs" / (revision or "main")
        commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
        if not commit or not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            return {}, None
        snapshot = model / "snapshots" / commit
        config = json.loads((snapshot / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}, None
    return (config if isinstance(config, dict) else {}), snapshot
