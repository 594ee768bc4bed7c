"""Settings for all tests."""

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _plain_configuration():
    """Every test starts from, and leaves behind, Chainer's own configuration."""
    with chainer.using_config("train", False):
        yield
