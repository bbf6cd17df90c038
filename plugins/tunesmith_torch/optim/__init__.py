"""AdamW, its fp32 master weights, and the learning-rate schedule."""
