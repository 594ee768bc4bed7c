import os
import re
import subprocess
import sys
from pathlib import Path

import chainer
import numpy as np
import pytest

from dcnn_visualizer import cli, dataset, demo, rendering
from dcnn_visualizer.desalinet import DeSaliNet, SaliNet
from dcnn_visualizer.layer_table import output_shapes, receptive_fields
from dcnn_visualizer.models import Preprocessing, load_model
from dcnn_visualizer.occlusion import SaliencyMap, SaliencyVisualizer

FACTORIES = '''
import chainer
import numpy as np
from tests.visualizer.networks import SimpleCNN

class Grey(SimpleCNN):
    """A factory may be a class, and a module may hold several."""

def simple():
    model = SimpleCNN()
    rng = np.random.RandomState(0)
    with chainer.using_config("train", False):
        model(np.zeros((1, 3, 32, 32), np.float32))
    for _, parameter in sorted(model.namedparams()):
        parameter.array[...] = rng.standard_normal(parameter.shape) * 0.1
    return model

def sequential():
    return chainer.Sequential(chainer.links.Convolution2D(3, 4, 3), chainer.functions.relu)

def broken():
    raise RuntimeError("first line\\n  second line")

def nothing():
    return None

number = 3
'''


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A current directory with a module of factories, a photograph, and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    (tmp_path / "factories.py").write_text(FACTORIES)
    photograph = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    dataset.write_png(tmp_path / "photo.png", photograph)
    return tmp_path


