"The widgets in Voilà and in JupyterLab, clicked in chromium (see `browser.py`)."

import io
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from browser import drag, latency, measured, says, screenshot, together
from notebooks import ROOT
from PIL import Image
from test_explore import near_truth
from torchvision import tv_tensors

from wsss_nb.cams import cam_path, save_cam
from wsss_nb.data.catalog import open_data
from wsss_nb.data.folder import write_folder
from wsss_nb.explore.cams.app import CamExplorer
from wsss_nb.explore.map.app import FeatureMap
from wsss_nb.explore.nroi.app import NroiExplorer
from wsss_nb.explore.source import SHORT, Source, short_runs

PICTURE = """
import io
import numpy as np
from PIL import Image
from ipywidgets import HTML, VBox
from wsss_nb.explore.picture import Picture

def picture(shade):
    out = io.BytesIO()
    y, x = np.mgrid[:75, :100]
    Image.fromarray(np.stack([2 * x, 3 * y, 0 * x + shade], -1).astype(np.uint8)).save(out, 'png')
    return out.getvalue()

shown, clicked, moved = Picture(data=picture(0), alt='colours', width=400), HTML('no click'), HTML('no cross')

def answer(change):
    clicked.value = f'clicked {change.new}'
    shown.data = picture(50 * change.new[2] % 256)

shown.observe(answer, 'click')
def follow(change):
    moved.value = f'cross {change.new}'
    shown.data = picture(sum(change.new))

shown.observe(follow, 'cross')
VBox([shown, clicked, moved])
"""
COUNT_URLS = """
window.urls = 0;
const make = URL.createObjectURL, drop = URL.revokeObjectURL;
URL.createObjectURL = (x) => { window.urls += x instanceof Blob && !x.type; return make(x); };
URL.revokeObjectURL = (x) => { window.urls -= x.startsWith('blob:'); drop(x); };
"""


def test_picture(page, served):
    from playwright.sync_api import expect

    page.add_init_script(COUNT_URLS)
    served.show(page, PICTURE)
    picture = page.get_by_role("application", name="colours")
    picture.locator("img").wait_for()
    assert picture.bounding_box()["width"] == 400  # enlarged four times
    picture.click(position={"x": 4 * 30 + 1, "y": 4 * 20 + 1})
    says(page, "clicked (20, 30, 1)")
    page.evaluate("""() => {                                            // counts moments without a picture
        const root = document.querySelector('.wsss-picture');
        window.gaps = 0;
        new MutationObserver(() => { window.gaps += root.querySelectorAll('img').length !== 1 || !root.querySelector('img').complete; })
            .observe(root, { childList: true });
    }""")
    for _ in range(4):
        picture.click(position={"x": 399, "y": 299})
    says(page, "clicked (74, 99, 5)")  # the last pixel, again and again
    page.wait_for_function("document.querySelector('.wsss-picture').dataset.shown > 2")
    assert page.evaluate("window.gaps") == 0
    picture.hover(position={"x": 4 * 30 + 1, "y": 4 * 20 + 1})
    page.mouse.down()
    last = picture.locator("img").get_attribute("src")
    picture.press("ArrowRight")
    says(page, "cross [37, 50]")  # starts in the middle
    expect(picture.locator(f"img[src='{last}']")).to_have_count(0)  # a new picture between press and release
    page.mouse.up()
    says(page, "clicked (20, 30, 6)")

    before = page.locator(".jp-Notebook.jp-mod-editMode").count()
    picture.press("Shift+ArrowUp")
    picture.press("ArrowLeft")
    says(page, "cross [27, 49]")
    screenshot(page, f"picture-{served.kind}")
    picture.press("Enter")
    says(page, "clicked (27, 49, 7)")
    for _ in range(4):
        picture.press("Shift+ArrowUp")
    says(page, "cross [0, 49]")  # not beyond the edge
    # Enter did not reach the notebook's cell.
    assert page.locator(".jp-Notebook.jp-mod-editMode").count() == before == 0
    assert page.evaluate("window.urls") <= 1  # only the current picture is kept


