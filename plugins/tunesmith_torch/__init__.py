"""The toolkit for authors of techniques. Only the toolkit and techniques use tensors.

Importing this package imports nothing heavy; each module imports what it needs.
"""
