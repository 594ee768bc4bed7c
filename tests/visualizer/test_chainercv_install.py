"""ChainerCV repacked: only its Python files, only the release itself, and a stand-in that selects as the original did."""

import base64
import hashlib
import io
import tarfile
import zipfile

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import numpy as np
import pytest
from chainercv.utils import bbox_iou, non_maximum_suppression
from chainercv.utils.bbox._nms_gpu_post import _nms_gpu_post

from dcnn_visualizer import chainercv_install


def sdist_of(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def test_wheel_holds_the_python_files_of_the_package_and_no_others(tmp_path, monkeypatch):
    root = "chainercv-0.13.1"
    members = {
        f"{root}/chainercv/__init__.py": b"a = 1\n",
        f"{root}/chainercv/utils/bbox/bbox_iou.py": b"b = 2\n",
        f"{root}/chainercv/utils/bbox/_nms_gpu_post.c": b"int c;",
        f"{root}/chainercv/link.py": None,
        f"{root}/setup.py": b"raise SystemExit",
        f"{root}/chainercv/../../evil.py": b"",
        f"{root}/../evil.py": b"",
        "../../evil.py": b"",
        "/evil.py": b"",
        f"{root}/chainercv//etc/evil.py": b"",
    }
    sdist = sdist_of(tmp_path / "chainercv-0.13.1.tar.gz", members)
    monkeypatch.setattr(chainercv_install, "SDIST_SHA256", hashlib.sha256(sdist.read_bytes()).hexdigest())
    chainercv_install.main(["--sdist", str(sdist), "--wheel-dir", str(tmp_path)])
    with zipfile.ZipFile(tmp_path / "chainercv-0.13.1-py3-none-any.whl") as wheel:
        contents = {name: wheel.read(name) for name in wheel.namelist()}
    info = "chainercv-0.13.1.dist-info"
    assert set(contents) == {
        "chainercv/__init__.py",
        "chainercv/utils/bbox/bbox_iou.py",
        "chainercv/utils/bbox/_nms_gpu_post.py",
        f"{info}/METADATA",
        f"{info}/WHEEL",
        f"{info}/RECORD",
    }
    assert contents["chainercv/__init__.py"] == b"a = 1\n"
    record = [line.split(",") for line in contents[f"{info}/RECORD"].decode().splitlines()]
    assert [name for name, _, _ in record] == list(contents)
    for name, digest, length in record[:-1]:
        assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).decode().rstrip("=")
        assert int(length) == len(contents[name])


def test_another_file_is_refused(tmp_path):
    sdist = sdist_of(tmp_path / "chainercv-0.13.1.tar.gz", {"chainercv-0.13.1/chainercv/__init__.py": b""})
    with pytest.raises(ValueError, match="SHA-256"):
        chainercv_install.build_wheel(sdist, tmp_path)
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 150])
def test_stand_in_selects_as_the_cpu_does(count):
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 20, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(5, 15, (count, 2))]).astype(np.float32)
    threshold, blocks = 0.3, -(-count // 64)
    # Bit j of word b of row i: box i overlaps the later box 64 b + j.
    overlaps = np.triu(bbox_iou(boxes, boxes) >= threshold, k=1)
    padded = np.zeros((count, 64 * blocks), bool)
    padded[:, :count] = overlaps
    mask = np.packbits(padded, axis=1, bitorder="little").view(np.uint64).ravel()
    selection, selected = _nms_gpu_post(mask, count, 64, blocks)
    np.testing.assert_array_equal(selection[:selected], non_maximum_suppression(boxes, threshold))
