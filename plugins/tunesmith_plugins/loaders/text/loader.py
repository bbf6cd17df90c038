"""Read texts and cut them into chunks, keeping all chunks of a document in the same split."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.machine import expand_home
from tunesmith.options import from_table
from tunesmith_data import (
    MAX_BYTES_IN_MEMORY,
    DataFile,
    FieldOptions,
    Fields,
    Row,
    RowError,
    RowSource,
    RowSpan,
    RowStore,
    StoredBytes,
    find_files,
    load_sources,
    not_utf8_error,
    open_data_file,
    refuse_shared_files,
)
from tunesmith_data.documents import open_document
from tunesmith_plugins.loaders.text.pieces import (
    MeasureText,
    Piece,
    cut_into_pieces,
    measure_characters,
    measure_tokens,
)

if TYPE_CHECKING:
    from tunesmith_plugins.loaders.text.options import TextOptions

MAX_FILES = 100_000


@dataclass(frozen=True)
class TextLoader:
    """A data loader that cuts documents into chunks.

    Rows are grouped by repository (the nearest folder with ``.git``) or, outside of repositories,
    by document.
    """

    options: TextOptions
    memory: int = MAX_BYTES_IN_MEMORY

    def load(self) -> Dataset:
        """Read all files, and return their chunks as records.

        Raises:
            DataError: no files are found, or more chunks are skipped than allowed.
        """
        names = (self.options.train, self.options.test, self.options.validation)
        train, test, validation = (self._find(files or []) for files in names)
        refuse_shared_files(train=train, test=test, validation=validation)
        table: dict[str, Any] = {"format": "text", "max_skipped": self.options.max_skipped}
        if not self.options.split_documents:
            table["group"] = "document"
        options = from_table(FieldOptions, table)
        return load_sources(
            options,
            [self._source(file) for file in train],
            [self._source(file) for file in test],
            [self._source(file) for file in validation],
            memory=self.memory,
        )

    @cached_property
    def measure(self) -> MeasureText:
        """The function that measures how much text fits into a chunk."""
        if self.options.tokenizer is None:
            return partial(measure_characters, self.options.max_characters)
        return measure_tokens(self.options.tokenizer, self.options.max_tokens)

    def _find(self, names: str | Sequence[str]) -> list[DataFile]:
        """Return the listed files and the files in listed folders, without repeats."""
        found: dict[Path, DataFile] = {}
        for name in [names] if isinstance(names, str) else names:
            path = expand_home(name)
            for file in self._walk(path) if path.is_dir() else find_files(name):
                found.setdefault(file.path.resolve(), file)
        return list(found.values())

    def _walk(self, folder: Path) -> Sequence[DataFile]:
        """Return the files with one of the suffixes in a folder tree, ignoring hidden ones."""
        paths: list[str] = []
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(parent, name)
                is_text = path.suffix.lower() in self.options.suffixes and name[0] != "."
                if is_text and path.is_file() and path.stat().st_size > 0:
                    paths.append(str(path))
            if len(paths) > MAX_FILES:
                hint = "list subfolders instead, or fewer `suffixes`"
                raise DataError(
                    str(folder), f"contains more than {MAX_FILES:,} files to read", hint=hint
                )
        if not paths:
            hint = f"rows need another data loader and a pattern, such as {folder}/*.jsonl; this "
            hint += f"one reads the suffixes {', '.join(self.options.suffixes)}"
            raise DataError(str(folder), "contains no files to read", hint=hint)
        # These names are literal, so escape the characters that find_files would interpret as a
        # pattern.
        return [find_files(path.replace("[", "[[]"))[0] for path in paths]

    def _source(self, file: DataFile) -> RowSource:
        group = _find_group(file)

        @contextmanager
        def open_rows(store: RowStore) -> Iterator[tuple[Iterator[Row], StoredBytes | None]]:
            pages = open_document(file)
            if pages is not None:
                yield self._cut_pages(pages, group), None
                return
            limit = self.options.max_unpacked_bytes
            with ExitStack() as stack:
                try:
                    text = stack.enter_context(
                        open_data_file(
                            file, max_unpacked_bytes=limit, spool=store.spool, files=store.files
                        )
                    )
                except DataError as error:
                    yield iter([_unreadable(1, error)]), None
                    return
                pieces = cut_into_pieces(text.stream, self.measure, self.options.overlap)
                yield _rows(pieces, group), text.stored

        return RowSource(file.display_name, open_rows, may_be_unusable=True)

    def _cut_pages(self, pages: Iterator[tuple[int, str]], group: str) -> Iterator[Row]:
        """Yield the chunks of a document's pages, each with its page number."""
        number = 1
        try:
            for number, text in pages:
                data = io.BytesIO(text.encode("utf-8", "surrogatepass"))
                for piece in cut_into_pieces(data, self.measure, self.options.overlap):
                    yield Row(number, {"text": piece.text, "document": group})
        except DataError as error:
            yield _unreadable(number, error)


def _rows(pieces: Iterator[Piece], group: str) -> Iterator[Row]:
    """Yield each chunk as a row, or as an error if it is not UTF-8."""

    def parse(data: bytes) -> Fields:
        return {"text": data.decode(), "document": group}

    for piece in pieces:
        span = RowSpan(piece.offset, piece.size, parse)
        fault = _find_fault(piece.text)
        yield Row(piece.line, fault or {"text": piece.text, "document": group}, span)


def _find_fault(text: str) -> RowError | None:
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raw = text.encode("utf-8", "surrogateescape")
        return not_utf8_error(raw, len(text[: error.start].encode()))
    return None


def _unreadable(number: int, error: DataError) -> Row:
    return Row(number, RowError("the document cannot be read", error.what, hint=error.hint or ""))


def _find_group(file: DataFile) -> str:
    """Return the path of the repository that contains a file, or the file's name."""
    path = file.path.resolve()
    repository = next((p for p in path.parents if (p / ".git").exists()), None)
    return str(repository or file.display_name)
