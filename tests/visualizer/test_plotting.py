import io
import sys

import chainer
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dcnn_visualizer import rendering
from dcnn_visualizer.occlusion import SaliencyMap, Sweep
from dcnn_visualizer.plotting import show

matplotlib.use("Agg")


def saliency(data, shape=(4, 6), stride=(2, 2)):
    return SaliencyMap(np.asarray(data, np.float32), Sweep("fc", shape, (1, 1), stride, "centered", "value"))


@pytest.fixture
def ax():
    return Figure().subplots()


class TestMagnitudeLimit:
    def test_is_the_percentile_of_the_magnitudes_above_zero(self):
        values = np.array([0.0, 0.0, 0.0, -1.0, 2.0, -3.0, 4.0, 5.0])
        assert rendering.magnitude_limit(values, 50) == 3.0
        assert rendering.magnitude_limit(values, 100) == 5.0
        assert rendering.magnitude_limit(values, 75) == 4.0

    @pytest.mark.parametrize("values", [np.zeros((2, 3)), np.zeros((0, 3))])
    def test_is_one_where_there_is_nothing(self, values):
        assert rendering.magnitude_limit(values) == 1.0

    def test_stays_finite_at_the_edges_of_float32(self):
        assert rendering.magnitude_limit(np.float32([3e38, -3e38]), 50) == pytest.approx(3e38)
        assert rendering.magnitude_limit(np.float32([1e-45]), 50) > 0

    @pytest.mark.parametrize("percentile", [0, -1, 100.5, np.nan])
    def test_a_percentile_outside_its_range_is_an_error(self, percentile):
        with pytest.raises(ValueError, match="percentile must be above 0 and at most 100"):
            rendering.magnitude_limit(np.ones(3), percentile)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_finite_is_an_error(self, bad):
        with pytest.raises(ValueError, match="NaN or infinity"):
            rendering.magnitude_limit(np.array([1.0, bad]))


class TestProjectionToRgb:
    def test_zero_is_mid_grey_and_the_limit_black_or_white(self):
        projection = np.zeros((3, 1, 4))
        projection[:, 0, 1], projection[:, 0, 2], projection[0, 0, 3] = 2, -2, 1
        painted = rendering.projection_to_rgb(projection, 100)
        assert painted.dtype == np.float32
        np.testing.assert_array_equal(painted, [[[0.5] * 3, [1] * 3, [0] * 3, [0.75, 0.5, 0.5]]])

    def test_outliers_are_clipped(self):
        projection = np.ones((3, 10, 10))
        projection[1, 0, 0] = -1000
        painted = rendering.projection_to_rgb(projection, 99)
        assert painted[0, 0].tolist() == [1, 0, 1]
        assert (painted[1:] == 1).all()

    def test_zeros_around_a_receptive_field_do_not_decide_the_limit(self):
        projection = np.zeros((3, 100, 100))
        projection[:, 50, 50:52] = 1, 0.5
        painted = rendering.projection_to_rgb(projection, 100)
        np.testing.assert_array_equal(painted[50, 50:52], [[1] * 3, [0.75] * 3])

    def test_other_numbers_of_channels_are_drawn_in_grey_by_their_mean(self):
        rng = np.random.default_rng(1)
        projection = rng.standard_normal((5, 4, 6))
        painted = rendering.projection_to_rgb(projection)
        np.testing.assert_array_equal(painted, rendering.projection_to_rgb(projection.mean(axis=0)))
        assert painted.shape == (4, 6, 3)
        assert (painted == painted[:, :, :1]).all()

    def test_takes_variables(self):
        projection = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 2, 2)
        np.testing.assert_array_equal(
            rendering.projection_to_rgb(chainer.Variable(projection)), rendering.projection_to_rgb(projection)
        )

    @pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3,), (3, 0, 4)])
    def test_another_shape_is_an_error(self, shape):
        with pytest.raises(ValueError, match="one at a time, got"):
            rendering.projection_to_rgb(np.zeros(shape))


class TestTile:
    def test_lays_out_row_by_row(self):
        sheet = rendering.tile([np.full((2, 3, 3), value) for value in (0.1, 0.2, 0.3)], gap=1)
        assert sheet.shape == (5, 7, 3)
        np.testing.assert_allclose(sheet[:2, :3], 0.1)
        np.testing.assert_allclose(sheet[:2, 4:], 0.2)
        np.testing.assert_allclose(sheet[3:, :3], 0.3)
        assert (sheet[2] == 1).all()
        assert (sheet[3:, 4:] == 1).all()

    def test_one_stays_as_it_is(self):
        rng = np.random.default_rng(0)
        picture = rng.random((4, 5, 3)).astype(np.float32)
        np.testing.assert_array_equal(rendering.tile([picture]), picture)

    @pytest.mark.parametrize("pictures", [[], [np.zeros((2, 2, 3)), np.zeros((2, 3, 3))]])
    def test_none_or_several_sizes_are_errors(self, pictures):
        with pytest.raises(ValueError, match="of one size"):
            rendering.tile(pictures)


