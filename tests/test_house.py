"""The house: each name once, rooms few, files short, nothing of other packages' insides."""

import ast
import tomllib
from collections import Counter
from pathlib import Path

from astroclip.schema import VERSION

ROOT = Path(__file__).parents[1]
LIBRARY, PROGRAM = ROOT / "astroclip", ROOT / "cli"
SOURCES = sorted(
    path
    for folder in (LIBRARY, PROGRAM)
    for path in folder.rglob("*.py")
    if not path.is_relative_to(LIBRARY / "cli") and not path.is_relative_to(LIBRARY / "configs")
)
TREES = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES}
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}  # public, despite their names


def repeated(names: list[str]) -> set[str]:
    """Return what is there more than once."""
    return {name for name, count in Counter(names).items() if count > 1}


def imported(tree: ast.AST) -> dict[str, str]:
    """Return the names that a file imports from other packages, and where they come from."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname or one.name.partition(".")[0]: one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return {name: origin for name, origin in found.items() if not origin.startswith("astroclip")}


def is_inside(name: str) -> bool:
    """Tell whether a dotted name has a part that its package keeps to itself."""
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def insides(tree: ast.AST) -> list[str]:
    """Return the private names of other packages that a file uses."""
    others = imported(tree)
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_own(node.value)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {
        node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and is_name(node.target)
    }
    used = [name for name in others.values() if is_inside(name)]
    used += [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and is_inside(node.attr)
        and node.attr not in own | NAMED_TUPLE
        and not is_own(node.value)
    ]
    used += [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and ast.unparse(node.args[1]).lstrip("f\"'").startswith("_")
    ]
    used += [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and any(f"{other}." in node.value and "._" in node.value for other in ("submitit", "huggingface_hub"))
    ]
    return used


def is_own(node: ast.AST) -> bool:
    """Tell whether it is the object itself, or its class."""
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def is_name(node: ast.AST) -> bool:
    """Tell whether it is a plain name."""
    return isinstance(node, ast.Name)


def test_no_two_modules_have_one_name() -> None:
    library = [path.name for path in SOURCES if path.is_relative_to(LIBRARY) and path.name != "__init__.py"]
    assert repeated(library) == set()


def test_no_two_classes_have_one_name() -> None:
    classes = [
        node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    assert repeated(classes) == set()


def test_rooms_are_few() -> None:
    rooms = [path for path in LIBRARY.iterdir() if (path / "__init__.py").exists() and not path.is_symlink()]
    files = list(LIBRARY.glob("*.py"))
    assert len(rooms) <= 11
    assert len(files) <= 7


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    there = [".".join(path.parent.relative_to(ROOT).parts) for path in LIBRARY.rglob("__init__.py")]
    there += ["astroclip.cli", "astroclip.configs", "astroclip.configs.models"]
    assert sorted(listed) == sorted(set(there))


def test_files_are_short() -> None:
    long = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if len(path.read_text("utf-8").splitlines()) > 400
    }
    assert long == set()


def test_nothing_private_of_other_packages_is_used() -> None:
    used = {
        path.relative_to(ROOT).as_posix(): found for path, tree in TREES.items() if (found := insides(tree))
    }
    assert used == {}


def test_what_is_private_is_described_in_one_line() -> None:
    told = {
        node.name: ast.get_docstring(node) or ""
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_inside(node.name)
    }
    assert {name for name, text in told.items() if "\n" in text} == set()


def test_the_version_is_that_of_the_package():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
