"""Compute initial tokens that several rows or completions share only once."""
