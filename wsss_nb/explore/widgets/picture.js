// A picture that reports the pixel of a click or key. The model's traits are described in picture.py.
const STYLE = `
.wsss-picture { display: inline-block; position: relative; margin: 4px; line-height: 0; max-width: calc(100% - 8px); cursor: crosshair; border-radius: 1px; }
.wsss-picture img { display: block; width: 100%; height: auto; user-select: none; -webkit-user-drag: none; pointer-events: none; }
.wsss-picture:focus { outline: none; }
.wsss-picture:focus-visible { outline: 3px solid #0072b2; outline-offset: 1px; }
.wsss-picture svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden; pointer-events: none; }
.wsss-picture output { position: absolute; left: 4px; bottom: 4px; padding: 0 6px; font: 12px/20px system-ui, sans-serif; border-radius: 3px;
  color: #fff; background: rgba(0, 0, 0, .75); pointer-events: none; }
.wsss-picture output:empty { display: none; }
`;
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const clamp = (x, n) => Math.min(Math.max(x, 0), n - 1);

// The image takes no pointer events: a browser drops a click whose target is replaced between press and release, as a new picture would do.
function render({ model, el }) {
  const stop = new AbortController();
  const on = (target, names, f) => names.split(" ").forEach((n) => target.addEventListener(n, f, { signal: stop.signal }));
  const trait = (name, f) => { model.on(`change:${name}`, f); stop.signal.addEventListener("abort", () => model.off(`change:${name}`, f)); f(); };

  const root = document.createElement("div");
  root.className = "wsss-picture";
  root.tabIndex = 0;
  root.setAttribute("role", "application");
  root.setAttribute("aria-roledescription", "picture");
  root.dataset.lmSuppressShortcuts = "true";     // JupyterLab: arrow keys and Enter go to the picture, not to the notebook's cells
  const style = document.createElement("style"), said = document.createElement("output");
  style.textContent = STYLE;
  said.setAttribute("aria-live", "polite");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  root.append(svg, said);
  el.append(style, root);

  let img = null, waiting = null, busy = false, shown = 0;

  // The next picture is decoded off screen and then replaces the last, so that nothing flickers. Of the pictures that arrive meanwhile only the newest is shown.
  async function swap() {
    if (busy) return;
    busy = true;
    while (waiting) {
      const data = waiting;
      waiting = null;
      const url = URL.createObjectURL(new Blob([data])), next = new Image();
      next.alt = "";
      next.draggable = false;
      next.src = url;
      try { await next.decode(); } catch (e) { console.warn("The browser cannot decode this picture.", e); URL.revokeObjectURL(url); continue; }
      if (stop.signal.aborted) { URL.revokeObjectURL(url); return; }
      if (img) { img.replaceWith(next); URL.revokeObjectURL(img.src); } else root.prepend(next);
      img = next;
      resize();
      cross();
      root.dataset.shown = ++shown;
    }
    busy = false;
  }
  const size = () => (img ? [img.naturalHeight, img.naturalWidth] : [0, 0]);
  const resize = () => { if (img) root.style.width = `${model.get("width") || img.naturalWidth}px`; };

  // White on black, with a gap around the pixel, so that it is visible on any background.
  function cross() {
    const at = model.get("cross"), [H, W] = size();
    svg.replaceChildren();
    if (!img || at.length !== 2) return;
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    const u = W / (root.clientWidth || W), y = at[0] + .5, x = at[1] + .5, r = 7 * u, arm = 26 * u;      // u: image pixels per CSS pixel
    const circle = `M${x - r} ${y}a${r} ${r} 0 1 1 ${2 * r} 0a${r} ${r} 0 1 1 ${-2 * r} 0`;
    const d = `${circle}M${x} ${y - r}V${y - arm}M${x} ${y + r}V${y + arm}M${x - r} ${y}H${x - arm}M${x + r} ${y}H${x + arm}`;
    for (const [stroke, width] of [["#000", 4], ["#fff", 1.75]]) {
      const path = document.createElementNS(svg.namespaceURI, "path");
      for (const [k, v] of Object.entries({ d, fill: "none", stroke, "stroke-width": width * u })) path.setAttribute(k, v);
      svg.append(path);
    }
  }

  function move(y, x) {
    const [H, W] = size();
    model.set("cross", [clamp(y, H), clamp(x, W)]);
    model.save_changes();
  }
  function click(y, x) {
    model.set("click", [y, x, model.get("click")[2] + 1]);
    model.save_changes();
  }

  on(root, "click", (e) => {
    if (!img) return;
    const box = img.getBoundingClientRect(), [H, W] = size();
    said.textContent = "";
    click(clamp(Math.floor((e.clientY - box.top) / box.height * H), H), clamp(Math.floor((e.clientX - box.left) / box.width * W), W));
  });
  on(root, "keydown", (e) => {
    if (!img || e.ctrlKey || e.altKey || e.metaKey) return;
    const [H, W] = size(), at = model.get("cross"), arrow = ARROWS[e.key], step = model.get("step");
    if (arrow) {
      const by = e.shiftKey ? 10 : 1;
      if (at.length) move(at[0] + arrow[0] * step[0] * by, at[1] + arrow[1] * step[1] * by); else move(H >> 1, W >> 1);
      said.textContent = `row ${model.get("cross")[0]}, column ${model.get("cross")[1]}`;
    } else if (e.key === "Enter" || e.key === " ") { if (at.length) click(...at); } else return;
    e.preventDefault();
    e.stopPropagation();
  });
  on(root, "blur", () => { said.textContent = ""; });

  trait("data", () => {
    const d = model.get("data");
    waiting = d && d.byteLength ? d : null;
    if (waiting) swap(); else if (img) { img.remove(); img = null; cross(); }
  });
  trait("alt", () => root.setAttribute("aria-label", model.get("alt")));
  trait("width", () => { resize(); cross(); });
  trait("cross", cross);
  return () => { stop.abort(); waiting = null; if (img) URL.revokeObjectURL(img.src); };
}
export default { render };
