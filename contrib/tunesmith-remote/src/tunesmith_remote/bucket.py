"""Access a folder in an object store through fsspec, with errors that name the object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.text import one_line, redact
from tunesmith_remote.options import check_url


class Bucket:
    """A folder at ``url``, with relative names and credentials from the environment."""

    def __init__(self, url: str) -> None:
        try:
            self.url = check_url(url)
        except ValueError as error:
            raise UsageError(f"{redact(url)}: {error}") from None
        self._files, self._root = _open(self.url)

    def list_sizes(self, folder: str) -> dict[str, int]:
        """Return the objects in a folder with their sizes in bytes, or {} without a folder."""
        with self._explained(folder):
            try:
                found = self._files.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        objects = [entry for entry in found if entry["type"] == "file"]
        return {entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in objects}

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, or None if it does not exist."""
        with self._explained(name):
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write an object, replacing an existing object."""
        with self._explained(name):
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a new object, or return False if it already exists."""
        try:
            with self._explained(name, passed=FileExistsError):
                self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            # If the response was lost, the request was repeated and found its own object.
            return self.read(name) == content
        return True

    def upload(self, source: Path, name: str) -> None:
        """Upload a file as an object.

        Raises:
            FileNotFoundError: the file was deleted.
        """
        try:
            with self._explained(name):
                self._files.put_file(str(source), self._path(name))
        except EnvironmentProblem:
            if not source.exists():
                raise FileNotFoundError(source) from None
            raise

    def download(self, name: str, target: Path) -> bool:
        """Download an object to a file, or return False if the object does not exist."""
        with self._explained(name):
            try:
                self._files.get_file(self._path(name), str(target))
            except FileNotFoundError:
                return False
        return True

    def delete(self, name: str) -> None:
        """Delete an object. Do nothing if it does not exist."""
        with self._explained(name):
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextmanager
    def _explained(self, name: str, passed: type[Exception] = UsageError) -> Iterator[None]:
        """Convert errors of the store to EnvironmentProblem, because each library has its own."""
        try:
            self._files.invalidate_cache()  # another machine may have written
            yield
        except passed:
            raise
        except Exception as error:
            raise EnvironmentProblem(f"{self.url}/{name}: {describe(error)}") from None


def describe(error: Exception) -> str:
    """Format an error of a library as a single line without secrets."""
    return one_line(redact(f"{type(error).__name__}: {error}".removesuffix(": ")), 300)


def _open(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        UsageError: no library supports the scheme.
        EnvironmentProblem: the library is not installed, or failed.
    """
    import fsspec

    scheme = url.partition("://")[0]
    options = {"auto_mkdir": True} if scheme in ("file", "local") else {}
    try:
        files, path = fsspec.core.url_to_fs(url, **options)
    except ValueError as error:
        hint = "use a URL such as s3://bucket/path, or one that another fsspec library supports"
        raise UsageError(f"{url}: {describe(error)}", hint=hint) from None
    except ImportError as error:
        raise EnvironmentProblem(
            f"{url}: {describe(error)}",
            hint="install the fsspec library for this store, such as gcsfs",
        ) from None
    except Exception as error:
        raise EnvironmentProblem(f"{url}: {describe(error)}") from None
    return files, str(path).rstrip("/")
