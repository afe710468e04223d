"""Heads, one file each: :mod:`lmu_asr.models.head` says what one is."""
