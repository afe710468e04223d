"""Several processes: how they meet, and how they hold one model."""
