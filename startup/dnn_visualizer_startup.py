"""Lets a program import Chainer before ``dcnn_visualizer``, also on a NumPy that has removed names which Chainer reads.

This and ``dnn_visualizer.pth``, whose line Python runs as it starts, are installed beside the packages. They wait for the
first ``import chainer`` and lend it the names for as long as it lasts. Nothing else is imported before that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import util
from importlib.machinery import ModuleSpec
from types import ModuleType


class _ChainerFinder:
    """Finds Chainer where it is, and wraps its import."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "chainer":
            return None
        sys.meta_path.remove(_ChainerFinder)
        spec = util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_with_lent_names(module: ModuleType) -> None:
            from dcnn_visualizer.chainer_compat import lent_names

            with lent_names():
                execute(module)

        spec.loader.exec_module = execute_with_lent_names  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Wraps the import of Chainer that is to come, if there was none yet."""
    if "chainer" not in sys.modules and _ChainerFinder not in sys.meta_path:
        sys.meta_path.insert(0, _ChainerFinder)
