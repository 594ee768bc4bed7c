"""``python -m dcnn_visualizer`` is ``dcnn-visualizer``."""

import sys

from dcnn_visualizer.cli import main

sys.exit(main())
