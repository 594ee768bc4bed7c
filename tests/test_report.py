"""The report: what the documents say is what the CSVs say, and what isn't is named."""

import csv
import math
import re

import pytest

from benchmarks import report
from benchmarks.growth import GROWTH
from benchmarks.runner import ABSENT, FIELDS

DEVICE = "some-processor-2-cores"
HEADLINE = report.HEADLINES[0]


def row(**values):
    facts = {"dtype": "float32", "backend": "compiled", "threads": "2", "commit": "abc", "time": "2026-01-02T03:04:05"}
    return dict.fromkeys(FIELDS, "") | {"median_ms": "1.000", "p20_ms": "0.900", "p80_ms": "1.100"} | facts | values


def headline(**values):
    found = {"job": HEADLINE.job, "configuration": HEADLINE.configuration, "shape": HEADLINE.shape, "peer": HEADLINE.peer}
    times = {"median_ms": "2.000", "peer_ms": "7.000", "ratio": "3.51", "ratio_p20": "3.33", "ratio_p80": "3.77"}
    return row(**found | times | values)


def growing(exponent=2.0):
    one = GROWTH[0]
    name = f"{one.work} {one.job.removeprefix('growth/')}"
    for size in one.sizes:
        times = f"{size**exponent / 1e3:.6f}"
        yield row(job=one.job, configuration=f"{name}={size}", median_ms=times, peak_bytes=str(1000 * size))


def convolution(**values):
    # 10 ms in sgemm, 2.5 ms by the algorithm, 1 ms to copy.
    rates = {"median_ms": "5.000", "sgemm_GFLOP_per_s": "100", "copy_GB_per_s": "10"}
    work = {"flop": "1000000000", "least_flop": "250000000", "bytes": "10000000"}
    return row(job="convolution_2d", configuration="conv4_2", **rates | work | values)


@pytest.fixture
def root(tmp_path):
    """Documents of nothing but blocks, before the first report."""
    for name, blocks in {
        "README.md": ["speed"],
        "README.ja.md": ["speed_ja"],
        "docs/performance.md": ["growth", "rows"],
        "docs/ceilings.md": ["layers", "ceilings"],
    }.items():
        text = "".join(f"By hand.\n\n<!-- report: {block} -->\n<!-- end of report -->\n" for block in blocks)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\nBy hand too.\n", encoding="utf-8")
    write(tmp_path, headline(), convolution(), *growing())
    return tmp_path


def write(root, *rows, names=FIELDS):
    path = root / "benchmarks" / "results" / f"{DEVICE}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def cells(text, first):
    """The cells of the table's row that begins so, by its header's names."""
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    at = next(number for number, line in enumerate(lines) if line[0] == first)
    header = max(number for number in range(at) if set(lines[number + 1][0]) <= set("-:"))
    return dict(zip(lines[header], lines[at], strict=True))


