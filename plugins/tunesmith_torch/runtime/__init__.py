"""The process and its machine: device, precision, ranks, memory, seeds, bitsandbytes."""
