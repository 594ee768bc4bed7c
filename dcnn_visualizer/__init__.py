"""Shows what a convolutional network has learned: DeconvNet, SaliNet, DeSaliNet and occlusion saliency."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Chainer takes a second to import, and what only asks for the version or installs ChainerCV doesn't need it.
    if name == "accelerate":
        from dcnn_visualizer.acceleration import accelerate

        return accelerate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
