"Every library notebook runs from its first cell to its last. Its examples are the library's tests."

import pytest
from notebooks import PAGES, library_notebooks


@pytest.mark.parametrize("nb", [*library_notebooks(), *PAGES])
def test_notebook(nb, server):
    problem = server.run(nb)
    if problem:
        pytest.fail(problem, pytrace=False)