LATE = """
import asyncio
from ipywidgets import HTML, VBox
from wsss_nb.explore.widgets.parts import Catchup

lines = [HTML() for _ in range(300)]
for line in lines:
    line.add_class('late')

async def change():
    for line in lines:
        line.value = 'changed'
        await asyncio.sleep(.02)

changes = asyncio.get_event_loop().create_task(change())
app = VBox(lines)
VBox([app, Catchup(app)])
"""


@together("voila")
def test_changes_while_the_page_loads(page, voila):
    from playwright.sync_api import expect

    voila.show(page, LATE)
    expect(page.locator(".late")).to_have_count(300)
    expect(page.locator(".late", has_text="changed")).to_have_count(300)


SCATTER = """
import numpy as np
from ipywidgets import HTML, VBox
from wsss_nb.explore.scatter import Scatter, by_category

grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2)          # point 10 * y + x lies at (x, y), y upwards
names = ['boat', 'cow', 'grass', 'water']
scatter = Scatter(title='a grid', width=424, height=424)
scatter.show(grid, **by_category(grid[:, 0] // 3, names))
said = {name: HTML(f'no {name}') for name in ('hover', 'picked', 'selected', 'hidden')}
for name in ('hover', 'picked', 'hidden'):
    scatter.observe(lambda change: setattr(said[change.name], 'value', f'{change.name} {change.new}'), name)

def select(change):
    said['selected'].value = f'selected {scatter.selection.tolist()}'
    scatter.highlight(scatter.selection[:1])

scatter.observe(select, 'selected')
VBox([scatter, *said.values()])
"""


