"Shared fixtures: one deterministic hypothesis profile, a quiet environment, the notebook pool and its time table."

import os
import shutil
import tempfile
from pathlib import Path

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


def pytest_collection_finish(session):
    "Begin with the selected notebooks now: other tests keep one core busy at a time."
    if session.config.option.collectonly:
        return
    wanted = [i for i in session.items if "pool" in getattr(i, "fixturenames", ())]
    if wanted:
        folder = Path(tempfile.mkdtemp(prefix="wsss-notebooks-"))
        names = dict.fromkeys(i.callspec.params["nb"] for i in wanted)
        session.config.stash[_POOL] = notebooks.Pool(list(names), folder)
        session.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        session.config.add_cleanup(session.config.stash[_POOL].close)


@pytest.fixture(scope="session")
def pool(request):
    "Every selected notebook, executed in a process of its own; each test waits for its own."
    return request.config.stash[_POOL]


def pytest_terminal_summary(terminalreporter, config):
    p = config.stash.get(_POOL, None)
    if p is None or not p.seconds:
        return
    terminalreporter.section("notebooks, seconds each")
    slow = sorted(p.seconds.items(), key=lambda kv: -kv[1])
    terminalreporter.write_line("  ".join(f"{n} {s:.0f}" for n, s in slow))
