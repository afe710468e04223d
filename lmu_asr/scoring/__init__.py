"""Alignment, error rates, significance and tables."""
