"""Read rows from Parquet and Arrow files, a few at a time.

The module does not trust the sizes that such a file declares. 8 KB of Parquet can expand to
terabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tunesmith.errors import DataError
from tunesmith_data import DataFile, Row, RowOptions, RowSource, require_library, to_json_fields

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_A_TIME = 16
"""Number of rows to read at a time. It is small, because a row may take megabytes."""
PARQUET_MAGIC, ARROW_MAGIC = b"PAR1", b"ARROW1"


def open_arrow(file: DataFile, *, options: RowOptions) -> RowSource | None:
    """Return the row source for a Parquet or Arrow file, or None for any other file."""
    with open(file.path, "rb") as stream:
        magic = stream.read(len(ARROW_MAGIC))
    if not magic.startswith((PARQUET_MAGIC, ARROW_MAGIC)):
        return None
    name = file.display_name
    require_library("pyarrow", name, extra="parquet")

    def read() -> Iterator[Row]:
        import pyarrow

        number = size = 0
        try:
            for batch in _read_batches(file, magic):
                size += batch.nbytes
                if size > options.max_unpacked_bytes:
                    hint = "raise max_unpacked_bytes if you expect rows of this total size"
                    problem = f"the rows have more than {options.max_unpacked_bytes:,} bytes"
                    raise DataError(f"{name}:{number + 1}", problem, hint=hint)
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(number, to_json_fields(fields, options.max_row_bytes))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            where = f"{name}:{number + 1}" if number else name
            hint = "the file may be truncated or damaged; write it again"
            raise DataError(where, f"cannot be read: {reason}", hint=hint) from error

    return RowSource.of_rows(name, read)


def _read_batches(file: DataFile, magic: bytes) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows of a file in small batches."""
    import pyarrow
    import pyarrow.parquet

    if magic.startswith(PARQUET_MAGIC):
        with pyarrow.parquet.ParquetFile(file.path, page_checksum_verification=True) as parquet:
            _check_columns(parquet.schema_arrow, file.display_name)
            yield from parquet.iter_batches(ROWS_AT_A_TIME, use_threads=False)
        return
    with pyarrow.memory_map(str(file.path)) as source, pyarrow.ipc.open_file(source) as arrow:
        _check_columns(arrow.schema, file.display_name)
        for number in range(arrow.num_record_batches):
            batch = arrow.get_batch(number)
            batch.validate(full=True)
            for start in range(0, batch.num_rows, ROWS_AT_A_TIME):
                yield batch.slice(start, ROWS_AT_A_TIME)


def _check_columns(schema: pyarrow.Schema, name: str) -> None:
    twice = next((column for column in schema.names if schema.names.count(column) > 1), None)
    if twice is not None:
        raise DataError(name, f"two columns are named `{twice}`", hint="rename one of the columns")
