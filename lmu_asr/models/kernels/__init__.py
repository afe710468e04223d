"""Exact evaluations of the Legendre memory: torch forms, a compiled CPU kernel, a Triton kernel."""
