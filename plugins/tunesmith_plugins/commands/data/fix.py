"""``tunesmith data fix``: fix the format of a data file, and list the fixes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.data_source import DataSource, data_argument, read_keys
from tunesmith_data import RowOptions, find_files, is_multi_line
from tunesmith_data.files import HEAD_BYTES
from tunesmith_data.options import check_encoding
from tunesmith_plugins.commands.data.fixes import Fixer
from tunesmith_plugins.commands.data.mask import mask_file
from tunesmith_plugins.commands.data.open_data import load_plan

MAX_BYTES = 2_000_000_000
SHOWN = 20
NOT_UTF8 = "not UTF-8"
UNUSABLE_ROWS_EXIT_CODE = 3
"""Exit code if invalid rows remain, also used by other commands for invalid data."""


@click.command("fix")
@data_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. Without it, the fixes are only listed.",
)
@click.option(
    "--mask", is_flag=True, help="Also replace personal data with placeholders such as [EMAIL]."
)
@result_options
def command(state: CliState, data: DataSource, out: Path | None, mask: bool, as_json: bool) -> int:
    """Fix the format of a file of rows without changing their meaning; write a new file.

    Converts UTF-16, or the encoding set with --encoding, to UTF-8, removes a byte-order mark, and
    turns carriage returns into line feeds. In JSON Lines, removes trailing commas and converts
    Python's repr to JSON. All other bytes stay the same. JSON arrays and rows that span several
    lines are not changed. Rows it cannot fix are listed, and the exit code is 3.

    --mask changes the texts of the rows: e-mail addresses, telephone numbers, numbers of accounts,
    cards, identity documents and records, dates of birth, and keys. Equal values in a row get
    equal placeholders. It does not find names and postal addresses.
    """
    if out is not None and out.exists():
        raise UsageError(f"{out}: already exists", hint="choose another file name")
    file, encoding = find_file(data, state)
    fixer = Fixer()
    content = _decode(fixer, _read(file), encoding, file)
    if _has_rows_in_lines(content, file):
        content = b"".join(fixer.json_lines(content))
    else:
        fixer.find_bad_bytes(content)
    masked: Counter[str] = Counter()
    if mask:
        content, masked = mask_file(content, is_json=_is_json(content))
    if out is not None:
        write_atomic(out, content)
    if as_json:
        _print_json(fixer, masked, out)
    else:
        _print(fixer, masked if mask else None, out)
    return UNUSABLE_ROWS_EXIT_CODE if fixer.unusable else 0


def _has_rows_in_lines(content: bytes, file: Path) -> bool:
    """Return True for JSON Lines, and False for an array or for objects that span several lines."""
    head = content[:HEAD_BYTES].lstrip()
    if head.startswith(b"[") or is_multi_line(head):
        return False
    return head.startswith(b"{") or file.suffix.lower() in (".jsonl", ".ndjson")


def _is_json(content: bytes) -> bool:
    return content[:HEAD_BYTES].lstrip().startswith((b"{", b"["))


def find_file(source: DataSource, state: CliState) -> tuple[Path, str]:
    """Return the data file of a source (a run file's training file), and its encoding.

    Raises:
        UsageError: the run file does not list exactly one training file.
    """
    if not source.is_run_file:
        return source.path, read_keys(source).get("encoding", "utf-8")
    options = load_plan(source, state)[0].data.config
    names = getattr(options, "train", None) or []
    files = find_files(names) if isinstance(options, RowOptions) else []
    if len(files) != 1:
        found = ", ".join(file.display_name for file in files[:SHOWN]) or "none"
        raise UsageError(
            f"{source.path}: needs exactly one training file, got {found}",
            hint="pass the file to fix instead of the run file",
        )
    return files[0].path, getattr(options, "encoding", "utf-8")


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            hint = "split the file into smaller ones first"
            raise UsageError(f"{file}: the file is larger than {MAX_BYTES:,} bytes", hint=hint)
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot read the file: {error.strerror}") from None
    if data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1")):
        raise UsageError(
            f"{file}: the file is compressed or binary, not text",
            hint="decompress or convert the file first",
        )
    return data


def _decode(fixer: Fixer, data: bytes, encoding: str, file: Path) -> bytes:
    try:
        return fixer.decode(data, check_encoding(encoding))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = f"byte 0x{data[error.start]:02x} is not text in {encoding}"
        raise UsageError(
            f"{file}:{line}: {problem}", hint="set the encoding of the file with --encoding"
        ) from None
    except ValueError as error:
        raise UsageError(f"--encoding: {error}") from None


def _print(fixer: Fixer, masked: Counter[str] | None, out: Path | None) -> None:
    done = "fixed" if out is not None else "can be fixed"
    counts = Counter(fix.text for fix in fixer.fixes)
    for text, count in counts.items():
        lines = [str(fix.line) for fix in fixer.fixes if fix.text == text]
        noun = "line" if count == 1 else "lines"
        where = f", {noun} {', '.join(lines[:SHOWN])}" if lines != ["0"] else ""
        more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
        render.print_text(f"{done}: {text}{where}{more}", style="good")
    for number, error in fixer.unusable[:SHOWN]:
        detail = f" ({one_line(error.detail)})" if error.detail else ""
        render.print_text(f"line {number}: {error.cause}{detail}", style="bad")
    if len(fixer.unusable) > SHOWN:
        more = format_count(len(fixer.unusable) - SHOWN, "more line")
        render.print_text(f"and {more}", style="bad")
    if fixer.unusable:
        copied = f"; {out} contains them unchanged" if out is not None else ""
        render.print_note(f"correct or delete these lines yourself{copied}")
    if any(error.cause == NOT_UTF8 for _, error in fixer.unusable):
        render.print_note("add --encoding cp1252 if the file was written on Windows")
    for placeholder, count in (masked or {}).items():
        render.print_text(f"{'masked' if out else 'can be masked'}: {count:,} × [{placeholder}]")
    if masked is not None and not masked:
        render.print_text("found no personal data of a known kind")
    if not fixer.fixes and not fixer.unusable and not masked:
        render.print_text("nothing to fix")
    if out is not None:
        render.print_note(f"wrote {out}")


def _print_json(fixer: Fixer, masked: Counter[str], out: Path | None) -> None:
    render.print_json(
        {
            "schema": "tunesmith.data-fix/1",
            "out": None if out is None else str(out),
            "fixes": [{"line": r.line, "what": r.text} for r in fixer.fixes],
            "masked": masked,
            "unusable": [
                {"line": n, "cause": e.cause, "detail": e.detail} for n, e in fixer.unusable
            ],
        }
    )
