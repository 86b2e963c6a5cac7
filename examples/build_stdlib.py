# SPDX-License-Identifier: Apache-2.0
"""Builds the standard library of the interpreter that runs this, one task per module, in import order.

Every module is parsed; its imports become dependencies, and import cycles one task. Each task compiles what it is for
into a staging folder. Then the compiled files are zipped, and a new interpreter that sees only the zip (and the
extension modules) must be able to import from it; if it cannot, the zip is built once more. Reverting removes what was
built.

    pluggableflow run examples/build_stdlib.py [-p staging=DIR] [-p break=email.message] [--engine parallel]
"""

from __future__ import annotations

import ast
import functools
import json
import py_compile
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import networkx as nx

from pluggableflow import retry, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow

STDLIB = Path(sysconfig.get_path("stdlib"))
SKIPPED = {"test", "tests", "idlelib", "idle_test", "lib2to3", "site-packages", "dist-packages", "lib-dynload"}
PROOF = """
import sys
sys.path[:] = sys.argv[1:]
import json, asyncio, sqlite3
assert sqlite3.connect(":memory:").execute("SELECT 1").fetchone() == (1,)
assert asyncio.run(asyncio.sleep(0, "slept")) == "slept"
print(json.dumps({"json": json.__file__, "asyncio": asyncio.__file__, "sqlite3": sqlite3.__file__}))
"""


