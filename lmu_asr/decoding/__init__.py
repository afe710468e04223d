"""Searches over an engine, and streaming sessions."""
