"""The searches over a head's outputs."""
