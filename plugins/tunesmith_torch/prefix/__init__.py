"""Compute only once the initial tokens that several rows or completions share."""
