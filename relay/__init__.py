"""A Discord–Matrix bridge relay."""

__version__ = "0.1.0"
