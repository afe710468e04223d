"""Speech recognition with Legendre Memory Units: a staged recipe toolkit."""

__version__ = "0.1.0"
