"""Names that Chainer looks up here."""


class PerformanceWarning(Warning):
    """Never given."""
