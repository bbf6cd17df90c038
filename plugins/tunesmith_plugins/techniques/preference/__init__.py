"""Technique ``preference``: direct optimization on preferences (DPO, KTO and relatives)."""
