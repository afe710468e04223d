"""Features, augmentation, samplers, data sets and validation."""
