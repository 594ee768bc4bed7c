"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name once it is complete, and not at all if writing it fails.

    A file that was there before is replaced, or in case of failure left as it was.

    Args:
        path: Its name.

    Yields:
        A binary file to write to.

    Raises:
        OSError: The folder is missing or can't be written to, or ``path`` names something other than a file.
    """
    path = check_writable(path)
    # Next to the target, since a rename is atomic only within one file system.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Returns a path to which a file can be written, as far as that can be told beforehand.

    Raises:
        OSError: The folder is missing or can't be written to, or ``path`` names something other than a file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to")
    # A device or a pipe would be replaced by the file.
    if path.exists() and not path.is_file():
        raise OSError(f"{str(path)!r} is no file, so it can't be replaced by one")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"the folder {str(path.parent)!r} can't be written to")
    return path
