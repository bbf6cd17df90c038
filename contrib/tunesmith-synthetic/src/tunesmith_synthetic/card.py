"""The data card of a generation, as JSON and as Croissant (MLCommons, version 1.0)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.contracts import SkippedRow
from tunesmith.storage import write_atomic
from tunesmith.text import redact_all
from tunesmith_synthetic.dataset import CARD, ROWS, digest_rows
from tunesmith_synthetic.filter import Filtered
from tunesmith_synthetic.request import Request

CROISSANT = "croissant.json"
_TERMS = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isLiveDataset jsonPath key md5 parentField path recordSet references regex "
    "repeated replace samplingRate separator source subField transform"
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in _TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""The context that the specification of Croissant 1.0 prescribes."""


def build_card(request: Request, found: Filtered, skipped: Sequence[SkippedRow]) -> dict[str, Any]:
    """Return the card: where the rows come from, and what was rejected."""
    total, real, kept = len(request.parts.train), request.real_rows, len(found.kept)
    options = request.options
    return {
        "schema": "tunesmith.synthetic/1",
        **options.card.model_dump(mode="json"),
        "generator": redact_all(request.generator.to_json()),
        "models": sorted({row.model for row in found.kept} - {""}),
        "seed": request.seed,
        "real_rows": real,
        "rows": kept,
        "share": (total - real + kept) / (total + kept) if kept else 0.0,
        "proposed": kept + len(found.rejected),
        "rejected": dict(Counter(cause for _, cause in found.rejected).most_common()),
        "skipped": dict(Counter(row.cause for row in skipped).most_common()),
        "filter": options.filter.model_dump(mode="json"),
        "encoder": request.encoder is not None,
        "fingerprint": request.parts.fingerprint,
        "sha256": digest_rows(request.folder),
        "ablation": None,
    }


def write_card(request: Request, card: Mapping[str, Any]) -> None:
    """Write the card in both forms."""
    for name, content in ((CARD, card), (CROISSANT, build_croissant(request, card))):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomic(request.folder / name, text)


def build_croissant(request: Request, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card as Croissant JSON-LD."""
    with (request.folder / ROWS).open("rb") as file:
        first = json.loads(file.readline() or b"{}")
    fields = [_field(name) for name, value in first.items() if isinstance(value, str | int)]
    ablation = card["ablation"]
    rejected = ", ".join(f"{count} {cause}" for cause, count in card["rejected"].items())
    optional = {"license": card["license"], "url": card["url"]}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": card["name"],
        "description": card["description"] or "Synthetic training rows.",
        **{key: value for key, value in optional.items() if value},
        "rai:dataCollection": f"generator {card['generator']['use']}, seed {card['seed']}; "
        f"sources: {', '.join(card['sources']) or 'not stated'}",
        "rai:dataPreprocessingProtocol": [f"rejected: {rejected or 'none'}"],
        "rai:dataUseCases": [ablation["sentence"] if ablation else "gain not measured"],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": ROWS,
                "name": ROWS,
                "contentUrl": ROWS,
                "encodingFormat": "application/jsonlines",
                "sha256": card["sha256"],
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": fields}],
    }


def _field(name: str) -> dict[str, Any]:
    source = {"fileObject": {"@id": ROWS}, "extract": {"column": name}}
    named = {"@type": "cr:Field", "@id": f"rows/{name}", "name": f"rows/{name}"}
    return {**named, "dataType": "sc:Text", "source": source}
