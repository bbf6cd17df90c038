"""Find data files by name or pattern, open them safely, and detect changes while reading."""

from __future__ import annotations

import codecs
import glob
import gzip
import importlib.util
import itertools
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tunesmith.errors import DataError, EnvironmentProblem
from tunesmith.install import install_extra
from tunesmith_data.row import ByteStream, FileRange
from tunesmith_data.stored import (
    FileVersion,
    OpenFiles,
    Spool,
    StoredBytes,
    StoredFile,
    StoredInSpool,
)

__all__ = ["HEAD_BYTES"]

MAX_FILES = 10_000
HEAD_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_ZSTD_WINDOW = 1 << 27
"""Maximum memory for decompression, in bytes, as in zstd itself."""
_UNPACKED_BLOCK = 1 << 20
_MAX_RATIO = 200
"""Compression ratio above which a large file is a decompression bomb; text stays below 20."""
_UNSUSPICIOUS = 1 << 28
"""The ratio is only checked above this unpacked size in bytes."""
_ZSTD_BLOCK = 1 << 11
"""Compressed bytes to unpack at a time; few, because 2 KB of hostile data can become 64 MB."""
UTF8 = "utf-8"
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

REFUSED_MAGIC = {
    GZIP_MAGIC: "gzip inside gzip",
    b"PK\x03\x04": "a zip archive",
    ZSTD_MAGIC: "zstd inside gzip or zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
}
"""First bytes of formats other than text, each with the name of the format."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A regular file, and its name in messages."""

    path: Path
    display_name: str


def require_library(library: str, name: str, *, extra: str) -> None:
    """Raise an error with an installation command if ``library`` is missing.

    Args:
        library: name of the package.
        name: the file or loader that needs it.
        extra: the tunesmith extra that installs the library.

    Raises:
        EnvironmentProblem: the library is not installed.
    """
    if importlib.util.find_spec(library) is None:
        raise EnvironmentProblem(
            f"{name}: needs {library}, which is not installed",
            hint=install_extra(extra),
        )


def find_offline_variable() -> str | None:
    """Return the environment variable that forbids downloads, or None if they are allowed."""
    values = {key: os.environ.get(key, "") for key in ("TUNESMITH_OFFLINE", "HF_HUB_OFFLINE")}
    off = ("1", "true", "yes", "on")
    return next((key for key, value in values.items() if value.strip().lower() in off), None)


def make_suffix_matcher(*suffixes: str) -> Callable[[str], bool]:
    """Return a function that recognizes paths and patterns by suffix, including compressed files.

    Pass it as ``recognizes`` to a :class:`tunesmith.offers.DataLoaderOffer`.
    """

    def recognizes(name: str) -> bool:
        lower = name.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd")
        return lower.endswith(suffixes) and "://" not in name

    return recognizes


def find_files(patterns: str | Sequence[str], max_files: int = MAX_FILES) -> tuple[DataFile, ...]:
    """Return the distinct files that match names and glob patterns, in order.

    Raises:
        DataError: a file is missing or not a regular file, a pattern matches nothing, or there are
            more than ``max_files``.
    """
    found: dict[str, DataFile] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in _matches(pattern, max_files):
            _refuse_irregular(path)
            found.setdefault(os.path.realpath(path), DataFile(Path(path), _display_name(path)))
    if len(found) > max_files:
        raise DataError(
            str(patterns),
            f"more than {max_files:,} files match",
            hint="list fewer files, or join them into larger files",
        )
    return tuple(found.values())


def _matches(pattern: str, max_files: int) -> list[str]:
    """Return the paths that match one name or pattern, sorted."""
    name = os.path.expanduser(pattern)
    if "\0" in name:
        raise DataError(repr(pattern), "a file name cannot contain a NUL character")
    if not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    matches = list(itertools.islice(glob.iglob(name, recursive=True), max_files + 1))
    if len(matches) > max_files:
        raise DataError(pattern, f"matches more than {max_files:,} files")
    files = sorted(path for path in matches if not os.path.isdir(path))
    if not files:
        raise DataError(pattern, "matches no files", hint="check the pattern and its folder")
    return files


