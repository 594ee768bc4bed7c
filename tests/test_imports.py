"""Imports run one way, and importing costs nothing that isn't used. Both in fresh processes or from the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dcnn_kernels
import dcnn_visualizer

KERNELS, VISUALIZER = (Path(package.__file__).parent for package in (dcnn_kernels, dcnn_visualizer))

#: From the ground up: a module imports only from rows above its own, and within its row nothing.
FLOORS = (
    ("chainer_compat", "rendering", "files", "batching", "memory", "responses"),
    ("fingerprint", "acceleration", "dataset"),
    ("traceable_nodes", "functions", "saliency_map"),
    ("graph", "layer_state"),
    ("cuda_graphs", "evaluation"),
    ("layer_table", "recording", "receptive_field"),
    ("traceable_chain", "stages"),
    ("traceable_graph", "walk"),
    ("reversal", "incremental"),
    ("desalinet", "occlusion"),
    ("importers", "plotting", "gallery"),
    ("models", "dropin"),
    ("demo",),
    ("cli",),
    ("__main__",),
)
#: Stands alone: it is run before the package's dependencies may work.
ALONE = ("chainercv_install", "__init__", "data")


def imported(path: Path, package: str) -> set[str]:
    """Names of the package's own modules that a file imports, those for type checkers excepted."""
    names = set()
    folders = path.relative_to(KERNELS if package == "dcnn_kernels" else VISUALIZER).parts[:-1]

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                self.generic_visit(node)

        def visit_Import(self, node):
            names.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node):
            above = [package, *folders][: len(folders) + 2 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names.update(f"{module}.{alias.name}" for alias in node.names)

    Visitor().visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name.removeprefix(package + ".").split(".")[0] for name in names if name.startswith(package + ".")}


def module_name(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(VISUALIZER.rglob("*.py")), ids=lambda path: str(path.relative_to(VISUALIZER)))
def test_the_front_end_imports_downwards(path):
    floor_of = {name: height for height, names in enumerate(FLOORS) for name in names}
    name = module_name(path, VISUALIZER)
    imports = imported(path, "dcnn_visualizer") - {name}
    if name in ALONE:
        assert imports <= {"data", "acceleration"}
        return
    modules = {other for other in imports if other in floor_of}
    assert modules <= imports <= set(floor_of) | set(ALONE) | set(dir(dcnn_visualizer))
    assert all(floor_of[other] < floor_of[name] for other in modules), f"{name} imports {sorted(modules)}"


def test_the_kernels_import_downwards():
    for path in sorted(KERNELS.rglob("*.py")):
        source, place = path.read_text(encoding="utf-8"), path.relative_to(KERNELS).parts
        imports = imported(path, "dcnn_kernels")
        if place[0] == "reference":
            assert imports <= {"reference", "geometry", "arrays"}, path
        elif place[0] == "compiled":
            assert imports <= {"compiled", "reference", "geometry", "arrays"}, path
        elif place[0] in ("arrays.py", "geometry.py"):
            assert not imports, path
        elif place[0] == "dlpack.py":
            assert imports <= {"arrays"}, path
        elif place[0] == "cuda":
            assert imports <= {"cuda", "geometry", "arrays"}, path
        elif place[0] != "__init__.py":
            assert imports <= {"geometry", "arrays", "dlpack"}, path
        for foreign in ("chainer", "torch", "dcnn_visualizer"):
            assert f"import {foreign}" not in source, path
            assert f"from {foreign}" not in source, path


def loaded_by(statement: str) -> set[str]:
    """Top-level modules loaded in a fresh process by a statement."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_kernels_loads_numpy_only():
    assert not loaded_by("import dcnn_kernels") & {"chainer", "cupy", "numba", "torch", "scipy", "dcnn_visualizer"}


def test_importing_the_front_end_loads_no_extras():
    modules = ("desalinet", "occlusion", "importers", "plotting", "dataset", "cli")
    statement = "; ".join(f"import dcnn_visualizer.{module}" for module in modules)
    # Chainer itself loads Pillow and h5py where it finds them.
    own = loaded_by(statement) - loaded_by("import dcnn_visualizer.chainer_compat")
    assert not own & {"numba", "torch", "matplotlib", "PIL", "tqdm", "skimage", "chainercv"}


def test_the_names_lent_to_chainer_are_taken_back():
    before = "import numpy; before = set(vars(numpy)) & {'sctypes'}"
    after = "import dcnn_visualizer.chainer_compat, chainer.functions; assert set(vars(numpy)) & {'sctypes'} == before"
    assert "chainer" in loaded_by(f"{before}; {after}")


def test_chainer_may_be_imported_first_by_the_user_once_it_is_loaded():
    assert "chainer" in loaded_by("import dcnn_visualizer.traceable_chain; import chainer; chainer.links.Linear(2, 3)")
