"""See ``cupyx``."""
