"""The machine below the tensors: devices, memory, processes, random numbers."""
