"""The import arrows of docs/architecture.md, read from the source, and what an import loads."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import minicnn

PACKAGE = Path(minicnn.__file__).parent

# A room (a file or folder of the package) may import the rooms of the lines above its own, and
# within its own line only what BESIDE says.
LINES = [
    {"config", "configurable", "context", "errors", "graph", "ops", "parameter", "randomness"},
    {"activations", "constraints", "initializers", "regularizers"},
    {"checks", "data", "datasets", "layers", "losses", "metrics", "optimizers", "schedules"},
    {"callbacks", "gradient_check", "models", "training_check"},
    {"saving", "visualization"},
    {"cli"},
    {"__main__"},
]
BESIDE = {
    "checks": {"layers", "metrics"},
    "context": {"ops", "randomness"},
    "data": {"checks"},
    "gradient_check": {"models"},
    "graph": {"config"},
    "metrics": {"losses"},
    "models": {"callbacks"},
    "ops": {"config"},
    "optimizers": {"schedules"},
    "parameter": {"ops"},
    "randomness": {"config"},
    "training_check": {"models"},
}
# These re-export, or refuse by name; nothing but the package itself imports them.
NAMESPACES = {"applications", "backend", "preprocessing", "utils", "wrappers"}
# At the first use of an operation, `ops` binds one of the two sets; nothing else looks into them.
INSIDE_OPS = {
    "minicnn.ops.reference": (
        "minicnn.ops.reference",
        "minicnn.ops.shapes",
        "minicnn.ops.geometry",
    ),
    "minicnn.ops.fast": ("minicnn.ops", "minicnn.config"),
    "minicnn.ops": ("minicnn.ops.arena", "minicnn.ops.shapes", "minicnn.config"),
}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def statements(node):
    """All statements that run when the module is imported: not those in functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from statements(child)


def imports(path):
    """Full names of the modules of this package that a file imports at module level."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "minicnn")


ARROWS = {module: set(imports(path)) - {module} for module, path in MODULES.items()}


def room(module):
    return module.split(".")[1] if "." in module else ""


def line(name):
    return next(number for number, rooms in enumerate(LINES) if name in rooms)


def may_import(here, there):
    if here == there or here == "":
        return True
    if there in NAMESPACES or there == "":
        return False
    if here in NAMESPACES:
        return True
    return line(there) < line(here) or there in BESIDE.get(here, ())


def test_every_room_has_its_line():
    rooms = {room(module) for module in MODULES} - {""}
    listed = set.union(*LINES)
    assert not rooms - listed - NAMESPACES, "new rooms: give them a line in this test"
    assert not listed - rooms, "rooms that are gone"


def test_imports_between_rooms_go_one_way():
    wrong = [
        f"{here} imports {there}"
        for here, imported in ARROWS.items()
        for there in sorted(imported)
        if not may_import(room(here), room(there))
    ]
    assert not wrong


def test_exceptions_are_used():
    used = {(room(here), room(there)) for here in ARROWS for there in ARROWS[here]}
    unused = {(here, there) for here in BESIDE for there in BESIDE[here]} - used
    assert not unused, "take these out of BESIDE"


def test_op_sets_do_not_know_each_other():
    for here, imported in ARROWS.items():
        if room(here) == "ops":
            folder = max((name for name in INSIDE_OPS if here.startswith(name)), key=len)
            allowed = INSIDE_OPS[folder]
            wrong = {there for there in imported if not there.startswith(allowed)}
            if folder == "minicnn.ops.fast":
                wrong |= {there for there in imported if "reference" in there}
        else:
            wrong = {t for t in imported if t.startswith(tuple(INSIDE_OPS)[:2])}
        assert not wrong, f"{here} imports {wrong}"


def test_no_module_imports_itself_over_others():
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for there in sorted(ARROWS[module]):
            visit(there)
        done.add(path.pop())

    for module in ARROWS:
        visit(module)


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_star_imports_only_in_the_package_itself(path):
    stars = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]
    assert not stars or path == PACKAGE / "__init__.py"


PROBE = """
import json, sys
before = set(sys.modules)
{}
names = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""


def loaded_by(code):
    """Packages from outside the standard library that this code loads in a new process."""
    command = [sys.executable, "-c", PROBE.format(code)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return json.loads(run.stdout.splitlines()[-1])


def test_importing_the_package_loads_numpy_and_nothing_else():
    assert loaded_by("import minicnn") == ["minicnn", "numpy"]


def test_the_reference_operations_need_no_compiler():
    code = """
import minicnn, numpy
minicnn.config.ops = "reference"
minicnn.ops.conv2d(numpy.ones((1, 4, 4, 1)), numpy.ones((3, 3, 1, 1)), activation=("relu",))
"""
    assert not {"numba", "llvmlite"} & set(loaded_by(code))


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("minicnn.ops.fast.")])
def test_loops_of_many_threads_have_a_plain_length(name):
    """Numba runs prange(n if shared else 0) in one thread, whatever n is, and says so only where no
    other loop of the function is parallel."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "prange":
            inside = [type(part) for argument in node.args for part in ast.walk(argument)]
            assert ast.IfExp not in inside, f"line {node.lineno}: put an `if` before the loop"
