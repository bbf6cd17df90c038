"""Fast layers in plain PyTorch: packed and tree attention, LoRA, RMSNorm, a trimmed last layer."""
