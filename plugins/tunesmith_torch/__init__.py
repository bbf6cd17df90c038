"""The toolkit for authors of techniques. Only the toolkit and techniques use tensors.

Importing this package does not import torch; each module imports what it needs.
"""
