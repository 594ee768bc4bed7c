import errno
import os

import numpy as np
import pytest
from PIL import Image

from dcnn_visualizer import dataset
from dcnn_visualizer.files import whole_file


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


class TestReadPicture:
    def test_reads_rgb(self, tmp_path, pixels):
        picture = dataset.read_picture(saved(tmp_path / "a.png", pixels))
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, pixels)

    def test_turns_as_the_camera_was_held(self, tmp_path, pixels):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned left: the picture is to be turned right
        picture = dataset.read_picture(saved(tmp_path / "a.png", pixels, exif=exif))
        np.testing.assert_array_equal(picture, np.rot90(pixels, -1))

    def test_grey_becomes_rgb(self, tmp_path, pixels):
        picture = dataset.read_picture(saved(tmp_path / "a.png", pixels[:, :, 0]))
        np.testing.assert_array_equal(picture, np.repeat(pixels[:, :, :1], 3, axis=2))

    def test_sixteen_bits_keep_their_upper_eight(self, tmp_path):
        picture = dataset.read_picture(saved(tmp_path / "a.png", np.uint16([[0, 0x1234, 0xFFFF]])))
        assert picture[0, :, 0].tolist() == [0, 0x12, 0xFF]

    def test_transparent_places_are_white(self, tmp_path):
        rgba = np.uint8([[[10, 20, 30, 255], [10, 20, 30, 0]]])
        picture = dataset.read_picture(saved(tmp_path / "a.png", rgba))
        assert picture.tolist() == [[[10, 20, 30], [255, 255, 255]]]

    def test_a_palette_becomes_rgb(self, tmp_path):
        image = Image.fromarray(np.uint8([[[255, 0, 0], [0, 0, 255]]])).convert("P", palette=Image.Palette.ADAPTIVE)
        image.save(tmp_path / "a.gif")
        assert dataset.read_picture(tmp_path / "a.gif").tolist() == [[[255, 0, 0], [0, 0, 255]]]

    def test_a_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
            dataset.read_picture(tmp_path / "nowhere.png")

    def test_a_folder_is_an_error(self, tmp_path):
        with pytest.raises(OSError, match="directory"):
            dataset.read_picture(tmp_path)

    @pytest.mark.parametrize("contents", [b"", b"no picture at all"])
    def test_no_picture_is_an_error(self, tmp_path, contents):
        (tmp_path / "a.png").write_bytes(contents)
        with pytest.raises(ValueError, match=r"a\.png is no picture that Pillow can read"):
            dataset.read_picture(tmp_path / "a.png")

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.tiff"])
    def test_a_truncated_file_is_an_error(self, tmp_path, name):
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        contents = saved(tmp_path / name, noise).read_bytes()
        (tmp_path / name).write_bytes(contents[: len(contents) // 2])
        with pytest.raises(ValueError, match=rf"{name} (can't be read as a picture|is no picture)"):
            dataset.read_picture(tmp_path / name)

    def test_a_decompression_bomb_is_an_error(self, tmp_path, monkeypatch):
        path = saved(tmp_path / "a.png", np.zeros((100, 100), np.uint8))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(ValueError, match="decompression bomb"):
            dataset.read_picture(path)

    def test_floats_are_an_error(self, tmp_path):
        path = saved(tmp_path / "a.tiff", np.float32([[0.5, 1.5]]))
        with pytest.raises(ValueError, match="pixels are floats"):
            dataset.read_picture(path)


class TestFolder:
    def test_reads_by_name_and_leaves_out_the_rest(self, tmp_path, pixels):
        for number, name in enumerate(("c.JPG", "a.png", "b.png")):
            saved(tmp_path / name, np.full_like(pixels, number))
        for name in ("notes.txt", "paper.pdf", "figure.eps", "weights.h5"):
            (tmp_path / name).write_text("no picture")
        (tmp_path / "._a.png").write_bytes(b"a Mac's")
        (tmp_path / "d.png").mkdir()
        folder = dataset.Folder(tmp_path)
        assert [path.name for path in folder.paths] == ["a.png", "b.png", "c.JPG"]
        assert [int(picture[0, 0, 0]) for picture in folder] == [1, 2, 0]

    def test_a_broken_picture_raises_when_its_turn_comes(self, tmp_path, pixels):
        saved(tmp_path / "a.png", pixels)
        (tmp_path / "b.png").write_bytes(b"")
        stream = iter(dataset.Folder(tmp_path))
        np.testing.assert_array_equal(next(stream), pixels)
        with pytest.raises(ValueError, match=r"b\.png is no picture"):
            next(stream)

    def test_a_broken_picture_may_be_left_out(self, tmp_path, pixels):
        for name in ("a.png", "c.png"):
            saved(tmp_path / name, pixels)
        (tmp_path / "b.png").write_bytes(b"")
        told = []
        folder = dataset.Folder(tmp_path, unreadable=told.append)
        for _ in range(2):
            assert len(list(folder)) == 2
        assert [path.name for path in folder.paths] == ["a.png", "c.png"]
        assert ["b.png is no picture" in str(error) for error in told] == [True]

    def test_a_missing_folder_is_an_error_at_once(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            dataset.Folder(tmp_path / "nowhere")

    def test_is_gone_through_twice_alike(self, tmp_path, pixels):
        for name in ("b.png", "c.png"):
            saved(tmp_path / name, pixels)
        folder = dataset.Folder(tmp_path, lambda picture: picture.sum())
        assert len(folder) == 2
        first = list(folder)
        saved(tmp_path / "a.png", pixels * 0)
        assert list(folder) == first == [pixels.sum()] * 2

    def test_no_pictures_are_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="there are no pictures in the folder"):
            dataset.Folder(tmp_path)


class TestFit:
    def test_the_right_size_stays_as_it_is(self, pixels):
        np.testing.assert_array_equal(dataset.fit(pixels, (5, 7)), pixels)

    @pytest.mark.parametrize(("shape", "size"), [((5, 7), 5), ((300, 451), 300), ((451, 300), 300)])
    def test_takes_the_central_square(self, shape, size):
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        top, left = ((extent - size) // 2 for extent in shape)
        np.testing.assert_array_equal(dataset.fit(picture, size), picture[top : top + size, left : left + size])

    def test_keeps_proportions(self):
        picture = np.zeros((100, 100, 3), np.uint8)
        picture[25:75] = 200
        assert (dataset.fit(picture, (10, 20)) == 200).all()

    def test_a_line_of_pixels_can_be_fitted(self):
        assert dataset.fit(np.full((1, 500, 3), 9, np.uint8), (4, 2)).tolist() == [[[9] * 3] * 2] * 4

    @pytest.mark.parametrize(
        ("picture", "error"), [(np.zeros((4, 4, 3)), TypeError), (np.zeros((4, 4, 2), np.uint8), ValueError)]
    )
    def test_no_picture_is_an_error(self, picture, error):
        with pytest.raises(error, match="a picture must"):
            dataset.fit(picture, 4)

    def test_a_size_without_pixels_is_an_error(self, pixels):
        with pytest.raises(ValueError, match="size must be at least 1, got 0"):
            dataset.fit(pixels, 0)


class TestWritePng:
    def test_comes_back_as_it_was(self, tmp_path, pixels):
        dataset.write_png(tmp_path / "a.png", pixels)
        np.testing.assert_array_equal(dataset.read_picture(tmp_path / "a.png"), pixels)

    def test_floats_are_rounded(self, tmp_path):
        dataset.write_png(tmp_path / "a.png", np.float32([[0, 0.5, 0.499, 1]]))
        assert dataset.read_picture(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 127, 255]

    @pytest.mark.parametrize(
        ("picture", "error", "message"),
        [
            (np.float32([[1.5]]), ValueError, "must lie in 0..1"),
            (np.float32([[np.nan]]), ValueError, "must lie in 0..1"),
            (np.zeros((2, 2), np.int64), TypeError, "must be uint8"),
            (np.zeros((0, 2), np.uint8), ValueError, "must have shape"),
        ],
    )
    def test_no_picture_is_an_error_and_no_file(self, tmp_path, picture, error, message):
        with pytest.raises(error, match=message):
            dataset.write_png(tmp_path / "a.png", picture)
        assert os.listdir(tmp_path) == []


class TestWholeFile:
    def test_a_failure_leaves_what_was_there(self, tmp_path):
        path = tmp_path / "a"
        path.write_text("old")
        with pytest.raises(TypeError, match="bytes-like"), whole_file(path) as file:
            file.writelines([b"half", "not bytes"])
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a"]

    def test_appears_once_it_is_complete(self, tmp_path):
        path = tmp_path / "a"
        with whole_file(path) as file:
            file.write(b"new")
            assert not path.exists()
        assert path.read_text() == "new"

    def test_has_the_permissions_of_any_new_file(self, tmp_path):
        with whole_file(tmp_path / "a"):
            pass
        (tmp_path / "b").touch()
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode

    def test_a_missing_folder_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no folder"), whole_file(tmp_path / "nowhere" / "a"):
            pass

    def test_what_is_no_file_is_not_replaced(self, tmp_path):
        with pytest.raises(OSError, match="is no file"), whole_file(tmp_path):
            pass

    def test_a_link_stays_and_what_it_leads_to_is_written(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
        for contents in (b"new", b"newer"):
            with whole_file(tmp_path / "link") as file:
                file.write(contents)
            assert (tmp_path / "link").is_symlink()
            assert (tmp_path / "there" / "a").read_bytes() == contents
        assert os.listdir(tmp_path / "there") == ["a"]

    def test_a_name_may_be_as_long_as_names_may_be(self, tmp_path):
        longest = os.pathconf(tmp_path, "PC_NAME_MAX")
        with whole_file(tmp_path / ("a" * longest)):
            pass
        assert os.listdir(tmp_path) == ["a" * longest]
        with pytest.raises(OSError, match="File name too long") as failed, whole_file(tmp_path / ("a" * (longest + 1))):
            pass
        assert failed.value.filename == str(tmp_path / ("a" * (longest + 1)))

    def test_a_full_disk_says_for_which_file(self, tmp_path):
        with pytest.raises(OSError, match=r"No space left on device: '.*a'"), whole_file(tmp_path / "a"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert os.listdir(tmp_path) == []
