"Photograph the explorer for figures/explorer.jpg: `python tests/screenshot.py RUNS`, a store after `make demo`."

import sys
import tempfile
from pathlib import Path

from browser import ARGS, SECONDS, Server, find_chromium, missing
from notebooks import ROOT

PAGE = """
from wsss_nb.explore.cams.app import CamExplorer
explorer = CamExplorer(store={runs!r}, split="val", image="val_00010", pixel=(50, 75))
explorer
"""


def shoot(runs, file):
    "Save a JPEG of the explorer on the latest runs of a store, at 1.5 times the page's resolution."
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=find_chromium(), args=ARGS)
        server = Server("voila", Path(folder))
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=1.5)
            page.set_default_timeout(3000 * SECONDS)
            server.wait().show(page, PAGE.format(runs=str(Path(runs).resolve())))
            page.locator(".wsss-app .wsss-picture img").nth(2).wait_for()
            page.wait_for_timeout(5000)  # for captions and thumbnails
            page.locator(".wsss-app").screenshot(path=file, type="jpeg", quality=80)
        finally:
            server.close()
            browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or missing():
        sys.exit(missing() or __doc__)
    shoot(sys.argv[1], ROOT / "figures/explorer.jpg")
