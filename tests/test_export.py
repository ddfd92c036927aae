"The library and the README equal what the notebooks export, and the notebooks are clean."

import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import readme
from notebooks import NBS, PAGES, ROOT, companions, library_notebooks, read

ALL = [*library_notebooks(), *companions(), *PAGES]
MACHINE_PATH = re.compile(r"(?<![\w.:/~}-])/(?:work|tmp|root|home|Users|var|usr|opt)/\w")


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    "A copy of the project, exported and cleaned from its notebooks alone."
    copy = tmp_path_factory.mktemp("export") / "wsss_nb_project"
    shutil.copytree(NBS, copy / "nbs", ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
    shutil.copy(ROOT / "settings.ini", copy)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    for command in ["nbdev.doclinks:nbdev_export", "nbdev.clean:nbdev_clean"]:
        module, name = command.split(":")
        code = f"import sys; sys.argv = [{name!r}]; from {module} import {name}; {name}()"
        done = subprocess.run([sys.executable, "-c", code], cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return copy


def sources(folder):
    "Return the relative paths of the Python files below a folder."
    return {str(p.relative_to(folder)) for p in folder.rglob("*.py")}


def test_library_is_what_the_notebooks_export(rebuilt):
    ours = ROOT / "wsss_nb"
    theirs = rebuilt / "wsss_nb"
    missing = sources(theirs) - sources(ours)
    extra = sources(ours) - sources(theirs)
    assert not missing, f"not exported yet (run make nbs): {sorted(missing)}"
    assert not extra, f"no notebook exports these: {sorted(extra)}"
    differ = [f for f in sorted(sources(ours)) if not filecmp.cmp(ours / f, theirs / f, shallow=False)]
    assert not differ, f"out of step with the notebooks (run make nbs): {differ}"


@pytest.mark.parametrize("nb", library_notebooks())
def test_a_notebook_lies_where_its_module_does(nb):
    "nbs/losses/05_fbr.ipynb exports wsss_nb/losses/fbr.py."
    exports = [c.source for c in read(NBS / f"{nb}.ipynb").cells if c.source.startswith("#| default_exp")]
    assert len(exports) == 1, f"{len(exports)} cells with `#| default_exp`"
    wing, _, name = nb.rpartition("/")
    module = ".".join([*filter(None, wing.split("/")), re.sub(r"^\d+_", "", name)])
    assert exports[0].split()[-1] == {"main": "__main__"}.get(module, module)


def test_numbers_of_notebooks_are_unique():
    numbers = [
        nb.rpartition("/")[0] + "/" + nb.rpartition("/")[2].split("_")[0] for nb in library_notebooks()
    ]
    assert len(set(numbers)) == len(numbers), [n for n in numbers if numbers.count(n) > 1]


def test_links_between_notebooks_exist():
    broken = []
    for path in [p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]:
        text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
        links = re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
        broken += [
            f"{path.name}: {link}"
            for link in links
            if "://" not in link and not (path.parent / link).exists()
        ]
    assert not broken


def test_readme_is_what_index_says():
    if (ROOT / "README.md").read_text(encoding="utf-8") != readme.render():
        pytest.fail("README.md is not what nbs/index.ipynb says: run make nbs", pytrace=False)


def test_table_of_modules_is_in_step():
    if readme.with_modules() != readme.CONTRIBUTING.read_text(encoding="utf-8"):
        pytest.fail(
            "the table of modules in nbs/contributing.ipynb is out of step: run make nbs", pytrace=False
        )


def test_readme_links_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
    broken = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not broken, f"broken links in README.md: {broken}"


@pytest.mark.parametrize("nb", ALL)
def test_notebook_is_clean(nb, rebuilt):
    path = NBS / f"{nb}.ipynb"
    if json.loads(path.read_text()) != json.loads((rebuilt / "nbs" / f"{nb}.ipynb").read_text()):
        pytest.fail(f"nbdev_clean would change {path.name}: run make nbs", pytrace=False)
    content = read(path)
    ids = [c.id for c in content.cells]
    assert len(set(ids)) == len(ids), "two cells have the same id"
    for i, cell in enumerate(content.cells):
        assert not MACHINE_PATH.search(cell.source), f"cell {i}: a path of one machine in {cell.source!r}"
        for out in cell.get("outputs", []):
            assert out.output_type != "error", f"cell {i} was saved with an error"
            assert out.get("name") != "stderr", f"cell {i} was saved with stderr output"
            data = {"text/plain": out.text} if "text" in out else out.get("data", {})
            for kind, text in data.items():
                if kind.startswith("text/"):
                    hit = MACHINE_PATH.search(text)
                    assert not hit, (
                        f"cell {i}: a path of one machine in its output: {text[hit.start() :][:80]!r}"
                    )
    assert path.stat().st_size < 1.5e6, (
        f"{path.name} is {path.stat().st_size / 1e6:.1f} MB: make its pictures smaller"
    )


@pytest.mark.parametrize("nb", companions())
def test_companion_has_one_parameters_cell(nb):
    tagged = [c for c in read(NBS / f"{nb}.ipynb").cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{len(tagged)} cells tagged `parameters`; papermill needs exactly one"
    for line in tagged[0].source.splitlines():
        fits = re.fullmatch(r"\s*|#.*|\w+(\s*:[^=]+)?\s*=\s*[^#]+#.+", line)
        assert fits, f"not one assignment with its comment: {line!r}"


def test_constraints_hold_every_requirement():
    from configparser import ConfigParser

    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini")

    def package(requirement):
        return re.split(r"[<>=]", requirement)[0].lower().replace("_", "-")

    pinned = {package(line) for line in (ROOT / "constraints.txt").read_text().split()}
    wanted = [r for k, v in ini["DEFAULT"].items() if k.endswith("requirements") for r in v.split()]
    loose = [r for r in wanted if package(r) not in pinned]
    assert not loose, f"no tested version in constraints.txt for {loose}"


def test_what_widgets_need_is_installed(tmp_path):
    "Scripts and style sheets are packaged, and an sdist has the files that setup.py reads."
    pytest.importorskip("setuptools", reason="building needs setuptools")
    copy = shutil.copytree(
        ROOT,
        tmp_path / "project",
        ignore=shutil.ignore_patterns(".*", "figures", "runs", "__pycache__", "*.egg-info"),
    )
    build = [sys.executable, "setup.py", "-q", "build_py", "-d", "built", "sdist", "-k"]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = {str(p.relative_to(copy)) for p in (copy / "wsss_nb").rglob("*") if p.is_file()}
    assert any(f.endswith(".js") for f in wanted)
    built, (unpacked,) = copy / "built", copy.glob("wsss_nb-*")
    for place, more in ((built, set()), (unpacked, {"settings.ini", "README.md"})):
        missing = {f for f in wanted | more if not (place / f).exists()}
        assert not missing, f"not packaged (see package_data in setup.py): {sorted(missing)}"


def test_values_in_the_readme_are_those_of_the_code():
    "What README prints is what its code returns today."
    names = {}
    for cell in read(NBS / "index.ipynb").cells:
        if cell.cell_type != "code":
            continue
        *lines, last = ast.parse(cell.source).body
        exec(compile(ast.Module(lines, []), "README", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "README", "eval"), names)
        shown = ["".join(o["data"]["text/plain"]) for o in cell.outputs]
        assert shown == [repr(value)], "run the cells of nbs/index.ipynb and save it"
