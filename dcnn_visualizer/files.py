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

    A file that was there before is replaced, or in case of failure left as it was; a link stays, and what it leads to is written.

    Args:
        path: Its name.

    Yields:
        A binary file to write to.

    Raises:
        OSError: The folder is missing or can't be written to, or ``path`` names something other than a file.
    """
    target = check_writable(path)
    # Next to the target, since a rename is atomic only within one file system. Names of files have a longest length.
    part = target.with_name(f".{target.stem[:32]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(part)):
            # A full disk doesn't say which file, and the part is nobody's business.
            raise type(error)(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Returns the file that will be written, behind any links, if it can be as far as that can be told beforehand.

    Raises:
        OSError: The folder is missing or can't be written to, or ``path`` names something other than a file.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    folder = target.parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} to write {target.name!r} to")
    # A device or a pipe would be replaced by the file.
    if target.exists() and not target.is_file():
        raise OSError(f"{str(path)!r} is no file, so it can't be replaced by one")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {str(folder)!r} can't be written to")
    return target
