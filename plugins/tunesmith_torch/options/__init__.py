"""Options that techniques share. No module here imports torch, so that plans stay light."""
