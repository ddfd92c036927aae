"Write README.md from nbs/index.ipynb: `python tests/readme.py --write`; without --write: fail if it is out of date."

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


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


if __name__ == "__main__":
    readme = ROOT / "README.md"
    if "--write" in sys.argv:
        readme.write_text(render(), encoding="utf-8")
    elif not readme.exists() or readme.read_text(encoding="utf-8") != render():
        sys.exit("README.md is not in step with nbs/index.ipynb: run make nbs")
