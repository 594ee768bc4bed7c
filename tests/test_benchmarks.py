"""The benchmarks' runner: what it writes, what it leaves, and what it refuses."""

import csv

import numpy as np
import pytest

from benchmarks import runner
from benchmarks.runner import KEY, Pieces, Point, Work, arguments, cores, peak_bytes, run


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(runner, "REST", 0.0)


def options(path, *given):
    return arguments("").parse_args(["--rounds", "3", "--output", str(path), *given])


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def point(peer=1.0, needs=()):
    x = np.ones(1000, np.float32)
    work = Work(lambda: x + x, lambda: lambda: x + peer, nbytes=8000, flop=1000, least_flop=9)
    return Point("add", lambda: work, shape="1000", peer="plain", needs=needs)


def test_a_row_tells_of_the_point_and_of_its_peer(tmp_path):
    run([point()], options(tmp_path / "new" / "points.csv"))
    (row,) = rows(tmp_path / "new" / "points.csv")
    assert [row[name] for name in KEY] == ["add", "", "1000", "float32", "reference", str(cores()), "plain"]
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


def test_a_peer_that_is_not_installed_is_named_and_measured_later(tmp_path, capsys, monkeypatch):
    path = tmp_path / "points.csv"
    run([point(needs=("torch_of_tomorrow",))], options(path))
    assert "absent: torch_of_tomorrow" in capsys.readouterr().out
    (row,) = rows(path)
    assert (row["note"], row["ratio"], row["peer_ms"]) == ("absent: torch_of_tomorrow", "", "")
    assert float(row["median_ms"]) >= 0
    run([point(needs=("torch_of_tomorrow",))], options(path))
    assert "is there already" in capsys.readouterr().out
    monkeypatch.setattr(runner, "missing", lambda *packages: "")
    run([point(needs=("torch_of_tomorrow",))], options(path))
    (row,) = rows(path)
    assert row["note"] in ("", "disturbed")
    assert float(row["ratio"]) > 0


def test_ours_may_need_what_is_not_installed(tmp_path):
    run([point()._replace(make=lambda: 1 / 0, requires=("torch_of_tomorrow",))], options(tmp_path / "points.csv"))
    (row,) = rows(tmp_path / "points.csv")
    assert (row["note"], row["median_ms"]) == ("absent: torch_of_tomorrow", "")


def test_a_point_that_is_not_measured_is_not_made(tmp_path):
    run([point()._replace(make=lambda: 1 / 0)], options(tmp_path / "points.csv", "--only", "subtract"))
    assert not (tmp_path / "points.csv").exists()


def test_every_call_takes_a_new_picture_and_both_take_the_same(tmp_path):
    seen = {"ours": [], "theirs": []}

    def take(who):
        return lambda picture: seen[who].append(picture) or float(picture)

    work = Work(take("ours"), lambda: take("theirs"), pictures=lambda number: number)
    run([Point("take", lambda: work, peer="plain")], options(tmp_path / "points.csv"))
    assert seen["ours"] == seen["theirs"] == list(range(len(seen["ours"])))
    assert len(seen["ours"]) >= 2 + 2 * 4  # compared, its memory, and two calls a round: one to warm up


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only as the jobs of a test say."""

    class Clock:
        now = 0.0

        def pass_by(self, spent):
            self.now += spent

    clock = Clock()
    monkeypatch.setattr(runner.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(runner.time, "sleep", clock.pass_by)
    monkeypatch.setattr(runner, "REST", 0.12)
    return clock


def product_of(clock, *times):
    """A matrix product that takes so long, call by call, and then a second each time."""
    given = iter(times)
    product = runner.Product.__new__(runner.Product)
    runner.Contestant.__init__(product, lambda: clock.pass_by(next(given, 1.0)))
    product.best = 1.0
    return product


def test_a_peer_in_pieces_is_scaled_to_the_whole_job(clock):
    pieces = Pieces(lambda: clock.pass_by(1.0), lambda state, number: clock.pass_by(number) or number, (2, 4), 10)
    seconds, results = runner.Contestant(pieces)()
    assert seconds == 1 + 10 * 3
    assert results == {2: 2, 4: 4}
    assert runner.difference([0, 0, 2, 0, 4], results) == 0


def test_a_short_call_is_warmed_after_its_rest_and_a_long_one_is_not(clock):
    for length, calls in ((0.01, 1 + runner.CALLS), (0.1, 2), (1.0, 1)):
        done = []
        contestant = runner.Contestant(lambda done=done, length=length: done.append(clock.now) or clock.pass_by(length))
        contestant()
        before = clock.now
        assert contestant.alone() == pytest.approx(length)
        assert len(done) == 1 + calls
        assert done[1] - before == pytest.approx(0.12)


def test_the_least_of_brief_calls_counts(clock):
    times = iter([0.001, 0.002, 0.005, 0.003, 0.004, 0.006, 0.007])
    contestant = runner.Contestant(lambda: clock.pass_by(next(times)))
    contestant()
    assert contestant.alone() == pytest.approx(0.003)


def test_rounds_that_were_disturbed_are_dropped_and_repeated(clock):
    ours = runner.Contestant(lambda: clock.pass_by(1.0))
    product = product_of(clock, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0)
    times, dropped, quiet = runner.turns((ours, None), product, 3, seconds=1e6)
    assert (times.shape, dropped, quiet) == ((3, 3), 2, True)  # a slow product is after one round and before the next
    assert np.allclose(times[:2], 1)
    assert np.isnan(times[2]).all()


def test_a_machine_that_is_never_quiet_gives_the_best_rounds_and_says_so(clock):
    ours = runner.Contestant(lambda: clock.pass_by(1.0))
    product = product_of(clock, *[2.0] * 100)
    times, dropped, quiet = runner.turns((ours,), product, 4, seconds=1e6)
    assert (times.shape[1], dropped, quiet) == (runner.FEWEST, 4 * runner.MOST - runner.FEWEST, False)


def test_a_long_job_has_the_fewest_rounds(clock):
    ours = runner.Contestant(lambda: clock.pass_by(100.0))
    times, dropped, _ = runner.turns((ours,), product_of(clock), 9, seconds=30)
    assert (times.shape[1], dropped) == (runner.FEWEST, 0)


def test_threads_beyond_the_cores_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"--threads is {cores() + 1}"):
        run([point()], options(tmp_path / "points.csv", "--threads", str(cores() + 1)))


@pytest.mark.skipif(not hasattr(runner.os, "sched_setaffinity") or cores() < 2, reason="holds processes on Linux, of 2 cores")
def test_threads_hold_the_process_and_let_it_go(monkeypatch):
    before = cores()
    if runner.missing("threadpoolctl"):
        with pytest.raises(ValueError, match="threadpoolctl"), runner.limited(1):
            pass
        return
    with runner.limited(1):
        assert cores() == 1
    assert cores() == before


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("job,ms\nadd,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="columns"):
        run([point()], options(path))
    assert path.read_text(encoding="utf-8") == "job,ms\nadd,1\n"


def test_the_suite_can_be_listed_without_any_peer():
    from benchmarks import suite

    keys = [point.key(2) for point in suite.points()]
    assert len(set(keys)) == len(keys)
    names = [" ".join(filter(None, point.key(cores()))) for point in suite.points(short=True)]
    for part in suite.SHORT:
        assert any(part in name for name in names), f"the short suite has nothing with {part!r}"
    assert len(names) < 50
