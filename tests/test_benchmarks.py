"""The benchmarks' runner: what it writes, what it leaves, and what it refuses."""

import csv

import numpy as np
import pytest

from benchmarks.runner import KEY, Point, arguments, peak_bytes, run


def options(path, *given):
    return arguments("").parse_args(["--rounds", "3", "--output", str(path), *given])


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def point(peer=1.0):
    x = np.ones(1000, np.float32)
    return Point("add", lambda: x + x, shape="1000", peer="plain", theirs=lambda: x + peer, nbytes=8000, flop=1000, least_flop=9)


def test_a_row_tells_of_the_point_and_of_its_peer(tmp_path):
    run([point()], options(tmp_path / "new" / "points.csv"))
    (row,) = rows(tmp_path / "new" / "points.csv")
    assert [row[name] for name in KEY] == ["add", "", "1000", "float32", "reference", "plain"]
    assert (row["bytes"], row["flop"], row["least_flop"]) == ("8000", "1000", "9")
    assert (row["rounds"], row["error"]) == ("3", "0.0e+00")
    assert float(row["p20_ms"]) <= float(row["median_ms"]) <= float(row["p80_ms"])
    assert float(row["ratio_p20"]) <= float(row["ratio"]) <= float(row["ratio_p80"])
    assert f"numpy {np.__version__}" in row["versions"]


def test_a_point_is_measured_again_only_on_request(tmp_path, capsys):
    path = tmp_path / "points.csv"
    run([point()], options(path))
    before = path.read_bytes()
    run([point()], options(path, "--rounds", "2"))
    assert "is there already" in capsys.readouterr().out
    assert path.read_bytes() == before
    run([point()], options(path, "--rounds", "2", "--replace"))
    assert [row["rounds"] for row in rows(path)] == ["2"]


def test_another_result_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(AssertionError, match="differs from plain"):
        run([point(peer=1.001)], options(tmp_path / "points.csv"))
    assert not (tmp_path / "points.csv").exists()


def test_no_rounds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--rounds is 0"):
        run([point()], options(tmp_path / "points.csv", "--rounds", "0"))


def test_the_peak_is_what_a_call_takes_besides():
    size = 1 << 24
    for _ in range(2):  # memory that was freed counts again
        assert 0.9 * size < peak_bytes(lambda: np.ones(size, np.uint8)) < 1.5 * size
