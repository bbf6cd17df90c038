"""Data loader ``images``: rows of JSON Lines, a JSON array or Parquet, with images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.offers import DataLoaderOffer
from tunesmith.records import Chat, Record
from tunesmith.text import format_count
from tunesmith_data import (
    DataFile,
    Row,
    RowError,
    RowLoader,
    RowOptions,
    RowSource,
    find_files,
    read_json_rows,
    require_library,
    to_json_fields,
)
from tunesmith_vision.images import Image, ImageReader, decode_image
from tunesmith_vision.rows import mark_images, restore_images

__all__ = ["IMAGES", "ImageLoader", "ImageOptions"]

_PARQUET = b"PAR1"
_ROWS_AT_A_TIME = 16
_USER_FIELDS = ("messages", "prompt", "instruction", "input")


class ImageOptions(RowOptions):
    """Options of ``images``: those that all row loaders share, and where the images are."""

    folder: str | None = Field(
        None,
        min_length=1,
        description=(
            "Folder that relative paths of images start from, and that all images must be in. "
            "Unset: the folder of the first training file."
        ),
        json_schema_extra={"path": True},
    )
    images: str | None = Field(
        None, min_length=1, description="Column with the images. Unset: `images` or `image`."
    )
    place: Literal["placeholder", "first"] = Field(
        "placeholder",
        description=(
            "Where images stand: at the placeholders <image>, or, with `first`, before the first "
            "text of the user in rows that have no placeholder."
        ),
    )
    max_pixels: int = Field(
        50_000_000, ge=1, le=89_000_000, description="Maximum number of pixels in an image."
    )
    max_bytes: int = Field(
        50_000_000, ge=1, le=1_000_000_000, description="Maximum size of an image file, in bytes."
    )


@dataclass(frozen=True)
class ImageLoader:
    """Reads rows, and the images that they name."""

    options: ImageOptions

    def load(self) -> Dataset:
        """Read all rows, and check all images.

        Raises:
            DataError: a file cannot be used, or more rows are skipped than the options allow.
        """
        options = self.options
        folder = Path(options.folder or find_files(options.train)[0].path.parent)
        reader = ImageReader(folder, options.max_pixels, options.max_bytes)
        marked = partial(self._mark, reader)
        rows = RowLoader(
            options,
            lambda stream, name: marked(
                read_json_rows(stream, name, max_row_bytes=options.max_row_bytes)
            ),
            open_other=lambda file: _open_parquet(file, options, marked),
        )
        data = rows.load()

        def restore(records: Sequence[Record]) -> list[Record]:
            return [restore_images(record, reader.known) for record in records]

        train, test = restore(data.train), None if data.test is None else restore(data.test)
        return replace(
            data,
            train=train,
            test=test,
            warnings=[*data.warnings, *_warn_of_shared_images(train, test)],
            validation=None if data.validation is None else restore(data.validation),
            description=f"{data.description}, {format_count(len(reader.known), 'image')}",
        )

    def _mark(self, reader: ImageReader, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows with marks of their images; a faulty image makes its row unusable."""
        options, ignored = self.options, self.options.ignored_columns()
        asked = [c for name, c in options.columns.items() if name in _USER_FIELDS]
        mark = partial(
            mark_images,
            read=reader.read,
            column=options.images,
            first=options.place == "first",
            asked=asked,
        )
        for row in rows:
            fields = row.fields
            if not isinstance(fields, RowError):
                try:
                    used = {k: v for k, v in fields.items() if k not in ignored}
                    others = {k: v for k, v in fields.items() if k in ignored}
                    fields = to_json_fields({**others, **mark(used)}, options.max_row_bytes)
                except RowError as error:
                    fields = error
            # A row that is read again must keep its marks, so it has no span in the file.
            span = row.span if isinstance(fields, RowError) else None
            yield row._replace(fields=fields, span=span)


def _warn_of_shared_images(train: Sequence[Record], test: Sequence[Record] | None) -> Iterator[str]:
    """Yield warnings about images that training and test rows share, or may share after a split."""
    if shared := _count_rows(train).keys() & _count_rows(test or ()).keys():
        yield f"{format_count(len(shared), 'image')} of test rows also in training rows"
    ungrouped = _count_rows([record for record in train if record.group is None])
    if test is None and (several := sum(count > 1 for count in ungrouped.values())):
        yield (
            f"{format_count(several, 'image')} in more than one row, which may be in different "
            "splits: name the column that identifies the image with data.group"
        )


def _count_rows(records: Sequence[Record]) -> Counter[str]:
    """Return the number of rows with each image."""
    return Counter(
        sha256
        for record in records
        if isinstance(record, Chat)
        for sha256 in {p.sha256 for m in record.messages for p in m.media if isinstance(p, Image)}
    )


def _open_parquet(file: DataFile, options: ImageOptions, marked: Any) -> RowSource | None:
    """Return the row source for a Parquet file, or None for any other file."""
    with open(file.path, "rb") as stream:
        if stream.read(len(_PARQUET)) != _PARQUET:
            return None
    require_library("pyarrow", file.display_name, extra="parquet")
    return RowSource.of_rows(file.display_name, lambda: marked(_read_parquet(file, options)))


def _read_parquet(file: DataFile, options: ImageOptions) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    name, number, size = file.display_name, 0, 0
    try:
        with pyarrow.parquet.ParquetFile(file.path, page_checksum_verification=True) as parquet:
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, use_threads=False):
                size += batch.nbytes
                if size > options.max_unpacked_bytes:
                    hint = "raise data.max_unpacked_bytes if you expect rows of this total size"
                    problem = f"the rows have more than {options.max_unpacked_bytes:,} bytes"
                    raise DataError(f"{name}:{number + 1}", problem, hint=hint)
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(number, fields)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        hint = "the file may be truncated or damaged; write it again"
        raise DataError(name, f"cannot be read: {error!s:.200}", hint=hint) from error


def read_media(options: ImageOptions, source: Path | str) -> Image:
    """Return the image in a file or a data URI, with the limits of the options.

    Raises:
        DataError: the image cannot be used.
    """
    limits = options.max_pixels, options.max_bytes
    where = "an image" if isinstance(source, str) else str(source)
    try:
        if isinstance(source, str):
            return decode_image(source, *limits)
        return ImageReader(source.parent, *limits).read(source.name)
    except RowError as error:
        what = f"{error.cause} ({error.detail})" if error.detail else error.cause
        raise DataError(where, what, hint=error.hint or None) from error


IMAGES = DataLoaderOffer(
    name="images",
    summary="rows with images: JSON Lines, a JSON array or Parquet; images in files or in the rows",
    config=ImageOptions,
    build=ImageLoader,
    read_media=read_media,
    needs=("pillow>=11",),
)