def fails(capsys, *words: str) -> str:
    """Runs the command line, which must fail in one line, and returns that line."""
    before = sorted(os.listdir())
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("dcnn-visualizer: error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    assert sorted(name for name in os.listdir() if name != "__pycache__") == [n for n in before if n != "__pycache__"]
    return printed.err


PROJECT = ("project", "factories:simple", "photo.png", "--size", "32", "--out", "out.png")
OCCLUDE = ("occlude", "factories:simple", "photo.png", "--size", "32", "--out", "out.png", "--ksize", "9", "--stride", "8")


@pytest.mark.usefixtures("workplace")
class TestGallery:
    words = ("gallery", "factories:simple", ".", "--size", "32", "--out", "out.png", "--layer", "conv1_mp")

    def test_draws_a_folder(self, capsys):
        assert cli.main([*self.words, "--channels", "3", "1", "-k", "1", "--mean", "127", "--std", "64"]) == 0
        # A unit sees 4 x 4 pixels: two blocks of a part and its projection, 4 and 10 apart.
        drawn = dataset.read_picture("out.png")
        assert drawn.shape == (4, 2 * (4 + 4 + 4) + 10, 3)
        printed = capsys.readouterr().out
        assert printed == "wrote out.png: DeconvNet of 'conv1_mp', the strongest places of channels 3, 1\n"
        photo = dataset.fit(dataset.read_picture("photo.png"), 32)
        windows = np.lib.stride_tricks.sliding_window_view(photo, (4, 4, 3)).reshape(-1, 4, 4, 3)
        assert (np.abs(windows.astype(int) - drawn[:, :4]).max(axis=(1, 2, 3)) <= 1).any()

    def test_leaves_out_what_can_not_be_read_and_says_so(self, capsys):
        assert cli.main([*self.words, "--channels", "3", "-k", "1"]) == 0
        expected = Path("out.png").read_bytes()
        Path("out.png").unlink()
        Path("a.jpg").write_text("no picture")
        capsys.readouterr()
        assert cli.main([*self.words, "--channels", "3", "-k", "1"]) == 0
        assert Path("out.png").read_bytes() == expected
        assert capsys.readouterr().err == "dcnn-visualizer: left out: a.jpg is no picture that Pillow can read\n"
        Path("out.png").unlink()
        Path("photo.png").write_text("no picture")
        assert cli.main(self.words) == 2
        assert capsys.readouterr().err.endswith("dcnn-visualizer: error: there must be at least one picture, got none\n")

    def test_errors_take_one_line(self, capsys):
        assert "no layer 'conv9'" in fails(capsys, *self.words[:-1], "conv9")
        assert "channels must be in" in fails(capsys, *self.words, "--channels", "99")
        assert "nowhere" in fails(capsys, "gallery", "factories:simple", "nowhere", *self.words[3:])


@pytest.mark.usefixtures("workplace")
class TestProject:
    def picture(self):
        return dataset.fit(dataset.read_picture("photo.png"), 32)

    def expected(self, method, index, **options):
        model = load_model("factories:simple")
        x = self.picture().transpose(2, 0, 1).astype(np.float32)
        return [rendering.projection_to_rgb(p) for p in method(model.chain).analyze(x, "conv2", index, **options)]

    def as_bytes(self, picture):
        return np.rint(picture * 255).astype(np.uint8)

    def test_writes_a_channel(self, capsys):
        assert cli.main([*PROJECT, "--layer", "conv2", "--index", "3"]) == 0
        (projection,) = self.expected(DeSaliNet, [3])
        np.testing.assert_array_equal(dataset.read_picture("out.png"), self.as_bytes(projection))
        assert capsys.readouterr().out == "wrote out.png: DeSaliNet of 'conv2', index 3\n"

    def test_lays_several_places_out_on_a_sheet(self):
        assert cli.main([*PROJECT, "--layer", "conv2", "--index", "3", "0,2,1", "--method", "salinet", "--seed", "one"]) == 0
        sheet = rendering.tile(self.expected(SaliNet, [3, (0, 2, 1)], seed="one"))
        np.testing.assert_array_equal(dataset.read_picture("out.png"), self.as_bytes(sheet))

    def test_writes_the_whole_layer(self):
        assert cli.main([*PROJECT, "--layer", "conv2"]) == 0
        np.testing.assert_array_equal(dataset.read_picture("out.png"), self.as_bytes(self.expected(DeSaliNet, [None])[0]))

    def test_a_network_of_bgr_is_drawn_in_rgb(self):
        assert cli.main([*PROJECT, "--layer", "conv1", "--colours", "bgr"]) == 0
        x = np.ascontiguousarray(self.picture().transpose(2, 0, 1)[::-1], np.float32)
        projection = DeSaliNet(load_model("factories:simple").chain).analyze(x, "conv1")
        painted = rendering.projection_to_rgb(projection[::-1])
        np.testing.assert_array_equal(dataset.read_picture("out.png"), self.as_bytes(painted))

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--layer", "conv9"], "no layer 'conv9'; did you mean 'conv2' or 'conv1' or 'conv2_mp'? there are 'conv1'"),
            (["--layer", "conv2", "--index", "1,2,99"], "index (1, 2, 99) is outside the layer, whose shape is ("),
            (["--layer", "conv2", "--index", "5"], "index 5 is outside the layer, whose shape is (5, 13, 13)"),
            (["--layer", "conv2", "--index", "-1"], "index -1 is outside the layer"),
            (["--layer", "conv2", "--index", "1,2"], "addressed by 3 indices (c, y, x), got (1, 2)"),
            (["--layer", "conv2", "--index", "a"], "expected a channel, '3', or a neuron, '3,5,7', got 'a'"),
            (["--layer", "conv2", "--method", "magic"], "invalid choice: 'magic'"),
            (
                ["--layer", "conv2", "--percentile", "0"],
                "--percentile: expected a number above 0 and at most 100, got '0'",
            ),
            (["--layer", "conv2", "--out", "out.jpg"], "expected a name that ends in .png, got 'out.jpg'"),
            (["--layer", "conv2", "--out", "nowhere/out.png"], "there is no folder 'nowhere'"),
            (["--layer", "conv2", "--size", "0"], "expected a positive integer"),
            (["--layer", "conv2", "--mean", "1,2"], "mean must be 1 or 3 finite numbers, got [1.0, 2.0]"),
            (["--layer", "conv2", "--std", "0"], "std must not be zero"),
            (["--layer", "conv2", "--colours", "grey"], "channels"),
            (["--layer", "fc4", "--size", "20"], "245"),
            ([], "the following arguments are required: --layer"),
        ],
    )
    def test_what_is_asked_wrongly_is_told_in_a_line(self, capsys, words, message):
        assert message in fails(capsys, *PROJECT, *words)

    @pytest.mark.parametrize(
        ("contents", "message"), [(None, "photo.png: No such file"), (b"\x89PNG\r\n", "photo.png is no picture")]
    )
    def test_a_bad_picture_is_told_in_a_line(self, capsys, contents, message):
        Path("photo.png").unlink()
        if contents is not None:
            Path("photo.png").write_bytes(contents)
        assert message in fails(capsys, *PROJECT, "--layer", "conv2")

    def test_a_failure_leaves_the_file_that_was_there(self, capsys):
        Path("out.png").write_text("old")
        fails(capsys, *PROJECT, "--layer", "conv2", "--index", "99")
        assert Path("out.png").read_text() == "old"


