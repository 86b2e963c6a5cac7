# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "pluggableflow"
#: Libraries that the core uses, each imported only where it is used; the command may import its own at once.
LATE = {"stevedore", "networkx"}
COMMAND = {"click", "rich"}


def stated_order() -> list[str]:
    block = re.search(r"```order\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1].split()


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def position(module: str, order: list[str]) -> int | None:
    """Where a module stands, a package standing where its own entry or that of its last module does."""
    inside = [at for at, each in enumerate(order) if each == module or each.startswith(f"{module}.")]
    if inside:
        return inside[-1]
    parent = module.rpartition(".")[0]
    return position(parent, order) if parent else None


def imports(path: Path, everywhere: bool) -> Iterator[str]:
    """Absolute names that a file imports; without ``everywhere``, what is imported with the file itself."""
    tree = ast.parse(path.read_text())
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        late = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if everywhere or not late:
            todo.extend(ast.iter_child_nodes(node))


def imported_module(name: str, known: dict[str, Path]) -> str:
    """The module of the core that ``pluggableflow.x.y`` means, where the last part may be an attribute."""
    inner = name.partition(".")[2]
    return inner if inner in known else inner.rpartition(".")[0]


def test_every_module_has_its_place_in_the_stated_order() -> None:
    order = stated_order()
    ours = set(modules()) - {"", "__main__"}
    assert len(order) == len(set(order))
    assert [each for each in order if each not in ours] == []
    assert [each for each in sorted(ours) if position(each, order) is None] == []


@pytest.mark.parametrize("module", sorted(set(modules()) - {"", "__main__"}))
def test_a_module_imports_only_from_modules_before_it(module: str) -> None:
    order, known = stated_order(), modules()
    here = position(module, order)
    for name in imports(known[module], everywhere=False):
        if name.partition(".")[0] == "pluggableflow":
            other = imported_module(name, known)
            there = position(other, order) if other else -1
            assert here is not None and there is not None
            assert there < here, f"{module} imports {other}, which does not come before it"


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_of_the_core_imports_no_backend_driver_or_unstated_library(module: str) -> None:
    path = modules()[module]
    at_once = {"cli": COMMAND, "config": {"oslo_config"}, "testing": {"pytest"}}.get(module.partition(".")[0], set())
    for everywhere, allowed in ((False, at_once), (True, at_once | LATE)):
        roots = {name.partition(".")[0] for name in imports(path, everywhere)}
        assert roots - {"pluggableflow"} - set(sys.stdlib_module_names) <= allowed


def test_importing_the_core_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, pluggableflow.api, pluggableflow.engines.parallel, pluggableflow.patterns.graph_flow\n"
        "print([each for each in ('stevedore', 'networkx', 'sqlalchemy', 'alembic', 'rich', 'click', 'asyncio')"
        " if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
