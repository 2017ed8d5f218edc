"""The rules of HOUSE: which package may import which. Run as a script it prints the tree's figures."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("deita_core", "tasks", "flows")
LEAVES = ("deita_core.literals", "deita_core.errors", "deita_core.conversation", "deita_core.tables")
TOP = {"__init__", "literals", "errors", "conversation", "tables", "diagnosis"}
HEAVY = ("torch", "lancedb", "prefect", "transformers", "sentence_transformers", "polars", "pandera")


def modules() -> dict[str, Path]:
    """Every module of the project, by its dotted name."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(file: Path) -> Iterator[str]:
    """What a file imports, anywhere in it: modules, and names that may be modules."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def graph() -> dict[str, frozenset[str]]:
    """The modules that each module imports: ours by their full names, others by their first part."""
    ours = modules()

    def found(name: str) -> str | None:
        return name if name in ours else None if name.split(".")[0] in PACKAGES else name.split(".")[0]

    return {
        name: frozenset(module for each in imported(file) if (module := found(each)) and module != name)
        for name, file in ours.items()
    }


def importing(prefix: str, targets: tuple[str, ...]) -> list[str]:
    """Modules under a package that import any of the targets, or anything in them."""
    return [
        f"{name} imports {module}"
        for name, found in graph().items()
        if is_in(name, prefix)
        for module in found
        if any(is_in(module, target) for target in targets)
    ]


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("deita_core", ("prefect", "flows", "tasks")),
        ("tasks", ("flows",)),
        ("deita_core.selection", ("deita_core.config", "deita_core.models", "deita_core.scorers", "deita_core.store")),
        ("deita_core.models", ("deita_core.scorers", "deita_core.store", "deita_core.stages")),
        ("deita_core.llm", ("deita_core.scorers", "deita_core.stages")),
        ("deita_core.literals", ("deita_core",)),
    ],
)
def test_no_arrow_points_back(package, never):
    assert importing(package, never) == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_leaves_import_nothing_of_ours_but_each_other(leaf):
    assert {module for module in graph()[leaf] if is_in(module, "deita_core")} <= {*LEAVES, "deita_core"}


def test_only_the_store_imports_lancedb():
    assert [name for name in importing("deita_core", ("lancedb",)) if not name.startswith("deita_core.store.")] == []
    assert importing("tasks", ("lancedb",)) == []


def test_the_top_of_the_library_has_no_other_module():
    assert {file.stem for file in (ROOT / "deita_core").glob("*.py")} == TOP


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nsys.argv = ['deita', '--help']\nfrom flows.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


def floor_of(module: str, seen: tuple[str, ...] = ()) -> int:
    """How many modules of ours stand below one, on the longest way down."""
    below = [other for other in graph()[module] if other.split(".")[0] in PACKAGES and other not in seen]
    return 1 + max((floor_of(other, (*seen, module)) for other in below), default=0)


def main() -> None:
    """Print modules, lines, the largest file and the floors of the import graph, by package."""
    floors, ours = cache(floor_of), modules()
    rows: dict[str, list[str]] = {}
    for name in ours:
        parts = name.split(".")
        rows.setdefault(".".join(parts[:2]) if ours[name].parent != ROOT / parts[0] else parts[0], []).append(name)
    print(f"{'package':<28}{'modules':>8}{'lines':>8}{'largest':>9}  {'floor':>5}")
    for package, names in sorted(rows.items()):
        lines = {name: len(ours[name].read_text(encoding="utf-8").splitlines()) for name in names}
        largest = max(lines, key=lines.__getitem__)
        deepest = max(floors(name) for name in names)
        print(f"{package:<28}{len(names):>8}{sum(lines.values()):>8}{lines[largest]:>9}  {deepest:>5}  {largest}")


if __name__ == "__main__":
    main()
