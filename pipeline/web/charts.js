// Charts: dots, bars, lines, columns and the matrix.

// Dots with intervals on an axis that starts near the smallest figure.
function drawStages(rows, id = "stages") {
  const edges = rows.flatMap((row) => [row.low ?? row.mAP, row.high ?? row.mAP]);
  const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((s) => Math.max(...edges) - Math.min(...edges) <= 5 * s) ?? 0.25;
  const low = Math.max(0, Math.floor(Math.min(...edges) / step - 0.3) * step);
  const high = Math.min(1, Math.ceil(Math.max(...edges) / step + 0.3) * step);
  const at = (share) => `${(100 * (share - low)) / (high - low)}%`;
  const marks = Array.from({ length: Math.round((high - low) / step) + 1 }, (_, k) => low + k * step);
  const lines = () => marks.map((share) => make("i", { class: "mark-line", style: `left:${at(share)}` }));
  const drawn = rows.flatMap((row) => {
    const interval = row.low === null ? "" : `95 % interval ${percent(row.low)} to ${percent(row.high)}`;
    const span = row.low === null ? null
      : make("i", { class: "interval", style: `left:${at(row.low)};width:calc(${at(row.high)} - ${at(row.low)})` });
    const dot = make("i", { class: "dot", style: `left:${at(row.mAP)}` });
    return [
      make("div", { class: "name" }, row.name, make("small", {}, row.split)),
      make("div", { class: "track", title: interval, style: `--color:${row.colour ?? colour(row.name)}` }, ...lines(), span, dot),
      make("div", { class: "value" }, percent(row.mAP), make("small", {}, row.low === null ? "" : `${percent(row.low)} to ${percent(row.high)}`)),
    ];
  });
  const axis = make("div", { class: "axis", "aria-hidden": "true" },
    ...marks.map((share) => make("span", { style: `left:${at(share)}` }, (100 * share).toFixed(0))));
  byId(id).style.gridTemplateRows = `repeat(${rows.length}, minmax(46px, 1fr)) auto`;
  byId(id).replaceChildren(...drawn, make("div"), axis, make("div"));
}

function drawBias() {
  const { values, counts } = data.bias;
  const order = data.classes.map((_, c) => c).sort((a, b) => (counts[b] > 0) - (counts[a] > 0) || values[b] - values[a]);
  const rows = order.flatMap((c) => {
    const title = counts[c] ? `mean of ${counts[c]} images` : "the teacher is never sure of it: mean of the other classes";
    const fill = counts[c] ? make("i", { class: "fill", style: `width:${100 * values[c]}%;--color:${colour("teacher")}` }) : null;
    const photos = toPhotos({ class: data.classes[c], what: "top" });
    return [
      make("a", { class: "name", href: photos, title: data.classes[c] }, data.classes[c]),
      make("div", { class: "track", title }, fill),
      make("div", { class: "value" }, counts[c] ? percent(values[c]) : "", make("small", {}, counts[c] ? ` of ${counts[c]}` : "never sure")),
    ];
  });
  byId("bias").replaceChildren(...rows);
  cut("bias", order.length);
}

// Draws a chart for the width of its place, and again when the width changes.
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
  // in the next frame, because a ResizeObserver must not change the size that it observes
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(holder);
  return () => width && redraw();
}

function axes(width, height, xTicks, yTicks, xTitle, yTitle, role = "img") {
  const area = { left: 44, right: width - 10, top: 10, bottom: height - 36 };
  const range = (ticks) => [ticks[0].at, ticks[ticks.length - 1].at];
  const scale = ([low, high], from, to) => (v) => from + ((v - low) / (high - low || 1)) * (to - from);
  const x = scale(range(xTicks), area.left, area.right);
  const y = scale(range(yTicks), area.bottom, area.top);
  const root = make("svg", { width, height, role, "aria-label": `${yTitle} by ${xTitle}` });
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
// A part of a chart with a link to photos.
const linked = (show, ...children) => make("a", { svg: true, href: toPhotos(show) }, ...children);

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
  options(byId("curve-class"), [["all", "mean of the classes"], ...data.classes.map((name, c) => [c, name])]);
  const chosen = () => byId("curve-class").value;
  const pick = (curve) => (chosen() === "all" ? curve.all : curve.classes[Number(chosen())]);
  const redraw = chart("curve", (width) => {
    const plot = axes(width, 320, shares, shares, "recall", "precision");
    for (const curve of data.curves) polyline(plot, pick(curve), colour(curve.name));
    return plot.root;
  });
  const describe = () => {
    const c = chosen();
    const figure = (curve) => (c === "all" ? `mAP ${percent(curve.mAP)}` : `AP ${percent(curve.AP[Number(c)])}`);
    legend("curve-legend", data.curves.map((curve) => [curve.name, `${figure(curve)} (${curve.split})`]));
    byId("curve-photos").replaceChildren(...(c === "all" ? [] : [make("a", { href: toPhotos({ class: data.classes[Number(c)], view: "score" }) }, `photos of ${data.classes[Number(c)]} by score`)]));
  };
  byId("curve-class").addEventListener("change", () => { redraw(); describe(); });
  describe();
}

