"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1));
const colours = {
  teacher: "--teacher", "initial labels": "--initial", "final labels": "--final", initial: "--initial", final: "--final",
  "warm-up": "--warmup", classifier: "--classifier", crops: "--crops", "ground truth": "--truth",
};
const colour = (name) => `var(${colours[name] ?? "--classifier"})`;

// An element with attributes and children; text is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "rect", "text", "circle", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
}

// Bars of numbers in [0, 1], one a row.

function bar(name, small, value, text, extra, style, title) {
  return [
    make("div", { class: "name", title: name }, name, small ? make("small", {}, small) : null),
    make("div", { class: "track", title }, make("div", { class: "fill" + style.faint, style: `width:${100 * value}%;--color:${style.colour}` }), ...extra),
    make("div", { class: "value" }, text),
  ];
}

function drawStages() {
  const rows = data.stages.flatMap((stage) => {
    const interval = stage.low === null ? [] : [make("div", { class: "interval", style: `left:${100 * stage.low}%;width:${100 * (stage.high - stage.low)}%` })];
    const title = stage.low === null ? "" : `95 % interval: ${percent(stage.low)} to ${percent(stage.high)}`;
    return bar(stage.name, stage.split, stage.mAP, percent(stage.mAP), interval, { colour: colour(stage.name), faint: "" }, title);
  });
  byId("stages").replaceChildren(...rows);
}

function drawBias() {
  const order = data.classes.map((_, c) => c).sort((a, b) => data.bias.values[b] - data.bias.values[a]);
  const rows = order.flatMap((c) => {
    const count = data.bias.counts[c];
    const title = count ? `mean of ${count} images` : "never on top: the mean of the other classes";
    const text = make("span", {}, data.bias.values[c].toFixed(2), make("small", {}, ` (${count})`));
    return bar(data.classes[c], "", data.bias.values[c], text, [], { colour: colour("teacher"), faint: count ? "" : " faint" }, title);
  });
  byId("bias").replaceChildren(...rows);
}

// Tables.

function drawClasses() {
  const { columns, rows } = data.table;
  const state = { column: 0, up: true };
  const best = columns.map((column, k) => Math.max(...rows.map((row) => (column.kind === "text" ? 0 : row[k] ?? 0)), 1e-9));
  const cell = (value, k) => {
    if (columns[k].kind === "text") return make("td", {}, value);
    const text = columns[k].kind === "count" ? value.toLocaleString("en") : percent(value);
    const strength = value === null ? 0 : columns[k].kind === "count" ? 0.3 * (value / best[k]) : 0.42 * value;
    return make("td", { class: "number", style: `background:rgba(var(--heat),${strength.toFixed(3)})` }, text);
  };
  const draw = () => {
    const sign = state.up ? 1 : -1;
    const sorted = [...rows].sort((a, b) => {
      const [x, y] = [a[state.column], b[state.column]];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
    const head = columns.map((column, k) => {
      const click = () => {
        state.up = state.column === k ? !state.up : column.kind === "text";
        state.column = k;
        draw();
      };
      const sort = state.column === k ? (state.up ? "ascending" : "descending") : null;
      return make("th", { class: column.kind === "text" ? "" : "number", title: column.help, "aria-sort": sort }, make("button", { on: { click } }, column.title));
    });
    byId("class-table").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...sorted.map((row) => make("tr", {}, ...row.map(cell)))));
  };
  draw();
}

// Charts are drawn for the width that they get, again when it changes.

function chart(id, draw) {
  const holder = byId(id);
  let width = 0;
  const redraw = () => holder.replaceChildren(draw(width));
  const fit = () => {
    if (holder.clientWidth === width || !holder.clientWidth) return;
    width = holder.clientWidth;
    redraw();
  };
  fit();
  // in the next frame: a chart that changes the size of what is being observed is an error
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(holder);
  return () => width && redraw();
}

function axes(width, height, xTicks, yTicks, xTitle, yTitle) {
  const area = { left: 44, right: width - 10, top: 10, bottom: height - 36 };
  const range = (ticks) => [ticks[0].at, ticks[ticks.length - 1].at];
  const scale = ([low, high], from, to) => (v) => from + ((v - low) / (high - low || 1)) * (to - from);
  const x = scale(range(xTicks), area.left, area.right);
  const y = scale(range(yTicks), area.bottom, area.top);
  const root = make("svg", { width, height, role: "img", "aria-label": `${yTitle} by ${xTitle}` });
  for (const tick of yTicks) {
    root.append(make("line", { class: "grid", x1: area.left, x2: area.right, y1: y(tick.at), y2: y(tick.at) }));
    root.append(make("text", { x: area.left - 8, y: y(tick.at) + 4, "text-anchor": "end" }, tick.text));
  }
  for (const tick of xTicks) root.append(make("text", { x: x(tick.at), y: area.bottom + 17, "text-anchor": "middle" }, tick.text));
  root.append(make("text", { x: (area.left + area.right) / 2, y: height - 2, "text-anchor": "middle" }, xTitle));
  return { root, x, y, area };
}

