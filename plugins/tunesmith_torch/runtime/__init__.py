"""Set up the process: device, precision, ranks, sharding, memory, seeds."""
