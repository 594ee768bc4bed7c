"""The programs in the README run as they stand."""

import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["README.md", "README.ja.md", "kernels/README.md"])
def test_the_programs_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    programs = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert programs
    names: dict = {"__name__": "readme"}
    for number, program in enumerate(programs, 1):
        exec(compile(program, f"{name}, program {number}", "exec"), names)


def test_both_languages_show_the_same_programs():
    def programs(name):
        text = (ROOT / name).read_text(encoding="utf-8")
        code = re.findall(r"^```\w+\n.*?^```", text, re.DOTALL | re.MULTILINE)
        return [re.sub(r"\s*#.*", "", block) for block in code]

    assert programs("README.md") == programs("README.ja.md")
