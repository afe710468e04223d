"""Lhotse Shar: export, files, and training from it."""
