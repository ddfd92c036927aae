// A scatter plot of thousands of points with hover, pick and lasso. The model's traits are described in scatter.py.
// Points are stamped into the pixels of one ImageData (a small picture of each shape in each colour, blended here), so that the time of a
// frame does not depend on a graphics card. Marks that follow the pointer lie on a second canvas, so that hovering never redraws the points.
const STYLE = `
.wsss-scatter { display: flex; flex-wrap: wrap; gap: 8px; align-items: flex-start; font: 13px/18px system-ui, sans-serif; color: var(--jp-ui-font-color1, #222); }
.wsss-scatter .plot { position: relative; background: #fff; border: 1px solid #999; touch-action: none; cursor: grab; margin: 5px 3px 3px; }
.wsss-scatter .plot.lasso { cursor: crosshair; }
.wsss-scatter .plot:focus { outline: none; }
.wsss-scatter .plot:focus-visible, .wsss-scatter button:focus-visible { outline: 3px solid #0072b2; outline-offset: 1px; }
.wsss-scatter canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.wsss-scatter .tools { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; margin: 3px 3px 0; }
.wsss-scatter .count { margin-left: 6px; }
.wsss-scatter button { font: inherit; color: inherit; background: none; border: 1px solid #999; border-radius: 3px; padding: 1px 7px; cursor: pointer; }
.wsss-scatter .tools button[aria-pressed=true] { background: #0072b2; border-color: #0072b2; color: #fff; }
.wsss-scatter .legend { display: flex; flex-direction: column; overflow-y: auto; max-width: 220px; padding: 3px; }
.wsss-scatter .legend button { display: flex; gap: 6px; align-items: center; border-color: transparent; padding: 1px 3px; text-align: left; }
.wsss-scatter .legend button:hover { border-color: #999; }
.wsss-scatter .legend button[aria-pressed=false] { text-decoration: line-through; opacity: .55; }
.wsss-scatter .legend canvas { position: static; width: 16px; height: 16px; flex: none; background: #fff; border-radius: 2px; }
.wsss-scatter .tip { position: absolute; padding: 0 6px; font-size: 12px; border-radius: 3px; color: #fff; background: rgba(0, 0, 0, .8); pointer-events: none; white-space: nowrap; }
.wsss-scatter .tip:empty { display: none; }
.wsss-scatter .quiet { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
`;
// FADED: opacity of points that are not highlighted. NEAR: distance at which the pointer finds a point, CSS pixels.
// MARGIN: pixels drawn around the plot, so that no point needs to be clipped at its edge.
const NEUTRAL = "#666666", FADED = .13, NEAR = 12, MARGIN = 64;
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
const bytes = (v) => (v && v.byteLength ? v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength) : new ArrayBuffer(0));

// Outlines of the shapes within radius 1; the order is MARKERS in scatter.py.
const polygon = (...points) => (c, r) => { points.forEach(([x, y], i) => c[i ? "lineTo" : "moveTo"](x * r, y * r)); c.closePath(); };
const star = Array.from({ length: 10 }, (_, i) => { const a = Math.PI * i / 5, r = i % 2 ? .5 : 1.25; return [r * Math.sin(a), -r * Math.cos(a)]; });
const plus = [[-.4, -1.1], [.4, -1.1], [.4, -.4], [1.1, -.4], [1.1, .4], [.4, .4], [.4, 1.1], [-.4, 1.1], [-.4, .4], [-1.1, .4], [-1.1, -.4], [-.4, -.4]];
const SHAPES = [
  (c, r) => c.arc(0, 0, r, 0, 2 * Math.PI),
  polygon([-.9, -.9], [.9, -.9], [.9, .9], [-.9, .9]),
  polygon([0, -1.2], [1.15, .85], [-1.15, .85]),
  polygon([0, -1.25], [1.1, 0], [0, 1.25], [-1.1, 0]),
  polygon(...plus),
  polygon([0, 1.2], [1.15, -.85], [-1.15, -.85]),
  polygon(...plus.map(([x, y]) => [(x - y) * Math.SQRT1_2, (x + y) * Math.SQRT1_2])),
  polygon(...star),
];

