"""Sphinx settings: MyST pages, and the API from the docstrings."""

import dcnn_visualizer.chainer_compat  # noqa: F401  (Chainer must be importable for autodoc)

project = "DNN-Visualizer"
author = "The DNN-Visualizer contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Autodoc documents attributes of classes itself.
napoleon_use_ivar = True
myst_enable_extensions = ["dollarmath"]
# The page about the importers is built without what they import from.
autodoc_mock_imports = ["onnx", "torch"]
exclude_patterns = ["_build"]
