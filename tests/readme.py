"""Write README.md from nbs/index.ipynb, and the table of modules in nbs/contributing.ipynb from all notebooks.

`python tests/readme.py --write`; without --write: fail if one of them is out of date."""

import json
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from notebooks import library_notebooks
from test_style import FLOORS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "nbs/contributing.ipynb"
MODULES = "<!-- modules: written by `make nbs` -->"  # first line of the cell with the table


def render(path=ROOT / "nbs/index.ipynb"):
    "Render the notebook as markdown, without hidden cells, with links relative to the top of the project."
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if not re.match(r"#\|\s*hide\b", c.source)]
    for c in nb.cells:
        c.source = re.sub(r"^#\|.*\n", "", c.source, flags=re.M)
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = re.sub(r'(\]\(|src=")\.\./', r"\1", body)  # ../figures/x.png -> figures/x.png
    # losses/05_fbr.ipynb -> nbs/losses/05_fbr.ipynb
    body = re.sub(r"\]\(((?!https?:|#|/)[\w./]+\.ipynb)", r"](nbs/\1", body)
    text = "\n".join(line.rstrip() for line in body.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def module_of(name):
    "Return the module that a library notebook exports, and what it is for: the `> ` line of its first cell."
    cells = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", as_version=4).cells
    module = next(m[1] for c in cells if (m := re.match(r"#\|\s*default_exp\s+(\S+)", c.source)))
    purpose = next(line[2:] for line in cells[0].source.splitlines() if line.startswith("> "))
    return module, purpose


def modules():
    "Return (wing, module, notebook, purpose) of every library notebook, wings in the order of the floors."
    wings = [wing for floor in FLOORS for wing in floor] + ["__main__"]
    rows = []
    for name in library_notebooks():
        module, purpose = module_of(name)
        rows.append((module.split(".")[0], module, name, purpose))
    folder = {row: row[2].rpartition("/")[0] for row in rows}
    return sorted(rows, key=lambda row: (wings.index(row[0]), folder[row], row[2]))


def module_table():
    "Return the table of modules as markdown, with links as seen from nbs/."
    lines = ["| wing | module | what it is for |", "|---|---|---|"]
    before = ""
    for wing, module, name, purpose in modules():
        shown = f"**{wing}**" if wing != before else ""
        lines.append(f"| {shown} | [{module}]({name}.ipynb) | {purpose.replace('|', chr(92) + '|')} |")
        before = wing
    return "\n".join(lines)


def with_modules():
    "Return the text of contributing.ipynb with the table as it should be."
    nb = json.loads(CONTRIBUTING.read_text(encoding="utf-8"))
    (cell,) = (c for c in nb["cells"] if "".join(c["source"]).startswith(MODULES))
    cell["source"] = f"{MODULES}\n\n{module_table()}".splitlines(keepends=True)
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    wanted = {README: render(), CONTRIBUTING: with_modules()}
    stale = [p for p in wanted if not p.exists() or p.read_text(encoding="utf-8") != wanted[p]]
    if "--write" in sys.argv:
        for path in stale:
            path.write_text(wanted[path], encoding="utf-8")
    elif stale:
        sys.exit(f"out of step with the notebooks: {', '.join(p.name for p in stale)}. Run make nbs")
