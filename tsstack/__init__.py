"""tsstack: one declarative file makes a host on a tailnet."""

__version__ = "0.1.0"
