"""Verified exports: merge, write, compare the engine with the trained model, certify."""