def test_in_grey_keeps_greys_and_weighs_colours():
    picture = np.float32([[[0.5, 0.5, 0.5], [1, 0, 0], [1, 1, 1]]])
    np.testing.assert_allclose(rendering.in_grey(picture), [[[0.5] * 3, [0.299] * 3, [1] * 3]], rtol=1e-6)


def test_notebooks_show_a_map_as_a_picture(monkeypatch):
    shown = saliency(np.arange(6).reshape(2, 3, 1))
    picture = np.asarray(Image.open(io.BytesIO(shown._repr_png_())))
    np.testing.assert_array_equal(picture, np.rint(shown.heatmap() * 255))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert shown._repr_png_() is None


class TestShow:
    def test_a_projection_alone(self, ax):
        projection = np.linspace(-1, 1, 72).reshape(3, 4, 6)
        assert show(projection, ax=ax) is ax
        (drawn,) = ax.images
        np.testing.assert_array_equal(drawn.get_array(), rendering.projection_to_rgb(projection))
        assert drawn.get_alpha() is None
        assert not ax.axison

    def test_a_projection_over_the_photograph(self, ax):
        photograph = np.zeros((8, 12, 3), np.uint8)
        show(np.ones((3, 4, 6)), photograph, ax, alpha=0.25)
        under, over = ax.images
        assert (under.get_array() == 0).all()
        assert over.get_alpha() == 0.25
        # Twice the resolution, the same place.
        assert list(under.get_extent()) == list(over.get_extent()) == [-0.5, 11.5, 7.5, -0.5]

    def test_a_map_is_centred_at_zero_and_clipped(self, ax):
        data = np.zeros((2, 3, 1))
        data[0, 0], data[1, 2] = -1, 0.5
        show(saliency(data), ax=ax, percentile=100)
        (drawn,) = ax.images
        assert drawn.get_clim() == (-1, 1)
        assert drawn.get_cmap().name == "RdBu_r"
        assert drawn.get_array().shape == (4, 6)
        assert drawn.get_array()[0, 0] == -1

    def test_a_map_lies_over_a_grey_photograph(self, ax):
        rng = np.random.default_rng(2)
        photograph = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        show(saliency(rng.standard_normal((2, 3, 2))), photograph, ax, channel=1)
        under, over = ax.images
        np.testing.assert_allclose(under.get_array(), rendering.in_grey(photograph / np.float32(255)), atol=1e-6)
        assert over.get_array().shape == (8, 12)
        assert over.get_alpha() == 0.6
        assert ax.figure.colorbar(over).mappable is over

    def test_a_map_that_is_not_finished_is_drawn_as_far_as_it_is(self, ax):
        data = np.full((2, 3, 1), np.nan)
        data[0] = [[-1], [0.5], [0.25]]
        show(saliency(data), ax=ax, percentile=100)
        drawn = ax.images[0]
        assert drawn.get_clim() == (-1, 1)
        assert np.isfinite(drawn.get_array()[0]).all()
        assert np.ma.getmaskarray(drawn.get_array())[2:].all()
        painted = saliency(data).heatmap()
        np.testing.assert_array_equal(painted[0, 0], saliency(data[:1], (2, 6)).heatmap()[0, 0])
        assert (painted[2:] == 0).all()

    def test_an_absolute_map_starts_at_zero(self, ax):
        show(saliency(-np.ones((2, 3, 1))), ax=ax, absolute=True)
        assert ax.images[0].get_clim() == (0, 1)
        assert ax.images[0].get_cmap().name == "magma"

    def test_makes_a_figure_where_no_axes_are_given(self):
        from matplotlib import pyplot

        before = len(pyplot.get_fignums())
        ax = show(np.ones((3, 2, 2)))
        assert len(pyplot.get_fignums()) == before + 1
        pyplot.close(ax.figure)

    @pytest.mark.parametrize("result", [np.ones((3, 4, 6)), saliency(np.ones((2, 3, 1)))])
    def test_a_photograph_of_other_proportions_is_an_error(self, result, ax):
        with pytest.raises(ValueError, match="image of 30x30 pixels has other proportions than the 4x6"):
            show(result, np.zeros((30, 30, 3)), ax)
        assert not ax.images

    def test_no_result_is_an_error(self, ax):
        with pytest.raises(TypeError, match="must be an array, a Variable or a SaliencyMap, got list"):
            show([saliency(np.ones((2, 3, 1)))], ax=ax)

    def test_a_maps_options_are_not_a_projections(self, ax):
        with pytest.raises(ValueError, match="for a SaliencyMap"):
            show(np.ones((3, 2, 2)), ax=ax, channel=1)

    def test_no_axes_are_an_error(self):
        with pytest.raises(TypeError, match="must be matplotlib axes, got str"):
            show(np.ones((3, 2, 2)), ax="left")

    def test_alpha_outside_its_range_is_an_error(self, ax):
        with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 2"):
            show(np.ones((3, 2, 2)), ax=ax, alpha=2)
