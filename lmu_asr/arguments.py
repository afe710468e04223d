"""Command lines: a parser that suggests the closest known option."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that suggests the closest known option."""

    def error(self, message: str) -> NoReturn:
        """Print the message with a suggestion and leave with status 2."""
        # argparse hands over the text of its message and nothing else
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            wrong = message[len(prefix) :].split()[0]
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(wrong.split("=")[0], known, n=1, cutoff=0.3)
            message += f"; did you mean {near[0]}?" if near else ""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\n")
