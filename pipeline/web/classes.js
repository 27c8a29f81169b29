// The table of classes, and the predictions of a class at other thresholds.

// The gallery filters for the number in a column.
const columnPhotos = (title) => ({
  "initial labels": { what: "predicted", split: "train" }, "final labels": { what: "predicted", split: "train" },
  "ground truth": { what: "true", split: "train" }, bias: { what: "top" }, "F1 classifier": { what: "wrong", split: "test" },
  "AP initial labels": { view: "score", split: "train" }, "AP final labels": { view: "score", split: "train" },
  lost: { view: "changed", split: "train", what: "" }, gained: { view: "changed", split: "train", what: "predicted" },
})[title] ?? (title.startsWith("labels ") ? { split: "train", what: "predicted" } : { view: "score", split: "test" });

function drawClasses() {
  const { columns, rows } = data.table;
  const state = { column: 0, up: true };
  const best = columns.map((column, k) => Math.max(...rows.map((row) => (column.kind === "text" ? 0 : row[k] ?? 0)), 1e-9));
  const rest = (k) => (columns[k].main === false ? " more" : "");
  const cell = (row) => (value, k) => {
    const { kind, title } = columns[k];
    if (kind === "text") return make("th", { scope: "row" }, make("a", { href: toPhotos({ class: value }) }, value));
    const text = value === null ? "–" : kind === "count" ? count(value) : (kind === "signed" && value > 0 ? "+" : "") + percent(value);
    const strength = value === null ? 0 : kind === "count" ? 0.3 * (value / best[k]) : 0.42 * Math.min(1, Math.abs(value) * (kind === "signed" ? 5 : 1));
    const photos = toPhotos({ class: row[0], ...columnPhotos(title) });
    // one tab stop per row; the filters of the gallery lead to the same photos
    return make("td", { class: `number${rest(k)}`, style: `background:rgba(var(--heat),${strength.toFixed(3)})` }, make("a", { href: photos, tabindex: -1 }, text));
  };
  const lines = new Map(rows.map((row) => [row, make("tr", {}, ...row.map(cell(row)))]));
  const body = make("tbody");
  const heads = columns.map((column, k) => {
    const click = () => {
      state.up = state.column === k ? !state.up : column.kind === "text";
      state.column = k;
      sort();
    };
    return make("th", { scope: "col", class: column.kind === "text" ? "" : `number${rest(k)}`, title: column.help }, make("button", { type: "button", on: { click } }, column.title));
  });
  const sort = () => {
    const sign = state.up ? 1 : -1;
    const sorted = [...rows].sort((a, b) => {
      const [x, y] = [a[state.column], b[state.column]];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
    heads.forEach((head, k) => (state.column === k ? head.setAttribute("aria-sort", state.up ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
    body.replaceChildren(...sorted.map((row) => lines.get(row)));  // the head keeps the focus
  };
  byId("all-columns")?.addEventListener("click", ({ target }) => {
    const all = byId("class-table").classList.toggle("all");
    target.setAttribute("aria-pressed", all);
    target.textContent = all ? "fewer columns" : "all columns";
  });
  byId("class-table").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), body);
  sort();
  cut("class-rows", rows.length);
}

// The slider stops where the number of predicted photos changes.
function drawSlider() {
  const { split, own, best, positives, points } = data.sliders;
  const moved = new Map();
  const select = byId("cut-class");
  const slider = byId("cut");
  options(select, data.classes.map((title, c) => [c, title]));
  const nearest = (c, threshold) => points[c].reduce((best, point, k) => (Math.abs(point[0] - threshold) < Math.abs(points[c][best][0] - threshold) ? k : best), 0);
  const share = (part, whole) => (whole ? part / whole : null);
  const figures = (c, [threshold, predicted, right, wrong]) => {
    const rows = [["threshold", threshold.toFixed(3)], [`${split} photos predicted`, count(predicted)]];
    if (!positives) return rows;
    return [...rows, ["ground truth", count(positives[c])], ["precision", percent(share(right, right + wrong))],
      ["recall", percent(share(right, positives[c]))], ["F1", percent(share(2 * right, right + wrong + positives[c]))]];
  };
  const strip = (c, threshold) => {
    const entries = data.gallery.entries.filter((entry) => entry.split === split).sort((a, b) => scoreOf(b, c) - scoreOf(a, c));
    const above = entries.filter((entry) => scoreOf(entry, c) >= threshold);
    const below = entries.slice(above.length);
    const card = (entry) => make("a", { href: toPhotos({ class: data.classes[c], view: "score", split, photo: entry.id }), title: entry.id },
      make("img", { src: picture(entry), alt: entry.id }), make("small", {}, scoreOf(entry, c).toFixed(3), truthMark(entry, c)));
    byId("cut-strip").replaceChildren(...above.slice(-6).map(card), make("div", { class: "cut-mark" }, make("span", {}, "predicted"), make("span", {}, "not predicted")), ...below.slice(0, 6).map(card));
  };
  const draw = () => {
    const c = Number(select.value);
    const point = points[c][Number(slider.value)];
    slider.setAttribute("aria-valuetext", point[0].toFixed(3));
    byId("cut-figures").replaceChildren(...figures(c, point).flatMap(([title, value]) => [make("dt", {}, title), make("dd", {}, value)]));
    strip(c, point[0]);
    byId("cut-best").hidden = best[c] === null;
  };
  const place = (c, threshold) => {
    select.value = c;
    slider.max = points[c].length - 1;
    slider.value = nearest(c, threshold);
    draw();
  };
  select.addEventListener("change", () => place(Number(select.value), moved.get(Number(select.value)) ?? own[Number(select.value)]));
  slider.addEventListener("input", () => {
    moved.set(Number(select.value), points[Number(select.value)][Number(slider.value)][0]);
    draw();
  });
  byId("cut-own").addEventListener("click", () => { moved.delete(Number(select.value)); place(Number(select.value), own[Number(select.value)]); });
  byId("cut-best").addEventListener("click", () => {
    const c = Number(select.value);
    moved.set(c, best[c]);
    place(c, best[c]);
  });
  const thresholds = () => Object.fromEntries(data.classes.map((title, k) => [title, moved.get(k) ?? own[k]]));
  byId("cut-save").addEventListener("click", () => saveText("thresholds.json", JSON.stringify(thresholds(), null, 1)));
  place(0, own[0]);
}
