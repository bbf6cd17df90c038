"""Technique ``preference``: direct preference optimization (DPO, KTO and related losses)."""
