"""The toolkit for people who write techniques: tensors live here and in techniques only.

Importing this package imports nothing heavy; each module imports what it needs.
"""

import os

# On a CPU a kernel is compiled for every shape of a product and kept, half a megabyte each, 1024 of
# them in each of two caches. Ragged rows bring a hundred new shapes a step, and what is kept lies
# between activations: 256 hold all that a step uses again, and take a gigabyte less in the end.
# Both are read when torch is loaded or first computes; what the user has set stays.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "256")