function drawShape(c, marker, colour, x, y, r, rim, rimWidth) {
  c.save();
  c.translate(x, y);
  c.beginPath();
  SHAPES[marker % SHAPES.length](c, r);
  c.fillStyle = colour;
  c.strokeStyle = rim;
  c.lineWidth = rimWidth;
  c.lineJoin = "round";
  c.stroke();
  c.fill();
  c.restore();
}

// One shape in one colour, prepared for stamping: offsets of the pixels that it covers, and of those at its rim, which are blended.
function makeStamp(marker, colour, radius, opacity, width) {
  const half = Math.ceil(radius * 1.4 + 1), side = 2 * half + 1, c = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  c.globalAlpha = opacity;
  drawShape(c, marker, colour, half + .5, half + .5, radius, "rgba(255, 255, 255, .7)", radius * .3);
  const { data } = c.getImageData(0, 0, side, side), full = [], colours = [], rim = [], over = [], under = [];
  for (let i = 0; i < side * side; i++) {
    const [r, g, b, a] = data.subarray(4 * i, 4 * i + 4), offset = ((i / side | 0) - half) * width + i % side - half;
    if (a > 250) { full.push(offset); colours.push(packed(r, g, b)); }
    else if (a > 8) { rim.push(offset); over.push(packed(r * a / 255, g * a / 255, b * a / 255)); under.push(256 - Math.round(a * 256 / 255)); }
  }
  return {
    full: Int32Array.from(full), colours: Uint32Array.from(colours), rim: Int32Array.from(rim), over: Uint32Array.from(over), under: Uint32Array.from(under),
  };
}
const packed = (r, g, b) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;               // the memory layout of ImageData (little-endian)

// pixels: the plot as one number per pixel. Two of the three channels are blended by one multiplication.
function stamp(pixels, s, at) {
  const { full, colours, rim, over, under } = s;
  for (let i = 0; i < full.length; i++) pixels[at + full[i]] = colours[i];
  for (let i = 0; i < rim.length; i++) {
    const o = at + rim[i], d = pixels[o], u = under[i];
    pixels[o] = over[i] + ((d & 0xff00ff) * u >>> 8 & 0xff00ff) + (((d >>> 8 & 0xff) * u) & 0xff00);
  }
}

function inPolygon(x, y, p) {
  let inside = false;
  for (let i = 0, j = p.length - 2; i < p.length; j = i, i += 2) {
    if ((p[i + 1] > y) !== (p[j + 1] > y) && x < (p[j] - p[i]) * (y - p[i + 1]) / (p[j + 1] - p[i + 1]) + p[i]) inside = !inside;
  }
  return inside;
}

