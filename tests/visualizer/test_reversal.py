import itertools

import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnn_kernels
import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
from dcnn_visualizer.reversal import Peak, Reversal
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual
from tests.visualizer.networks import SimpleCNN, linear, picture, random_chain


def autograd(model, x, layer, place, seed):
    """The gradient of the seeded activation, by Chainer alone."""
    model.pick = layer
    x = chainer.Variable(x)
    with chainer.using_config("train", False):
        y = model(x)
    grad = np.zeros_like(y.array)
    at = (slice(None), *place)
    grad[at] = y.array[at] if seed == "activation" else 1
    y.grad = grad
    y.backward()
    return x.grad


@given(seed=st.integers(0, 10_000), which=st.sampled_from(["activation", "one"]), deep=st.booleans())
@settings(max_examples=30, deadline=None)
def test_salinet_is_the_gradient(seed, which, deep):
    rng = np.random.default_rng(seed)
    model = random_chain(rng)
    x = picture(rng, 2, 3, int(rng.integers(14, 19)), int(rng.integers(14, 19)))
    layer, place = ("fc", (3,)) if deep else ("grouped", (2, 1, 0))
    expected = autograd(model, x, layer, place, which)
    got = SaliNet(model).analyze(x, layer, place, which)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * (np.abs(expected).max() + 1e-30))


def test_salinet_is_the_gradient_in_single_precision():
    rng = np.random.default_rng(7)
    model = random_chain(rng, dtype=np.float32)
    x = picture(rng, 3, 3, 16, 17, dtype=np.float32)
    expected = autograd(model, x, "fc", (2,), "activation")
    got = SaliNet(model).analyze(x, "fc", 2)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


class Cells:
    """Independent oracle of the cube: every linear layer as a matrix read off Chainer's forward pass, column by column."""

    def __init__(self, rng):
        self.shape = (2, 6, 6)
        with chainer.using_config("dtype", np.float64):
            self.model = TraceableChain(
                conv1=tn.TraceableConvolution2D(2, 3, 3, pad=1, initialW=rng.standard_normal((3, 2, 3, 3))),
                relu1=tn.TraceableReLU(),
                pool1=tn.TraceableMaxPooling2D(3, 2, 1, cover_all=True),
                conv2=tn.TraceableConvolution2D(3, 4, 2, initialW=rng.standard_normal((4, 3, 2, 2))),
                relu2=tn.TraceableReLU(),
                fc=linear(rng, 5),
            )
        self.x = rng.standard_normal((1, *self.shape))
        self.activations = dict(zip(self.model.layer_names, (y.array for y in self.model(self.x)), strict=True))

    @staticmethod
    def matrix(layer, shape):
        basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
        return (layer(basis).array - layer(np.zeros_like(basis)).array).reshape(len(basis), -1)

    @staticmethod
    def unpool(g, x, mode):
        """Window by window: 3x3, stride 2, pad 1, cover_all."""
        back = np.zeros_like(x)
        _, height, width = x.shape
        for c, i, j in np.ndindex(*g.shape):
            places = [(2 * i - 1 + a, 2 * j - 1 + b) for a in range(3) for b in range(3)]
            inside = [(r, q) for r, q in places if 0 <= r < height and 0 <= q < width]
            if mode == "switch":
                best = max(inside, key=lambda p: (x[c, p[0], p[1]], -inside.index(p)))
                back[(c, *best)] += g[c, i, j]
            elif mode == "center":
                if places[4] in inside:
                    back[(c, *places[4])] += g[c, i, j]
            else:
                for p in inside:
                    back[(c, *p)] += g[c, i, j] / len(inside)
        return back

    def reverse(self, unit, relu_mask, rectify, unpooling):
        act = {name: a[0] for name, a in self.activations.items()}

        def relu_back(g, before):
            g = g * (before > 0) if relu_mask else g
            return np.maximum(g, 0) if rectify else g

        g = np.zeros(5)
        g[unit] = act["fc"][unit]
        g = (self.matrix(self.model.fc, act["relu2"].shape) @ g).reshape(act["relu2"].shape)
        g = relu_back(g, act["conv2"])
        g = (self.matrix(self.model.conv2, act["pool1"].shape) @ g.ravel()).reshape(act["pool1"].shape)
        g = self.unpool(g, act["relu1"], unpooling)
        g = relu_back(g, act["conv1"])
        return (self.matrix(self.model.conv1, self.shape) @ g.ravel()).reshape(self.shape)