@pytest.mark.usefixtures("workplace")
class TestModel:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("resnet", "unknown model 'resnet'; expected 'efficientnet-lite0' or 'package.module:factory'"),
            ("factories:", "unknown model 'factories:'"),
            ("./factories.py:simple", "a module goes by its name, not by its file: 'nets:simple' for nets.py"),
            ("C:\\nets\\factories:simple", "a module goes by its name, not by its file"),
            ("nowhere:simple", "No module named 'nowhere'"),
            ("factories:absent", "module 'factories' has no 'absent'"),
            ("factories:number", "must be callable and return a network, got int"),
            ("factories:nothing", "NoneType"),
            ("factories:broken", "first line second line"),
        ],
    )
    def test_a_bad_name_is_told_in_a_line(self, capsys, name, message):
        assert message in fails(capsys, "layers", name)

    def test_traceback_shows_where_an_error_arose(self):
        with pytest.raises(RuntimeError, match="first line"):
            cli.main(["--traceback", "layers", "factories:broken"])

    def test_what_an_importer_knows_is_converted(self, capsys):
        assert cli.main(["layers", "factories:sequential", "--size", "8"]) == 0
        assert "4x6x6" in capsys.readouterr().out

    def test_weights_are_read(self, capsys):
        model = load_model("factories:simple").chain
        model.conv2.W.array[...] = 1
        chainer.serializers.save_npz("weights.npz", model)
        loaded = load_model("factories:simple", "weights.npz").chain
        np.testing.assert_array_equal(loaded.conv2.W.array, model.conv2.W.array)
        assert cli.main([*PROJECT, "--layer", "conv2", "--weights", "weights.npz"]) == 0

    def test_weights_make_a_network_that_has_no_shape_yet(self):
        chainer.serializers.save_npz("weights.npz", load_model("factories:simple").chain)
        assert load_model("tests.visualizer.networks:SimpleCNN", "weights.npz").chain.fc3.W.shape == (32, 245)

    def write_weights(self, kind):
        model = load_model("factories:simple").chain
        arrays = {key.lstrip("/"): parameter.array for key, parameter in model.namedparams()}
        if kind == "other":
            del arrays["fc4/W"]
        elif kind == "shape":
            arrays["conv1/b"] = np.float32(0)
        elif kind == "pickle":
            arrays["conv1/b"] = np.array(Path("x"))
        if kind == "array":
            with open("weights.npz", "wb") as file:
                np.save(file, arrays["fc4/W"])
        else:
            # As save_npz does by default.
            np.savez_compressed("weights.npz", **arrays)
        contents = Path("weights.npz").read_bytes()
        if kind == "truncated":
            Path("weights.npz").write_bytes(contents[: len(contents) // 2])
        elif kind == "damaged":
            Path("weights.npz").write_bytes(contents[:1000] + b"\0" * 50 + contents[1050:])
        elif kind == "text":
            Path("weights.npz").write_text("no weights")
        elif kind == "empty":
            Path("weights.npz").write_text("")

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("other", "weights.npz doesn't fit SimpleCNN: 7 matched; missing in the file: fc4/W"),
            ("shape", "conv1/b has shape (10,), in the file ()"),
            ("pickle", "weights.npz can't be read as weights: 'conv1/b.npy' doesn't hold the object array"),
            ("array", "weights.npz can't be read as weights: it is no npz, HDF5 or safetensors file"),
            ("truncated", "weights.npz can't be read as weights: File is not a zip file"),
            ("damaged", "weights.npz can't be read as weights"),
            ("text", "weights.npz can't be read as weights"),
            ("empty", "weights.npz can't be read as weights"),
        ],
    )
    def test_bad_weights_are_told_in_a_line(self, capsys, kind, message):
        self.write_weights(kind)
        assert message in fails(capsys, *PROJECT, "--layer", "conv2", "--weights", "weights.npz")

    def test_missing_weights_are_told_in_a_line(self, capsys):
        message = fails(capsys, *PROJECT, "--layer", "conv2", "--weights", "nowhere.npz")
        assert "nowhere.npz: No such file" in message

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--weights", "w.npz"], "efficientnet-lite0 brings its own weights"),
            (["--mean", "1"], "efficientnet-lite0 brings its own preprocessing"),
            (["--size", "64x32"], "efficientnet-lite0 looks at squares, got size 64x32"),
        ],
    )
    def test_a_named_network_brings_its_own(self, capsys, words, message):
        assert message in fails(capsys, "layers", "efficientnet-lite0", *words)