class Compile(task.Task):
    """Compiles one module, or the modules of one import cycle, into the staging folder."""

    def __init__(self, modules: dict[str, Path], staging: Path, needs: Iterable[str], broken: bool) -> None:
        super().__init__("compile " + _title(modules), provides=_title(modules), requires=needs)
        self.modules, self.staging, self.broken = modules, staging, broken

    def execute(self, **built: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        lines = size = 0
        for module, path in self.modules.items():
            source = path.read_bytes()
            ast.parse(source, str(path))
            if self.broken:
                raise RuntimeError(f"{module} was told to break")
            target = self._target(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            py_compile.compile(str(path), cfile=str(target), dfile=module, doraise=True)
            lines += source.count(b"\n")
            size += target.stat().st_size
        return {"lines": lines, "bytes": size, "seconds": time.perf_counter() - began, "modules": len(self.modules)}

    def revert(self, **ignored: Any) -> None:
        for path in self.modules.values():
            self._target(path).unlink(missing_ok=True)

    def _target(self, path: Path) -> Path:
        # A compiled file beside where its source would be is what zipimport looks for.
        return self.staging / "modules" / path.relative_to(STDLIB).with_suffix(".pyc")


class Zip(task.Task):
    """Packs the compiled files."""

    def __init__(self, staging: Path, needs: Iterable[str]) -> None:
        super().__init__("zip", provides="zip", requires=needs)
        self.staging, self.path = staging, staging / "stdlib.zip"

    def execute(self, **built: dict[str, Any]) -> dict[str, Any]:
        folder = self.staging / "modules"
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*.pyc")):
                archive.write(path, path.relative_to(folder))
        return {"path": str(self.path), "bytes": self.path.stat().st_size}

    def revert(self, **ignored: Any) -> None:
        self.path.unlink(missing_ok=True)


class Prove(task.Task):
    """Imports from the zip in an interpreter that has no other library."""

    def __init__(self) -> None:
        super().__init__("prove", provides="proof")

    def execute(self, zip: dict[str, Any]) -> dict[str, str]:
        configured = sysconfig.get_config_var("DESTSHARED") or ""
        extensions = configured if Path(configured).is_dir() else str(STDLIB / "lib-dynload")
        command = [sys.executable, "-I", "-S", "-c", PROOF, zip["path"], extensions]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
        found: dict[str, str] = json.loads(done.stdout)
        outside = {name: path for name, path in found.items() if not path.startswith(zip["path"])}
        if outside:
            raise RuntimeError(f"not imported from the zip: {outside}")
        return found


def find_modules() -> dict[str, Path]:
    """Every module of the standard library that is meant to compile, by name."""
    modules = {}
    for path in sorted(STDLIB.rglob("*.py")):
        parts = path.relative_to(STDLIB).with_suffix("").parts
        if SKIPPED.intersection(parts[:-1]) or parts[0] in SKIPPED or not all(part.isidentifier() for part in parts):
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = path
    return modules


def find_imports(name: str, path: Path, modules: Mapping[str, Path]) -> set[str]:
    """The modules that are imported when one is imported, among them the packages that hold them.

    :raises SyntaxError: it does not compile by design
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    named: set[str] = {package}
    for node in _executed(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".") if node.level else []
            origin = ".".join(parents[: len(parents) - node.level + 1] + ([node.module] if node.module else []))
            named.add(origin)
            named.update(f"{origin}.{alias.name}" for alias in node.names)
    parts = [each.split(".") for each in named]
    prefixes = {".".join(each[: end + 1]) for each in parts for end in range(len(each))}
    return {each for each in prefixes if each in modules and each != name}


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run at import: not the bodies of functions, nor ``if __name__ == "__main__"``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "__name__" in ast.dump(child.test):
            continue
        yield child
        yield from _executed(child)


@functools.cache
def import_graph() -> nx.DiGraph[str]:
    """An edge from each module of the standard library to those that import it."""
    modules = find_modules()
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, path in modules.items():
        try:
            needed = find_imports(name, path, modules)
        except SyntaxError:
            continue
        graph.add_node(name, path=path)
        graph.add_edges_from((each, name) for each in needed)
    graph.remove_nodes_from([name for name in graph if "path" not in graph.nodes[name]])
    return graph


def _title(modules: Iterable[str]) -> str:
    names = sorted(modules)
    return names[0] if len(names) == 1 else f"{names[0]} (cycle of {len(names)})"


def create_flow(staging: str = "build_stdlib.staging", **options: Any) -> Flow:
    """The flow that builds the standard library.

    :param staging: folder to build in
    :param options: ``break``: a module whose task fails
    """
    unknown = sorted(set(options) - {"break"})
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown)}; there are staging and break")
    folder = Path(staging).absolute()
    imports = import_graph()
    broken = options.get("break")
    if broken is not None and broken not in imports:
        raise ValueError(f"there is no module {broken} in {STDLIB}")
    graph = nx.condensation(imports)
    members: dict[int, list[str]] = {node: sorted(graph.nodes[node]["members"]) for node in graph}
    titles = {node: _title(names) for node, names in members.items()}
    build = graph_flow.Flow("modules")
    build.add(
        *(
            Compile(
                {name: imports.nodes[name]["path"] for name in members[node]},
                folder,
                [titles[each] for each in graph.predecessors(node)],
                broken in members[node],
            )
            for node in nx.topological_sort(graph)
        )
    )
    proof = linear_flow.Flow("proof", retry=retry.Times(2, name="build the zip again"))
    proof.add(Zip(folder, titles.values()), Prove())
    return linear_flow.Flow("build_stdlib").add(build, proof)


def report(results: Mapping[str, Any]) -> str:
    """What was built, the slowest modules, the longest chain of imports and the cycles."""
    built = {name: each for name, each in results.items() if isinstance(each, dict) and "lines" in each}
    condensed = nx.condensation(import_graph())
    cycles = sorted((sorted(condensed.nodes[node]["members"]) for node in condensed), key=len, reverse=True)
    cycles = [names for names in cycles if len(names) > 1]
    chain = [_title(condensed.nodes[node]["members"]) for node in nx.dag_longest_path(condensed)]
    slowest = sorted(built, key=lambda name: built[name]["seconds"], reverse=True)[:5]
    lines = [
        f"built {sum(each['modules'] for each in built.values())} modules of Python {sys.version.split()[0]} in"
        f" {len(built)} tasks: {sum(each['lines'] for each in built.values())} lines,"
        f" {sum(each['bytes'] for each in built.values())} bytes compiled, {results['zip']['bytes']} bytes zipped",
        "slowest: " + ", ".join(f"{name} {built[name]['seconds']:.2f} s" for name in slowest),
        f"longest chain of imports ({len(chain)}): " + " -> ".join(chain),
        f"import cycles: {len(cycles)}" + "".join(f"\n  {len(names)}: {', '.join(names[:6])}" for names in cycles[:5]),
        f"proof: json was imported from {results['proof']['json']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from pluggableflow import api

    print(report(api.run(None, create_flow(**dict(pair.split("=", 1) for pair in sys.argv[1:])))))
