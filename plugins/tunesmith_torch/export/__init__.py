"""Verified exports: merge by tensor, compare the engine with the trained model, certify."""
