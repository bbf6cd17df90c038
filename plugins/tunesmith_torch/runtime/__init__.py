"""The process and its machine: device, precision, ranks, sharding, memory, seeds."""
