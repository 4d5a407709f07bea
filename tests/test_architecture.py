"""The house keeps its shape: imports point one way, no files import each other in a circle, ``--help`` stays light."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("converters", "mindrecord", "backends", "eval")
# a room may import what stands before it; rooms of one line are side by side and do not know each other
FLOORS = [
    ("converters",),
    ("mindrecord",),
    ("backends.recipe",),
    ("backends.weights",),
    ("backends.run",),
    ("backends.exchange",),
    ("backends.checkpoint",),
    ("backends.generation",),
    ("backends.cuda", "backends.ascend"),
    ("backends.merge",),
    ("backends.cli",),
    ("backends",),
    ("eval",),
]
# logits are compared with peft's own, and Meta's and pickled files are torch's
OTHER_USES = ("backends.merge.verify", "backends.merge.pickle_formats", "backends.exchange.meta")
CONVERTERS = [
    ("common",),
    ("text",),
    ("tokenizers",),
    ("pipeline",),
    ("arithmetic", "glue", "webqa", "alpaca", "novel"),
]


def modules():
    """Every module of the product, by dotted name."""
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name, *, top_level=False):
    """Modules of the product that a module imports, those under TYPE_CHECKING and inside functions included."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {
                whole if (whole := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            }
    return {one for one in found if one in MODULES and one != name}


def floor_of(name, floors):
    best = max(
        ((level, room) for level, rooms in enumerate(floors) for room in rooms if f"{name}.".startswith(f"{room}.")),
        key=lambda pair: len(pair[1]),
        default=None,
    )
    assert best is not None, f"{name} stands in no room"
    return best


def test_rooms_import_only_what_stands_below_them():
    wrong = []
    for name in MODULES:
        if name == "backends" or name.endswith(".__main__"):
            continue  # the package only names its functions, and a command stands above what it calls
        level, room = floor_of(name, FLOORS)
        for other in imports(name):
            below, other_room = floor_of(other, FLOORS)
            if below > level or (below == level and other_room != room):
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_converters_import_only_what_stands_below_them():
    floors = [tuple(f"converters.{room}" for room in rooms) for rooms in CONVERTERS]
    floors += [("converters.tiny",), ("converters",)]
    wrong = []
    for name in MODULES:
        if not name.startswith("converters."):
            continue
        level, room = floor_of(name, floors)
        for other in imports(name):
            below, other_room = floor_of(other, floors)
            if below > level or (below == level and other_room != room):
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    arrows = {name: imports(name) for name in MODULES}
    state, circles = {}, []

    def visit(name, path):
        state[name] = "open"
        for other in sorted(arrows[name]):
            if state.get(other) == "open":
                circles.append(" → ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other, [*path, other])
        state[name] = "done"

    for name in sorted(MODULES):
        if name not in state:
            visit(name, [name])
    assert not circles


@pytest.mark.parametrize("framework", ["torch", "mindspore", "transformers", "peft", "mindformers"])
def test_frameworks_are_imported_by_their_own_backend_alone(framework):
    for name, path in MODULES.items():
        own = {"mindspore": "backends.ascend", "mindformers": "backends.ascend"}.get(framework, "backends.cuda")
        if name.startswith(own) or name in OTHER_USES:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert all(one.split(".")[0] != framework for one in found), f"{name} imports {framework}"


def test_command_lines_are_parsed_in_command_modules_alone():
    allowed = {"__main__", "cli", "model_arguments", "console"}
    for name, path in MODULES.items():
        parts = set(name.split(".")) | {path.stem}
        if "argparse" in path.read_text(encoding="utf-8") and not parts & allowed:
            raise AssertionError(f"{name} knows argparse")