class TestPreprocessing:
    def test_is_pixel_minus_mean_over_std_in_the_networks_order(self):
        pixels = np.uint8([[[10, 20, 30], [40, 50, 60]]])
        x = Preprocessing(mean=(1, 2, 3), std=(2,), colours="bgr")(pixels)
        assert x.dtype == np.float32
        assert x.tolist() == [[[14.5, 29.5]], [[9, 24]], [[3.5, 18.5]]]

    def test_crops_what_is_not_cropped(self):
        picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        preprocessing = Preprocessing((10, 10))
        np.testing.assert_array_equal(preprocessing(picture), preprocessing(preprocessing.crop(picture)))
        assert preprocessing(picture).shape == (3, 10, 10)

    def test_grey_is_one_channel(self):
        x = Preprocessing(colours="grey", std=(255,))(np.full((2, 3, 3), 51, np.uint8))
        np.testing.assert_allclose(x, np.full((1, 2, 3), 0.2), rtol=1e-6)

    def test_projections_come_back_in_rgb(self):
        projection = np.arange(3).reshape(3, 1, 1)
        assert Preprocessing(colours="bgr").to_rgb(projection).ravel().tolist() == [2, 1, 0]
        assert Preprocessing().to_rgb(projection).ravel().tolist() == [0, 1, 2]

    def test_an_unknown_order_is_an_error(self):
        with pytest.raises(ValueError, match="colours must be one of"):
            Preprocessing(colours="cmyk")


