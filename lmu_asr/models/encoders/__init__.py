"""Encoders, one file each: :mod:`lmu_asr.models.encoder` says what one is."""
