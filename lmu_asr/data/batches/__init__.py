"""Batches for training and evaluation: index, sampler, loaders."""
