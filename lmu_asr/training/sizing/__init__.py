"""Measured plans: how batches are computed on this machine. The loop does not import it."""
