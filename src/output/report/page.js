// The scatter plot of the report: draws the points of #p8-data on a canvas and answers pointer and keys.
"use strict";
(() => {
  const source = document.getElementById("p8-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const byId = (id) => document.getElementById(id);

  // --- Data -------------------------------------------------------------------------------------

  const unpack = (text) => {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  };
  // Little-endian whatever the machine is.
  const words = (text, Type) => {
    const bytes = unpack(text);
    const size = Type.BYTES_PER_ELEMENT;
    const view = new DataView(bytes.buffer);
    const read = size === 2 ? (at) => view.getUint16(at, true) : (at) => view.getUint32(at, true);
    return Type.from({ length: bytes.length / size }, (_, i) => read(size * i));
  };

  const count = data.points;
  const groupOf = unpack(data.group);
  const labelOf = words(data.label, Uint32Array);
  const shapes = unpack(data.shapes);
  const paths = new Array(count);
  for (let i = 0, before = ""; i < count; i++) {
    const [shared, rest] = data.paths[i];
    before = paths[i] = before.slice(0, shared) + rest;
  }
  // Where in the sheets each picture is: only points that have one take a place.
  const tileOf = new Int32Array(count).fill(-1);
  for (let i = 0, next = 0; i < count; i++) if (shapes[i] > 0) tileOf[i] = next++;
  const columns = new Map();
  const column = (axis) => {
    if (!columns.has(axis)) {
      const { values, low, step } = data.axes[axis];
      columns.set(axis, Float64Array.from(words(values, Uint16Array), (v) => low + v * step));
    }
    return columns.get(axis);
  };
  const labelText = (i) => (labelOf[i] === 0xffffffff ? null : data.labels[labelOf[i]]);
  const number = (value) => String(Number(value.toPrecision(4))).replace("-", "\u2212");
  const grouped = (value) => value.toLocaleString("en-US");
  const axisTitle = ({ name, share }) =>
    share === null ? name : `${name} (${(100 * share).toFixed(1)} % of the variance)`;

  // --- State ------------------------------------------------------------------------------------

  const plot = byId("plot");
  const canvas = byId("points");
  const marks = byId("marks");
  const tip = byId("tip");
  const ctx = canvas.getContext("2d");
  const over = marks.getContext("2d");
  const margin = { left: 66, right: 14, top: 12, bottom: 46 };
  const fast = count > 20000;
  const radius = [[50, 7], [200, 6], [1000, 4.5], [5000, 3.4], [20000, 2.6], [Infinity, 1.6]]
    .find(([most]) => count <= most)[1];

  const axes = [0, 1];
  let xs = column(0), ys = column(1);
  let view, home;
  let width = 0, height = 0, ratio = 1;
  const hidden = new Uint8Array(data.groups.length);
  let hovered = -1, selected = -1, linked = -1;

  // A step that is a prime above the number of points visits each of them once, so that the last
  // folder does not cover the others.
  const order = new Uint32Array(count);
  for (let i = 0, at = 0; i < count; i++, at = (at + 1000003) % count) order[i] = at;

  // --- Colours and marks --------------------------------------------------------------------------

  const outlines = data.groups.map((group) => new Path2D(group.shape));
  let colours = {}, fills = [], glyphs = [];
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    colours = { card: of("--card"), ink: of("--ink"), soft: of("--soft"), hair: of("--hair"), accent: of("--accent") };
    fills = data.groups.map(({ colour }) => (colour === "unlabelled" ? colours.card : of(`--${colour}`)));
  };
  const paintMark = (target, group, size) => {
    const hollow = data.groups[group].colour === "unlabelled";
    target.save();
    target.scale(size, size);
    target.globalAlpha = data.groups[group].colour === "other" ? 0.55 : 0.92;
    target.fillStyle = fills[group];
    target.fill(outlines[group]);
    target.globalAlpha = 1;
    target.strokeStyle = hollow ? colours.soft : colours.card;
    target.lineWidth = (hollow ? 1.3 : 0.8) / size;
    target.stroke(outlines[group]);
    target.restore();
  };
  const makeGlyphs = () => {
    const side = Math.ceil((2.6 * radius + 2) * ratio);
    glyphs = data.groups.map((_, group) => {
      const glyph = document.createElement("canvas");
      glyph.width = glyph.height = side;
      const target = glyph.getContext("2d");
      target.translate(side / 2, side / 2);
      target.scale(ratio, ratio);
      paintMark(target, group, radius);
      return glyph;
    });
  };

  // --- Coordinates --------------------------------------------------------------------------------

  const range = (values) => {
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < count; i++) {
      if (values[i] < low) low = values[i];
      if (values[i] > high) high = values[i];
    }
    const room = high > low ? 0.05 * (high - low) : Math.abs(low) || 1;
    return [low - room, high + room];
  };
  const goHome = () => {
    const [x0, x1] = range(xs), [y0, y1] = range(ys);
    home = { x0, x1, y0, y1 };
    view = { ...home };
  };
  const inner = () => ({ w: width - margin.left - margin.right, h: height - margin.top - margin.bottom });
  const screenX = (value) => margin.left + ((value - view.x0) / (view.x1 - view.x0)) * inner().w;
  const screenY = (value) => margin.top + ((view.y1 - value) / (view.y1 - view.y0)) * inner().h;
  const inside = (x, y) =>
    x >= margin.left && x <= width - margin.right && y >= margin.top && y <= height - margin.bottom;

  const ticks = (low, high, most) => {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((digit) => digit * power).find((round) => round >= rough * (1 - 1e-9));
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(n * step);
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const text = (value) =>
      (step < 1e-4 || step >= 1e5 ? value.toExponential(1) : value.toFixed(Math.min(decimals, 6))).replace("-", "\u2212");
    return found.map((value) => [value, Math.abs(value) < step / 2 ? "0" : text(value)]);
  };

  // --- Drawing ------------------------------------------------------------------------------------

  let planned = false, gridStale = true;
  const redraw = () => {
    gridStale = true;
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => {
      planned = false;
      draw();
      drawMarks();
    });
  };

  const draw = () => {
    const { w, h } = inner();
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    if (fast) drawMany(w, h);
    ctx.font = '12.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
    ctx.lineWidth = 1;
    ctx.strokeStyle = colours.hair;
    ctx.fillStyle = colours.soft;
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    for (const [value, text] of ticks(view.x0, view.x1, Math.max(3, w / (w < 500 ? 48 : 90)))) {
      const x = Math.round(screenX(value)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(x, margin.top);
      ctx.lineTo(x, margin.top + h);
      ctx.stroke();
      ctx.fillText(text, x, margin.top + h + 6);
    }
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    for (const [value, text] of ticks(view.y0, view.y1, Math.max(3, h / 60))) {
      const y = Math.round(screenY(value)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(margin.left, y);
      ctx.lineTo(margin.left + w, y);
      ctx.stroke();
      ctx.fillText(text, margin.left - 7, y);
    }
    ctx.font = ctx.font.replace("12.5px", "13.5px");
    ctx.textAlign = "center";
    ctx.textBaseline = "bottom";
    ctx.fillText(axisTitle(data.axes[axes[0]]), margin.left + w / 2, height - 4);
    ctx.save();
    ctx.translate(6, margin.top + h / 2);
    ctx.rotate(-Math.PI / 2);
    ctx.textBaseline = "top";
    ctx.fillText(axisTitle(data.axes[axes[1]]), 0, 0);
    ctx.restore();

    if (!fast) drawPoints(w, h);
    ctx.strokeStyle = colours.soft;
    ctx.strokeRect(margin.left + 0.5, margin.top + 0.5, w, h);
  };

  const drawPoints = (w, h) => {
    const kx = w / (view.x1 - view.x0), ky = h / (view.y1 - view.y0);
    const bx = margin.left - view.x0 * kx, by = margin.top + view.y1 * ky;
    const room = 2 * radius, right = margin.left + w + room, bottom = margin.top + h + room;
    const left = margin.left - room, top = margin.top - room;
    ctx.save();
    ctx.beginPath();
    ctx.rect(margin.left, margin.top, w, h);
    ctx.clip();
    for (let n = 0; n < count; n++) {
      const i = order[n];
      if (hidden[groupOf[i]]) continue;
      const x = bx + xs[i] * kx, y = by - ys[i] * ky;
      if (x < left || x > right || y < top || y > bottom) continue;
      const glyph = glyphs[groupOf[i]], side = glyph.width / ratio;
      ctx.drawImage(glyph, x - side / 2, y - side / 2, side, side);
    }
    ctx.restore();
  };

  // So many points that each is a few pixels, mixed here: ten times as fast as a canvas would be, and dense
  // places become darker.
  const layer = document.createElement("canvas");
  const rgb = (colour) => {
    const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    return pixel.getImageData(0, 0, 1, 1).data;
  };
  const drawMany = (w, h) => {
    const across = Math.max(1, Math.round(w * ratio)), down = Math.max(1, Math.round(h * ratio));
    const kx = across / (view.x1 - view.x0), ky = down / (view.y1 - view.y0);
    const side = Math.max(2, Math.round(2 * radius * ratio));
    const target = layer.getContext("2d");
    if (layer.width !== across || layer.height !== down) {
      layer.width = across;
      layer.height = down;
    }
    const image = target.createImageData(across, down);
    const pixels = image.data;
    const [r0, g0, b0] = rgb(colours.card);
    for (let at = 0; at < pixels.length; at += 4) {
      pixels[at] = r0;
      pixels[at + 1] = g0;
      pixels[at + 2] = b0;
      pixels[at + 3] = 255;
    }
    const paints = data.groups.map(({ colour }, group) => rgb(colour === "unlabelled" ? colours.soft : fills[group]));
    const x0 = view.x0, y1 = view.y1;
    let seen = 0;
    for (let i = 0; i < count; i++) {
      const x = (xs[i] - x0) * kx, y = (y1 - ys[i]) * ky;
      if (x >= 0 && x < across && y >= 0 && y < down) seen++;
    }
    const share = seen > 50000 ? 0.45 : seen > 10000 ? 0.6 : 0.9;
    for (let n = 0; n < count; n++) {
      const i = order[n], group = groupOf[i];
      if (hidden[group]) continue;
      const left = Math.round((xs[i] - x0) * kx - side / 2), top = Math.round((y1 - ys[i]) * ky - side / 2);
      if (left < 0 || left + side > across || top < 0 || top + side > down) continue;
      const paint = paints[group], r = paint[0], g = paint[1], b = paint[2];
      for (let row = 0; row < side; row++) {
        let at = 4 * ((top + row) * across + left);
        for (let pixel = 0; pixel < side; pixel++, at += 4) {
          pixels[at] += (r - pixels[at]) * share;
          pixels[at + 1] += (g - pixels[at + 1]) * share;
          pixels[at + 2] += (b - pixels[at + 2]) * share;
        }
      }
    }
    target.putImageData(image, 0, 0);
    ctx.drawImage(layer, margin.left, margin.top, w, h);
  };

  const drawMarks = () => {
    over.setTransform(ratio, 0, 0, ratio, 0, 0);
    over.clearRect(0, 0, width, height);
    for (const [i, wide] of [[selected, 3], [linked, 2.5], [hovered, 2]]) {
      if (i < 0 || hidden[groupOf[i]]) continue;
      const x = screenX(xs[i]), y = screenY(ys[i]);
      if (!inside(x, y)) continue;
      over.save();
      over.translate(x, y);
      const size = Math.max(radius, 3.5) * 1.35;
      paintMark(over, groupOf[i], size);
      over.beginPath();
      over.arc(0, 0, size + 4, 0, 2 * Math.PI);
      over.lineWidth = wide;
      over.strokeStyle = i === selected ? colours.accent : colours.ink;
      over.stroke();
      over.restore();
    }
  };

  // --- Which point is where -----------------------------------------------------------------------

  const CELL = 20;
  let cells = { across: 0, down: 0, starts: new Uint32Array(1), members: new Uint32Array(0) };
  const makeGrid = () => {
    gridStale = false;
    const across = Math.max(1, Math.ceil(width / CELL)), down = Math.max(1, Math.ceil(height / CELL));
    const starts = new Uint32Array(across * down + 1);
    const cell = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      const x = screenX(xs[i]), y = screenY(ys[i]);
      cell[i] = hidden[groupOf[i]] || !inside(x, y) ? -1 : Math.floor(y / CELL) * across + Math.floor(x / CELL);
      if (cell[i] >= 0) starts[cell[i] + 1]++;
    }
    for (let c = 0; c < across * down; c++) starts[c + 1] += starts[c];
    const next = starts.slice();
    const members = new Uint32Array(starts[across * down]);
    for (let i = 0; i < count; i++) if (cell[i] >= 0) members[next[cell[i]]++] = i;
    cells = { across, down, starts, members };
  };
  const nearest = (px, py, reach) => {
    if (gridStale) makeGrid();
    const { across, down, starts, members } = cells;
    let best = -1, least = reach * reach;
    const last = (at, most) => Math.min(most - 1, Math.floor((at + reach) / CELL));
    const first = (at) => Math.max(0, Math.floor((at - reach) / CELL));
    for (let row = first(py); row <= last(py, down); row++) {
      for (let col = first(px); col <= last(px, across); col++) {
        const c = row * across + col;
        for (let n = starts[c]; n < starts[c + 1]; n++) {
          const i = members[n];
          const square = (screenX(xs[i]) - px) ** 2 + (screenY(ys[i]) - py) ** 2;
          if (square <= least) {
            least = square;
            best = i;
          }
        }
      }
    }
    return best;
  };

  // --- Pictures and words about a point -----------------------------------------------------------

  const sheets = new Map();
  const sheet = (index) => {
    if (!sheets.has(index)) {
      const image = new Image();
      image.src = `data:image/jpeg;base64,${data.sheets[index]}`;
      sheets.set(index, image.decode().then(() => image));
    }
    return sheets.get(index);
  };
  // A canvas with the picture of a point in its true shape, or a sentence.
  const picture = (i, longest) => {
    // Where no point has one there is nothing to miss.
    if (data.sheets.length === 0) return "";
    if (tileOf[i] < 0) {
      const note = document.createElement("p");
      note.className = "no-picture";
      note.textContent = "no thumbnail";
      return note;
    }
    const shape = 2 ** ((shapes[i] - 128) / 32);
    const w = Math.round(shape >= 1 ? longest : longest * shape);
    const h = Math.round(shape >= 1 ? longest / shape : longest);
    const frame = document.createElement("canvas");
    frame.className = "picture";
    frame.width = w * ratio;
    frame.height = h * ratio;
    frame.style.width = `${w}px`;
    frame.style.height = `${h}px`;
    const perSheet = data.sheet_side ** 2;
    const place = tileOf[i] % perSheet;
    sheet(Math.floor(tileOf[i] / perSheet)).then(
      (image) => {
        const target = frame.getContext("2d");
        target.imageSmoothingQuality = "high";
        const x = (place % data.sheet_side) * data.tile, y = Math.floor(place / data.sheet_side) * data.tile;
        target.drawImage(image, x, y, data.tile, data.tile, 0, 0, frame.width, frame.height);
        frame.dataset.painted = "";
      },
      () => frame.replaceWith("no thumbnail"),
    );
    return frame;
  };
  const markOf = (group) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "-1.4 -1.4 2.8 2.8");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", `mark ${data.groups[group].colour}`);
    path.setAttribute("d", data.groups[group].shape);
    svg.append(path);
    return svg;
  };
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const describe = (i, shown, longest) => {
    const label = element("p", "label");
    if (data.has_labels) label.append(markOf(groupOf[i]), labelText(i) ?? "no label");
    const list = element("dl", "scores");
    for (const axis of shown) {
      list.append(element("dt", "", data.axes[axis].name), element("dd", "", number(column(axis)[i])));
    }
    const words = element("div", "words");
    words.append(element("p", "path mono", paths[i]), ...(data.has_labels ? [label] : []), list);
    return [picture(i, longest), words];
  };
  const errorAxis = data.axes.length - 1;
  const distinct = (list) => [...new Set(list)];

  const showTip = (i) => {
    if (i < 0) {
      tip.hidden = true;
      return;
    }
    tip.replaceChildren(...describe(i, distinct([...axes, errorAxis]), 128));
    tip.hidden = false;
    const x = screenX(xs[i]), y = screenY(ys[i]);
    const left = x + 16 + tip.offsetWidth > width ? x - 16 - tip.offsetWidth : x + 16;
    tip.style.left = `${Math.max(4, Math.min(left, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(y - tip.offsetHeight / 2, height - tip.offsetHeight - 4))}px`;
  };
  const hover = (i) => {
    if (i === hovered) return;
    hovered = i;
    showTip(i);
    drawMarks();
    canvas.style.cursor = i < 0 ? "" : "pointer";
  };
  const select = (i) => {
    selected = i;
    const card = byId("selected");
    card.classList.toggle("has-one", i >= 0);
    if (i >= 0) {
      const shown = distinct([...axes, ...Array(Math.min(8, errorAxis)).keys(), errorAxis]).sort((a, b) => a - b);
      card.replaceChildren(...describe(i, shown, 208));
    } else {
      card.replaceChildren(element("p", "caption", "Click a point to keep it here."));
    }
    drawMarks();
  };

  // --- Moving around ------------------------------------------------------------------------------

  const zoom = (factor, px = margin.left + inner().w / 2, py = margin.top + inner().h / 2) => {
    const { w, h } = inner();
    const fx = (px - margin.left) / w, fy = (py - margin.top) / h;
    const spanX = (view.x1 - view.x0) / factor, spanY = (view.y1 - view.y0) / factor;
    const whole = home.x1 - home.x0;
    // Beyond that the points are one dot, or no two of them are left.
    if (spanX > 20 * whole || spanX < whole * 1e-6) return false;
    const x = view.x0 + fx * (view.x1 - view.x0), y = view.y1 - fy * (view.y1 - view.y0);
    view = { x0: x - fx * spanX, x1: x + (1 - fx) * spanX, y0: y - (1 - fy) * spanY, y1: y + fy * spanY };
    moved();
    return true;
  };
  const pan = (dx, dy) => {
    const { w, h } = inner();
    const x = (dx / w) * (view.x1 - view.x0), y = (dy / h) * (view.y1 - view.y0);
    view = { x0: view.x0 - x, x1: view.x1 - x, y0: view.y0 + y, y1: view.y1 + y };
    moved();
  };
  const moved = () => {
    hover(-1);
    redraw();
  };
  const reset = () => {
    goHome();
    moved();
  };

  const pointers = new Map();
  let travelled = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 1) travelled = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      hover(inside(now.x, now.y) ? nearest(now.x, now.y, 14) : -1);
      return;
    }
    pointers.set(event.pointerId, now);
    travelled += Math.hypot(now.x - before.x, now.y - before.y);
    if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const distance = (place) => Math.hypot(place.x - other.x, place.y - other.y) || 1;
      zoom(distance(now) / distance(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (travelled > 4) {
      canvas.style.cursor = "grabbing";
      pan(now.x - before.x, now.y - before.y);
    }
  });
  const release = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    canvas.style.cursor = "";
    if (event.type !== "pointerup" || travelled > 4 || pointers.size > 0) return;
    const { x, y } = at(event);
    select(nearest(x, y, event.pointerType === "touch" ? 24 : 14));
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => pointers.size === 0 && hover(-1));
  // The wheel is the page's until the map has the focus; with Ctrl it would enlarge the page.
  canvas.addEventListener("wheel", (event) => {
    const meant = event.ctrlKey || event.metaKey;
    if (!meant && document.activeElement !== canvas) return;
    const lines = event.deltaMode === 1 ? 16 : 1;
    const { x, y } = at(event);
    const zoomed = zoom(Math.exp(-0.0016 * lines * Math.max(-400, Math.min(400, event.deltaY))), x, y);
    if (zoomed || meant) event.preventDefault();
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => {
    const { x, y } = at(event);
    zoom(2, x, y);
  });

  // The next point in path order that can be seen.
  const step = (direction) => {
    let i = selected < 0 ? (direction > 0 ? -1 : count) : selected;
    for (let tries = 0; tries < count; tries++) {
      i = (i + direction + count) % count;
      if (!hidden[groupOf[i]] && inside(screenX(xs[i]), screenY(ys[i]))) return select(i);
    }
  };
  const keys = {
    ArrowLeft: () => pan(60, 0),
    ArrowRight: () => pan(-60, 0),
    ArrowUp: () => pan(0, 60),
    ArrowDown: () => pan(0, -60),
    "+": () => zoom(1.4),
    "=": () => zoom(1.4),
    "-": () => zoom(1 / 1.4),
    0: reset,
    Home: reset,
    n: () => step(1),
    p: () => step(-1),
    Enter: () => select(nearest(margin.left + inner().w / 2, margin.top + inner().h / 2, width + height)),
    Escape: () => (selected < 0 ? canvas.blur() : select(-1)),
  };
  canvas.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
  byId("zoom-in").addEventListener("click", () => zoom(1.4));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.4));
  byId("reset").addEventListener("click", reset);

  // --- Axes ---------------------------------------------------------------------------------------

  const selects = [byId("axis-x"), byId("axis-y")];
  selects.forEach((chooser, which) => {
    data.axes.forEach((axis, index) => {
      const share = axis.share === null ? "" : ` \u2013 ${(100 * axis.share).toFixed(1)} %`;
      chooser.append(new Option(axis.name + share, index, index === axes[which], index === axes[which]));
    });
    chooser.addEventListener("change", () => setAxes(+selects[0].value, +selects[1].value));
  });
  const setAxes = (x, y) => {
    axes[0] = x;
    axes[1] = y;
    selects[0].value = x;
    selects[1].value = y;
    xs = column(x);
    ys = column(y);
    goHome();
    hover(-1);
    if (selected >= 0) select(selected);
    redraw();
  };
  byId("swap").addEventListener("click", () => setAxes(axes[1], axes[0]));

  // --- Legend -------------------------------------------------------------------------------------

  const legend = byId("legend");
  const items = [];
  const showGroups = (visible) => {
    data.groups.forEach((_, group) => {
      hidden[group] = visible(group) ? 0 : 1;
      if (items[group]) items[group].setAttribute("aria-pressed", String(!hidden[group]));
    });
    let shown = 0;
    for (let i = 0; i < count; i++) shown += 1 - hidden[groupOf[i]];
    byId("shown").textContent =
      shown === count ? `${grouped(count)} images` : `${grouped(shown)} of ${grouped(count)} images`;
    hover(-1);
    redraw();
  };
  if (data.has_labels) {
    data.groups.forEach((group, index) => {
      const item = element("button", "item");
      item.type = "button";
      item.title = "Click: show or hide. Double click: show only this.";
      item.append(markOf(index), element("span", "name", group.name), element("span", "n", grouped(group.points)));
      item.addEventListener("click", (event) => {
        if (event.detail > 1) showGroups((other) => other === index);
        else showGroups((other) => (other === index ? hidden[other] : !hidden[other]));
      });
      items.push(item);
      const entry = element("li");
      entry.append(item);
      legend.append(entry);
    });
    byId("legend-all").addEventListener("click", () => showGroups(() => true));
    byId("legend-none").addEventListener("click", () => showGroups(() => false));
  } else {
    byId("legend-box").hidden = true;
  }

  // --- Pictures elsewhere on the page ---------------------------------------------------------------

  for (const shot of document.querySelectorAll("[data-point]")) {
    const i = +shot.dataset.point;
    const link = (value) => () => {
      linked = value;
      drawMarks();
    };
    const open = () => {
      if (hidden[groupOf[i]]) showGroups((group) => group === groupOf[i] || !hidden[group]);
      if (!inside(screenX(xs[i]), screenY(ys[i]))) reset();
      select(i);
      plot.scrollIntoView({ block: "nearest", behavior: "auto" });
    };
    shot.tabIndex = 0;
    shot.setAttribute("role", "button");
    shot.addEventListener("pointerenter", link(i));
    shot.addEventListener("pointerleave", link(-1));
    shot.addEventListener("click", open);
    shot.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    });
  }

  // --- Start --------------------------------------------------------------------------------------

  const resize = () => {
    ratio = window.devicePixelRatio || 1;
    width = plot.clientWidth;
    height = plot.clientHeight;
    for (const layer of [canvas, marks]) {
      layer.width = Math.round(width * ratio);
      layer.height = Math.round(height * ratio);
    }
    makeGlyphs();
    hover(-1);
    redraw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    makeGlyphs();
    redraw();
  });
  readColours();
  goHome();
  showGroups(() => true);
  select(-1);
  resize();
  new ResizeObserver(resize).observe(plot);
  document.documentElement.classList.add("scripted");

  // For whoever drives the page by a program: where a point is on the page, and what is drawn.
  window.p8 = Object.freeze({
    points: count,
    paths,
    place: (i) => {
      const box = canvas.getBoundingClientRect();
      return { x: box.left + screenX(xs[i]), y: box.top + screenY(ys[i]) };
    },
    view: () => ({ ...view }),
    axes: () => axes.map((axis) => data.axes[axis].name),
    selected: () => selected,
  });
})();