function drawTraining() {
  const { rows, warmup, chosen, best, test } = data.training;
  const at = (row) => (row.stage === "warm-up" ? row.epoch : warmup + row.epoch);
  const step = Math.ceil(rows.length / 12);
  const xTicks = [{ at: 0.5, text: "" }, ...rows.filter((_, k) => k % step === 0).map((row) => ({ at: at(row), text: row.stage === "warm-up" ? `w${row.epoch}` : row.epoch })), { at: rows.length + 0.5, text: "" }];
  const mark = (plot, epoch, text, line) => {
    const x = plot.x(warmup + epoch);
    plot.root.append(make("line", { class: "mark", x1: x, x2: x, y1: plot.area.top, y2: plot.area.bottom }));
    const late = x > (plot.area.left + plot.area.right) / 2;
    plot.root.append(make("text", { x: x + (late ? -6 : 6), y: plot.area.bottom - 8 - 15 * line, "text-anchor": late ? "end" : "start" }, text));
  };
  chart("loss", (width) => {
    const top = Math.max(...rows.map((row) => row.loss ?? 0)) * 1.08 || 1;
    const plot = axes(width, 260, xTicks, ticks([0, 0.25, 0.5, 0.75, 1].map((v) => v * top), 2), "epoch (w: warm-up)", "loss");
    for (const stage of ["warm-up", "train"]) {
      const points = rows.filter((row) => row.stage === stage && row.loss !== null).map((row) => [at(row), row.loss]);
      polyline(plot, points, colour(stage === "train" ? "classifier" : "warm-up"));
      dots(plot, points, colour(stage === "train" ? "classifier" : "warm-up"), (_, loss) => loss.toFixed(4));
    }
    return plot.root;
  });
  legend("loss-legend", [["warm-up", ""], ["classifier", ""]]);
  chart("epochs", (width) => {
    const plot = axes(width, 260, xTicks, shares, "epoch (w: warm-up)", "mAP");
    if (chosen) mark(plot, chosen, best === chosen ? "used, best on test images" : "used", 0);
    if (best && best !== chosen) mark(plot, best, "best on test images", 1);
    const lines = [["final labels", rows.filter((row) => row.label_map !== null).map((row) => [at(row), row.label_map])]];
    if (test) lines.push(["classifier", test.map((value, k) => [warmup + k + 1, value]).filter(([, value]) => value !== null)]);
    for (const [name, points] of lines) {
      polyline(plot, points, colour(name));
      dots(plot, points, colour(name), (_, value) => percent(value));
    }
    return plot.root;
  });
  byId("epoch-legend").replaceChildren(
    make("span", { style: `--color:${colour("final labels")}` }, "train images, against their labels"),
    ...(test ? [make("span", { style: `--color:${colour("classifier")}` }, "test images, against the ground truth")] : []),
  );
}

// Columns of counts; `show` returns the gallery filters of the k-th column of a source, or null.
function columns(id, groups, logarithmic, xTitle, names, show) {
  const sources = Object.entries(groups);
  const height = (v) => (logarithmic ? Math.log10(v + 1) : v);
  const most = Math.max(...sources.flatMap(([, values]) => values), 1);
  const bins = Math.max(...sources.map(([, values]) => values.length));
  chart(id, (width) => {
    const yTicks = logarithmic
      ? Array.from({ length: Math.ceil(Math.log10(most + 1)) + 1 }, (_, k) => ({ at: k, text: k ? count(10 ** k) : "0" }))
      : [0, 0.25, 0.5, 0.75, 1].map((v) => ({ at: v * most, text: count(Math.round(v * most)) }));
    const plot = axes(width, 250, names(bins), yTicks, xTitle, "count", "group");
    const slot = plot.x(1) - plot.x(0);
    const thick = (slot * 0.8) / sources.length;
    sources.forEach(([name, values], s) => values.forEach((value, k) => {
      if (!value) return;
      const y = plot.y(height(value));
      const place = { x: plot.x(k) + slot * 0.1 + s * thick, y, width: Math.max(thick - 1, 1), height: plot.area.bottom - y };
      const text = `${name}, ${xTitle} ${logarithmic ? `${k / bins} to ${(k + 1) / bins}` : k}: ${count(value)}`;
      const column = make("rect", { ...place, rx: 2, fill: colour(name) }, make("title", {}, text));
      const photos = show(name, k);
      if (!photos) plot.root.append(column);
      else {
        const link = linked(photos, column);
        link.setAttribute("aria-label", text);
        plot.root.append(link);
      }
    }));
    return plot.root;
  });
}

