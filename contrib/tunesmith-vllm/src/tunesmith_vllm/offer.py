"""Offer the ``vllm`` exporter."""

from __future__ import annotations

from tunesmith.offers import ExporterOffer
from tunesmith_torch.export.contract import AdapterExporter, Exporter
from tunesmith_vllm.options import VllmOptions


def build(options: VllmOptions) -> Exporter | AdapterExporter:
    """Return the exporter for a merged folder, or for an adapter."""
    from tunesmith_vllm.exporter import VllmAdapterExporter, VllmExporter

    return VllmAdapterExporter(options) if options.adapter_only else VllmExporter(options)


VLLM = ExporterOffer(
    name="vllm",
    summary="A model folder, or a LoRA adapter, for vLLM",
    config=VllmOptions,
    build=build,
    tolerance=lambda options: 1e-4 if options.dtype == "float32" else None,
)
