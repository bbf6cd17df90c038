"""Checks of techniques: their contract, silent errors, and estimates."""