const ticks = (values, digits = 1) => values.map((at) => ({ at, text: at.toFixed(digits) }));
const shares = ticks([0, 0.2, 0.4, 0.6, 0.8, 1]);

function polyline(plot, points, stroke) {
  const path = points.map(([a, b], k) => `${k ? "L" : "M"}${plot.x(a).toFixed(1)} ${plot.y(b).toFixed(1)}`).join("");
  plot.root.append(make("path", { d: path, fill: "none", stroke, "stroke-width": 2.2, "stroke-linejoin": "round" }));
}

function dots(plot, points, fill, title) {
  for (const [a, b] of points) plot.root.append(make("circle", { cx: plot.x(a), cy: plot.y(b), r: 3.6, fill }, make("title", {}, title(a, b))));
}

function legend(id, entries) {
  byId(id).replaceChildren(...entries.map(([name, text]) => make("span", { style: `--color:${colour(name)}` }, name, text ? make("b", {}, text) : null)));
}

function drawCurves() {
  options(byId("curve-class"), [["all", "all classes"], ...data.classes.map((name, c) => [c, name])]);
  const pick = (curve) => (byId("curve-class").value === "all" ? curve.all : curve.classes[Number(byId("curve-class").value)]);
  const redraw = chart("curve", (width) => {
    const plot = axes(width, 320, shares, shares, "recall", "precision");
    for (const curve of data.curves) polyline(plot, pick(curve), colour(curve.name));
    return plot.root;
  });
  const describe = () => {
    const c = byId("curve-class").value;
    const mean = (values) => values.filter((v) => v !== null).reduce((a, b, _, all) => a + b / all.length, 0);
    legend("curve-legend", data.curves.map((curve) => [curve.name, `${c === "all" ? "mAP" : "AP"} ${percent(c === "all" ? mean(curve.AP) : curve.AP[Number(c)])} (${curve.split})`]));
  };
  byId("curve-class").addEventListener("change", () => { redraw(); describe(); });
  describe();
}

function drawTraining() {
  const { rows, warmup, chosen, oracle, test } = data.training;
  const at = (row) => (row.stage === "warm-up" ? row.epoch : warmup + row.epoch);
  const step = Math.ceil(rows.length / 12);
  const xTicks = [{ at: 0.5, text: "" }, ...rows.filter((_, k) => k % step === 0).map((row) => ({ at: at(row), text: row.stage === "warm-up" ? `w${row.epoch}` : row.epoch })), { at: rows.length + 0.5, text: "" }];
  const mark = (plot, epoch, text, line) => {
    const x = plot.x(warmup + epoch);
    plot.root.append(make("line", { class: "mark", x1: x, x2: x, y1: plot.area.top, y2: plot.area.bottom }));
    const late = x > plot.area.right - 70;
    plot.root.append(make("text", { x: x + (late ? -6 : 6), y: plot.area.bottom - 8 - 15 * line, "text-anchor": late ? "end" : "start" }, text));
  };
  chart("loss", (width) => {
    const top = Math.max(...rows.map((row) => row.loss)) * 1.08;
    const plot = axes(width, 260, xTicks, ticks([0, 0.25, 0.5, 0.75, 1].map((v) => v * top), 2), "epoch (w: warm-up)", "loss");
    for (const stage of ["warm-up", "train"]) {
      const points = rows.filter((row) => row.stage === stage).map((row) => [at(row), row.loss]);
      polyline(plot, points, colour(stage === "train" ? "classifier" : "warm-up"));
      dots(plot, points, colour(stage === "train" ? "classifier" : "warm-up"), (_, loss) => loss.toFixed(4));
    }
    return plot.root;
  });
  chart("epochs", (width) => {
    const plot = axes(width, 260, xTicks, shares, "epoch (w: warm-up)", "mAP");
    if (chosen) mark(plot, chosen, oracle === chosen ? "chosen = oracle" : "chosen", 0);
    if (oracle && oracle !== chosen) mark(plot, oracle, "oracle", 1);
    const lines = [["final labels", rows.filter((row) => row.label_map !== null).map((row) => [at(row), row.label_map])]];
    if (test) lines.push(["classifier", test.map((value, k) => [warmup + k + 1, value])]);
    for (const [name, points] of lines) {
      polyline(plot, points, colour(name));
      dots(plot, points, colour(name), (_, value) => percent(value));
    }
    return plot.root;
  });
  byId("epoch-legend").replaceChildren(
    make("span", { style: `--color:${colour("final labels")}` }, "agreement with the pseudo-labels while training"),
    test ? make("span", { style: `--color:${colour("classifier")}` }, "test images, against ground truth") : null ?? "",
  );
}

