"""Models on disk and in memory: load, quantize, adapt, merge, save."""
