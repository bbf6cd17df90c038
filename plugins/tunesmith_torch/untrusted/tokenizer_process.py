"""Load and use a tokenizer. A script for a limited process: it reads the file's path from stdin.

It imports tokenizers only, to be quick. The exit code tells the parent what happened, and for
errors of the library stderr has its message.
"""

from __future__ import annotations

import sys

FAILED, TOO_LONG = 3, 5
"""Exit codes: the library raised an error; the tokenizer makes far more tokens than text."""

PROBES = (
    *(character * 1_000 + "!" for character in "a \n1.-="),
    "aA1 -_.\n" * 100,
    "It's 12:30 o'clock, isn't it? Ünïcödé 漢字 かな 한국어 😀\t\n" * 10,
)
"""Texts that make slow regular expressions slow, and ordinary ones."""
MAX_TOKENS_PER_CHARACTER = 16


def main(path: str) -> int:
    """Load the tokenizer in ``path``, encode the probes and decode them again."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        for text in PROBES:
            encoding = tokenizer.encode(text)
            if len(encoding) > MAX_TOKENS_PER_CHARACTER * len(text):
                return TOO_LONG
            tokenizer.decode(encoding.ids)
    except MemoryError:
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        sys.stderr.write(f"{error!s:.300}")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
