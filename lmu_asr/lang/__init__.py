"""Tokenizers, lexica, language models and lang directories."""
