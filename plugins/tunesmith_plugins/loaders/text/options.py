"""Options of ``text``."""

from __future__ import annotations

from pydantic import Field, model_validator

from tunesmith.options import DataPath, Options

PROSE = (".txt", ".md", ".markdown", ".rst", ".text")
CODE = (
    ".py", ".js", ".ts", ".tsx", ".jsx", ".java", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go",
    ".rs", ".rb", ".php", ".swift", ".kt", ".scala", ".sh", ".sql", ".r", ".jl", ".lua", ".pl",
    ".hs", ".ml", ".ex", ".exs", ".erl", ".clj", ".dart", ".tex", ".toml", ".yaml", ".yml",
)  # fmt: skip
DOCUMENTS = (".pdf", ".docx")
Paths = str | list[str]


class TextOptions(Options):
    """Options of ``text``: the files, and the size of the pieces that they are cut into."""

    train: Paths = Field(
        description="File, folder or pattern with texts, or a list of them.",
        json_schema_extra={"path": True},
    )
    test: Paths | None = Field(
        None,
        description="Files to evaluate on, in the same form. Unset: a part of `train` is held out.",
        json_schema_extra={"path": True},
    )
    validation: Paths | None = Field(
        None,
        description="Files for choices, in the same form. Unset: a part of `train`, see "
        "`[split] validation_size`.",
        json_schema_extra={"path": True},
    )
    suffixes: list[str] = Field(
        [*PROSE, *CODE, *DOCUMENTS],
        description="Suffixes of the files that are read in a folder.",
    )
    tokenizer: DataPath | None = Field(
        None,
        description="Folder of a model, or its tokenizer.json, with which pieces are measured.",
    )
    max_tokens: int = Field(
        1024, ge=8, le=10_000, description="Most tokens in a piece. Used with `tokenizer`."
    )
    max_characters: int = Field(
        4000, ge=32, le=100_000, description="Most characters in a piece. Used without `tokenizer`."
    )
    overlap: float = Field(
        0.0, ge=0, le=0.5, description="Share of a piece that is repeated in the next one."
    )
    split_documents: bool = Field(
        False,
        description=(
            "Allow pieces of a document in both parts of the data, which a single document needs. "
            "The test pieces are then easier than new documents."
        ),
    )
    max_skipped: float = Field(
        0.01, ge=0, le=1, description="Share of unusable pieces above which the run stops."
    )
    max_unpacked_bytes: int = Field(
        4_000_000_000,
        ge=1_000,
        description="Largest size of the text of one file, in bytes, after unpacking.",
    )

    @model_validator(mode="after")
    def _check_suffixes(self) -> TextOptions:
        for suffix in self.suffixes:
            if not suffix.startswith("."):
                raise ValueError(f"a suffix begins with a point: .{suffix}")
        return self
