"Shared fixtures: a deterministic hypothesis profile, a clean environment, what runs notebooks, the order of the tests."

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: two notebooks run side by side
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("WSSS_NB_DEBUG", None)  # a developer's shell must not change the results

import kernel  # noqa: E402
import notebooks  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "wsss_nb",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("wsss_nb")

pytest_plugins = ["browser"]


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        action="store_true",
        help="twenty kills and 64 kernels instead of 3 or 4 and 16 (takes minutes)",
    )


def pytest_collection_modifyitems(items):
    "Put the longest files first and the notebooks last: workers that take test after test then end together."
    longest = ["test_ablate", "test_browser", "test_training", "test_companions", "test_explore"]
    order = {name: i for i, name in enumerate([*longest, None, "test_notebooks"])}
    items.sort(key=lambda item: order.get(item.path.stem, len(longest)))


@pytest.fixture(scope="session")
def warm_kernels(tmp_path_factory):
    "From now on Jupyter's kernels are forks of a process that has imported the heavy packages."
    with kernel.serve(tmp_path_factory.mktemp("kernels")) as folder:
        os.environ["JUPYTER_PATH"] = str(folder)
        yield
        del os.environ["JUPYTER_PATH"]


@pytest.fixture(scope="session")
def server(tmp_path_factory, warm_kernels):
    "What runs a notebook."
    server = notebooks.Server(tmp_path_factory.mktemp("notebooks"))
    yield server
    server.close()