@pytest.mark.usefixtures("workplace")
class TestOcclude:
    def swept(self, layer, **options):
        cropped = dataset.fit(dataset.read_picture("photo.png"), 32)
        model = load_model("factories:simple")
        x = model.preprocessing(cropped)
        return cropped, model.activations(x, [layer])[0], SaliencyVisualizer(model.chain).analyze(x, layer, 9, 8, **options)

    def test_writes_the_strongest_unit_and_saves_the_map(self, capsys):
        assert cli.main([*OCCLUDE, "--layer", "fc4", "--save", "map.npz"]) == 0
        cropped, scores, saliency = self.swept("fc4")
        np.testing.assert_array_equal(SaliencyMap.load("map.npz").data, saliency.data)
        winner = int(scores.argmax())
        limit = rendering.magnitude_limit(saliency.plane(channel=winner))
        grey = rendering.in_grey(rendering.displayable(cropped))
        composed = saliency.compose(grey, 0.6, channel=winner, value_range=(-limit, limit))
        np.testing.assert_array_equal(dataset.read_picture("out.png"), np.rint(composed * 255).astype(np.uint8))
        printed = capsys.readouterr().out
        assert f"'fc4', channel {winner}" in printed
        assert printed.endswith("wrote map.npz\n")

    def test_maps_are_averaged_over_their_channels(self, capsys):
        assert cli.main([*OCCLUDE, "--layer", "conv2", "--windows", "inside", "--save", "map.npz"]) == 0
        assert "'conv2', mean over all channels" in capsys.readouterr().out
        assert SaliencyMap.load("map.npz").data.shape == (3, 3, 5)

    def test_fill_is_a_pixel_value(self):
        words = ["--layer", "fc4", "--mean", "100,110,120", "--std", "50", "--fill", "127", "--save", "map.npz"]
        assert cli.main([*OCCLUDE, *words]) == 0
        cropped = dataset.fit(dataset.read_picture("photo.png"), 32)
        x = ((cropped - np.float32([100, 110, 120])) / 50).transpose(2, 0, 1).astype(np.float32)
        fill = np.float32([27, 17, 7]) / 50
        expected = SaliencyVisualizer(load_model("factories:simple").chain).analyze(x, "fc4", 9, 8, fill=fill)
        np.testing.assert_allclose(SaliencyMap.load("map.npz").data, expected.data, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--layer", "fc4", "--channel", "10"], "--channel must be in 0..9, got 10"),
            (["--layer", "fc4", "--channel", "-1"], "--channel must be in 0..9, got -1"),
            (["--layer", "fc4", "--ksize", "33"], "an occluder of 33x33 is larger than the picture of 32x32"),
            (["--layer", "fc4", "--fill", "black"], "expected 'mean', 'channel' or a pixel value from 0 to 255, got 'black'"),
            (["--layer", "fc4", "--fill", "nan"], "got 'nan'"),
            (["--layer", "fc4", "--alpha", "2"], "argument --alpha: expected a number from 0 to 1, got '2'"),
            (["--layer", "fc4", "--save", "out.png"], "--out and --save must name two files"),
            (["--layer", "fc4", "--save", "nowhere/map.npz"], "there is no folder 'nowhere'"),
        ],
    )
    def test_what_is_asked_wrongly_is_told_in_a_line(self, capsys, words, message):
        assert message in fails(capsys, *OCCLUDE, *words)


@pytest.mark.usefixtures("workplace")
class TestLayers:
    def test_lists_shapes_kinds_fields_and_rules(self, capsys):
        assert cli.main(["layers", "factories:simple", "--size", "32", "--method", "salinet"]) == 0
        title, *lines = capsys.readouterr().out.splitlines()
        assert title == "factories:simple, for a picture of 3x32x32"
        rows = [re.split(r" {2,}", line) for line in lines]
        assert rows[0] == ["layer", "kind", "output", "sees", "reversed by"]
        assert rows[1] == ["conv1", "Convolution2D", "10x30x30", "3x3", "Wᵀg: transposed convolution, no bias"]
        assert rows[3] == ["conv1_mp", "MaxPooling2D", "10x15x15", "4x4", "unpooling by switches"]
        assert rows[4][:4] == ["conv1_lrn", "local_response_normalization", "10x15x15", "all"]
        assert rows[4][4].startswith("passed over")
        assert rows[-1][:4] == ["fc4", "Linear", "10", "all"]

    def test_a_size_that_does_not_fit_is_told_in_a_line(self, capsys):
        message = fails(capsys, "layers", "factories:simple", "--size", "20")
        assert "layer 'fc3' can't take an input of 5x4x4, given a picture of 3x20x20" in message