function columns(id, groups, logarithmic, xTitle, names) {
  const sources = Object.entries(groups);
  const height = (v) => (logarithmic ? Math.log10(v + 1) : v);
  const most = Math.max(...sources.flatMap(([, values]) => values), 1);
  const count = Math.max(...sources.map(([, values]) => values.length));
  chart(id, (width) => {
    const yTicks = logarithmic
      ? Array.from({ length: Math.ceil(Math.log10(most + 1)) + 1 }, (_, k) => ({ at: k, text: k ? (10 ** k).toLocaleString("en") : "0" }))
      : [0, 0.25, 0.5, 0.75, 1].map((v) => ({ at: v * most, text: Math.round(v * most).toLocaleString("en") }));
    const xTicks = names(count);
    const plot = axes(width, 250, xTicks, yTicks, xTitle, "count");
    const slot = plot.x(1) - plot.x(0);
    const thick = (slot * 0.8) / sources.length;
    sources.forEach(([name, values], s) => values.forEach((value, k) => {
      if (!value) return;
      const y = plot.y(height(value));
      plot.root.append(make("rect", { x: plot.x(k) + slot * 0.1 + s * thick, y, width: Math.max(thick - 1, 1), height: plot.area.bottom - y, rx: 2, fill: colour(name) }, make("title", {}, `${name}: ${value.toLocaleString("en")}`)));
    }));
    return plot.root;
  });
}

function drawDistribution() {
  const { labels, per_image } = data.distribution;
  const bins = Object.values(labels)[0].length;
  columns("label-values", labels, true, "label", () => [0, 0.25, 0.5, 0.75, 1].map((v) => ({ at: v * bins, text: v.toFixed(2) })));
  legend("value-legend", Object.keys(labels).map((name) => [name, ""]));
  columns("label-counts", per_image, false, "classes", (count) => [{ at: 0, text: "" }, ...Array.from({ length: count }, (_, k) => ({ at: k + 0.5, text: k % Math.ceil(count / 14) ? "" : k })), { at: count, text: "" }]);
  legend("count-legend", Object.keys(per_image).map((name) => [name, ""]));
}

function drawMatrix() {
  options(byId("matrix-source"), data.cooccurrence.map((matrix, k) => [k, matrix.name]));
  const redraw = chart("matrix", (width) => {
    const { shares: values, counts } = data.cooccurrence[Number(byId("matrix-source").value)];
    const count = data.classes.length;
    const longest = Math.max(...data.classes.map((name) => Math.min(name.length, 18)));
    const margin = Math.min(6.5 * longest + 14, width * 0.3);
    const cell = Math.min((width - margin - 14) / count, 40);
    const root = make("svg", { width, height: margin + cell * count + 4, role: "img", "aria-label": "co-occurrence of classes" });
    const clip = (name) => (name.length > 18 ? name.slice(0, 17) + "…" : name);
    const named = cell >= 9;
    for (let r = 0; r < count; r++) {
      if (named) {
        root.append(make("text", { x: margin - 7, y: margin + (r + 0.5) * cell + 4, "text-anchor": "end" }, clip(data.classes[r])));
        root.append(make("text", { transform: `translate(${margin + (r + 0.5) * cell + 4} ${margin - 7}) rotate(-60)` }, clip(data.classes[r])));
      }
      for (let c = 0; c < count; c++) {
        const share = values[r][c];
        if (!share && cell < 9) continue;
        const strength = r === c ? 0.08 : Math.sqrt(share);
        const say = () => { byId("matrix-readout").textContent = r === c ? `${counts[r]} images with ${data.classes[r]}` : `${percent(share)} % of the ${counts[r]} images with ${data.classes[r]} also have ${data.classes[c]}`; };
        root.append(make("rect", { x: margin + c * cell, y: margin + r * cell, width: Math.max(cell - 1, 1), height: Math.max(cell - 1, 1), rx: Math.min(3, cell / 6), style: `fill:rgba(var(--heat),${(0.05 + 0.95 * strength).toFixed(3)})`, on: { pointerenter: say } }));
      }
    }
    return root;
  });
  byId("matrix-source").addEventListener("change", redraw);
}