@pytest.mark.parametrize(
    ("relu_mask", "rectify", "unpooling"),
    list(list(itertools.product([True, False], [True, False], ["switch", "center", "spread"]))),
)
def test_all_cells_equal_the_oracle(relu_mask, rectify, unpooling):
    cells = Cells(np.random.default_rng(3))
    method = Reversal(cells.model, relu_mask=relu_mask, rectify=rectify, unpooling=unpooling)
    for unit in range(5):
        expected = cells.reverse(unit, relu_mask, rectify, unpooling)
        got = method.analyze(cells.x[0], "fc", unit)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def test_the_named_methods_are_cells():
    cells = Cells(np.random.default_rng(4))
    for named, (mask, rectify) in ((SaliNet, (True, False)), (DeconvNet, (False, True)), (DeSaliNet, (True, True))):
        np.testing.assert_allclose(
            named(cells.model).analyze(cells.x[0], "fc", 1), cells.reverse(1, mask, rectify, "switch"), rtol=1e-9, atol=1e-12
        )


def test_the_readme_program():
    model = SimpleCNN()
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    for method in (DeSaliNet, SaliNet, DeconvNet):
        result = method(model).analyze(x, "conv2", 3)
        assert result.shape == x.shape
        assert result.dtype == x.dtype
        assert isinstance(result, np.ndarray)
        assert np.abs(result).max() > 0


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(11)
    return random_chain(rng), picture(rng, 3, 3, 16, 16)


@pytest.mark.parametrize("index", [None, 2, (2, 1, 0), [0, 3], [1, (2, 1, 0), (0, 0, 0)], []])
@pytest.mark.parametrize("method", [SaliNet, DeconvNet, DeSaliNet])
def test_single_equals_its_row_in_the_batch(net, method, index):
    model, x = net
    batch = method(model).analyze(x, "grouped", index)
    lead = (len(index),) if isinstance(index, list) else ()
    assert batch.shape == lead + x.shape
    for i in range(len(x)):
        single = method(model).analyze(x[i], "grouped", index)
        assert single.shape == lead + x.shape[1:]
        np.testing.assert_allclose(single, batch[..., i, :, :, :], rtol=1e-9, atol=1e-12)


def test_a_list_is_its_entries(net):
    model, x = net
    chosen = [1, (2, 1, 0)]
    for row, index in zip(DeSaliNet(model).analyze(x, "grouped", chosen), chosen, strict=True):
        np.testing.assert_allclose(row, DeSaliNet(model).analyze(x, "grouped", index), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [SaliNet, DeconvNet, DeSaliNet])
@pytest.mark.parametrize("layer", ["fc", "grouped", "lrn1", "block/project", "act1", "conv1"])
@pytest.mark.parametrize("budget", [None, 1, 20_000])
def test_channels_together_are_channels_one_by_one(net, method, layer, budget):
    """More channels than pictures go back together, those of each picture by its one record."""
    model, x = net
    chosen = [4, 0, 3, None, 4, 1, 2, 0, 1]
    got = method(model).analyze(x, layer, chosen, memory_budget=budget)
    for row, index in zip(got, chosen, strict=True):
        np.testing.assert_allclose(row, method(model).analyze(x, layer, index), rtol=1e-9, atol=1e-12)


def test_a_node_that_knows_one_signal_a_picture_is_given_no_more():
    class Doubled(tn.TraceableNode):
        def forward(self, x):
            return x * 2

        def record(self, x):
            return x * 2, x.shape

        def reverse(self, signal, record, rule):
            assert signal.shape == record
            return signal * 2

    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    model = TraceableChain(doubled=Doubled(), relu=tn.TraceableReLU())
    got = SaliNet(model).analyze(x, "relu", [0, 1, 2, 0], "one")
    np.testing.assert_array_equal(got[1, :, 1], 2 * (x[:, 1] > 0))


def test_a_seed_in_one_channel_starts_as_one_channel_of_work(monkeypatch):
    model = TraceableChain(
        conv=tn.TraceableConvolution2D(3, 16, 3), bn=tn.TraceableBatchNormalization(16), relu=tn.TraceableReLU()
    )
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    expected = autograd(model, x, "relu", (5,), "activation")
    filters = []
    original = dcnn_kernels.transposed_convolution_2d
    monkeypatch.setattr(
        dcnn_kernels, "transposed_convolution_2d", lambda x, W, *a, **k: filters.append(len(W)) or original(x, W, *a, **k)
    )
    np.testing.assert_allclose(SaliNet(model).analyze(x, "relu", 5), expected, rtol=1e-4, atol=1e-6)
    SaliNet(model).analyze(x, "relu", [5, 9, 5])
    SaliNet(model).analyze(x, "relu")
    assert filters == [1, 2, 16]


