"""Initial tokens that several rows or completions share, computed once for all of them."""
