"""Pictures from files, and back to files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnn_kernels.geometry import PairLike, pair
from dcnn_visualizer.files import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image

#: Kinds of files that Pillow knows, but reads by other programs' help or not at all.
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF")


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture, turned the way its camera was held, transparent places white; of several frames the first.

    Args:
        path: Any file that Pillow reads.

    Returns:
        uint8 array of shape (H, W, 3), RGB.

    Raises:
        OSError: The file is missing or can't be read.
        ValueError: It is no picture, damaged, or so large that it may be a decompression bomb.
        ImportError: Pillow isn't installed.
    """
    _require_pillow()
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    with path.open("rb") as file:
        try:
            with Image.open(file) as image:
                image.load()
                return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
        except UnidentifiedImageError as error:
            raise ValueError(f"{path} is no picture that Pillow can read") from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plugins meet damage with errors of a dozen types.
            raise ValueError(f"{path} can't be read as a picture: {error}") from error


class Folder:
    """The pictures of a folder, by name; they are read anew, by :func:`read_picture`, each time they are gone through.

    Which they are is settled at the start, so that their numbers stay. Subfolders and hidden files are left out.

    Args:
        folder: The folder. Its pictures are told by their extensions.
        prepare: What is done to each picture, such as a network's preprocessing; None for nothing.
        unreadable: Is told the error of a picture that can't be read, which is left out from then on; None to raise it.

    Attributes:
        paths: Their files.

    Raises:
        OSError: The folder is missing, or is none.
        ValueError: There are no pictures in it.
        ImportError: Pillow isn't installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        prepare: Callable[[np.ndarray], Any] | None = None,
        unreadable: Callable[[Exception], object] | None = None,
    ) -> None:
        _require_pillow()
        from PIL import Image

        extensions = {extension for extension, kind in Image.registered_extensions().items() if kind not in NO_PICTURES}
        files = (path for path in Path(folder).iterdir() if path.suffix.lower() in extensions and not path.name.startswith("."))
        self.paths, self.prepare, self.unreadable = sorted(path for path in files if path.is_file()), prepare, unreadable
        if not self.paths:
            raise ValueError(f"there are no pictures in the folder {os.fspath(folder)!r}")

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def __iter__(self) -> Iterator[Any]:
        """The pictures, prepared; one that can't be read raises when its turn comes, unless ``unreadable`` is to be told."""
        for path in list(self.paths):
            try:
                picture = read_picture(path)
            except (OSError, ValueError) as error:
                if self.unreadable is None:
                    raise
                self.paths.remove(path)
                self.unreadable(error)
            else:
                yield picture if self.prepare is None else self.prepare(picture)


def fit(picture: np.ndarray, size: PairLike) -> np.ndarray:
    """Brings a picture to a network's input size: its largest central part of those proportions, scaled (bicubic).

    Args:
        picture: uint8 array of shape (H, W, 3) or (H, W).
        size: Rows and columns of the result.

    Returns:
        uint8 array of that size.

    Raises:
        TypeError: The picture isn't uint8.
        ValueError: It has another shape, or ``size`` isn't positive.
        ImportError: Pillow isn't installed.
    """
    _require_pillow()
    from PIL import Image

    rows, columns = pair("size", size)
    _check_picture(picture)
    height, width = picture.shape[:2]
    # The part's proportions are those wanted, to the pixel; at least one pixel of each side remains.
    part_height = min(height, max(1, width * rows // columns))
    part_width = min(width, max(1, height * columns // rows))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    part = picture[top : top + part_height, left : left + part_width]
    return np.asarray(Image.fromarray(part).resize((columns, rows), Image.Resampling.BICUBIC))


def write_png(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Writes a picture to a PNG file, whole or not at all.

    Args:
        path: The file; one that is there is replaced.
        picture: uint8 array, or floats in 0..1, of shape (H, W, 3) or (H, W).

    Raises:
        OSError: The file can't be written.
        TypeError: The array is of another type.
        ValueError: It has another shape, or floats outside 0..1.
        ImportError: Pillow isn't installed.
    """
    contents = as_png(picture)
    with whole_file(path) as file:
        file.write(contents)


def as_png(picture: np.ndarray) -> bytes:
    """The contents of a PNG file of a picture; argument and errors are those of :func:`write_png`."""
    _require_pillow()
    from PIL import Image

    if not isinstance(picture, np.ndarray):
        raise TypeError(f"a picture must be a numpy.ndarray, got {type(picture).__name__}")
    if picture.dtype.kind == "f":
        if not ((picture >= 0) & (picture <= 1)).all():
            raise ValueError(f"a picture of floats must lie in 0..1, got {picture.min():g}..{picture.max():g}")
        picture = np.rint(picture * 255).astype(np.uint8)
    _check_picture(picture)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def _check_picture(picture: np.ndarray) -> None:
    if picture.dtype != np.uint8:
        raise TypeError(f"a picture must be uint8, got {picture.dtype} of shape {picture.shape}")
    if picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)) or 0 in picture.shape:
        raise ValueError(f"a picture must have shape (H, W, 3) or (H, W), got {picture.shape}")


def _to_rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow would clip 16 bits at 255.
        return Image.fromarray((np.clip(np.asarray(image, np.int64), 0, 0xFFFF) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose black and white nobody knows; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures are read and written by Pillow: pip install 'dnn-visualizer[plot]'") from error
