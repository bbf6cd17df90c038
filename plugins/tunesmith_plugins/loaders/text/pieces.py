"""Cut a text into chunks, preferably at the end of a paragraph, line, sentence or word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tunesmith.errors import DataError

MeasureText: TypeAlias = Callable[[str], int]
"""Returns how many characters at the start of a text fit into a chunk; at least one."""
BLOCK_BYTES = 1 << 18
MAX_WINDOW = BLOCK_BYTES // 2
SEPARATORS = ("\n\n", "\n", ". ", " ")
CHARACTERS_PER_TOKEN = 12
"""Upper bound on the mean characters per token; limits the text to tokenize per chunk."""


@dataclass(frozen=True)
class Piece:
    """A chunk of a text, with its first line (from 1), its byte offset and its size in bytes."""

    text: str
    line: int
    offset: int
    size: int


def measure_characters(limit: int, text: str) -> int:
    """Return the length in characters of a chunk with at most ``limit`` characters."""
    return min(limit, len(text))


def measure_tokens(path: str, limit: int) -> MeasureText:
    """Return a function that measures chunks of at most ``limit`` tokens.

    Raises:
        DataError: ``path`` does not contain a valid tokenizer.
    """
    import tokenizers

    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # The library raises plain exceptions.
        raise DataError(
            "data.tokenizer",
            f"{file} is not a valid tokenizer file: {error}",
            hint="set data.tokenizer to a model folder or a tokenizer.json",
        ) from None
    tokenizer.no_truncation()

    def measure(text: str) -> int:
        offsets = tokenizer.encode(
            text[: limit * CHARACTERS_PER_TOKEN], add_special_tokens=False
        ).offsets
        if len(offsets) > limit:
            return max(1, int(offsets[limit - 1][1]))
        return min(len(text), limit * CHARACTERS_PER_TOKEN)

    return measure


def cut_into_pieces(stream: BinaryIO, measure: MeasureText, overlap: float) -> Iterator[Piece]:
    """Yield the chunks of a UTF-8 text, holding only part of the text in memory.

    Bytes that are not UTF-8 become lone surrogates, and the caller rejects such chunks.
    """
    offset = stream.tell()
    line = 1
    text, rest = "", b""
    is_end = False
    while True:
        while not is_end and len(text) < BLOCK_BYTES:
            block = stream.read(BLOCK_BYTES)
            is_end = not block
            more, rest = _decode(rest + block, is_end)
            text += more
        start = 0
        while start < len(text):
            window = text[start : start + MAX_WINDOW]
            if not is_end and len(text) - start < MAX_WINDOW:
                break
            size = measure(window)
            end = start + (_cut_position(window, size) if size < len(window) else len(window))
            piece = text[start:end]
            data_size = _size(piece)
            if piece.strip():
                yield Piece(piece, line, offset, data_size)
            advance = len(piece)
            if end < len(text) and overlap:
                advance = _overlap_position(piece, overlap)
            line += piece.count("\n", 0, advance)
            offset += _size(piece[:advance])
            start += advance
        text = text[start:]
        if is_end:
            return


def _decode(data: bytes, is_end: bool) -> tuple[str, bytes]:
    """Decode ``data``, and return the text and the bytes of an incomplete last character."""
    rest = b""
    if not is_end:
        for length in range(1, min(4, len(data) + 1)):
            lead = data[-length]
            if lead >= 0xC0:
                expected = 2 + (lead >= 0xE0) + (lead >= 0xF0)
                if length < expected:
                    data, rest = data[:-length], data[-length:]
                break
            if lead < 0x80:
                break
    return data.decode("utf-8", "surrogateescape"), rest


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _cut_position(text: str, limit: int) -> int:
    """Return the best place to cut in the second half of the first ``limit`` characters."""
    for separator in SEPARATORS:
        position = text.rfind(separator, limit // 2, limit)
        if position >= 0:
            return position + len(separator)
    return max(1, limit)


def _overlap_position(piece: str, overlap: float) -> int:
    """Return the start of the next chunk, after the last space before the overlap."""
    position = max(1, round(len(piece) * (1 - overlap)))
    space = piece.rfind(" ", 1, position)
    return space + 1 if space > len(piece) // 3 else position
