"""Networks from elsewhere, as traceable chains."""

from dcnn_visualizer.importers.conversion import from_chainer
from dcnn_visualizer.importers.efficientnet_lite import efficientnet_lite0

__all__ = ["efficientnet_lite0", "from_chainer"]
