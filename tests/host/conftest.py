"""Tests that need the stand-in as cupy run in the processes that ``run.py`` starts, and are left out elsewhere."""

import os

collect_ignore = [] if "DCNN_HOST_SANITIZER" in os.environ else ["test_cupy.py", "test_launch.py"]
