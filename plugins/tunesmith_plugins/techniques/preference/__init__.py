"""The ``preference`` technique: direct preference optimization (DPO, KTO and related losses)."""