class TestAnalyzeMany:
    @pytest.mark.parametrize("indices", [2, [2], [0, 3, (2, 1, 0)], list(range(5)), None, [None, Peak(1)]])
    @pytest.mark.parametrize("budget", [None, 1])
    def test_the_stream_is_what_analyze_gives_in_order(self, net, indices, budget):
        model, _ = net
        x = picture(np.random.default_rng(5), 19, 3, 16, 16)
        places = indices if isinstance(indices, list) else [indices]
        got = DeSaliNet(model).analyze_many(iter(x), "grouped", indices, memory_budget=budget)
        expected = DeSaliNet(model).analyze(x, "grouped", places)
        for number, projection in enumerate(got):
            picture_number, place = divmod(number, len(places))
            assert (projection.picture, projection.place) == (picture_number, places[place])
            np.testing.assert_allclose(projection.pixels, expected[place, picture_number], rtol=1e-9, atol=1e-12)
        assert number + 1 == 19 * len(places)

    def test_pictures_are_taken_when_their_turn_comes(self, net):
        model, x = net
        taken = []

        def endless():
            for number in itertools.count():
                taken.append(number)
                yield x[number % 3]

        stream = DeSaliNet(model).analyze_many(endless(), "grouped", list(range(6)) * 3)
        assert not taken
        assert [projection.picture for projection in itertools.islice(stream, 20)] == [0] * 18 + [1] * 2
        assert taken == [0, 1]

    def test_sizes_may_differ(self, net):
        model, x = net
        images = [x[0], x[1, :, :14], x[2, :, :14], x[0]]
        for projection, one in zip(SaliNet(model).analyze_many(images, "grouped", 1), images, strict=True):
            np.testing.assert_allclose(projection.pixels, SaliNet(model).analyze(one, "grouped", 1), rtol=1e-9, atol=1e-12)

    def test_what_was_done_before_a_bad_picture_is_not_lost(self, net):
        model, x = net
        stream = SaliNet(model).analyze_many([x[0], np.zeros((4, 4))], "grouped", list(range(6)) * 3)
        assert len(list(itertools.islice(stream, 18))) == 18
        with pytest.raises(ValueError, match=r"each of images must be one picture \(C, H, W\), got shape \(4, 4\)"):
            next(stream)

    @pytest.mark.parametrize("places", [3, [1, 2]])
    def test_what_came_before_an_error_of_the_stream_is_not_lost(self, net, places):
        model, x = net

        def stream():
            yield from x
            raise OSError("the disk is gone")

        projections = SaliNet(model).analyze_many(stream(), "grouped", places)
        expected = list(SaliNet(model).analyze_many(x, "grouped", places))
        for one, other in zip(itertools.islice(projections, len(expected)), expected, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
        with pytest.raises(OSError, match="the disk is gone"):
            next(projections)

    def test_bad_settings_are_errors_at_once(self, net):
        model, x = net
        with pytest.raises(KeyError, match="no layer"):
            SaliNet(model).analyze_many(x, "conv9")
        with pytest.raises(ValueError, match="seed"):
            SaliNet(model).analyze_many(x, "fc", seed="two")
        with pytest.raises(ValueError, match="memory_budget"):
            SaliNet(model).analyze_many(x, "fc", memory_budget=0)
        with pytest.raises(ValueError, match="one picture"):
            next(SaliNet(model).analyze_many([x], "fc"))


def test_empty_batch(net):
    model, x = net
    assert DeSaliNet(model).analyze(x[:0], "fc", 1).shape == (0, 3, 16, 16)


def test_layers_inside_composites(net):
    model, x = net
    whole = SaliNet(model).analyze(x, "block/project", 1, "one")
    np.testing.assert_allclose(whole, autograd(model, x, "block/project", (1,), "one"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lrn", ["identity", "gradient"])
def test_lrn_rule(lrn):
    rng = np.random.default_rng(0)
    model = TraceableChain(lrn=tn.TraceableLocalResponseNormalization(alpha=0.5))
    x = rng.standard_normal((1, 6, 3, 3))
    got = Reversal(model, lrn=lrn).analyze(x, "lrn", None)
    y = F.local_response_normalization(x, alpha=0.5).array
    expected = y if lrn == "identity" else autograd(model, x, "lrn", (), "activation")
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    assert np.abs(autograd(model, x, "lrn", (), "activation") - y).max() > 1e-3


def test_coverage_names_the_rule_of_each_layer():
    coverage = DeSaliNet(SimpleCNN()).coverage()
    assert list(coverage) == SimpleCNN().layer_names
    assert coverage["conv1"] == "Wᵀg: transposed convolution, no bias"
    assert coverage["conv1_relu"] == "max(g·[x>0], 0)"
    assert coverage["conv1_mp"] == "unpooling by switches"
    assert coverage["conv1_lrn"] == "passed over: local_response_normalization has no reverse"
    assert DeconvNet(SimpleCNN()).coverage()["conv1_relu"] == "max(g, 0)"
    assert SaliNet(SimpleCNN()).coverage()["conv1_relu"] == "g·[x>0]"


def test_a_node_of_ones_own():
    class Double(tn.TraceableNode):
        def forward(self, x):
            return 2 * x

    class Crop(tn.TraceableNode):
        def forward(self, x):
            return x[:, :, 1:-1, 1:-1]

        def record(self, x):
            return x[:, :, 1:-1, 1:-1], None

        def reverse(self, signal, record, rule):
            return np.pad(signal, ((0, 0), (0, 0), (1, 1), (1, 1)))

    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5))
    model = TraceableChain(double=Double(), crop=Crop())
    np.testing.assert_array_equal(DeSaliNet(model).analyze(x, "crop", seed="one")[0, 0], np.pad(np.ones((3, 3)), 1))
    assert DeSaliNet(model).coverage() == {"double": "passed over: Double has no reverse", "crop": "its own reverse"}


def test_a_callable_that_changes_the_shape_is_a_clear_error():
    model = TraceableChain(relu=tn.TraceableReLU(), shrink=lambda x: F.average_pooling_2d(x, 2), relu2=tn.TraceableReLU())
    x = np.ones((1, 3, 4, 4), np.float32)
    with pytest.raises(TypeError, match=r"layer 'shrink'.*\(1, 3, 4, 4\).*\(1, 3, 2, 2\)"):
        SaliNet(model).analyze(x, "relu2")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"layer": "conv9"}, KeyError, "no layer 'conv9'"),
        ({"layer": ["conv1", "conv2"]}, TypeError, "layer must be a path, a string, got"),
        ({"index": (0, 0, 30), "layer": "conv1_mp"}, IndexError, r"outside the layer, whose shape is \(any, 15, 15\)"),
        ({"index": np.zeros((2, 3), int)}, TypeError, "channel"),
        ({"memory_budget": 0}, ValueError, "memory_budget must be at least 1"),
        ({"memory_budget": 1e9}, TypeError, "memory_budget must be a number of bytes"),
        ({"index": 10}, IndexError, "outside the layer"),
        ({"index": -1}, IndexError, "outside the layer"),
        ({"index": (0, 0)}, ValueError, r"\(c, y, x\)"),
        ({"index": "a"}, TypeError, "channel"),
        ({"index": 1.5}, TypeError, "channel"),
        ({"index": [0, 99]}, IndexError, "outside the layer"),
        ({"seed": "two"}, ValueError, "seed"),
        ({"img": np.zeros((3, 32), np.float32)}, ValueError, "dimensions"),
        ({"img": np.zeros((3, 32, 32), np.uint8)}, TypeError, "uint8"),
        ({"img": np.full((3, 32, 32), np.nan, np.float32)}, ValueError, "finite"),
        ({"img": np.zeros((3, 0, 32), np.float32)}, ValueError, "pixels"),
        ({"img": [[1.0]]}, TypeError, "list"),
        ({"img": np.zeros((4, 32, 32), np.float32)}, ValueError, "layer 'conv1': x must have 3 channels"),
        ({"img": np.zeros((4, 32, 32), np.float32), "index": (0, 1, 1)}, ValueError, "layer 'conv1': x must have 3 channels"),
        ({"img": np.zeros((3, 32, 32), np.float64)}, TypeError, "dtype"),
    ],
)
def test_bad_input_is_a_clear_error(kwargs, error, message):
    call = {"img": np.zeros((3, 32, 32), np.float32), "layer": "conv1", "index": 0, **kwargs}
    with pytest.raises(error, match=message):
        SaliNet(SimpleCNN()).analyze(**call)


