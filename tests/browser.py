"""A browser for tests: chromium on JupyterLab and Voilà servers that the tests start, without the internet.

    def test_it(page, voila):                    # or `lab`; with `served` the test runs in both
        voila.show(page, "from ipywidgets import IntSlider\\nIntSlider(3)")
        page.get_by_role('slider').press('ArrowRight')
        screenshot(page, 'slider')               # saved if WSSS_NB_SCREENSHOTS names a folder

A page is Playwright's. Its teardown fails the test if JavaScript raised an error. conftest.py loads the fixtures.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from notebooks import ROOT

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a request to the internet must fail
]
SECONDS = float(os.environ.get("WSSS_NB_BROWSER_TIMEOUT", 90))  # for one step of a test, on two shared cores
MEASURED = []  # lines for the end of pytest's report


def missing():
    "Return the reason why no browser test can run here, or ''."
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "browser tests need Playwright: pip install playwright"
    if not find_chromium():
        return "browser tests need chromium: apt install chromium, or name one in WSSS_NB_CHROMIUM"
    try:
        import voila  # noqa: F401
    except ImportError:
        return "browser tests need Voilà: pip install wsss_nb[app]"
    return ""


def find_chromium():
    "Return the path of chromium, or None."
    names = [os.environ.get("WSSS_NB_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    return next(filter(None, map(shutil.which, names)), None)


# Not of scope 'session': Playwright's event loop would disturb papermill in other modules.
@pytest.fixture(scope="module")
def chromium():
    "A running chromium."
    if missing():
        pytest.skip(missing())
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * SECONDS)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find_chromium(), args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, request):
    "A fresh page, 1280 px wide. `page.problems` lists the errors that JavaScript raises or logs."
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(1000 * SECONDS)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda e: page.problems.append(f"thrown: {e}"))
    page.on("console", lambda m: page.problems.append(f"logged: {m.text}") if m.type == "error" else None)
    yield page
    if getattr(request.node, "failed", False):
        screenshot(page, f"failed-{request.node.name}")
    context.close()
    thrown = [p for p in page.problems if p.startswith("thrown")]
    assert not thrown, thrown


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.failed = True
    return report


def pytest_terminal_summary(terminalreporter):
    if not MEASURED:
        return
    terminalreporter.section("measured in the browser")
    for line in MEASURED:
        terminalreporter.write_line(line)


def measured(text):
    "Add a line to the end of pytest's report."
    MEASURED.append(text)


def says(page, text):
    "Wait until the page shows exactly this text."
    from playwright.sync_api import expect

    expect(page.get_by_text(text, exact=True)).to_be_visible()


def drag(page, box, *where, key=None):
    "Drag the mouse through positions relative to a box, with a key held down if one is named."
    points = [(box["x"] + p["x"], box["y"] + p["y"]) for p in where]
    if key:
        page.keyboard.down(key)
    page.mouse.move(*points[0])
    page.mouse.down()
    for p in points[1:]:
        page.mouse.move(*p, steps=5)
    page.mouse.up()
    if key:
        page.keyboard.up(key)


def latency(page, act, pictures=".wsss-picture", changed=1):
    "Return the ms from the first key or pointer event of `act()` until `changed` of the pictures have changed."
    page.evaluate(
        """([pictures, left]) => {
        let acted = 0;
        const note = (e) => { acted ||= e.timeStamp; };
        for (const type of ['keydown', 'pointerdown', 'pointermove', 'input']) document.addEventListener(type, note, { capture: true });
        window.latency = new Promise((done) => document.querySelectorAll(pictures).forEach((root) =>
            new MutationObserver((_, observer) => {
                observer.disconnect();
                if (!--left) requestAnimationFrame(() => done(performance.now() - acted));
            }).observe(root, { attributeFilter: ['data-shown'] })));
    }""",
        [pictures, changed],
    )
    act()
    return page.evaluate("window.latency")


def screenshot(page, name, of=None):
    "Save a PNG of the page, or of the locator `of`, in the folder WSSS_NB_SCREENSHOTS, if that is set."
    if folder := os.environ.get("WSSS_NB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (of or page).screenshot(path=Path(folder) / f"{name}.png")


class Server:
    "JupyterLab or Voilà on 127.0.0.1, with its notebooks, settings and caches below `folder`."

    def __init__(self, kind, folder):
        self.kind = kind
        self.folder = folder / "notebooks"
        self.token = secrets.token_hex()
        self.folder.mkdir(parents=True)
        self.log = folder / "server.log"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = folder / "config"
        (config / "labconfig").mkdir(parents=True)
        (config / "labconfig/page_config.json").write_text(
            '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
        )
        env = dict(
            os.environ,
            JUPYTER_CONFIG_DIR=str(config),
            JUPYTER_DATA_DIR=str(folder / "data"),
            JUPYTER_RUNTIME_DIR=str(folder / "run"),
            JUPYTERLAB_SETTINGS_DIR=str(folder / "settings"),
            JUPYTERLAB_WORKSPACES_DIR=str(folder / "workspaces"),
            IPYTHONDIR=str(folder / "ipython"),
            MPLCONFIGDIR=str(folder / "matplotlib"),
            JUPYTER_PREFER_ENV_PATH="1",
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS="1",
            OMP_WAIT_POLICY="passive",
            PYDEVD_DISABLE_FILE_VALIDATION="1",
        )
        options = {
            "voila": [
                "voila",
                str(self.folder),
                "--Voila.ip=127.0.0.1",
                f"--token={self.token}",
                "--show_tracebacks=True",
            ],
            "lab": [
                "jupyterlab",
                "--ServerApp.ip=127.0.0.1",
                "--allow-root",
                f"--ServerApp.root_dir={self.folder}",
                f"--IdentityProvider.token={self.token}",
                "--ServerApp.port_retries=0",
                "--LabApp.expose_app_in_browser=True",
            ],
        }
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *options[kind], "--no-browser", f"--port={self.port}"],
                env=env,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait(self):
        "Wait until the server listens (requests then wait until it is ready)."
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.1)
        raise RuntimeError(f"{self.kind} does not answer:\n{self.text()[-3000:]}")

    def text(self):
        "Return the log."
        return self.log.read_text(errors="replace")

    def close(self):
        "End the server and its kernels."
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self.process.pid)
            family = [server, *server.children(recursive=True)]
            self.process.send_signal(signal.SIGTERM)
            for left in psutil.wait_procs(family, timeout=15)[1]:
                left.kill()
        self.process.wait()

    def show(self, page, *what):
        """Open cells of code, or one existing notebook (a Path), and run them.

        Returns when Voilà shows the page, or when JupyterLab has run all cells."""
        name = f"n{len(list(self.folder.glob('*.ipynb')))}.ipynb"
        if len(what) == 1 and isinstance(what[0], Path):
            shutil.copy(what[0], self.folder / name)
        else:
            spec = {"name": "python3", "display_name": "python3", "language": "python"}
            cells = [nbformat.v4.new_code_cell(source) for source in what]
            nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
            nbformat.write(nb, self.folder / name)
        if self.kind == "voila":
            page.goto(f"{self.url}/voila/render/{name}?token={self.token}", wait_until="domcontentloaded")
            page.locator("#rendered_cells").wait_for(state="attached")
        else:
            page.goto(
                f"{self.url}/lab/workspaces/{name[:-6]}/tree/{name}?token={self.token}",
                wait_until="domcontentloaded",
            )
            page.locator(".jp-Notebook .jp-Cell").first.wait_for()
            page.evaluate("""async () => {
                await jupyterapp.restored;
                const session = jupyterapp.shell.currentWidget.sessionContext;
                await session.ready; await session.session.kernel.info;
                await jupyterapp.commands.execute('notebook:run-all-cells');
            }""")


def _server(kind, folder):
    "Start a server, yield it and close it; skip the test if no browser test can run."
    if missing():
        pytest.skip(missing())
    server = Server(kind, folder)
    try:
        yield server.wait()
    finally:
        server.close()


@pytest.fixture(scope="module")
def voila(tmp_path_factory, warm_kernels):
    "A running Voilà server."
    yield from _server("voila", tmp_path_factory.mktemp("voila"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory, warm_kernels):
    "A running JupyterLab server."
    yield from _server("lab", tmp_path_factory.mktemp("lab"))


def together(kind):
    "Mark a test as one of those that a single worker runs, with one server and one set of runs."
    return pytest.mark.xdist_group(kind)


@pytest.fixture(params=[pytest.param(kind, marks=together(kind)) for kind in ("voila", "lab")])
def served(request):
    "Each server in turn: the test runs in Voilà and in JupyterLab."
    return request.getfixturevalue(request.param)
