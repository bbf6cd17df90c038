"""Tokens that several rows or completions begin with, computed once for all of them."""
