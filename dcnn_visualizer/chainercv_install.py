"""Installs ChainerCV 0.13.1 on a current Python: ``python -m dcnn_visualizer.chainercv_install``.

ChainerCV's release on the package index holds one compiled module, ``chainercv.utils.bbox._nms_gpu_post``, whose generated
C code no longer compiles. Everything else is Python and works. So this fetches the release with pip, checks it against its
known SHA-256, packs its Python files into a wheel with a NumPy stand-in for that module, and installs the wheel with pip.
``pip uninstall chainercv`` removes it again.

Afterwards import ``dcnn_visualizer.chainer_compat`` before ``chainercv``.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

VERSION = "0.13.1"
SDIST_SHA256 = "84214bd2fc191dacd73a95342ac45ded36232fc588825458752ec57df5e97ded"

_DIST_INFO = f"chainercv-{VERSION}.dist-info"

_METADATA = f"""Metadata-Version: 2.1
Name: chainercv
Version: {VERSION}
Summary: Collection of Deep Learning Computer Vision Algorithms implemented in Chainer
Author: Yusuke Niitani, Toru Ogawa
License: MIT
Requires-Dist: chainer>=6.0
Requires-Dist: Pillow

The Python files of the release, with a NumPy stand-in for its one compiled module, chainercv.utils.bbox._nms_gpu_post.
"""

_WHEEL = """Wheel-Version: 1.0
Generator: dcnn_visualizer.chainercv_install
Root-Is-Purelib: true
Tag: py3-none-any
"""

# The last step of non-maximum suppression on a GPU: bit j of mask[i] says that box i overlaps the later box j too much.
_NMS_GPU_POST = '''"""Stand-in for ChainerCV's compiled module of this name."""

import numpy as np


def _nms_gpu_post(mask, n_bbox, threads_per_block, col_blocks):
    overlaps = mask.reshape(n_bbox, col_blocks)
    suppressed = np.zeros(col_blocks, dtype=np.uint64)
    selection = np.zeros(n_bbox, dtype=np.int32)
    n_selection = 0
    for i in range(n_bbox):
        block, bit = divmod(i, threads_per_block)
        if int(suppressed[block]) >> bit & 1:
            continue
        selection[n_selection] = i
        n_selection += 1
        suppressed |= overlaps[i]
    return selection, n_selection
'''


def download_sdist(folder: Path) -> Path:
    """Downloads ChainerCV's release with pip, which refuses a file of another hash before it runs anything in it.

    Args:
        folder: where the file goes.

    Returns:
        The path of the downloaded file.

    Raises:
        subprocess.CalledProcessError: pip is missing or failed; it has said why.
    """
    requirement, constraint = folder / "requirement.txt", folder / "constraint.txt"
    requirement.write_text(f"chainercv=={VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    # To read the release's metadata pip runs its setup.py, which imports pkg_resources.
    constraint.write_text("setuptools<81\n", encoding="utf-8")
    command = [
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary=chainercv",
        "--dest",
        str(folder),
        "--requirement",
        str(requirement),
    ]
    environment = {**os.environ, "PIP_CONSTRAINT": constraint.as_uri(), "PIP_BUILD_CONSTRAINT": constraint.as_uri()}
    subprocess.run([sys.executable, "-m", "pip", *command], check=True, env=environment)
    return folder / f"chainercv-{VERSION}.tar.gz"


def build_wheel(sdist: Path, folder: Path) -> Path:
    """Packs the Python files of ChainerCV's release and the stand-in into a wheel; nothing of the release is run.

    Args:
        sdist: ``chainercv-0.13.1.tar.gz`` as it is on the package index.
        folder: where the wheel goes.

    Returns:
        The path of the wheel.

    Raises:
        ValueError: the file's SHA-256 is not that of the release.
    """
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise ValueError(f"{sdist} has the SHA-256 {digest}; ChainerCV {VERSION} has {SDIST_SHA256}")
    files = {
        **_python_files(sdist),
        "chainercv/utils/bbox/_nms_gpu_post.py": _NMS_GPU_POST.encode(),
        f"{_DIST_INFO}/METADATA": _METADATA.encode(),
        f"{_DIST_INFO}/WHEEL": _WHEEL.encode(),
    }
    record = "".join(f"{name},sha256={_record_hash(content)},{len(content)}\n" for name, content in files.items())
    files[f"{_DIST_INFO}/RECORD"] = f"{record}{_DIST_INFO}/RECORD,,\n".encode()
    wheel = folder / f"chainercv-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


def _python_files(sdist: Path) -> dict[str, bytes]:
    in_package = re.compile(rf"chainercv-{re.escape(VERSION)}/(chainercv/(?:\w+/)*\w+\.py)")
    files = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            match = in_package.fullmatch(member.name)
            content = archive.extractfile(member) if match and member.isreg() else None
            if match and content:
                files[match[1]] = content.read()
    return files


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def main(arguments: list[str] | None = None) -> None:
    """Installs ChainerCV into the Python that runs this, or only writes the wheel.

    Args:
        arguments: command line arguments; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dcnn_visualizer.chainercv_install", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--sdist", type=Path, help=f"chainercv-{VERSION}.tar.gz, if it is here already")
    parser.add_argument("--wheel-dir", type=Path, help="write the wheel here and install nothing")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            sdist = options.sdist or download_sdist(Path(temporary))
            wheel = build_wheel(sdist, options.wheel_dir or Path(temporary))
            if options.wheel_dir:
                print(wheel)
            else:
                subprocess.run([sys.executable, "-m", "pip", "install", str(wheel)], check=True)
        except subprocess.CalledProcessError:
            sys.exit("pip failed, and says above why; an environment made by uv has none before 'uv pip install pip'")


if __name__ == "__main__":
    main()