function drawDistribution() {
  const { labels, per_image: perImage } = data.distribution;
  const bins = Object.values(labels)[0].length;
  const last = Object.keys(labels).at(-1);
  columns("label-values", labels, true, "label", () => [0, 0.25, 0.5, 0.75, 1].map((v) => ({ at: v * bins, text: v.toFixed(2) })),
    (name, k) => (name === last ? { split: "train", between: `${k / bins}-${(k + 1) / bins}` } : null));
  legend("value-legend", Object.keys(labels).map((name) => [name, ""]));
  const names = (bins) => [{ at: 0, text: "" }, ...Array.from({ length: bins }, (_, k) => ({ at: k + 0.5, text: k % Math.ceil(bins / 14) ? "" : k })), { at: bins, text: "" }];
  columns("label-counts", perImage, false, "classes", names, (name, k) => (name === last ? { split: "train", count: k } : null));
  legend("count-legend", Object.keys(perImage).map((name) => [name, ""]));
}

function drawMatrix() {
  options(byId("matrix-source"), data.cooccurrence.map((matrix, k) => [k, matrix.name]));
  const redraw = chart("matrix", (width) => {
    const { shares: values, counts } = data.cooccurrence[Number(byId("matrix-source").value)];
    const size = data.classes.length;
    const longest = Math.max(...data.classes.map((name) => Math.min(name.length, 18)));
    const margin = Math.min(6.5 * longest + 14, width * 0.3);
    const cell = Math.min((width - margin - 14) / size, 48);
    const root = make("svg", { width, height: margin + cell * size + 4, role: "group", "aria-label": "co-occurrence of classes" });
    const clip = (name) => (name.length > 18 ? name.slice(0, 17) + "…" : name);
    const named = cell >= 9;
    for (let r = 0; r < size; r++) {
      if (named) {
        root.append(make("text", { x: margin - 7, y: margin + (r + 0.5) * cell + 4, "text-anchor": "end" }, clip(data.classes[r])));
        root.append(make("text", { transform: `translate(${margin + (r + 0.5) * cell + 4} ${margin - 7}) rotate(-60)` }, clip(data.classes[r])));
      }
      for (let c = 0; c < size; c++) {
        const share = values[r][c];
        if (!share && cell < 9) continue;
        const empty = !counts[r] || r === c;
        const text = r === c ? `${count(counts[r])} images with ${data.classes[r]}` : `${percent(share)} % of the ${counts[r]} images with ${data.classes[r]} also have ${data.classes[c]}`;
        const describe = () => { byId("matrix-readout").textContent = text; };
        const square = make("rect", { x: margin + c * cell, y: margin + r * cell, width: Math.max(cell - 1, 1), height: Math.max(cell - 1, 1), rx: Math.min(3, cell / 6), style: empty ? "fill:var(--track)" : `fill:rgba(var(--heat),${(0.05 + 0.75 * Math.sqrt(share)).toFixed(3)})`, on: { pointerenter: describe } });
        if (!share) { root.append(square); continue; }
        const number = make("text", { x: margin + (c + 0.5) * cell, y: margin + (r + 0.5) * cell + 4, "text-anchor": "middle", style: "fill:var(--ink);pointer-events:none" }, r === c ? count(counts[r]) : (100 * share).toFixed(0));
        const link = linked({ class: data.classes[r], ...(r === c ? {} : { also: data.classes[c] }), split: "train" }, square, ...(cell >= 22 ? [number] : []));
        link.setAttribute("aria-label", text);
        link.setAttribute("tabindex", r === c ? 0 : -1);  // one tab stop per class
        link.addEventListener("focus", describe);
        root.append(link);
      }
    }
    return root;
  });
  byId("matrix-source").addEventListener("change", redraw);
}
