"""The command line: ``dcnn-visualizer``, also ``python -m dcnn_visualizer``.

The network and its libraries are imported once a command runs, so ``--help`` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from dcnn_visualizer import dataset
    from dcnn_visualizer.models import NamedModel

PROGRAM = "dcnn-visualizer"
METHODS = {"desalinet": "DeSaliNet", "salinet": "SaliNet", "deconvnet": "DeconvNet"}
MODEL_HELP = "'efficientnet-lite0', or 'package.module:factory', a callable that returns a network"


class UsageError(ValueError):
    """The command line can't be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage, so that every error is told in one line."""
        raise UsageError(f"{message} ({self.prog} --help tells more)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The words after the program's name; by default those of this process.

    Returns:
        The exit status: 0, 2 after an error, which is told in one line on standard error, 130 after an interruption.
    """
    traceback = "--traceback" in (sys.argv[1:] if arguments is None else arguments)
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Not every terminal knows every letter.
            sys.stdout.reconfigure(errors="replace")
        options = _parser().parse_args(arguments)
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if traceback:
            raise
        print(f"{PROGRAM}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: Exception) -> str:
    # A KeyError's text is its argument's repr.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Shows what a convolutional network has learned.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    parser.add_argument("--traceback", action="store_true", help="after an error, show where in the program it arose")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "look at a photograph with EfficientNet-Lite0 by all four methods")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="where the pictures go (default: demo)")
    demo.add_argument("--picture", type=Path, metavar="FILE", help="the photograph (default: scikit-image's cat)")

    layers = _command(commands, "layers", _layers, "list a network's layers: path, kind, output shape, receptive field")
    _add_model(layers)
    layers.add_argument("--method", choices=METHODS, help="also tell the rule by which each layer is reversed")

    project = _command(commands, "project", _project, "project a layer, channels or neurons back to a picture's pixels")
    _add_model(project)
    _add_picture(project)
    project.add_argument(
        "--index",
        type=_index,
        nargs="+",
        metavar="INDEX",
        help="a channel, '3', or a neuron, '3,5,7' (channel, row, column); several are laid out on one sheet, each in its own "
        "scale (default: the whole layer)",
    )
    project.add_argument("--method", choices=METHODS, default="desalinet", help="default: desalinet")
    project.add_argument(
        "--seed", choices=("activation", "one"), default="activation", help="the signal that starts (default: activation)"
    )
    project.add_argument(
        "--percentile",
        type=_percentile,
        default=99,
        metavar="N",
        help="of the magnitudes; those beyond it are clipped (default: 99)",
    )

    gallery = _command(commands, "gallery", _gallery, "draw what excites each channel most in a folder, and the projections")
    _add_model(gallery)
    gallery.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of pictures")
    gallery.add_argument("--layer", required=True, metavar="PATH", help=f"the layer's path; '{PROGRAM} layers' lists them")
    gallery.add_argument("--channels", type=int, nargs="+", metavar="N", help="the channels (default: the first 16)")
    gallery.add_argument("-k", type=int, default=9, metavar="N", help="strongest places for each channel (default: 9)")
    gallery.add_argument("--method", choices=METHODS, default="deconvnet", help="default: deconvnet")
    gallery.add_argument("--out", type=_png, required=True, metavar="FILE.png", help="the picture to write")

    occlude = _command(commands, "occlude", _occlude, "slide an occluder over a picture and map how a layer changes")
    _add_model(occlude)
    _add_picture(occlude)
    occlude.add_argument("--ksize", type=_pair, required=True, metavar="N or HxW", help="size of the occluder, in pixels")
    occlude.add_argument("--stride", type=_pair, required=True, metavar="N or HxW", help="step between its places, in pixels")
    occlude.add_argument(
        "--windows",
        choices=("centered", "inside"),
        default="centered",
        help="centered on every stride-th pixel and clipped at the border (the default), or whole windows only",
    )
    occlude.add_argument(
        "--fill",
        type=_fill,
        default="mean",
        metavar="FILL",
        help="the picture's 'mean' (the default), its mean per 'channel', or a pixel value from 0 to 255",
    )
    occlude.add_argument(
        "--channel",
        type=int,
        metavar="N",
        help="channel or class to watch (default: of a layer of one number a unit the strongest, else the mean over all)",
    )
    occlude.add_argument(
        "--alpha", type=_share, default=0.6, metavar="N", help="weight of the heat map over the picture, 0 to 1 (default: 0.6)"
    )
    occlude.add_argument("--save", type=Path, metavar="FILE.npz", help="also save the map, for SaliencyMap.load")
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    network = command.add_argument_group("a factory's network")
    network.add_argument(
        "--weights", type=Path, metavar="FILE", help="its weights by name: npz, as Chainer saves them, HDF5 or safetensors"
    )
    network.add_argument("--size", type=_pair, metavar="N or HxW", help="size of its pictures (default: as they are)")
    network.add_argument("--mean", type=_numbers, default=(0.0,), metavar="N or R,G,B", help="subtracted from pixels 0..255")
    network.add_argument("--std", type=_numbers, default=(1.0,), metavar="N or R,G,B", help="then divided by")
    network.add_argument(
        "--colours",
        choices=("rgb", "bgr", "grey"),
        default="rgb",
        help="the order in which it takes them, also that of --mean and --std (default: rgb)",
    )


def _add_picture(command: argparse.ArgumentParser) -> None:
    command.add_argument("picture", type=Path, metavar="PICTURE", help="any picture that Pillow reads")
    command.add_argument("--layer", required=True, metavar="PATH", help=f"the layer's path; '{PROGRAM} layers' lists them")
    command.add_argument("--out", type=_png, required=True, metavar="FILE.png", help="the picture to write")


def _demo(options: argparse.Namespace) -> None:
    from dcnn_visualizer import demo

    demo.run(options.out, options.picture, _shows_progress())


def _layers(options: argparse.Namespace) -> None:
    from dcnn_visualizer import desalinet
    from dcnn_visualizer.layer_table import layer_table
    from dcnn_visualizer.models import USUAL_SIZE

    model = _load(options)
    rows, columns = model.preprocessing.size or USUAL_SIZE
    coverage = getattr(desalinet, METHODS[options.method])(model.chain).coverage() if options.method else None
    shape = (model.preprocessing.channels, rows, columns)
    table = layer_table(model.chain, shape, coverage)
    print(f"{model.name}, for a picture of {'x'.join(map(str, shape))}\n{table}")


def _project(options: argparse.Namespace) -> None:
    from dcnn_visualizer import dataset, desalinet, files, rendering

    files.check_writable(options.out)
    picture = dataset.read_picture(options.picture)
    model = _load(options)
    x = model.preprocessing(picture)
    reversal = getattr(desalinet, METHODS[options.method])(model.chain)
    projections = reversal.analyze(x, options.layer, options.index or [None], options.seed)
    painted = [rendering.projection_to_rgb(model.preprocessing.to_rgb(p), options.percentile) for p in projections]
    dataset.write_png(options.out, rendering.tile(painted))
    whom = "the whole layer" if not options.index else "index " + "; ".join(map(str, options.index))
    print(f"wrote {options.out}: {METHODS[options.method]} of {options.layer!r}, {whom}")


def _gallery(options: argparse.Namespace) -> None:
    from dcnn_visualizer import dataset, desalinet, files
    from dcnn_visualizer.gallery import draw, project_top_activations, top_activations

    files.check_writable(options.out)
    model = _load(options)
    preprocessing = model.preprocessing
    folder = dataset.Folder(
        options.folder, preprocessing, lambda error: print(f"{PROGRAM}: left out: {_one_line(error)}", file=sys.stderr)
    )
    reversal = getattr(desalinet, METHODS[options.method])(model.chain)
    top = top_activations(model.chain, _with_progress(folder, "looking"), options.layer, options.k, options.channels)
    if options.channels is None:
        top = top.of_rows(slice(16))
    projections = project_top_activations(reversal, _with_progress(folder, "projecting"), top)
    drawn = draw(projections, top, preprocessing.to_pixels, preprocessing.to_rgb)
    dataset.write_png(options.out, drawn)
    whom = ", ".join(map(str, top.channels))
    print(f"wrote {options.out}: {METHODS[options.method]} of {options.layer!r}, the strongest places of channels {whom}")


def _occlude(options: argparse.Namespace) -> None:
    from dcnn_visualizer import dataset, files, rendering
    from dcnn_visualizer.occlusion import SaliencyMap, SaliencyVisualizer

    out, save = (path and files.check_writable(path) for path in (options.out, options.save))
    if out == save:
        raise UsageError(f"--out and --save must name two files, got {options.out} for both")
    picture = dataset.read_picture(options.picture)
    model = _load(options)
    cropped = model.preprocessing.crop(picture)
    x = model.preprocessing(cropped)
    (activation,) = model.activations(x, [options.layer])
    channel = options.channel
    if channel is None and activation.ndim == 1:
        channel = int(activation.argmax())
    if channel is not None and not 0 <= channel < len(activation):
        raise UsageError(f"--channel must be in 0..{len(activation) - 1}, got {channel}")
    fill = options.fill if isinstance(options.fill, str) else model.preprocessing.scale(options.fill)
    saliency = SaliencyVisualizer(model.chain).analyze(
        x,
        options.layer,
        options.ksize,
        options.stride,
        fill=fill,
        windows=options.windows,
        progress=_shows_progress(),
    )
    assert isinstance(saliency, SaliencyMap)  # of one picture
    limit = rendering.magnitude_limit(saliency.plane(channel=channel))
    backdrop = rendering.in_grey(rendering.displayable(cropped))
    composed = saliency.compose(backdrop, options.alpha, channel=channel, value_range=(-limit, limit))
    if options.save is not None:
        saliency.save(options.save)
    dataset.write_png(options.out, composed)
    whom = "mean over all channels" if channel is None else f"channel {channel}"
    if channel is not None and len(model.class_names) == len(activation):
        whom += f" ({model.class_names[channel]})"
    print(f"wrote {options.out}: change of {options.layer!r}, {whom}, when hidden; red is up, blue is down, to {limit:.3g}")
    if options.save is not None:
        print(f"wrote {options.save}")


def _shows_progress() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None


def _with_progress(pictures: dataset.Folder, doing: str) -> Iterable[Any]:
    """The pictures, with a bar on a terminal where the whole takes longer than a second."""
    if not _shows_progress():
        return pictures
    from tqdm import tqdm

    return tqdm(pictures, doing, unit="picture", delay=1)


def _load(options: argparse.Namespace) -> NamedModel:
    from dcnn_visualizer.models import Preprocessing, load_model

    preprocessing = Preprocessing(options.size, options.mean, options.std, options.colours)
    return load_model(options.model, options.weights, preprocessing)


def _version() -> str:
    try:
        return metadata.version("dnn-visualizer")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _pair(text: str) -> tuple[int, int]:
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, or two as in '224x224', got {text!r}")
    return numbers[0], numbers[-1]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, or three as in '104,117,124', got {text!r}") from None


def _index(text: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a channel, '3', or a neuron, '3,5,7', got {text!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _fill(text: str) -> str | float:
    return text if text in ("mean", "channel") else _number(text, 0, 255, "'mean', 'channel' or a pixel value from 0 to 255")


def _percentile(text: str) -> float:
    return _number(text, math.ulp(0), 100, "a number above 0 and at most 100")


def _share(text: str) -> float:
    return _number(text, 0, 1, "a number from 0 to 1")


def _number(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, got {text!r}")
    return path
