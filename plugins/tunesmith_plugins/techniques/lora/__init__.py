"""The ``lora`` technique: low-rank adapters on frozen base weights."""
