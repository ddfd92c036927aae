"Rules of the code: lint, small modules, imports from lower floors only, no build tool in the library."

import ast
import re
import subprocess
import sys

import pytest
from notebooks import NBS, ROOT, companions, read

LIB = ROOT / "wsss_nb"
# The floors of the library, lowest first. A module imports from lower floors and from its own wing only.
FLOORS = [
    ["core"],
    ["run", "metrics"],
    ["data"],
    ["models", "draw"],
    ["losses", "cams"],
    ["train"],
    ["refine"],
    ["pipeline"],
    ["features", "ablate"],
    ["paper", "explore", "bench"],
    ["commands"],
    ["cli", "api"],
]
LONGEST = 320
MODULES = sorted(p for p in LIB.rglob("*.py") if not p.name.startswith("_"))


def name_of(path):
    "Return the full name of a module: 'wsss_nb.data.folder'."
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def wing(module):
    "Return the wing of a module: 'data' of 'wsss_nb.data.folder'."
    return module.split(".")[1]


def floor(module):
    "Return the position of a module's wing in FLOORS."
    found = [i for i, wings in enumerate(FLOORS) if wing(module) in wings]
    assert found, f"{module}: name its floor in tests/test_style.py"
    return found[0]


def imports(path):
    "Yield the full names of all modules imported in a file, also inside functions."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            # nbdev writes relative imports
            up = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*up, *filter(None, [node.module])])
            if (ROOT / module.replace(".", "/")).is_dir():
                yield from (f"{module}.{a.name}" for a in node.names)
            else:
                yield module


@pytest.mark.parametrize(
    "rule", ["check", "check --select I001 nbs tests", "format --check nbs tests setup.py"]
)
def test_ruff(rule):
    "Lint, order of imports, layout (line length 110, double quotes)."
    what, *more = rule.split()
    command = [sys.executable, "-m", "ruff", what, "--no-cache", "--config", "tests/ruff.toml"]
    done = subprocess.run(
        [*command, *(more or ["wsss_nb", "nbs", "tests", "setup.py"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.fail(f"run make nbs\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module(path):
    text = path.read_text(encoding="utf-8").splitlines()
    lines = [line for line in text if line.strip() and not line.startswith("# %%")]
    assert len(lines) <= LONGEST, f"{len(lines)} lines: split this module"
    for name in imports(path):
        top = name.split(".")[0]
        problem = f"{path.name} imports {name}"
        assert top not in ("fastcore", "nbdev", "execnb", "pytest"), f"{problem}: a build tool"
        if top == "wsss_nb" and "." in name:
            own = wing(name) == wing(name_of(path))
            lower = floor(name) < floor(name_of(path))
            assert own or lower, f"{problem}: only imports from lower floors are allowed"


@pytest.mark.parametrize("nb", [*companions(), "index"])
def test_imports_from_the_door_only(nb):
    "Companions and README import from `wsss_nb.api` and nothing else of the library."
    from wsss_nb.api import DOOR

    for cell in read(NBS / f"{nb}.ipynb").cells:
        blocks = re.findall(r"```python\n(.*?)```", cell.source, re.S)
        for code in [cell.source] if cell.cell_type == "code" else blocks:
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Import):
                    assert not any(a.name.split(".")[0] == "wsss_nb" for a in node.names), code
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "wsss_nb":
                    assert node.module == "wsss_nb.api", f"import from wsss_nb.api only:\n{code}"
                    unknown = [a.name for a in node.names if a.name not in DOOR]
                    assert not unknown, f"wsss_nb.api has no {unknown}"


def test_readme_lists_the_wings():
    "The table of wings in README has the floors above."
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    listed = [(int(n), wing) for n, wings in rows for wing in re.findall(r"`(\w+)[./][^`]*`", wings)]
    assert listed == [(n, wing) for n, wings in enumerate(FLOORS, 1) for wing in wings]


def test_no_import_cycle():
    graph = {name_of(p): {n for n in imports(p) if n.startswith("wsss_nb.")} for p in MODULES}
    done = set()
    path = []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in graph.get(name, ()):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_layout():
    "The top of the project holds only these files and folders."
    allowed = {
        "nbs",
        "wsss_nb",
        "tests",
        "figures",
        "settings.ini",
        "setup.py",
        "README.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        ".ci",
        ".gitignore",
        ".gitattributes",
    }
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone")
    assert {f.split("/")[0] for f in listed.stdout.split()} <= allowed


@pytest.mark.parametrize("module", ["wsss_nb", "wsss_nb.cli", "wsss_nb.ablate.execute"])
def test_import_is_light(module):
    "Neither `wsss_nb --help` nor a worker that only starts notebooks loads torch."
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