def test_channels_may_come_as_an_array():
    model, x = SimpleCNN(), np.ones((3, 32, 32), np.float32)
    expected = SaliNet(model).analyze(x, "conv1", [3, 1])
    np.testing.assert_array_equal(SaliNet(model).analyze(x, "conv1", np.array([3, 1])), expected)
    streamed = [one.pixels for one in SaliNet(model).analyze_many([x], "conv1", np.array([3, 1]))]
    np.testing.assert_array_equal(streamed, expected)


def test_a_stream_that_is_none_is_an_error_at_once():
    with pytest.raises(TypeError, match="not iterable"):
        SaliNet(SimpleCNN()).analyze_many(3, "conv1", 0)


def test_bad_rules_are_errors():
    with pytest.raises(ValueError, match=r"unpooling.*'middle'"):
        Reversal(SimpleCNN(), unpooling="middle")
    with pytest.raises(ValueError, match="lrn"):
        Reversal(SimpleCNN(), lrn="none")
    with pytest.raises(TypeError, match="TraceableChain"):
        SaliNet(chainer.Sequential())


def test_a_fork_sums():
    model = TraceableChain(block=TraceableResidual(tn.TraceableLeakyReLU(0.5)))
    x = np.array([[[[1.0, -1.0]]]])
    np.testing.assert_array_equal(SaliNet(model).analyze(x, "block", seed="one"), [[[[2.0, 1.5]]]])