// The gallery: cards are made as they scroll into view.

const PAGE = 60;
const picture = (entry) => (entry.thumb ? "data:image/jpeg;base64," + entry.thumb : "");
const names = (entry) => data.gallery.columns[entry.split];
const decided = (entry, row) => row[1 + names(entry).length];
const truthOf = (entry, row) => row[2 + names(entry).length];
const hasClass = (entry, c) => entry.labels.some((row) => row[0] === c && (decided(entry, row) || truthOf(entry, row) === 1));
const known = data.gallery.entries.some((entry) => entry.labels.some((row) => truthOf(entry, row) !== null));
const views = {
  all: ["All", null],
  changed: ["Changed most", "changed"],
  unsure: ["Most uncertain", "unsure"],
  ...(known ? { wrong: ["Disagrees with ground truth", "wrong"] } : {}),
};
const gallery = { view: "all", found: [], drawn: 0 };

function frame(entry, boxes) {
  const [width, height] = entry.size;
  const overlay = make("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMidYMid meet" });
  for (const [, x1, y1, x2, y2] of boxes) {
    overlay.append(make("rect", { x: (x1 * width) / 1000, y: (y1 * height) / 1000, width: ((x2 - x1) * width) / 1000, height: ((y2 - y1) * height) / 1000 }));
  }
  return make("div", { class: "frame" }, entry.thumb ? make("img", { src: picture(entry), alt: entry.id, decoding: "async" }) : null, overlay);
}

function chips(entry) {
  const found = entry.labels.flatMap((row) => {
    const [present, truth] = [decided(entry, row), truthOf(entry, row)];
    if (!present && truth !== 1) return [];
    const state = truth === null || truth === -1 ? "" : present ? (truth ? " right" : " wrong") : " missed";
    const title = { " right": "right", " wrong": "not there, by the ground truth", " missed": "there, but not found" }[state];
    return [make("span", { class: "chip" + state, title }, data.classes[row[0]])];
  });
  return make("div", { class: "chips" }, ...(found.length ? found : [make("span", { class: "muted" }, "no label")]));
}

function filterGallery() {
  const c = byId("filter-class").value;
  const split = byId("filter-split").value;
  const text = byId("filter-id").value.trim().toLowerCase();
  const key = views[gallery.view][1];
  gallery.found = data.gallery.entries.filter((entry) =>
    (c === "" || hasClass(entry, Number(c))) && (split === "" || entry.split === split) && entry.id.toLowerCase().includes(text) && (key === null || entry[key] > 0));
  if (key) gallery.found.sort((a, b) => b[key] - a[key]);
  gallery.drawn = 0;
  byId("images").replaceChildren();
  byId("shown").textContent = `${gallery.found.length.toLocaleString("en")} images`;
  for (const button of byId("views").children) button.setAttribute("aria-pressed", button.dataset.view === gallery.view);
  drawMore();
}

function drawMore() {
  const next = gallery.found.slice(gallery.drawn, gallery.drawn + PAGE);
  const start = gallery.drawn;
  byId("images").append(...next.map((entry, k) => make("button", { class: "photo", "aria-label": entry.id, on: { click: () => openDetail(start + k) } }, frame(entry, entry.boxes), chips(entry))));
  gallery.drawn += next.length;
}

function drawGallery() {
  byId("views").append(...Object.entries(views).map(([view, [title]]) => make("button", { "data-view": view, on: { click: () => { gallery.view = view; filterGallery(); } } }, title)));
  options(byId("filter-class"), [["", "every class"], ...data.classes.map((name, c) => [c, name])]);
  options(byId("filter-split"), [["", "train and test"], ["train", "train"], ["test", "test"]]);
  for (const id of ["filter-class", "filter-split"]) byId(id).addEventListener("change", filterGallery);
  byId("filter-id").addEventListener("input", filterGallery);
  byId("show-boxes").addEventListener("change", (event) => byId("images").classList.toggle("boxes", event.target.checked));
  new IntersectionObserver((seen) => { if (seen.some((item) => item.isIntersecting)) drawMore(); }, { rootMargin: "900px" }).observe(byId("more"));
  filterGallery();
}

// One image: boxes, crops, and what every stage said.

