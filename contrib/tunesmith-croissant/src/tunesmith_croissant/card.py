"""The Croissant description of a folder of row files.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, UsageError
from tunesmith_data import RowError, RowStore, find_files, open_data_file, read_json_rows

JSON = dict[str, Any]
SPLITS = ("train", "validation", "test")
FIRST_ROWS = 1_000
"""Number of rows of a file that determine its columns and their types."""
MAX_ROW_BYTES = 8_000_000
TYPES = {str: "sc:Text", bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float"}
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification gives for version 1.0."""


def describe_folder(folder: Path, name: str, facts: Mapping[str, object]) -> JSON:
    """Return the description of all .jsonl files of a folder.

    Args:
        facts: properties of the dataset, such as its license; None is omitted.

    Raises:
        UsageError: the folder has no such files.
        DataError: a file cannot be read, or has no usable row.
    """
    files = [file for file in sorted(folder.glob("*.jsonl")) if file.stat().st_size]
    if not files:
        raise UsageError(
            f"{folder}: contains no .jsonl files with rows", hint="tunesmith data split FILE"
        )
    splits = [split for split in SPLITS if folder / f"{split}.jsonl" in files]
    records = [describe_rows(file) for file in files]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        **{key: value for key, value in facts.items() if value is not None},
        "distribution": [describe_file(file) for file in files],
        "recordSet": [*([describe_splits(splits)] if splits else []), *records],
    }


def describe_file(file: Path) -> JSON:
    """Return the name, size and hash of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.stat().st_size} B",
        "encodingFormat": "application/jsonlines",
        "sha256": digest,
    }


def describe_splits(splits: list[str]) -> JSON:
    """Return the record set with the names of the splits."""
    field = {"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"}
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [field],
        "data": [{"splits/name": split} for split in splits],
    }


def describe_rows(file: Path) -> JSON:
    """Return the columns of a file with their types; a list or object is text of JSON.

    Raises:
        DataError: the file cannot be read, or has no usable row.
    """
    types: dict[str, set[type]] = {}
    (opened,), store = find_files(str(file)), RowStore()
    with open_data_file(
        opened, max_unpacked_bytes=file.stat().st_size, spool=store.spool, files=store.files
    ) as data:
        rows = read_json_rows(data.stream, file.name, max_row_bytes=MAX_ROW_BYTES)
        for row in islice(rows, FIRST_ROWS):
            if not isinstance(row.fields, RowError):
                for column, value in row.fields.items():
                    types.setdefault(column, set()).add(type(value))
    if not types:
        raise DataError(f"{file}:1", "has no usable row")
    return {
        "@type": "cr:RecordSet",
        "@id": file.stem,
        "name": file.stem,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{file.stem}/{column}",
                "name": column,
                "dataType": find_type(found),
                "source": {"fileObject": {"@id": file.name}, "extract": {"column": column}},
            }
            for column, found in types.items()
        ],
    }


def find_type(found: set[type]) -> str:
    """Return the type of a column; text if the values are of different or other types."""
    known = found - {type(None)}
    if known == {int, float}:
        return TYPES[float]
    return TYPES.get(known.pop(), TYPES[str]) if len(known) == 1 else TYPES[str]


def validate(card: JSON) -> None:
    """Check a description with mlcroissant.

    Raises:
        UsageError: it does not follow the specification.
    """
    import mlcroissant  # takes seconds

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of each missing fact
    try:
        mlcroissant.Dataset(jsonld=card)
    except mlcroissant.ValidationError as error:
        text = " ".join(str(error).split())
        raise UsageError(f"the description does not follow Croissant: {text}"[:500]) from None
