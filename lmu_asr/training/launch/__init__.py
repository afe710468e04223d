"""Launchers, and the signals that end what they started."""
