"""The kit has a good and a broken file for loaders of common formats, and nothing for others."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from tunesmith.offers import DataLoaderOffer
from tunesmith.options import Options
from tunesmith.testing.packaged import packaged_options


class OneFile(Options):
    train: str = Field(description="A file.")


class FileAndTable(OneFile):
    table: str = Field(description="A table in the file.")


def offer(suffix: str, config: type[Options] = OneFile) -> DataLoaderOffer[Options]:
    def build(options: Options) -> object:
        raise AssertionError

    return DataLoaderOffer(
        name="x",
        summary="x",
        config=config,
        build=build,  # type: ignore[arg-type]
        recognizes=lambda name: name.endswith(suffix),
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".md", ".txt"])
def test_there_is_a_good_and_a_broken_file(suffix: str) -> None:
    good, bad = (packaged_options(offer(suffix), broken=broken) for broken in (False, True))
    text = Path(good["train"]).read_text(encoding="utf-8")
    assert "Paris" in text and len(text.splitlines()) >= 8
    assert Path(bad["train"]).read_bytes() != text.encode()


def test_there_is_none_for_other_loaders() -> None:
    assert packaged_options(offer(".parquet")) == {}
    assert packaged_options(offer(".csv", FileAndTable)) == {}