def test_receptive_fields_are_where_a_gradient_reaches():
    # A chain whose windows differ in the two axes, with a residual and a dilated convolution.
    import dcnn_visualizer.traceable_nodes as tn
    from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual

    def convolution(ksize, stride=1, pad=0, dilate=1):
        ones = chainer.initializers.One()
        return tn.TraceableConvolution2D(1, 1, ksize, stride, pad, initialW=ones, dilate=dilate)

    chain = TraceableChain(
        conv=convolution((3, 2), (2, 1)),
        pool=tn.TraceableAveragePooling2D((2, 3), (1, 2)),
        block=TraceableResidual(TraceableChain(a=convolution(3, pad=1), b=convolution((1, 3), pad=(0, 2), dilate=2))),
    )
    graph = chain.graph()
    x = np.ones((1, 41, 41), np.float32)
    shapes = output_shapes(graph, x.shape)
    for (path, _, _), shape, field in zip(graph.steps, shapes, receptive_fields(graph), strict=True):
        centre = (0, shape[1] // 2, shape[2] // 2)
        _, rows, columns = np.nonzero(SaliNet(chain).analyze(x, path, centre, seed="one"))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == field, path


class TestProgram:
    def test_version_and_help(self, capsys):
        for word in ("--version", "--help"):
            with pytest.raises(SystemExit) as stopped:
                cli.main([word])
            assert stopped.value.code == 0
            assert capsys.readouterr().out.startswith(("dcnn-visualizer ", "usage: dcnn-visualizer "))

    @pytest.mark.parametrize("words", [[], ["dream"], ["layers"]])
    def test_an_unknown_command_is_told_in_a_line(self, capsys, words):
        fails(capsys, *words)

    def test_a_process_of_its_own(self, workplace):
        def run(*words):
            return subprocess.run(
                [sys.executable, "-m", "dcnn_visualizer", *words],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

        done = run(*PROJECT, "--layer", "conv2", "--index", "3")
        assert (done.returncode, done.stderr) == (0, "")
        assert (workplace / "out.png").is_file()
        failed = run(*PROJECT, "--layer", "conv9")
        assert failed.returncode == 2
        assert failed.stdout == ""
        assert re.fullmatch(r"dcnn-visualizer: error: no layer 'conv9'; .*\n", failed.stderr)

    @pytest.mark.usefixtures("workplace")
    def test_letters_that_the_terminal_does_not_know(self, monkeypatch):
        with open("out.txt", "w", encoding="ascii") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert cli.main(["layers", "factories:simple", "--size", "32", "--method", "salinet"]) == 0
        assert "W?g: transposed convolution" in Path("out.txt").read_text(encoding="ascii")

    @pytest.mark.usefixtures("workplace")
    def test_no_output_at_all(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)
        assert cli.main([*PROJECT, "--layer", "conv2"]) == 0
        assert Path("out.png").is_file()


class TestDemo:
    def test_classifies_and_draws(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(demo, "STRIDE", 112)
        assert cli.main(["demo", "--out", str(tmp_path / "new" / "demo")]) == 0
        printed = capsys.readouterr().out
        assert re.search(r"38\.\d%  Egyptian cat\n", printed)
        figures = sorted((tmp_path / "new" / "demo").iterdir())
        assert [figure.name for figure in figures] == ["early.png", "late.png", "middle.png", "occlusion.png"]
        for figure in figures:
            assert str(figure) in printed
            picture = dataset.read_picture(figure)
            assert picture.shape[1] > 1000
            assert picture.std() > 20

    def test_a_bad_photograph_leaves_no_folder(self, workplace, capsys):
        Path("bad.png").write_bytes(b"bad")
        assert "bad.png is no picture" in fails(capsys, "demo", "--out", "figures", "--picture", "bad.png")

    def test_the_most_selective_channel_stands_out_from_its_mean(self):
        activation = np.zeros((4, 3, 3), np.float32)
        activation[0] = 6  # strong, everywhere
        activation[1, 1, 1] = 4  # one place
        activation[2, 1] = 5  # a row
        activation[3, 0, 0] = 1  # one place, but weak
        assert demo.most_selective_channel(activation) == 1
