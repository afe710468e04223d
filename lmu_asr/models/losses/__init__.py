"""Losses of whole utterances, as functions of tensors."""