def position(i):
    "Return the position of point i on the plot."
    return {"x": 12 + 400 * (i % 10) / 9 + 1, "y": 12 + 400 * (9 - i // 10) / 9 + 1}  # + 1: the border


def around(*corners):
    "Return positions slightly outside of these points, for a lasso around them."
    xy = np.array([[position(i)["x"], position(i)["y"]] for i in corners])
    return [{"x": x, "y": y} for x, y in xy + 15 * np.sign(xy - xy.mean(0))]


def test_scatter(page, served):
    served.show(page, SCATTER)
    plot = page.get_by_role("application", name="a grid")
    plot.wait_for()
    plot.scroll_into_view_if_needed()
    plot.hover(position=position(42))
    says(page, "hover 42")
    assert plot.get_by_text("boat", exact=True).is_visible()  # the label beside the pointer
    plot.click(position=position(37))
    says(page, "picked 37")
    screenshot(page, f"scatter-picked-{served.kind}")

    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft"):
        plot.press(key)
    says(page, "hover 48")
    plot.press("Enter")
    says(page, "picked 48")
    assert page.locator(".jp-Notebook.jp-mod-editMode").count() == 0

    drag(page, plot.bounding_box(), *around(11, 13, 33, 31), key="Shift")
    says(page, "selected [11, 12, 13, 21, 22, 23, 31, 32, 33]")
    screenshot(page, f"scatter-lasso-{served.kind}")
    page.get_by_role("button", name="cow").press("Enter")  # the legend hides cows: columns 3 to 5
    says(page, "hidden [1]")
    page.keyboard.press("Enter")
    says(page, "hidden []")  # the same entry had the focus
    page.keyboard.press("Enter")
    says(page, "hidden [1]")
    page.get_by_role("button", name="Drag around points").click()
    drag(page, plot.bounding_box(), *around(11, 13, 33, 31))
    says(page, "selected [11, 12, 21, 22, 31, 32]")  # hidden points are not selected
    plot.press("Escape")
    says(page, "selected []")
    says(page, "picked -1")

    page.get_by_role("button", name="Drag moves").click()
    drag(page, plot.bounding_box(), position(0), {"x": position(0)["x"] + 60, "y": position(0)["y"] - 60})
    plot.hover(position={"x": position(0)["x"] + 60, "y": position(0)["y"] - 60})
    says(page, "hover 0")
    plot.dblclick(position={"x": 5, "y": 5})
    plot.hover(position=position(55))
    page.mouse.wheel(0, -600)  # zoom in around the pointer
    here = position(55)
    aside = position(56)
    plot.hover(position={"x": here["x"] + np.exp(0.9) * (aside["x"] - here["x"]), "y": here["y"]})
    says(page, "hover 56")
    screenshot(page, f"scatter-near-{served.kind}")
    plot.dblclick(position={"x": 5, "y": 5})
    plot.hover(position=position(99))
    says(page, "hover 99")  # the view is reset


MANY = """
import numpy as np
from wsss_nb.explore.scatter import Scatter, by_category

rng = np.random.default_rng(0)
labels = rng.integers(0, 20, 10_000)
centres = 6 * rng.normal(size=(20, 2))
scatter = Scatter(title='many', width=800, height=600)
scatter.show(centres[labels] + rng.normal(size=(10_000, 2)), **by_category(labels, [f'class {i}' for i in range(20)]))
scatter
"""
FRAMES = """async (what) => {       // acts in every frame for two seconds; returns ms between frames, ms of drawing
    const plot = document.querySelector('.wsss-scatter .plot'), box = plot.getBoundingClientRect(), gaps = [], drawn = [];
    const send = (type, x, y) => plot.dispatchEvent(new (type === 'wheel' ? WheelEvent : PointerEvent)(type, {
        clientX: box.left + x, clientY: box.top + y, bubbles: true, cancelable: true, pointerId: 1, movementX: 1,
        deltaY: 60 * Math.sin(gaps.length / 8) }));
    plot.setPointerCapture = () => {};
    if (what === 'pan' || what === 'lasso') send('pointerdown', 400, 300);
    let last = 0;
    send('pointermove', 400, 300);
    const before = Number(plot.dataset.drawn);
    const until = performance.now() + 2000;
    await new Promise((done) => requestAnimationFrame(function step(now) {
        if (last) gaps.push(now - last);
        if (plot.dataset.drawn > before + 2) drawn.push(Number(plot.dataset.ms));
        last = now;
        const a = gaps.length / 20, x = 400 + 150 * Math.sin(a), y = 300 + 150 * Math.sin(1.7 * a);
        if (what === 'zoom') send('wheel', 400, 300); else send('pointermove', x, y);
        if (performance.now() < until) requestAnimationFrame(step); else done();
    }));
    if (what === 'pan' || what === 'lasso') send('pointerup', 400, 300);
    return [gaps, drawn];
}"""


def spread(times):
    "Format the median and the 95 % quantile of times in ms."
    return f"median {np.median(times):.1f} ms, 95 % {np.percentile(times, 95):.1f} ms"


@together("voila")
def test_many_points(page, voila):
    voila.show(page, MANY)
    plot = page.get_by_role("application", name="many")
    plot.wait_for()
    page.wait_for_function("document.querySelector('.wsss-scatter .plot').dataset.drawn > 0")
    screenshot(page, "scatter-many")
    for what in ("pan", "zoom", "hover"):
        plot.press("0")  # resets the view
        gaps, drawn = map(np.array, page.evaluate(FRAMES, what))
        assert len(gaps) > 10 and len(drawn) > 3
        rate = len(gaps) / 2
        times = f"between frames {spread(gaps)}; drawing {spread(drawn)}"
        measured(f"{what} of 10,000 points: {rate:.0f} frames/s; {times}")
    plot.dblclick(position={"x": 3, "y": 3})
    circle = [{"x": 400 + 150 * np.cos(a), "y": 300 + 150 * np.sin(a)} for a in np.linspace(0, 6.2, 20)]
    drag(page, plot.bounding_box(), *circle, key="Shift")
    page.get_by_text("selected").first.wait_for()
    screenshot(page, "scatter-many-lasso")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "A store with two runs on a folder of pictures of 500 x 375 pixels; their CAMs are drawn near the ground truth."
    folder = tmp_path_factory.mktemp("photos")
    few = open_data("cooccur?n=8&size=128")

    def large(x):
        resized = Image.fromarray(x.numpy()).resize((500, 375), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(resized))

    def wide(id):
        sample = few.load(id, ["image", "mask"])
        image = torch.stack([large(x) for x in sample["image"]])
        return sample | {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(large(sample["mask"]))}

    write_folder(folder / "data", {s: [wide(i) for i in few.ids(s)] for s in ("train", "val")}, few.classes)
    data = open_data(f"folder:{folder}/data")
    short = SHORT | {"inference.limit": 1}
    for k, run in enumerate(short_runs(folder / "runs", data=data.name, overrides=short)):
        for split, ids in data.splits.items():
            for id in ids:
                save_cam(cam_path(run.path, split, id), near_truth(data, id, 8 * k))
    return folder / "runs"


def opened(page, served, runs):
    "Open the explorer on the two runs, and return its panels."
    served.show(
        page,
        f"""
from wsss_nb.explore.cams.app import CamExplorer
explorer = CamExplorer(store={str(runs)!r}, split="train", device="cpu")
explorer""",
    )
    panels = page.locator(".wsss-panel")
    panels.nth(2).locator("img").wait_for()
    return panels


def test_explorer(page, served, photos):
    from playwright.sync_api import expect

    panels = opened(page, served, photos)
    handle = page.locator(".wsss-field", has_text="Threshold").locator(".noUi-handle")
    times = [
        latency(page, lambda: handle.press(key), ".wsss-panel .wsss-picture", 2)
        for key in ["ArrowRight", "ArrowLeft"] * 12
    ]
    measured(f"explorer in {served.kind}, threshold to both new pictures (500 x 375): {spread(times[4:])}")
    page.get_by_role("button", name="each run's own").click()
    titles = panels.locator(".wsss-title span:first-child")
    ious = panels.nth(1).locator(".wsss-facts td.n")
    expect(titles).to_have_count(3)
    first = titles.nth(0).text_content()
    page.get_by_role("application", name="thumbnails").click(position={"x": 6 + 90 + 40, "y": 40})
    expect(titles.nth(0)).not_to_have_text(first)  # an image was picked
    second = titles.nth(0).text_content()
    page.get_by_role("button", name="›").click()
    expect(titles.nth(0)).not_to_have_text(second)
    screenshot(page, f"explorer-{served.kind}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    ends = page.locator(".wsss-app").evaluate(
        'e => [e, ...e.querySelectorAll("*")].map((x) => x.getBoundingClientRect().right)'
    )
    assert max(ends) <= ends[0] + 1  # nothing is cut off

    # A class is switched off and on again.
    chip = page.locator(".wsss-field", has_text="Classes").locator("button").first
    rows = panels.nth(1).locator(".wsss-facts i")
    n = rows.count()
    chip.click()
    expect(rows).to_have_count(n - 1)
    chip.press("Space")
    expect(rows).to_have_count(n)

    before = ious.first.text_content()
    drag(page, handle.bounding_box(), {"x": 8, "y": 8}, {"x": 120, "y": 8}, {"x": 160, "y": 8})
    expect(ious.first).not_to_have_text(before)  # another threshold, another IoU
    page.get_by_role("button", name="each run's own").click()
    expect(ious.first).to_have_text(before)

    panels.nth(1).get_by_role("application").click(position={"x": 60, "y": 50})
    expect(panels.nth(2).get_by_text("score")).to_be_visible()
    expect(panels.get_by_text("prototype")).to_be_visible()  # of the run with FBR
    panels.nth(1).get_by_role("application").press("Shift+ArrowDown")  # keys choose another pixel
    at = panels.nth(0).get_by_text("row ").text_content()
    panels.nth(1).get_by_role("application").press("Enter")
    expect(panels.nth(0).get_by_text("row ")).not_to_have_text(at)

    page.get_by_label("Layer").select_option("FBR clusters")
    expect(page.get_by_text("clusters, a star at the NROI").first).to_be_visible()
    page.get_by_label("Refinement").select_option("PAMR")
    expect(titles).to_have_count(6)
    expect(page.locator(".wsss-waiting")).to_have_count(0)
    screenshot(page, f"explorer-refined-{served.kind}")
    page.get_by_label("Refinement").select_option("none")
    expect(titles).to_have_count(3)

    with page.expect_download() as saved:
        page.get_by_role("button", name="PNG").click()
    assert Image.open(saved.value.path()).width > 400
    with page.expect_download() as saved:
        page.get_by_role("button", name="SVG").click()
    assert b"<svg" in saved.value.path().read_bytes()
    page.get_by_role("button", name="Code").click()
    expect(page.locator(".wsss-code textarea")).to_have_value(re.compile(r"view\(source, split="))
    page.get_by_role("button", name="Code").click()

    def upload(name, content):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Open image").click()
        chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})

    upload("mine.txt", b"no picture")
    expect(page.get_by_role("alert")).to_contain_text("mine.txt is not a picture")
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(out, "png")
    upload("mine.png", out.getvalue())
    expect(titles.nth(0)).to_have_text("mine.png")
    expect(panels.nth(1)).to_contain_text("probability")
    page.get_by_label("Layer").select_option("CAM")
    expect(page.locator(".wsss-waiting")).to_have_count(0)
    screenshot(page, f"explorer-own-{served.kind}")


