"""Find words and sentences that a reader would stumble over: `python -m tests.prose [PATH ...]`.

Reads pages of Markdown, docstrings, comments, and the texts in code that users may see.
"""

import ast
import inspect
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST_SENTENCE = 40
FOR_MODELS = {"instructions.py", "named_templates.py"}
"""Modules with prompts, whose words are measured and not edited."""
# What a page quotes or shows is not prose, and neither is a link's target.
NOT_PROSE = re.compile(r"```.*?^\s*```|~~~.*?^\s*~~~|<!--.*?-->|^---\n.*?^---\n", re.S | re.M)
CODE = re.compile(r"``[^`]+``|`[^`]+`")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+>|#├│└]|\d+\.) ?)|\s\|\s|\|$|={4,}", re.M)
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[*_]*[A-Z0-9{`])|(?<=:)\s*\n")
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|cf|vs|etc|al|Sec|Fig|Eq|Eqs|approx|resp)\.")
PATTERN = re.compile(r"\(\?[:<=!P]|\\[bAZswd]|\{[a-z-]+:|\{%")
"""Marks of regular expressions, style sheets and templates."""
LITERAL = re.compile(r"::\n(?:\s*\n| +\S.*(?:\n|$))+")
LIST_OF_WORDS = re.compile(r"[^.,;:!?]{400,}")
WORD = re.compile(r"[^\W_][\w'’.,/:%+*=-]*", re.UNICODE)

# A pattern, and what to write instead.
INSTEAD = {
    r"rivals?|rungs?|ladders?|contests?|contestants?": "baseline, or paired comparison",
    r"held[ -]?out|holdouts?|dev (?:rows?|set|split|file|part|loss)": "test or validation",
    r"left out": "skipped",
    r"quarantined?": "skipped row",
    r"twin(?:s|-free)?": "near-duplicate, leakage-free",
    r"seldom": "rarely",
    r"anew": "again",
    r"for ever": "forever",
    r"likelier": "more likely",
    r"for want of": "because of a missing",
    r"all the same(?=[.,;]|$)": "anyway",
    r"of its own|of their own": "its own, their own",
    r"from which on|of which|by which|in which": "a new sentence, or whose, where, that",
    r"without a word": "silently",
    r"data sets?": "dataset",
    r"pretend(?:ed|s|ing)?": "simulated",
    r"planted": "injected",
    r"telling words": "discriminative terms",
    r"so-called": "(nothing)",
    r"an? (?:one|1) answer to everything": "majority-class baseline",
    r"(?:proven?|proves|proofs?|proved|proving)": "verify, confirm, show",
    r"(?<!there )(?:is|are|was|were) no "
    r"(?!longer|more|less|better|worse|one|need|way|room|such|matter|doubt)"
    r"[a-z]+(?: [a-z]+)?(?=[.,;:)]|$)": "is not",
    r"(?:recogni|quanti|memori|generali|tokeni|normali|optimi|initiali|seriali|summari)s"
    r"(?:e|es|ed|ing|ation|er)": "American spelling (-ize)",
    r"(?:behaviour|colour|neighbour|favour|labell|modell|(?-i:cancell))(?:s|ed|ing)?": "-or, -led",
}
ANY = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b", re.I)
PATTERNS = [(re.compile(rf"\b(?:{pattern})\b", re.I), say) for pattern, say in INSTEAD.items()]


@dataclass(frozen=True)
class Stumble:
    """A place that a reader stumbles over."""

    path: Path
    line: int
    what: str
    sentence: str

    def __str__(self) -> str:
        shown = " ".join(self.sentence.split())
        return f"{self.path}:{self.line}: {self.what}: {shown[:300]}"


def find_stumbles(path: Path, text: str) -> Iterator[Stumble]:
    """List what is wrong in the prose of a file.

    Args:
        path: Where the file lies below the root of the project; its ending tells how to read it.
        text: What the file contains.
    """
    passages = _read_python(text) if path.suffix == ".py" else _read_page(text)
    for line, passage in passages:
        for sentence in split_sentences(passage):
            for what in _judge(sentence):
                yield Stumble(path, line, what, sentence)


def split_sentences(passage: str) -> list[str]:
    """Split a passage into sentences; an item of a list and a cell of a table end one too."""
    plain = LINK.sub(r"\1", passage)
    blocks = BLOCK.split(ABBREVIATION.sub(r"\1", plain))
    return [part.strip() for block in blocks for part in SENTENCE.split(block) if part.strip()]


def _judge(sentence: str) -> Iterator[str]:
    words = len(WORD.findall(CODE.sub("code", sentence)))
    if words > LONGEST_SENTENCE:
        yield f"{words} words, at most {LONGEST_SENTENCE}"
    prose = CODE.sub("`", sentence)
    for pattern, instead in PATTERNS if ANY.search(prose) else ():
        if found := pattern.search(prose):
            yield f'"{found.group()}" (say: {instead})'


def _read_page(text: str) -> Iterator[tuple[int, str]]:
    blanked = NOT_PROSE.sub(lambda match: "\n" * match.group().count("\n"), text)
    line = 1
    for block in re.split(r"(\n\s*\n)", blanked):
        if block.strip():
            yield line, block
        line += block.count("\n")


def _read_python(text: str) -> Iterator[tuple[int, str]]:
    yield from _read_comments(text)
    inside_joined: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            inside_joined.update(id(value) for value in node.values)
            parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
            passage = "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in inside_joined:
                continue
            passage = node.value
        else:
            continue
        is_prose = not (PATTERN.search(passage) or LIST_OF_WORDS.fullmatch(passage))
        if passage.count(" ") >= 2 and is_prose:
            yield node.lineno, _without_sections(LITERAL.sub(":\n", inspect.cleandoc(passage)))


def _without_sections(docstring: str) -> str:
    """Let each name of an `Args:` section start a block, as a list's item does."""
    return re.sub(r"\n\s+(?=\w+(?: \([^)]*\))?: )|\n\s*(?=\w+:\n)", "\n\n", docstring)


def _read_comments(text: str) -> Iterator[tuple[int, str]]:
    block: list[str] = []
    last = start = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(("#!", "# noqa", "# type:")):
            continue
        if token.start[0] != last + 1 or token.line.strip() != token.string:
            if block:
                yield start, "\n".join(block)
            block, start = [], token.start[0]
        block.append(token.string.lstrip("# "))
        last = token.start[0]
    if block:
        yield start, "\n".join(block)


def list_sources(paths: list[str]) -> list[Path]:
    """List the tracked pages and modules below some paths, without tests and prompts of models."""
    command = ["git", "ls-files", "--", *(paths or ["core", "plugins", "contrib", "docs", "*.md"])]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in listed.stdout.splitlines()]
    return [
        file
        for file in files
        if file.suffix in {".md", ".py"}
        and "tests" not in file.parts
        and file.name not in FOR_MODELS
        and (ROOT / file).is_file()
    ]


def main() -> int:
    """Print each place and the number of them; the exit code is 1 if there is one."""
    count = 0
    for path in list_sources(sys.argv[1:]):
        for stumble in find_stumbles(path, (ROOT / path).read_text(encoding="utf-8")):
            print(stumble)
            count += 1
    print(f"{count} places")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
