"""Define the options of the ``text`` data loader."""

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
    """Options of ``text``: the files, and the size of the chunks that they are cut into."""

    train: Paths = Field(
        description="File, folder or glob pattern, or a list of these.",
        json_schema_extra={"path": True},
    )
    test: Paths | None = Field(
        None,
        description="Test files, in the same form. Unset: they are split off from `train`.",
        json_schema_extra={"path": True},
    )
    validation: Paths | None = Field(
        None,
        description="Validation files, in the same form. Unset: they are split off from `train`; "
        "see `[split] validation_size`.",
        json_schema_extra={"path": True},
    )
    suffixes: list[str] = Field(
        [*PROSE, *CODE, *DOCUMENTS],
        description="Suffixes of the files to read in folders.",
    )
    tokenizer: DataPath | None = Field(
        None,
        description="Measure chunks in tokens of this model folder or tokenizer.json.",
    )
    max_tokens: int = Field(
        1024, ge=8, le=10_000, description="Maximum tokens per chunk, if `tokenizer` is set."
    )
    max_characters: int = Field(
        4000,
        ge=32,
        le=100_000,
        description="Maximum characters per chunk, if `tokenizer` is not set.",
    )
    overlap: float = Field(
        0.0, ge=0, le=0.5, description="Share of each chunk that the next chunk repeats."
    )
    split_documents: bool = Field(
        False,
        description=(
            "Allow chunks of one document in both training and test rows, which is needed if "
            "there is only one document. The test chunks are then easier than new documents."
        ),
    )
    max_skipped: float = Field(
        0.01, ge=0, le=1, description="Stop if more than this share of the chunks is skipped."
    )
    max_unpacked_bytes: int = Field(
        4_000_000_000,
        ge=1_000,
        description="Maximum size of the text in one file after decompression, in bytes.",
    )

    @model_validator(mode="after")
    def _check_suffixes(self) -> TextOptions:
        for suffix in self.suffixes:
            if not suffix.startswith("."):
                raise ValueError(f"a suffix must start with a dot: .{suffix}")
        return self
