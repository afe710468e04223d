"""The training loop: data, steps, validation, state and the end of a run."""