function heat(holder, box) {
  const { cam_size: size } = data.gallery;
  holder.querySelector("canvas")?.remove();
  if (!size || !box || !box[6]) return;
  const [rows, columns_] = size;
  const bytes = Uint8Array.from(atob(box[6]), (letter) => letter.charCodeAt(0));
  const canvas = make("canvas", { width: columns_, height: rows });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns_, rows);
  bytes.forEach((v, k) => pixels.data.set([120 + v, 1.7 * v - 200, 140 - v, 20 + 0.68 * v], 4 * k));
  context.putImageData(pixels, 0, 0);
  holder.querySelector("img")?.after(canvas);
}

function cut(entry, box, height) {
  const [, x1, y1, x2, y2] = box.map(Number);
  const [width_, height_] = [((x2 - x1) * entry.size[0]) / 1000, ((y2 - y1) * entry.size[1]) / 1000];
  const place = (low, high) => (high - low >= 1000 ? 0 : (100 * low) / (1000 - (high - low)));
  return make("div", { class: "cut", style: `height:${height}px;max-width:100%;aspect-ratio:${width_}/${height_};background-image:url(${picture(entry)});background-size:${100000 / (x2 - x1)}% ${100000 / (y2 - y1)}%;background-position:${place(x1, x2)}% ${place(y1, y2)}%` });
}

function openDetail(index) {
  const entry = gallery.found[index];
  if (!entry) return;
  const holder = frame(entry, entry.boxes);
  holder.style.aspectRatio = `${entry.size[0]} / ${entry.size[1]}`;
  const rects = [...holder.querySelectorAll("rect")];
  const crops = entry.boxes.map((box) => {
    const top = box[5].map(([c, score]) => `${data.classes[c]} ${score}`).join(", ");
    const title = box[0] < 0 ? "" : data.classes[box[0]];
    return make("button", { class: "crop" }, cut(entry, box, 84), make("b", {}, title), top ? make("div", { class: "muted" }, top) : null);
  });
  const light = (chosen) => {
    rects.forEach((rect, k) => rect.classList.toggle("lit", k === chosen));
    crops.forEach((crop, k) => crop.classList.toggle("lit", k === chosen));
    heat(holder, entry.boxes[chosen]);
  };
  crops.forEach((crop, k) => ["pointerenter", "focus", "click"].forEach((event) => crop.addEventListener(event, () => light(k))));
  const mark = (row) => ({ 1: make("span", { class: "tick" }, "✓"), 0: make("span", { class: "muted" }, "–"), "-1": "?" })[truthOf(entry, row)];
  const said = make("table", { class: "said" },
    make("thead", {}, make("tr", {}, make("th", {}, "class"), ...names(entry).map((name) => make("th", { class: "number" }, name)), known ? make("th", {}, "truth") : null)),
    make("tbody", {}, ...entry.labels.map((row) => make("tr", { class: decided(entry, row) ? "present" : "" },
      make("td", {}, data.classes[row[0]]),
      ...names(entry).map((name, k) => make("td", { class: "number", style: `--color:${colour(name)}` }, row[1 + k], make("i", { style: `width:${0.86 * Math.min(row[1 + k], 100)}%` }))),
      known ? make("td", {}, mark(row) ?? "") : null))));
  const go = (step) => () => openDetail(index + step);
  byId("detail-body").replaceChildren(
    make("div", { class: "detail-head" }, make("h2", {}, entry.id), make("span", { class: "muted" }, entry.split),
      make("button", { "aria-label": "previous", on: { click: go(-1) } }, "‹"), make("button", { "aria-label": "next", on: { click: go(1) } }, "›"),
      make("button", { "aria-label": "close", on: { click: () => byId("detail").close() } }, "×")),
    make("div", { class: "detail" },
      make("div", {}, holder, crops.length ? make("div", { class: "crops" }, ...crops) : null),
      make("div", {}, make("div", { class: "wide" }, said),
        make("p", { class: "hint" }, ["Scores in per cent; bold: the label in the end.", crops.length ? "Point at a crop to see where it lies" + (data.gallery.cam_size ? " and what the classifier looked at." : ".") : ""].join(" ")))));
  byId("detail").dataset.index = index;
  if (byId("detail").open) return;
  byId("detail").showModal();
  byId("detail").focus();
}

byId("detail").addEventListener("click", (event) => { if (event.target === byId("detail")) byId("detail").close(); });
byId("detail").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) openDetail(Number(byId("detail").dataset.index) + step);
});

if (data.stages.length) drawStages();
if (data.bias) drawBias();
drawClasses();
if (data.curves.length) drawCurves();
if (data.training) drawTraining();
if (data.distribution) { drawDistribution(); drawMatrix(); }
drawGallery();
