"""Names of the classes that networks trained on ImageNet tell apart."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def class_names() -> tuple[str, ...]:
    """The 1000 classes of ILSVRC 2012 by name, in class order: ``class_names()[285]`` is ``'Egyptian cat'``."""
    text = (resources.files("dcnn_visualizer") / "data" / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))
