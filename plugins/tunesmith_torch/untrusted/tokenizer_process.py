"""Load and test a tokenizer, in a script for a limited process that reads a path from stdin.

It imports only tokenizers, to start quickly. The exit code shows the outcome; stderr contains the
library's error message, if it raised an error.
"""

from __future__ import annotations

import sys

FAILED, TOO_LONG = 3, 5
"""Exit codes: the library raised an error; the tokenizer made too many tokens."""

PROBES = (
    *(character * 1_000 + "!" for character in "a \n1.-="),
    "aA1 -_.\n" * 100,
    "It's 12:30 o'clock, isn't it? Ünïcödé 漢字 かな 한국어 😀\t\n" * 10,
)
"""Texts that trigger slow regular expressions, and ordinary texts."""
MAX_TOKENS_PER_CHARACTER = 16


def main(path: str) -> int:
    """Load the tokenizer in ``path``, encode and decode the test texts; return an exit code."""
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
    except BaseException as error:  # a Rust panic does not derive from Exception
        sys.stderr.write(f"{error!s:.300}")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
