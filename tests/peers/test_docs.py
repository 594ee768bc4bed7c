"""The programs in the page on importing run as they stand, and print what they say."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/importing.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_programs_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "importing"}
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for program in programs:
        exec(compile(program, PAGE.name, "exec"), names)
    promised = re.findall(r"print\(.*\)  # (.*)", "\n".join(programs))
    printed = [re.sub(r"[\[\]']", "", line) for line in capsys.readouterr().out.splitlines()]
    assert promised == [line for line in printed if line in promised]
    assert len(promised) == 3
