"Run notebooks in their own kernels, a few at a time, in a copy of the project so that no test writes to the work tree."
import asyncio
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
WORKERS = int(os.environ.get('WSSS_NB_TEST_WORKERS', 2))
TIMEOUT = int(os.environ.get('WSSS_NB_TEST_TIMEOUT', 300))   # seconds for one whole notebook
ANSI = re.compile(r'\x1b\[[0-9;]*m')


def library_notebooks(): return sorted(p.stem for p in NBS.glob('[0-9]*.ipynb'))


def companions(): return sorted(p.stem for p in NBS.glob('[a-z]*.ipynb') if p.stem != 'index')


def read(path): return nbformat.read(path, as_version=4)


def exported(nb): return any(re.match(r'#\|\s*default_exp', c.source) for c in nb.cells if c.cell_type == 'code')


def scratch_project(folder):
    "A copy of nbs/ with its neighbours where relative paths expect them (`../..` is this clone's parent)."
    project = folder/'project'
    shutil.copytree(NBS, project/'nbs', ignore=shutil.ignore_patterns('.*', '__pycache__', 'runs'))
    shutil.copy(ROOT/'settings.ini', project)
    shutil.copytree(ROOT/'wsss_nb', project/'wsss_nb', ignore=shutil.ignore_patterns('__pycache__'))
    shared = ROOT.parent/'shared'
    if shared.exists(): (folder/'shared').symlink_to(shared)
    return project


def location(nb):
    "The first cell that failed, as a person would look for it."
    for i, c in enumerate(nb.cells):
        if any(o.output_type == 'error' for o in c.get('outputs', [])): return f"cell {i} (id {c.get('id')})"
    return 'unknown cell'


class Pool:
    "Notebooks running in threads, each with a kernel process of its own."

    def __init__(self, names, folder):
        self.project, self.seconds = scratch_project(folder), {}
        self.env = dict(os.environ, OMP_NUM_THREADS='1', OMP_WAIT_POLICY='passive', PYTHONPATH=str(self.project),
                        IPYTHONDIR=str(folder/'ipython'), JUPYTER_DATA_DIR=str(folder/'jupyter'),
                        PYTHONHASHSEED='0')
        self.threads = ThreadPoolExecutor(WORKERS)
        self.futures = {n: self.threads.submit(self._run, n) for n in names}

    def wait(self, name):
        "'' when the notebook ran through, else what a person needs to see."
        return self.futures[name].result()

    def close(self): self.threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, name):
        start, nb = time.perf_counter(), read(self.project/'nbs'/f'{name}.ipynb')
        client = NotebookClient(nb, kernel_name='python3', timeout=TIMEOUT,
                                resources={'metadata': {'path': str(self.project/'nbs')}})
        try: asyncio.run(self._execute(client))
        except CellExecutionError as e:
            return f"{name}.ipynb, {location(nb)} failed:\n{ANSI.sub('', str(e))}"
        except TimeoutError: return f"{name}.ipynb took longer than {TIMEOUT} s (see WSSS_NB_TEST_TIMEOUT)"
        except Exception as e: return f"{name}.ipynb could not be run: {type(e).__name__}: {ANSI.sub('', str(e))}"
        finally: self.seconds[name] = time.perf_counter() - start
        return ''

    async def _execute(self, client):
        await asyncio.wait_for(client.async_execute(env=self.env), TIMEOUT)