def test_what_is_written_is_what_the_rows_say(root):
    written = report.report(root, check=False)
    assert {"README.md", "README.ja.md", "docs/performance.md", "docs/ceilings.md"} < set(written)
    english, japanese = ((root / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md"))
    for text in (english, japanese):
        assert text.startswith("By hand.\n")
        assert text.endswith("By hand too.\n")
    assert {"**3.5×**", "7.00 ms", "2.00 ms", "3.33–3.77"} <= set(cells(english, HEADLINE.english).values())
    assert {"**3.5 倍**", "7.00 ms", "2.00 ms", "3.33–3.77"} <= set(cells(japanese, HEADLINE.japanese).values())
    for image in re.findall(r"!\[.*?\]\((.*?)\)", english + japanese):
        assert (root / image).exists()
    for image in re.findall(r"!\[.*?\]\((.*?)\)", (root / "docs/performance.md").read_text(encoding="utf-8")):
        assert (root / "docs" / image).exists()


def test_bounds_are_of_the_definition_and_of_the_algorithm(root):
    report.report(root, check=False)
    found = cells((root / "docs/ceilings.md").read_text(encoding="utf-8"), "conv4_2")
    assert (found["ms in sgemm"], found["its ms in sgemm"], found["ms to copy them"]) == ("10.0", "2.50", "1.00")
    assert (found["share of the definition's bound"], found["share of the algorithm's"]) == ("2.00", "0.50")


def test_slopes_are_those_of_the_points(root):
    report.report(root, check=False)
    found = cells((root / "docs/performance.md").read_text(encoding="utf-8"), GROWTH[0].job.removeprefix("growth/"))
    assert (found["slope"], found["slope of memory"]) == ("2.00", "1.00")


def test_a_second_report_changes_nothing(root):
    report.report(root, check=False)
    before = files(root)
    assert report.report(root, check=True) == []
    assert report.report(root, check=False) == []
    assert files(root) == before


def test_the_same_rows_give_the_same_bytes(root):
    report.report(root, check=False)
    before = files(root)
    for path in (root / "docs" / "images").iterdir():
        path.unlink()
    report.report(root, check=False)
    assert files(root) == before


@pytest.mark.parametrize(("name", "number"), [("README.md", "3.33"), ("README.ja.md", "3.77"), ("docs/ceilings.md", "2.50")])
def test_a_changed_number_is_named_and_mended(root, name, number):
    report.report(root, check=False)
    before = files(root)
    path = root / name
    path.write_text(path.read_text(encoding="utf-8").replace(number, "9.99", 1), encoding="utf-8")
    assert report.report(root, check=True) == [name]
    assert "9.99" in path.read_text(encoding="utf-8")
    assert report.report(root, check=False) == [name]
    assert files(root) == before


def test_what_is_written_by_hand_may_change(root):
    report.report(root, check=False)
    path = root / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace("By hand", "3.33"), encoding="utf-8")
    assert report.report(root, check=True) == []


def test_another_row_makes_texts_and_plots_stale(root):
    report.report(root, check=False)
    write(root, headline(ratio="3.62"), convolution(), *growing(1.5))
    stale = {"README.md", "README.ja.md", "docs/performance.md"}
    images = {f"docs/images/speed-{DEVICE}.svg", f"docs/images/growth-{DEVICE}.svg"}
    assert set(report.report(root, check=True)) == stale | images
    (root / f"docs/images/growth-{DEVICE}.svg").unlink()
    assert set(report.report(root, check=True)) == stale | images


def test_absent_peers_are_shown_as_such(root):
    times = dict.fromkeys(("peer_ms", "ratio", "ratio_p20", "ratio_p80"), "")
    write(root, headline(note=f"{ABSENT}captum", **times), convolution(median_ms="", note=f"{ABSENT}numba"))
    report.report(root, check=False)
    text = (root / "docs/performance.md").read_text(encoding="utf-8")
    assert "absent: captum" in text
    assert "absent: numba" in text
    assert HEADLINE.english not in (root / "README.md").read_text(encoding="utf-8")
    assert "nan" not in text.lower()


def test_without_rows_nothing_is_invented(root):
    for path in (root / "benchmarks" / "results").iterdir():
        path.unlink()
    report.report(root, check=False)
    assert "Nothing has been recorded yet." in (root / "README.md").read_text(encoding="utf-8")
    assert not (root / "docs" / "images").exists()


@pytest.mark.parametrize("value", ["fast", "nan", "1e999", "1,5", "<b>"])
def test_a_measure_that_is_no_number_is_refused(root, value):
    path = write(root, headline(), convolution(ratio=value))
    before = files(root)
    with pytest.raises(ValueError, match=rf"{path.name}, row 2: ratio is {re.escape(repr(value))}"):
        report.report(root, check=False)
    assert files(root) == before


def test_a_missing_column_is_named(root):
    path = write(root, headline(), names=[name for name in FIELDS if name != "ratio_p20"])
    with pytest.raises(ValueError, match=rf"{path.name}: no column ratio_p20"):
        report.report(root, check=True)


def test_cells_too_many_or_too_few_are_refused(root):
    path = write(root, headline(), convolution())
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}short,row\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{path.name}, row 3: not as many cells"):
        report.report(root, check=True)
    path.write_text(f"{text.rstrip()},more\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{path.name}, row 2: not as many cells"):
        report.report(root, check=True)


