"Shared fixtures: a deterministic hypothesis profile, a clean environment, the notebook pool and its time table."

import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: two notebooks run side by side
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("WSSS_NB_DEBUG", None)  # a developer's shell must not change the results

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

_POOL = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="twenty kills and 64 kernels instead of 3 and 16 (takes minutes)"
    )


def pytest_collection_finish(session):
    "Start the selected notebooks before the first test: the other tests use only one core."
    if session.config.option.collectonly:
        return
    wanted = [item for item in session.items if "pool" in getattr(item, "fixturenames", ())]
    if wanted:
        folder = Path(tempfile.mkdtemp(prefix="wsss-notebooks-"))
        names = dict.fromkeys(item.callspec.params["nb"] for item in wanted)
        session.config.stash[_POOL] = notebooks.Pool(list(names), folder)
        session.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        session.config.add_cleanup(session.config.stash[_POOL].close)


@pytest.fixture(scope="session")
def pool(request):
    "Every selected notebook, each executed in its own process; each test waits for its notebook."
    return request.config.stash[_POOL]


def pytest_terminal_summary(terminalreporter, config):
    pool = config.stash.get(_POOL, None)
    if pool is None or not pool.seconds:
        return
    terminalreporter.section("notebooks, seconds each")
    slowest_first = sorted(pool.seconds.items(), key=lambda pair: -pair[1])
    terminalreporter.write_line("  ".join(f"{name} {seconds:.0f}" for name, seconds in slowest_first))
