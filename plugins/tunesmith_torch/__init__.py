"""The toolkit with tensors: mechanisms that techniques and other plugins share.

Importing this package does not import torch; each module imports what it needs.
"""
