"""Test helpers: tiny models, checks of exporters, and a plain training loop to compare with."""
