"""Compiled parts of the models: built on first use where a compiler is found, optional everywhere."""
