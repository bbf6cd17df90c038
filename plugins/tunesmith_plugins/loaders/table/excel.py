"""Read rows from a sheet of an Excel workbook (.xlsx), with the stored values as text.

A workbook is a zip archive of XML files. The module does not trust the sizes that it declares.
"""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError
from tunesmith_data import (
    DataFile,
    Row,
    RowError,
    RowOptions,
    RowSource,
    require_library,
    to_json_fields,
)
from tunesmith_plugins.loaders.table.reader import check_header

if TYPE_CHECKING:
    from openpyxl.cell.cell import Cell

ZIP_MAGIC = b"PK\x03\x04"
OLD_EXCEL_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
WORKBOOK = "xl/workbook.xml"
"""The file in the archive that identifies it as a workbook."""
MIDNIGHT = datetime.time()


def open_excel(file: DataFile, *, options: RowOptions, sheet: str | None) -> RowSource | None:
    """Return the row source for a sheet of a workbook, or None if the file is not a workbook."""
    with open(file.path, "rb") as stream:
        magic = stream.read(len(OLD_EXCEL_MAGIC))
    name = file.display_name
    if magic == OLD_EXCEL_MAGIC:
        raise DataError(
            name, "is a workbook of Excel 97 to 2003", hint="save the workbook as .xlsx or CSV"
        )
    if not magic.startswith(ZIP_MAGIC) or not _is_workbook(file, options.max_unpacked_bytes):
        return None
    require_library("openpyxl", name, extra="excel")
    return RowSource.of_rows(name, lambda: _read_rows(file, options, sheet))


def _is_workbook(file: DataFile, max_unpacked_bytes: int) -> bool:
    try:
        with zipfile.ZipFile(file.path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    if WORKBOOK not in {entry.filename for entry in entries}:
        return False
    if sum(entry.file_size for entry in entries) > max_unpacked_bytes:
        problem = f"unpacks to more than {max_unpacked_bytes:,} bytes"
        hint = "raise max_unpacked_bytes if you expect a file of this size"
        raise DataError(file.display_name, problem, hint=hint)
    return True


def _read_rows(file: DataFile, options: RowOptions, sheet: str | None) -> Iterator[Row]:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    name = file.display_name
    try:
        workbook = openpyxl.load_workbook(file.path, read_only=True, data_only=True)
        try:
            yield from _rows_of_sheet(_choose_sheet(workbook, name, sheet), name, options)
        finally:
            workbook.close()
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        hint = "open the file in a spreadsheet program and save it again"
        raise DataError(name, f"cannot be read: {str(error)[:200]}", hint=hint) from error


def _choose_sheet(workbook: Any, name: str, wanted: str | None) -> Any:
    """Return the sheet with this title or, without a title, the only sheet that contains data.

    Raises:
        DataError: there is no such sheet, all sheets are empty, or several contain data.
    """
    sheets = [sheet for sheet in workbook.worksheets if wanted in (None, sheet.title)]
    if wanted is None:
        sheets = [sheet for sheet in sheets if any(_is_filled(row) for row in sheet.iter_rows())]
    if len(sheets) == 1:
        return sheets[0]
    titles = ", ".join(sheet.title for sheet in workbook.worksheets)
    if wanted is not None:
        raise DataError(
            name, f'has no sheet "{wanted}"', hint=f"choose one of its sheets: {titles}"
        )
    if not sheets:
        raise DataError(name, "all sheets are empty", hint="check that the workbook contains data")
    raise DataError(
        name,
        f"has several sheets with data: {', '.join(sheet.title for sheet in sheets)}",
        hint='choose one: data.sheet = "TITLE" in the run file, or --sheet TITLE',
    )


def _rows_of_sheet(sheet: Any, name: str, options: RowOptions) -> Iterator[Row]:
    header: list[str] | None = None
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if not _is_filled(cells):
            continue
        if header is None:
            header = [_as_text(cell.value) or "" for cell in cells]
            check_header(header, f"{name}:{number}")
            continue
        faulty = next((cell for cell in cells if cell.data_type == "e"), None)
        if faulty is not None:
            yield Row(
                number,
                RowError(
                    "a formula results in an error",
                    str(faulty.value),
                    hint="correct the formula, or replace it with its value",
                ),
            )
            continue
        fields = dict.fromkeys(filter(None, header))
        # Rows may have fewer cells than the header. As in CSV, columns without a name are ignored.
        fields |= {name: _as_text(c.value) for name, c in zip(header, cells, strict=False) if name}
        yield Row(number, to_json_fields(fields, options.max_row_bytes))
    if header is None:
        raise DataError(
            name,
            "has no header line with the names of its columns",
            hint="add a first line with the column names",
        )


def _is_filled(cells: Sequence[Cell]) -> bool:
    return any(cell.value is not None and cell.value != "" for cell in cells)


def _as_text(value: object) -> str | None:
    """Return the value of a cell as it would appear in a CSV file, or None if the cell is blank."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == MIDNIGHT else value.isoformat(" ")
    return str(value)
