"""Every notebook runs from its first cell to its last. In the library's the examples are the tests; the companions
(`train`, ...) run with their default parameters, which are small."""
import pytest
from notebooks import companions, library_notebooks


@pytest.mark.parametrize('nb', [*library_notebooks(), *companions(), 'index'])
def test_notebook(nb, pool):
    problem = pool.wait(nb)
    if problem: pytest.fail(problem, pytrace=False)
