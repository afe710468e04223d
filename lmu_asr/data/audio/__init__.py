"""Reading audio of every format, to one channel."""
