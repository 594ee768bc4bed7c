"""A folder of pictures from end to end, beside the same by Captum: decode, project a channel, write a PNG file each.

    python benchmarks/folder.py

The pictures are JPEG files of 640x480, made for the run; both cut their centre out by the same function. The network is VGG16 up
to conv5_3. Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks.projection import CAPTUM, TOLERANCE, captums_answer, torch_twin, vgg16  # noqa: E402
from benchmarks.runner import Point, Work, arguments, backend, norm_of_difference, run  # noqa: E402
from dcnn_visualizer.dataset import Folder, fit, write_png  # noqa: E402
from dcnn_visualizer.desalinet import DeSaliNet  # noqa: E402
from dcnn_visualizer.traceable_chain import TraceableChain  # noqa: E402

PICTURES, LAYER, CHANNEL = 8, "conv5_3", 100


def prepare(picture: np.ndarray) -> np.ndarray:
    """The centre, as the network wants it."""
    return np.ascontiguousarray((fit(picture, 224).astype(np.float32) / 64 - 2).transpose(2, 0, 1))


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """Stretched so that 0 is grey."""
    return (0.5 + 0.5 * pixels / (np.abs(pixels).max() or 1)).transpose(1, 2, 0).clip(0, 1)


def work() -> Work:
    """Both write next to the pictures, in a folder that is gone with the work; each call gets new pictures."""
    chain, home = vgg16(), tempfile.TemporaryDirectory(prefix="dcnn-benchmark-")

    def pictures(number: int) -> Path:
        from PIL import Image

        folder = Path(home.name) / str(number)
        folder.mkdir(exist_ok=True)
        random = np.random.default_rng(number)
        for one in range(PICTURES):
            coarse = Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8))
            coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{one}.jpg", quality=90)
        return folder

    def ours(folder: Path) -> list[np.ndarray]:
        found = []
        for number, one in enumerate(DeSaliNet(chain).analyze_many(Folder(folder, prepare), LAYER, CHANNEL, seed="one")):
            found.append(one.pixels)
            write_png(folder.parent / f"ours {number}.png", as_picture(one.pixels))
        return found

    return Work(ours, lambda: by_captum(chain), pictures, difference=norm_of_difference, tolerance=TOLERANCE)


def by_captum(chain: TraceableChain) -> Callable[[Path], list[np.ndarray]]:
    import captum.attr
    from PIL import Image

    network = torch_twin(chain, LAYER)
    attribution = captum.attr.NeuronGuidedBackprop(network, network.layer)

    def run(folder: Path) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for path in sorted(folder.glob("*.jpg")):
            x = prepare(np.asarray(Image.open(path).convert("RGB")))[None]
            found.append(captums_answer(attribution, x, lambda output: output[:, CHANNEL].sum((1, 2)))[0])
            picture = (as_picture(found[-1]) * 255).round().astype(np.uint8)
            Image.fromarray(picture).save(folder.parent / f"theirs {path.stem}.png")
        return found

    return run


def points() -> Iterator[Point]:
    """The one job."""
    name = f"DeSaliNet vgg16 {LAYER}, 1 channel"
    yield Point("folder", work, name, f"{PICTURES}x3x224x224", "float32", backend(), "captum", CAPTUM, requires=("PIL",))


def main() -> None:
    run(points(), arguments(__doc__, rounds=5).parse_args())


if __name__ == "__main__":
    main()