def test_a_row_twice_is_refused(root):
    path = write(root, headline(), convolution(), headline(ratio="9"))
    with pytest.raises(ValueError, match=rf"{path.name}, row 3: there is another row of {HEADLINE.job}"):
        report.report(root, check=True)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'job\n"', b"\x89PNG\r\n"])
def test_what_is_no_csv_is_refused(root, content):
    path = write(root)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name):
        report.report(root, check=True)


def test_rows_of_the_gpu_suite_are_shown(root):
    names = (*report.SUITE, *report.SUITE_VERSIONS)
    path = root / "benchmarks" / "results" / "some-gpu.csv"
    values = dict.fromkeys(names, "") | {"job": "relu", "measure": "GB/s", "value": "2900.5", "passed": "True", "cupy": "14.2"}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerow(values)
    report.report(root, check=False)
    text = (root / "docs/performance.md").read_text(encoding="utf-8")
    assert "`some-gpu`, cupy 14.2" in text
    found = cells(text[text.index("### relu") :], "GB/s")
    assert found["value"] == "2,900"


def test_layers_on_a_gpu_stand_beside_their_bound_and_all_peers(root):
    names = (*report.SUITE, *report.SUITE_VERSIONS)
    layer = {"job": "convolution", "configuration": "conv4_2 transposed", "shape": "16x512x28x28", "dtype": "tf32"}
    layer |= {"measure": "TFLOP/s", "value": "123.4", "low": "120", "high": "125", "bound": "494.7"}
    walk = layer | {"job": "walk", "configuration": "VGG16 conv5_3, there and back", "measure": "pictures/s", "value": "100"}
    with (root / "benchmarks" / "results" / "some-gpu.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, "")
        writer.writeheader()
        writer.writerow(layer | {"peer": "cuDNN", "peer_value": "200.1", "ratio": "0.62"})
        writer.writerow(layer | {"peer": "cuBLAS product", "peer_value": "300.2", "ratio": "0.41"})
        writer.writerow(layer | {"dtype": "exact", "bound": ""})
        writer.writerow(walk | {"peer": "kernels one by one", "peer_value": "50"})
        writer.writerow({"job": "convolution", "configuration": "no time for conv5_1 tf32"})
    report.report(root, check=False)
    text = (root / "docs/ceilings.md").read_text(encoding="utf-8")
    found = cells(text[text.index("### Layers on some-gpu") :], "conv4_2 transposed")
    assert (found["ours"], found["bound"], found["share of the bound"]) == ("123 (120–125)", "495", "0.25")
    assert (found["cuDNN"], found["cuBLAS product"]) == ("200", "300")
    assert "no time" not in text
    found = cells(text[text.index("### Whole networks on some-gpu") :], "VGG16 conv5_3, there and back")
    assert (found["share of the bound"], found["kernels one by one"]) == ("0.20", "50.0")


def test_text_of_a_row_stays_in_its_cell(root):
    write(root, convolution(note="a | b\n<!-- end of report -->"))
    report.report(root, check=False)
    assert "a \\| b &lt;!-- end of report -->" in (root / "docs/performance.md").read_text(encoding="utf-8")
    assert report.report(root, check=True) == []


def test_times_and_rates_of_nothing_have_no_share(root):
    write(root, convolution(median_ms="0.000"), convolution(shape="2", copy_GB_per_s="0.00", sgemm_GFLOP_per_s="0.0"))
    report.report(root, check=False)
    text = (root / "docs/ceilings.md").read_text(encoding="utf-8")
    assert "conv4_2" in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_an_unknown_block_is_named(root):
    (root / "README.md").write_text("<!-- report: sped -->\n<!-- end of report -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md: there is no block 'sped'"):
        report.report(root, check=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, ""),
        (0.0, "0"),
        (0.01234, "0.0123"),
        (0.9999, "1.00"),
        (12.34, "12.3"),
        (1234.5, "1,230"),
        (99999, "100,000"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert report.significant(value) == text
