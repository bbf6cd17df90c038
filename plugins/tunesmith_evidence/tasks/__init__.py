"""Tasks: what training rows ask for, and the examples that they give."""
