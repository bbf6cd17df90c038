"""Options that techniques share. No module here imports torch, so planning is fast."""