function render({ model, el }) {
  const stop = new AbortController();
  const on = (target, names, f, options = {}) => names.split(" ").forEach((n) => target.addEventListener(n, f, { signal: stop.signal, ...options }));
  const listen = (names, f) => names.split(" ").forEach((n) => {
    model.on(`change:${n}`, f);
    stop.signal.addEventListener("abort", () => model.off(`change:${n}`, f));
  });
  const make = (tag, parent, attributes = {}, text = "") => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    e.textContent = text;
    parent.append(e);
    return e;
  };
  const set = (values) => { for (const [k, v] of Object.entries(values)) model.set(k, v); model.save_changes(); };

  make("style", el, {}, STYLE);
  const root = make("div", el, { class: "wsss-scatter", "data-lm-suppress-shortcuts": "true" });   // JupyterLab: keys go to the plot, not to the notebook's cells
  const main = make("div", root), tools = make("div", main, { class: "tools", role: "toolbar", "aria-label": "scatter plot" });
  const plot = make("div", main, { class: "plot", tabindex: 0, role: "application", "aria-roledescription": "scatter plot" });
  const below = make("canvas", plot).getContext("2d", { alpha: false }), above = make("canvas", plot).getContext("2d");
  const tip = make("div", plot, { class: "tip" }), said = make("div", plot, { class: "quiet", "aria-live": "polite" });
  const legend = make("div", root, { class: "legend", role: "group", "aria-label": "legend" });
  const tool = (text, title, f) => { const b = make("button", tools, { type: "button", title, "aria-label": title }, text); on(b, "click", f); return b; };
  const panButton = tool("Move", "Drag moves the points", () => set({ mode: "pan" }));
  const lassoButton = tool("Lasso", "Drag around points selects them (Shift and drag does so any time)", () => set({ mode: "lasso" }));
  tool("+", "Larger (+)", () => zoom(1.5, w / 2, h / 2));
  tool("−", "Smaller (-)", () => zoom(1 / 1.5, w / 2, h / 2));
  tool("All", "Show all points (0, or double click)", () => reset());
  tool("Clear", "Clear selection (Escape)", () => clear());
  const count = make("div", tools, { class: "count" });

  let xy = new Float32Array(0), order = new Uint32Array(0), colour = new Uint8Array(0), marker = new Uint8Array(0), n = 0;         // the data
  let w = 0, h = 0, dpr = 1, image, pixels;                                                           // the canvases
  let view = { k: 1, x: 0, y: 0 };                                                                     // on screen: k * fitted + (x, y), CSS pixels
  let fit = { k: 1, x: 0, y: 0 }, sx = new Float32Array(0), sy = new Float32Array(0);                  // fitted to the plot; where each point is now
  let visible = new Uint8Array(0), chosen = new Uint8Array(0), bright = new Uint32Array(0), someChosen = false;
  let stamps = new Map(), lasso = null, drag = null, cursor = -1, dirty = 0, frame = 0;

  // ---- data
  function read() {
    xy = new Float32Array(bytes(model.get("points")));
    n = xy.length / 2;
    const fill = (name) => { const v = new Uint8Array(bytes(model.get(name))), all = new Uint8Array(n); all.set(v.subarray(0, n)); return all; };
    colour = fill("colour");
    marker = fill("marker");
    order = Uint32Array.from({ length: n }, (_, i) => i);             // shuffled with a fixed seed, so that the last category does not hide the others
    for (let i = n - 1, seed = 1; i > 0; i--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const j = seed % (i + 1), other = order[j];
      order[j] = order[i];
      order[i] = other;
    }
    sx = new Float32Array(n);
    sy = new Float32Array(n);
    cursor = model.get("picked") < n ? model.get("picked") : -1;
    stamps.clear();
    fitAll();
    readVisible();
    readSelected();
    plot.setAttribute("aria-label", `${model.get("title") || "scatter plot"}, ${n} points. Arrow keys go from point to point, Enter picks, Escape clears.`);
  }
  function fitAll() {
    let x0 = Infinity, x1 = -Infinity, y0 = Infinity, y1 = -Infinity;
    for (let i = 0; i < n; i++) {
      const x = xy[2 * i], y = xy[2 * i + 1];
      if (x < x0) x0 = x; if (x > x1) x1 = x; if (y < y0) y0 = y; if (y > y1) y1 = y;
    }
    const k = Math.min((w - 24) / (x1 - x0 || 1), (h - 24) / (y1 - y0 || 1));       // one scale for both axes, so that distances are comparable
    fit = n ? { k, x: w / 2 - k * (x0 + x1) / 2, y: h / 2 + k * (y0 + y1) / 2 } : { k: 1, x: 0, y: 0 };
    redraw();
  }
  function readVisible() {
    const hidden = new Set(model.get("hidden")), entries = model.get("legend");
    visible = new Uint8Array(n).fill(1);
    for (const e of hidden) {
      if (!entries[e]) continue;
      const [, c, m] = entries[e];
      for (let i = 0; i < n; i++) if ((c < 0 || colour[i] === c) && (m < 0 || marker[i] === m)) visible[i] = 0;
    }
    redraw();
  }
  function readSelected() {
    chosen = new Uint8Array(n);
    for (const i of new Uint32Array(bytes(model.get("selected")))) if (i < n) chosen[i] = 1;
    bright = new Uint32Array(bytes(model.get("highlighted"))).filter((i) => i < n);
    const number = chosen.reduce((a, b) => a + b, 0);
    someChosen = number > 0;
    count.textContent = `${n.toLocaleString("en")} points` + (someChosen ? `, ${number.toLocaleString("en")} selected` : "");
    redraw();
  }
  function describe(i) {
    const texts = model.get("legend").filter(([, c, m]) => (c < 0 || colour[i] === c) && (m < 0 || marker[i] === m)).map(([t]) => t);
    return texts.join(", ");
  }

  // ---- drawing, at most once a frame
  const redraw = () => { dirty = 2; schedule(); }, retouch = () => { dirty = Math.max(dirty, 1); schedule(); };
  const schedule = () => { if (!frame) frame = requestAnimationFrame(draw); };
  function draw() {
    frame = 0;
    const start = performance.now();
    if (dirty === 2) drawPoints();
    drawAbove();
    dirty = 0;
    plot.dataset.drawn = Number(plot.dataset.drawn || 0) + 1;
    plot.dataset.ms = (performance.now() - start).toFixed(2);
  }
  const hex = (i) => model.get("palette")[colour[i]] || NEUTRAL;
  const radius = () => model.get("radius") * Math.min(2, Math.max(1, view.k ** .3));                // grows slowly with the zoom
  function place() {
    const k = fit.k * view.k, x = fit.x * view.k + view.x, y = fit.y * view.k + view.y;
    for (let i = 0; i < n; i++) { sx[i] = k * xy[2 * i] + x; sy[i] = y - k * xy[2 * i + 1]; }
  }
  function drawPoints() {
    place();
    pixels.fill(0xffffffff);
    const fade = someChosen || bright.length, quarters = Math.round(4 * radius() * dpr), { width: W, height: H } = image;
    const meant = new Uint8Array(someChosen ? chosen : n);
    for (const i of bright) meant[i] = 1;
    for (const pass of fade ? [0, 1] : [1]) {
      for (const i of order) {
        if (!visible[i] || (fade && meant[i] !== pass)) continue;
        const x = Math.round(sx[i] * dpr) + MARGIN, y = Math.round(sy[i] * dpr) + MARGIN;
        if (x < MARGIN / 2 || y < MARGIN / 2 || x > W - MARGIN / 2 || y > H - MARGIN / 2) continue;
        const key = ((colour[i] * 256 + marker[i]) * 2 + pass) * 256 + quarters;
        let s = stamps.get(key);
        if (!s) stamps.set(key, s = makeStamp(marker[i], hex(i), quarters / 4, pass ? 1 : FADED, W));
        stamp(pixels, s, y * W + x);
      }
    }
    below.putImageData(image, -MARGIN, -MARGIN);
  }
  function drawAbove() {
    const c = above;
    c.setTransform(dpr, 0, 0, dpr, 0, 0);
    c.clearRect(0, 0, w, h);
    const r = radius();
    for (const i of bright) if (visible[i]) drawShape(c, marker[i], hex(i), sx[i], sy[i], r * 1.5, "#000", 2);
    const picked = model.get("picked"), hover = model.get("hover");
    if (picked >= 0 && picked < n) ring(c, picked, 1.4 * r + 7, true);
    if (hover >= 0 && hover < n) ring(c, hover, 1.4 * r + 4, false);
    if (lasso && lasso.length > 2) {
      c.beginPath();
      for (let i = 0; i < lasso.length; i += 2) c[i ? "lineTo" : "moveTo"](lasso[i], lasso[i + 1]);
      c.closePath();
      c.fillStyle = "rgba(0, 114, 178, .12)";
      c.fill();
      c.strokeStyle = "#222";
      c.lineWidth = 1.5;
      c.setLineDash([5, 3]);
      c.stroke();
      c.setLineDash([]);
    }
    tip.textContent = hover >= 0 && hover < n ? describe(hover) : "";
    if (tip.textContent) {
      const left = sx[hover] > w / 2;
      tip.style.left = left ? "" : `${sx[hover] + 12}px`;
      tip.style.right = left ? `${w - sx[hover] + 12}px` : "";
      tip.style.top = `${Math.min(Math.max(sy[hover] - 26, 2), h - 22)}px`;
    }
  }
  function ring(c, i, r, cross) {
    if (!visible[i]) return;
    drawShape(c, marker[i], hex(i), sx[i], sy[i], radius() * 1.3, "#000", 1.5);
    for (const [style, width] of [["#fff", 4.5], ["#000", 2]]) {
      c.beginPath();
      c.arc(sx[i], sy[i], r, 0, 2 * Math.PI);
      if (cross) for (const [dx, dy] of Object.values(ARROWS)) { c.moveTo(sx[i] + dx * r, sy[i] + dy * r); c.lineTo(sx[i] + dx * (r + 7), sy[i] + dy * (r + 7)); }
      c.strokeStyle = style;
      c.lineWidth = width;
      c.stroke();
    }
  }

  // ---- size, view
  function resize() {
    w = model.get("width");
    h = model.get("height");
    dpr = Math.min(window.devicePixelRatio || 1, 2);
    plot.style.width = `${w}px`;
    plot.style.height = `${h}px`;
    legend.style.maxHeight = `${h + 30}px`;
    for (const c of [below, above]) { c.canvas.width = Math.round(w * dpr); c.canvas.height = Math.round(h * dpr); }
    image = new ImageData(below.canvas.width + 2 * MARGIN, below.canvas.height + 2 * MARGIN);
    pixels = new Uint32Array(image.data.buffer);
    stamps.clear();
    fitAll();
  }
  function zoom(by, x, y) {
    const k = Math.min(Math.max(view.k * by, .5), 200);
    view = { k, x: x - (x - view.x) * k / view.k, y: y - (y - view.y) * k / view.k };
    redraw();
  }
  function reset() { view = { k: 1, x: 0, y: 0 }; redraw(); }
  function clear() { set({ selected: new Uint8Array(0), picked: -1, hover: -1 }); readSelected(); }

  // ---- search
  function nearest(x, y) {
    let best = -1, least = NEAR * NEAR;
    for (let i = 0; i < n; i++) {
      const dx = sx[i] - x, dy = sy[i] - y, d = dx * dx + dy * dy;
      if (d <= least && visible[i]) { least = d; best = i; }
    }
    return best;
  }
  function towards(from, [ux, uy]) {                                   // the nearest point within 45° of a direction
    let best = -1, least = Infinity;
    for (let i = 0; i < n; i++) {
      if (i === from || !visible[i]) continue;
      const dx = sx[i] - sx[from], dy = sy[i] - sy[from], ahead = dx * ux + dy * uy, aside = Math.abs(dx * uy - dy * ux);
      if (ahead <= 0 || aside > ahead) continue;
      const d = ahead + 2 * aside;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  function central() {
    let best = -1, least = Infinity;
    for (let i = 0; i < n; i++) { const d = (sx[i] - w / 2) ** 2 + (sy[i] - h / 2) ** 2; if (visible[i] && d < least) { least = d; best = i; } }
    return best;
  }
  function intoView(i) {
    place();
    const m = 10, dx = sx[i] < m ? m - sx[i] : sx[i] > w - m ? w - m - sx[i] : 0, dy = sy[i] < m ? m - sy[i] : sy[i] > h - m ? h - m - sy[i] : 0;
    if (dx || dy) { view.x += dx; view.y += dy; redraw(); }
  }
  let pending = 0;
  function hover(i) {                                                  // sent to Python at most every 40 ms; the last one is always sent
    if (i === model.get("hover")) return;
    model.set("hover", i);
    retouch();
    if (!pending) pending = setTimeout(() => { pending = 0; model.save_changes(); }, 40);
  }

  // ---- pointer
  let armed = false;                                                   // false: the wheel scrolls the page, as when the plot scrolls under a resting pointer
  const at = (e) => { const b = plot.getBoundingClientRect(); return [e.clientX - b.left - plot.clientLeft, e.clientY - b.top - plot.clientTop]; };
  on(plot, "pointerdown", (e) => {
    if (e.button) return;
    plot.setPointerCapture(e.pointerId);
    const [x, y] = at(e);
    drag = { x, y, x0: x, y0: y, moved: false, lasso: e.shiftKey || model.get("mode") === "lasso" };
  });
  on(plot, "pointermove", (e) => {
    const [x, y] = at(e);
    if (e.movementX || e.movementY) armed = true;
    if (!drag) { hover(nearest(x, y)); return; }
    if (!drag.moved && Math.hypot(x - drag.x0, y - drag.y0) < 4) return;
    if (!drag.moved && drag.lasso) lasso = [drag.x0, drag.y0];
    drag.moved = true;
    if (drag.lasso) { lasso.push(x, y); retouch(); } else { view.x += x - drag.x; view.y += y - drag.y; redraw(); }
    drag.x = x;
    drag.y = y;
  });
  on(plot, "pointerup", (e) => {
    if (!drag) return;
    const done = drag, [x, y] = at(e);
    drag = null;
    if (!done.moved) { const i = nearest(x, y); if (i >= 0) pick(i); return; }
    if (done.lasso) select();
  });
  on(plot, "pointercancel", () => { drag = null; lasso = null; retouch(); });
  on(plot, "pointerleave", () => { armed = false; if (!drag) hover(-1); });
  on(plot, "dblclick", (e) => { if (nearest(...at(e)) < 0) reset(); });
  on(plot, "wheel", (e) => { if (!armed) return; e.preventDefault(); zoom(Math.exp(-e.deltaY * (e.deltaMode ? .05 : .0015)), ...at(e)); }, { passive: false });
  function pick(i) { set({ picked: i }); said.textContent = `picked ${describe(i)}`; }
  function select() {
    const inside = [];
    if (lasso.length > 5) for (let i = 0; i < n; i++) if (visible[i] && inPolygon(sx[i], sy[i], lasso)) inside.push(i);
    lasso = null;
    set({ selected: new Uint8Array(Uint32Array.from(inside).buffer) });
    readSelected();
    said.textContent = `${inside.length} points selected`;
  }

  // ---- keys
  on(plot, "keydown", (e) => {
    if (e.ctrlKey || e.altKey || e.metaKey) return;
    if (ARROWS[e.key]) {
      if (cursor < 0) cursor = model.get("hover") >= 0 ? model.get("hover") : model.get("picked") >= 0 ? model.get("picked") : -1;
      const next = cursor < 0 ? central() : towards(cursor, ARROWS[e.key]);
      if (next >= 0) { cursor = next; intoView(next); hover(next); said.textContent = describe(next); }
    } else if (e.key === "Enter" || e.key === " ") { if (model.get("hover") >= 0) pick(model.get("hover")); }
    else if (e.key === "+" || e.key === "=") zoom(1.5, w / 2, h / 2);
    else if (e.key === "-") zoom(1 / 1.5, w / 2, h / 2);
    else if (e.key === "0") reset();
    else if (e.key === "Escape") { lasso = null; drag = null; clear(); }
    else return;
    e.preventDefault();
    e.stopPropagation();
  });

  // ---- legend
  function drawLegend() {
    const palette = model.get("palette");
    legend.replaceChildren();
    model.get("legend").forEach(([text, c, m], i) => {
      const b = make("button", legend, { type: "button", title: "Show or hide these points" }), icon = make("canvas", b, { width: 32, height: 32 });
      drawShape(icon.getContext("2d"), Math.max(m, 0), palette[c] || NEUTRAL, 16, 16, 10, "#fff", 2);
      make("span", b, {}, text);
      b.onclick = () => { const now = new Set(model.get("hidden")); if (!now.delete(i)) now.add(i); set({ hidden: [...now].sort((a, b) => a - b) }); };
    });
    showHidden();
  }
  function showHidden() {
    const hidden = new Set(model.get("hidden"));
    [...legend.children].forEach((b, i) => b.setAttribute("aria-pressed", !hidden.has(i)));
    readVisible();
  }
  function showMode() {
    const isLasso = model.get("mode") === "lasso";
    plot.classList.toggle("lasso", isLasso);
    lassoButton.setAttribute("aria-pressed", isLasso);
    panButton.setAttribute("aria-pressed", !isLasso);
  }

  resize();
  read();
  drawLegend();
  showMode();
  let reading = false;
  listen("points", () => { view = { k: 1, x: 0, y: 0 }; });
  listen("points colour marker palette radius", () => { if (!reading) { reading = true; queueMicrotask(() => { reading = false; read(); }); } });
  listen("legend palette", drawLegend);
  listen("hidden", showHidden);
  listen("selected highlighted", readSelected);
  listen("hover", retouch);
  listen("picked", () => { const i = model.get("picked"); if (i >= 0 && i < n) { cursor = i; intoView(i); } retouch(); });
  listen("width height", resize);
  listen("mode", showMode);
  return () => { stop.abort(); cancelAnimationFrame(frame); clearTimeout(pending); };
}
export default { render };