def _refuse_irregular(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        hint = (
            f"put the file at {os.path.abspath(path)}, or correct its path in the run "
            "file (relative to the run file's folder)"
        )
        raise DataError(_display_name(path), _reason(error), hint=hint) from error
    if stat.S_ISDIR(mode):
        hint = f"list files, or use a pattern such as {_display_name(path).rstrip('/')}/*.jsonl"
        raise DataError(_display_name(path), "is a folder, not a file", hint=hint)
    if not stat.S_ISREG(mode):
        raise DataError(_display_name(path), "is not a regular file, but a pipe, socket or device")


def _display_name(path: str) -> str:
    """Return the normalized path, relative to the working directory if it is inside it."""
    working_directory, shown = os.path.join(os.getcwd(), ""), os.path.normpath(path)
    return shown.removeprefix(working_directory)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@dataclass(frozen=True)
class OpenedFile:
    """An open data file: a stream of its bytes, and the storage to read them from again."""

    stream: ByteStream
    stored: StoredBytes


@contextmanager
def open_data_file(
    file: DataFile,
    *,
    max_unpacked_bytes: int,
    spool: Spool,
    files: OpenFiles,
    encoding: str = UTF8,
) -> Iterator[OpenedFile]:
    """Open a file for reading as UTF-8, positioned after a byte-order mark.

    A file that is compressed with gzip or zstd, or has another encoding, is first copied into
    ``spool`` as plain UTF-8. The positions of rows then refer to the copy.

    Raises:
        DataError: the file cannot be read, is not text in this encoding, unpacks to more than the
            limit, or changes while it is read.
    """
    try:
        with open(file.path, "rb") as raw:
            before = FileVersion.of(os.fstat(raw.fileno()))
            stored: StoredBytes = StoredFile(file.path, file.display_name, before, files)
            content = FileRange(raw.fileno(), 0, before.size)
            unpack = _unpacker(raw.peek(len(ZSTD_MAGIC)))
            if unpack is not None or encoding != UTF8:
                start = spool.size
                limit = min(max_unpacked_bytes, max(_UNSUSPICIOUS, _MAX_RATIO * before.size))
                blocks = (unpack or _read_blocks)(raw)
                for data in _as_utf8(_bounded(blocks, file.display_name, limit), encoding, file):
                    spool.append(data)
                stored = StoredInSpool(spool, start)
                content = FileRange(spool.descriptor, start, spool.size - start)
            stream = ByteStream(content, HEAD_BYTES)
            _check_head(stream, file.display_name)
            yield OpenedFile(stream, stored)
            if before != FileVersion.of(os.fstat(raw.fileno())) or before != FileVersion.of(
                os.stat(file.path)
            ):
                hint = "wait until no other program writes to the file, then run again"
                raise DataError(file.display_name, "changed while it was being read", hint=hint)
    except OSError as error:
        raise DataError(file.display_name, _reason(error)) from error


def _unpacker(magic: bytes) -> Callable[[BinaryIO], Iterator[bytes]] | None:
    """Return the decompressor for a file with these first bytes; None if it is uncompressed."""
    if magic.startswith(GZIP_MAGIC):
        return _unpack_gzip
    return _unpack_zstd if magic.startswith(ZSTD_MAGIC) else None


def _read_blocks(raw: BinaryIO) -> Iterator[bytes]:
    while data := raw.read(_UNPACKED_BLOCK):
        yield data


def _as_utf8(blocks: Iterator[bytes], encoding: str, file: DataFile) -> Iterator[bytes]:
    """Yield text in some encoding as UTF-8.

    Raises:
        DataError: the text is not in this encoding.
    """
    if encoding == UTF8:
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    for data, is_last in chain(((data, False) for data in blocks), [(b"", True)]):
        try:
            text = decoder.decode(data, is_last)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            problem = f"byte 0x{error.object[error.start]:02x} is not text in {encoding}"
            hint = "set `encoding` in [data] to the encoding that the file was saved in"
            raise DataError(f"{file.display_name}:{line}", problem, hint=hint) from None
        except UnicodeError:
            problem = f"has no byte-order mark, which {encoding} needs"
            hint = f"state the byte order: {encoding}-le or {encoding}-be"
            raise DataError(file.display_name, problem, hint=hint) from None
        line += text.count("\n")
        yield text.encode("utf-8", "surrogatepass")


def _unpack_gzip(raw: BinaryIO) -> Iterator[bytes]:
    archive = gzip.GzipFile(fileobj=raw)
    while data := archive.read(_UNPACKED_BLOCK):
        yield data


def _unpack_zstd(raw: BinaryIO) -> Iterator[bytes]:
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
    frame = context.decompressobj()
    data = b""
    while data := data or raw.read(_ZSTD_BLOCK):
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from error
        data = b""
        if frame.eof:  # a file can have several frames
            data, frame = frame.unused_data, context.decompressobj()
            finished = True
        else:
            finished = False
    if not finished:
        raise EOFError("the last frame is cut off")


def _bounded(blocks: Iterator[bytes], name: str, limit: int) -> Iterator[bytes]:
    """Yield the unpacked blocks, up to a limit.

    Raises:
        DataError: the blocks exceed ``limit`` bytes, or the file is damaged.
    """
    size = 0
    try:
        for data in blocks:
            size += len(data)
            if size > limit:
                hint = "raise data.max_unpacked_bytes if you expect this size, or unpack the file"
                raise DataError(name, f"unpacks to more than {limit:,} bytes", hint=hint)
            yield data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        hint = "the file is truncated or damaged: download it again"
        raise DataError(name, "the compressed data cannot be unpacked", hint=hint) from error


def _check_head(stream: ByteStream, name: str) -> None:
    """Reject files that are not UTF-8 text, and skip a byte-order mark."""
    head = stream.peek(HEAD_BYTES)
    if not head:
        raise DataError(
            name, "the file is empty", hint="check that the file was written completely"
        )
    for magic, description in REFUSED_MAGIC.items():
        if head.startswith(magic):
            raise DataError(
                name, f"is {description}", hint="unpack it, or convert it to JSON Lines"
            )
    # Every second byte of English UTF-16 is NUL, whereas no UTF-8 text has a quarter of NUL bytes.
    sample = head[:256]
    if sample.startswith(UTF16_BOMS) or 4 * sample.count(0) >= len(sample):
        little = sample[1::2].count(0) >= sample[::2].count(0)
        encoding = "utf-16-le" if little else "utf-16-be"
        encoding = "utf-16" if sample.startswith(UTF16_BOMS) else encoding
        hint = f'set encoding = "{encoding}" in [data] (--encoding {encoding}), or write it as '
        hint += f"UTF-8: tunesmith data fix {name} --encoding {encoding} --out NEW"
        raise DataError(name, "is not UTF-8; it looks like UTF-16", hint=hint)
    if head.startswith(UTF8_BOM):
        stream.read(len(UTF8_BOM))
