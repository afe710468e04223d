"""Checkpoints: sealed files, and their mirror on an object store."""
