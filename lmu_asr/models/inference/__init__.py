"""Faster models for use: 8-bit weights and packed streaming blocks."""