@together("lab")
def test_explorer_slider_in_python(photos):
    "Measure the time of a slider's move in Python, without the browser."
    explorer = CamExplorer(store=photos, split="train", device="cpu")
    times = []
    for k in range(30):
        began = time.perf_counter()
        explorer.controls.threshold.value = 0.3 + 0.01 * (k % 20)
        times.append(1000 * (time.perf_counter() - began))
    explorer.close()
    measured(f"explorer, a threshold move of two runs in Python (500 x 375): {spread(times[5:])}")


COMMAND = """
import signal
from wsss_nb.cli import app

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it otherwise
app(prog_name="wsss_nb")
"""


@together("lab")
def test_the_page_of_the_command(page, photos, tmp_path):
    "`wsss_nb app`: the address shows the explorer only with its token; Ctrl-C ends all processes."
    from playwright.sync_api import expect

    options = ["--runs", str(photos), "--device", "cpu", "--port", "0", "--no-browser"]
    call = [sys.executable, "-c", COMMAND, "app", *options]
    env = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        PYTHONUNBUFFERED="1",
        JUPYTER_DATA_DIR=str(tmp_path / "data"),
        JUPYTER_PREFER_ENV_PATH="1",
    )
    with subprocess.Popen(call, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as served:
        try:
            url = served.stdout.readline().strip()
            for _ in range(200):
                try:
                    page.goto(url.partition("?")[0])
                except Exception:
                    page.wait_for_timeout(100)
                else:
                    break
            assert "login" in page.url and not page.locator(".wsss-app").count()
            page.goto(url, wait_until="domcontentloaded")
            expect(page.locator(".wsss-panel img")).to_have_count(3)
            expect(page.get_by_text("without widgets")).to_have_count(0)
            screenshot(page, "app")
            served.send_signal(signal.SIGINT)
            served.wait(60)
        finally:
            served.kill()
    assert not list(tmp_path.glob("*.ipynb"))


CLASSIFIER = """
from torch import manual_seed, nn
from wsss_nb.api import CamExplorer

manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 20))
CamExplorer(model=network, images={folder!r}, names=[f'kind {{c}}' for c in range(20)], device='cpu')
"""


@together("voila")
def test_explorer_of_a_classifier(page, voila, tmp_path):
    "The first CAM appears without a click; a class is found by its name; a damaged picture is a message."
    from playwright.sync_api import expect

    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    voila.show(page, CLASSIFIER.format(folder=str(tmp_path)))
    expect(page.locator(".wsss-panel img")).to_have_count(3)
    says(page, "a.jpg")
    search = page.get_by_placeholder("name or part of it")
    search.fill("kind 17")
    search.press("Enter")
    expect(page.locator(".wsss-chip.mod-active", has_text="kind 17")).to_have_count(1)
    expect(page.locator(".wsss-panel", has_text="Layer-CAM").get_by_text("kind 17")).to_have_count(1)
    expect(search).to_have_value("")
    page.get_by_title("Next image").click()
    says(page, "b.jpg is not a picture that can be read. Choose a JPEG or PNG file.")
    page.get_by_title("Next image").click()
    says(page, "c.jpg")
    screenshot(page, "classifier")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A store with two short runs on drawn scenes."
    root = tmp_path_factory.mktemp("tiny")
    stride = {"training.steps": 8, "augment.long_side": [64, 72], "model.output_stride": 8}
    for method, more in (("cam", {}), ("cam+fbr", {"terms.fbr.warmup": 0.1})):
        short_runs(root, [method], "cooccur?n=24&size=64", SHORT | stride | more)
    return root


MAP = """
from wsss_nb.explore.map.app import FeatureMap
from wsss_nb.explore.source import Source

source = Source.open({store!r}, device='cpu')
gone = [{gone!r}]
read = source.image

def image(id):
    if id in gone:
        gone.remove(id)
        raise OSError('the disk is gone')
    return read(id)

source.image = image
FeatureMap(source, **{choices})
"""


def on_plot(plot, xy, i):
    "Return the position of point i on its scatter plot."
    size = np.array(plot.evaluate("e => [e.clientWidth, e.clientHeight]"))
    low = xy.min(0)
    high = xy.max(0)
    x, y = (xy[i] - (low + high) / 2) * ((size - 24) / (high - low)).min()
    return {"x": float(size[0] / 2 + x + 1), "y": float(size[1] / 2 - y + 1)}


def on_picture(picture, y, x, size):
    "Return the position of a pixel on the page, in a picture of size (H, W)."
    box = picture.locator("img").bounding_box()
    return {"x": (x + 0.5) * box["width"] / size[1], "y": (y + 0.5) * box["height"] / size[0]}


def test_feature_map(page, served, tiny):
    from playwright.sync_api import expect

    choices = dict(classes=["train", "boat"], per_class=20, method="pca")
    source = Source.open(tiny, device="cpu")
    known = FeatureMap(source, wait=True, **choices)  # the same map without a page
    table = known.points.table
    rows, others = known.rows
    xy = known.points.xy[rows]
    far = np.sort(np.linalg.norm(xy[:, None] - xy[None], axis=-1))[
        :, 1
    ]  # distance to the nearest other point

    def fitness(i):
        "Prefer points whose image has several points, then isolated points."
        return (table.image[rows] == table.image[rows[i]]).sum() > 2, far[i]

    i = max(range(len(rows)), key=fitness)
    p = table.iloc[rows[i]]
    q = table[(table.run == p.run) & (table.image == p.image) & ((table.y != p.y) | (table.x != p.x))].iloc[0]
    size = source.image(p.image).shape
    known.state.selected = tuple(others.tolist())
    tile = known.tiles[-1]
    n = len(others)
    known.close()

    def place(p):
        return page.get_by_role("application", name=f"{p.image} · row {p.y}, column {p.x} · ")

    served.show(page, MAP.format(store=str(tiny), gone=p.image, choices=choices))
    plots = page.get_by_role("application", name="PCA of")
    said = page.locator(".wsss-said")
    expect(page.locator(".wsss-scatter .plot[data-drawn]")).to_have_count(2)
    expect(said).to_contain_text(f"PCA of {len(rows)} pixels of")
    expect(page.get_by_text("axes have no unit")).to_be_visible()
    plots.nth(0).scroll_into_view_if_needed()
    before = plots.nth(0).bounding_box()
    plots.nth(0).hover(position=on_plot(plots.nth(0), xy, i))
    expect(page.get_by_role("alert")).to_have_text("OSError: the disk is gone")  # one line ...
    assert plots.nth(0).bounding_box() == before  # ... that does not move the map ...
    plots.nth(0).click(position=on_plot(plots.nth(0), xy, i))
    expect(
        place(p).locator("svg path").first
    ).to_be_attached()  # ... and the next click works: the pixel is marked
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(said).to_contain_text(f"PCA of {len(rows)} pixels of")
    assert plots.nth(0).bounding_box() == before
    screenshot(page, f"map-point-{served.kind}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    place(p).click(position=on_picture(place(p), q.y, q.x, size))
    expect(place(q)).to_be_visible()  # a click on the image picks its point

    plots.nth(1).scroll_into_view_if_needed()
    box = plots.nth(1).bounding_box()
    w = box["width"] - 4
    h = box["height"] - 4
    drag(page, box, *({"x": x, "y": y} for x, y in [(4, 4), (w, 4), (w, h), (4, h)]), key="Shift")
    expect(page.get_by_text(f"{n} points, {n} selected")).to_have_count(2)  # in the map beside it too
    expect(page.get_by_text(f"{n} points of {table.image.nunique()} images")).to_be_visible()
    expect(page.locator(".wsss-counts tr", has_text="all")).to_contain_text(
        str(table.foreground[others].sum())
    )
    sheet = page.get_by_role("application", name="images of the selected points")
    sheet.locator("img").wait_for()
    sheet.click(position={"x": tile.left + 3, "y": tile.top + 3})
    expect(page.get_by_role("application", name=f"{tile.image} · row ")).to_be_visible()
    page.get_by_label("Colour by").select_option("true or false positive")
    expect(page.get_by_role("group", name="legend").first).to_contain_text("background")
    screenshot(page, f"map-lasso-{served.kind}")


NROI = """
from wsss_nb.explore.nroi.app import NroiExplorer
from wsss_nb.explore.source import Source

NroiExplorer(Source.open({store!r}, device='cpu'), images=12, per_image=20)
"""


def test_nroi_explorer(page, served, tiny):
    from playwright.sync_api import expect

    source = Source.open(tiny, device="cpu")
    known = NroiExplorer(source, images=12, per_image=20, wait=True)  # the same explorer without a page
    found = known.regions
    image = known.state.image
    k = known.state.k
    known.state.cluster = cluster = max(found.stars, key=found.share)
    tile = known.tiles[1]
    known.close()

    served.show(page, NROI.format(store=str(tiny)))
    titles = page.locator(".wsss-panel .wsss-title span:first-child")
    pictures = page.locator(".wsss-panel .wsss-picture")
    pictures.nth(1).locator("img").wait_for()
    expect(titles.nth(0)).to_have_text(image)
    expect(page.get_by_text("The patches nearest to some of them:")).to_be_visible()  # the search has ended
    pictures.nth(1).click(position=on_picture(pictures.nth(1), *found.stars[cluster], found.size))
    expect(page.get_by_text(f"Nearest to region {cluster + 1}", exact=True)).to_be_visible()
    expect(page.locator(".wsss-chip.mod-active")).to_have_text(re.compile(rf"^\s*{cluster + 1} · \d+ %"))
    patches = page.get_by_role("application", name="nearest patches")
    bank = page.get_by_role("application", name="stored NROIs")
    patches.first.locator("img").wait_for()
    screenshot(page, f"nroi-{served.kind}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    patches.first.click(position={"x": tile.left + 5, "y": tile.top + 5})
    expect(titles.nth(0)).to_have_text(tile.image)  # the patch's image
    expect(page.locator(".wsss-chip.mod-active")).to_have_count(0)

    page.locator(".wsss-field", has_text="Clusters K").locator(".noUi-handle").press("ArrowRight")
    expect(titles.nth(1)).to_have_text(re.compile(rf"clusters \(K = {k + 1}\)"))
    before = bank.get_attribute("data-shown")
    page.get_by_role("button", name="Others").click()
    expect(bank).not_to_have_attribute("data-shown", before)
    page.get_by_label("Images with").select_option("tractor")
    expect(page.get_by_role("alert")).to_contain_text("No image of val has tractor")
    expect(page.get_by_label("Images with")).to_have_value("any")  # the field was put back
    screenshot(page, f"nroi-said-{served.kind}")
