"""``tunesmith data fix``: fix the format of a data file, and list the fixes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import common_options, json_option
from tunesmith_data import is_multi_line
from tunesmith_data.files import HEAD_BYTES
from tunesmith_data.options import check_encoding
from tunesmith_plugins.commands.data.fixes import Fixer

MAX_BYTES = 2_000_000_000
SHOWN = 20
NOT_UTF8 = "not UTF-8"
UNUSABLE_ROWS_EXIT_CODE = 3
"""Exit code if unusable rows remain, also used by other commands for unusable data."""


@click.command("fix")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. Without it, the fixes are only listed.",
)
@click.option("--encoding", default="utf-8", help="Encoding of FILE, such as cp1252.")
@json_option
@common_options
def command(file: Path, out: Path | None, encoding: str, as_json: bool) -> int:
    """Write a new file with the format of its rows fixed, and their meaning unchanged.

    The command converts UTF-16, or the encoding given by --encoding, to UTF-8, removes a byte-order
    mark, and turns carriage returns into line feeds. In JSON Lines, it removes trailing commas and
    converts Python's repr to JSON. All other bytes stay the same. JSON arrays and rows that span
    several lines are not changed. Rows that cannot be fixed are listed, and the exit code is 3.
    """
    if out is not None and out.exists():
        raise UsageError(f"{out}: already exists", hint="choose another file")
    data = _read(file)
    fixer = Fixer()
    content = _decode(fixer, data, encoding, file)
    if _has_rows_in_lines(content, file):
        content = b"".join(fixer.json_lines(content))
    else:
        fixer.find_bad_bytes(content)
    if out is not None:
        write_atomic(out, content)
    if as_json:
        _print_json(fixer, out)
    else:
        _print(fixer, out)
    return UNUSABLE_ROWS_EXIT_CODE if fixer.unusable else 0


def _has_rows_in_lines(content: bytes, file: Path) -> bool:
    """Return True for JSON Lines, and False for an array or for objects that span several lines."""
    head = content[:HEAD_BYTES].lstrip()
    if head.startswith(b"[") or is_multi_line(head):
        return False
    return head.startswith(b"{") or file.suffix.lower() in (".jsonl", ".ndjson")


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            hint = "split it first"
            raise UsageError(f"{file}: larger than {MAX_BYTES:,} bytes", hint=hint)
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot read it: {error.strerror}") from None
    if data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1")):
        raise UsageError(
            f"{file}: the file is compressed or binary, not text",
            hint="decompress or convert it first",
        )
    return data


def _decode(fixer: Fixer, data: bytes, encoding: str, file: Path) -> bytes:
    try:
        return fixer.decode(data, check_encoding(encoding))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = f"byte 0x{data[error.start]:02x} is not text in {encoding}"
        raise UsageError(f"{file}:{line}: {problem}", hint="try another --encoding") from None
    except ValueError as error:
        raise UsageError(f"--encoding: {error}") from None


def _print(fixer: Fixer, out: Path | None) -> None:
    done = "fixed" if out is not None else "can be fixed"
    counts = Counter(fix.text for fix in fixer.fixes)
    for text, count in counts.items():
        lines = [str(fix.line) for fix in fixer.fixes if fix.text == text]
        where = f", lines {', '.join(lines[:SHOWN])}" if lines != ["0"] else ""
        more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
        render.print_text(f"{done}: {text}{where}{more}", style="good")
    for number, error in fixer.unusable[:SHOWN]:
        detail = f" ({one_line(error.detail)})" if error.detail else ""
        render.print_text(f"line {number}: {error.cause}{detail}", style="bad")
    if len(fixer.unusable) > SHOWN:
        render.print_text(f"and {len(fixer.unusable) - SHOWN:,} more lines", style="bad")
    if any(error.cause == NOT_UTF8 for _, error in fixer.unusable):
        render.print_note("add --encoding cp1252 if the file was written on Windows")
    if not fixer.fixes and not fixer.unusable:
        render.print_text("nothing to fix")
    if out is not None:
        render.print_note(f"wrote {out}")


def _print_json(fixer: Fixer, out: Path | None) -> None:
    render.print_json(
        {
            "schema": "tunesmith.data-fix/1",
            "out": None if out is None else str(out),
            "fixes": [{"line": r.line, "what": r.text} for r in fixer.fixes],
            "unusable": [
                {"line": n, "cause": e.cause, "detail": e.detail} for n, e in fixer.unusable
            ],
        }
    )
