"""Features: filter banks, archives, extraction by several processes."""
