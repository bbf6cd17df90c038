"""The ``qlora`` technique: low-rank adapters on a base model quantized to 4 or 8 bits."""
