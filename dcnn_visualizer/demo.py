"""What ``make demo`` shows: a trained network, a photograph, and all four methods."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcnn_visualizer import dataset
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
from dcnn_visualizer.files import check_writable, whole_file
from dcnn_visualizer.models import NamedModel, load_model
from dcnn_visualizer.occlusion import SaliencyVisualizer
from dcnn_visualizer.plotting import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: An early, a middle and a late layer, each behind its ReLU6.
LAYERS = {"early": "block3/expand_relu", "middle": "block9/expand_relu", "late": "head_relu"}
SCORES = "classifier"
#: The occluder and its step, in pixels of 224.
KSIZE, STRIDE = 40, 20
NEEDS = "the demo needs more packages: pip install 'dnn-visualizer[demo]'"


def run(
    out: str | os.PathLike[str] = "demo", picture: str | os.PathLike[str] | None = None, progress: bool = False
) -> list[Path]:
    """Classifies a photograph by EfficientNet-Lite0, and draws why.

    Args:
        out: Folder for the figures; made if it isn't there.
        picture: The photograph; None for scikit-image's cat.
        progress: Whether to show a progress bar (tqdm).

    Returns:
        The figures written: ``early.png``, ``middle.png``, ``late.png``, each with one channel by DeconvNet, SaliNet and
        DeSaliNet; ``occlusion.png``, with the winning class's heat map over the photograph.

    Raises:
        ImportError: A package of the extra ``demo`` isn't installed.
        OSError: The photograph can't be read, or a figure can't be written.
        ValueError: The photograph is no picture.
    """
    began = time.perf_counter()
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(NEEDS)
    photograph = _cat() if picture is None else dataset.read_picture(picture)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*LAYERS, "occlusion"):
        check_writable(folder / f"{name}.png")
    model = load_model("efficientnet-lite0")
    x = model.preprocessing(photograph)
    # What the network sees, at the photograph's own resolution.
    square = dataset.fit(photograph, min(photograph.shape[:2]))
    height, width = photograph.shape[:2]
    print(f"EfficientNet-Lite0 sees the central square of {picture or 'skimage.data.cat()'} ({width}x{height}) as")
    *activations, scores = model.activations(x, [*LAYERS.values(), SCORES])
    winner = _print_classes(scores, model.class_names)
    print(f"  {time.perf_counter() - began:.1f} s with loading")

    written = []
    for (depth, layer), activation in zip(LAYERS.items(), activations, strict=True):
        began = time.perf_counter()
        channel = most_selective_channel(activation)
        figure = _draw_projections(model, x, square, depth, layer, channel)
        written.append(_save(figure, folder / f"{depth}.png"))
        print(f"{written[-1]}: {layer!r}, channel {channel}, {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    figure = _draw_occlusion(model, x, square, winner, progress)
    written.append(_save(figure, folder / "occlusion.png"))
    print(f"{written[-1]}: score of {model.class_names[winner]!r}, {time.perf_counter() - began:.1f} s")
    return written


def most_selective_channel(activation: np.ndarray) -> int:
    """The channel whose peak stands out most from its mean, of those that peak at least half as high as any.

    Args:
        activation: Array of shape (C, H, W), not negative.

    Returns:
        Its index.
    """
    peaks, means = activation.max(axis=(1, 2)), activation.mean(axis=(1, 2))
    selectivity = peaks / np.maximum(means, np.finfo(activation.dtype).tiny)
    return int(np.where(peaks >= peaks.max() / 2, selectivity, -1).argmax())


def _cat() -> np.ndarray:
    try:
        import skimage.data
    except ImportError as error:
        raise ImportError(NEEDS) from error
    return skimage.data.cat()


def _print_classes(scores: np.ndarray, names: tuple[str, ...]) -> int:
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    best = np.argsort(probabilities)[::-1]
    for number in best[:5]:
        print(f"  {probabilities[number]:6.1%}  {names[number]}")
    return int(best[0])


def _draw_projections(model: NamedModel, x: np.ndarray, square: np.ndarray, depth: str, layer: str, channel: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.7), dpi=120, layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].imshow(square)
    axes[0].set_axis_off()
    axes[0].set_title("photograph")
    for ax, method in zip(axes[1:], (DeconvNet, SaliNet, DeSaliNet), strict=True):
        show(method(model.chain).analyze(x, layer, channel), ax=ax)
        ax.set_title(method.__name__)
    article = "an" if depth == "early" else "a"
    figure.suptitle(f"Channel {channel} of {layer}, {article} {depth} layer, projected back to the pixels")
    return figure


def _draw_occlusion(model: NamedModel, x: np.ndarray, square: np.ndarray, winner: int, progress: bool) -> Figure:
    from matplotlib.figure import Figure

    saliency = SaliencyVisualizer(model.chain).analyze(x, SCORES, KSIZE, STRIDE, progress=progress)
    figure = Figure(figsize=(8.6, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(square)
    left.set_axis_off()
    left.set_title("photograph")
    show(saliency, square, right, channel=winner)
    right.set_title(f"hide {KSIZE}×{KSIZE} pixels here, and …")
    bar = figure.colorbar(right.images[-1], ax=right, shrink=0.9)
    bar.set_label(f"… the score (logit) of “{model.class_names[winner]}” changes by")
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as file:
        figure.savefig(file, format="png")
    return path
