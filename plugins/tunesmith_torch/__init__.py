"""The toolkit for people who write techniques: tensors live here and in techniques only.

Importing this package imports nothing heavy; each module imports what it needs.
"""
