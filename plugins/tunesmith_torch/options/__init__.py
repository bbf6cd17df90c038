"""Options that techniques share. No module here imports torch, so plans stay light."""
