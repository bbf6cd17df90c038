"""AdamW, its fp32 master weights, the learning-rate schedule and the order of the rows."""
