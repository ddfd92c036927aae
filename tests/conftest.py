"Shared fixtures: one deterministic hypothesis profile, a quiet environment, the notebook pool and its time table."

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: two notebooks run side by side
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("WSSS_NB_DEBUG", None)  # a developer's shell must not change what the tests see

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
        "--long", action="store_true", help="twenty kills and 64 kernels instead of a few (minutes)"
    )


@pytest.fixture(scope="session")
def pool(request, tmp_path_factory):
    "Runs every selected notebook in its own kernel, two at a time; each test waits for its own."
    names = dict.fromkeys(
        item.callspec.params["nb"]
        for item in request.session.items
        if "pool" in getattr(item, "fixturenames", ())
    )
    p = notebooks.Pool(list(names), tmp_path_factory.mktemp("notebooks"))
    request.config.stash[_POOL] = p
    yield p
    p.close()


def pytest_terminal_summary(terminalreporter, config):
    p = config.stash.get(_POOL, None)
    if p is None or not p.seconds:
        return
    terminalreporter.section("notebooks, seconds each")
    slow = sorted(p.seconds.items(), key=lambda kv: -kv[1])
    terminalreporter.write_line("  ".join(f"{n} {s:.0f}" for n, s in slow))
