// The gallery and the view of one photo. Cards are added a page at a time, so that the parts below stay in reach.

const PAGE = 48;
const picture = (entry) => (entry.thumb ? "data:image/jpeg;base64," + entry.thumb : "");
const names = (entry) => data.gallery.columns[entry.split];
const decided = (entry, row) => row[1 + names(entry).length];
const truthOf = (entry, row) => row[2 + names(entry).length];
const before = (entry, row) => row[3 + names(entry).length];  // in a comparison of two runs
const rowOf = (entry, c) => entry.labels.find((row) => row[0] === c);
const known = data.gallery.entries.some((entry) => entry.labels.some((row) => truthOf(entry, row) !== null));
const unpacked = new Map();

function unpack(text) {
  if (!unpacked.has(text)) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    unpacked.set(text, Array.from({ length: data.classes.length }, (_, k) => view.getUint16(2 * k, true) / 65535));
  }
  return unpacked.get(text);
}
// The score of the last column, and the one that decides what is shown below the photo: a train photo has its labels there.
const scoreOf = (entry, c) => unpack(entry.scores)[c];
const labelOf = (entry, c) => unpack(entry.decided ?? entry.scores)[c];

// Right and wrong by sign and word; the colour is redundant.
function truthMark(entry, c) {
  const row = rowOf(entry, c);
  const truth = row && truthOf(entry, row);
  if (!known || truth === null) return null;
  if (truth === -1) return make("span", { title: "not counted" }, " ?");
  return truth === 1 ? make("span", { class: "tick", title: "present" }, " ✓", hiddenText("present")) : make("span", { class: "cross", title: "absent" }, " ✗", hiddenText("absent"));
}

// Filters of the gallery; an entry has no row for a class that is neither predicted, present nor a top class.
const kinds = {
  "": ["predicted or present", (row, entry) => decided(entry, row) || truthOf(entry, row) === 1 || before(entry, row) === 1],
  predicted: ["predicted", (row, entry) => decided(entry, row)],
  ...(known ? {
    true: ["present", (row, entry) => truthOf(entry, row) === 1],
    wrong: ["wrong", (row, entry) => truthOf(entry, row) !== -1 && decided(entry, row) !== truthOf(entry, row)],
    missed: ["missed", (row, entry) => !decided(entry, row) && truthOf(entry, row) === 1],
    false: ["predicted, but absent", (row, entry) => decided(entry, row) && truthOf(entry, row) === 0],
  } : {}),
  top: ["most likely by the teacher", (row, entry) => entry.top === row[0]],
};
const views = {
  all: ["All", null],
  changed: ["Most changed", "changed"],
  ...(data.gallery.fixed ? {} : { unsure: ["Most uncertain", "unsure"] }),
  ...(known ? { wrong: ["Wrong", "wrong"] } : {}),
  ...(data.gallery.extra ?? {}),
  score: ["By score", null],
};
const FRESH = { view: "all", class: "", also: "", what: "", split: "", id: "", count: "", between: "", photo: "" };
const gallery = { state: { ...FRESH }, photos: [], drawn: 0, picked: new Set() };

function frame(entry, boxes) {
  const [width, height] = entry.size;
  const overlay = make("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMidYMid meet", "aria-hidden": "true" });
  for (const [, x1, y1, x2, y2] of boxes) {
    overlay.append(make("rect", { x: (x1 * width) / 1000, y: (y1 * height) / 1000, width: ((x2 - x1) * width) / 1000, height: ((y2 - y1) * height) / 1000 }));
  }
  const image = entry.thumb ? make("img", { src: picture(entry), alt: entry.id, decoding: "async" }) : make("span", { class: "gone" }, entry.id);
  return make("div", { class: "frame" }, image, overlay);
}

function chip(entry, row) {
  const [present, truth] = [decided(entry, row), truthOf(entry, row)];
  const name = data.classes[row[0]];
  const step = before(entry, row) === undefined || before(entry, row) === present ? "" : present ? "+ " : "− ";
  if (!present && truth !== 1 && !step) return null;
  const [state, mark, word] = truth === null || truth === -1 ? ["", "", ""]
    : present ? (truth ? ["right", "✓ ", "correct: "] : ["wrong", "✗ ", "absent: "]) : truth ? ["missed", "∅ ", "missed: "] : ["", "", ""];
  const title = { right: "predicted and present", wrong: "predicted, but absent", missed: "present, but not predicted" }[state];
  return make("span", { class: `chip ${state}${!present && step ? " lost" : ""}`, title }, mark ? make("span", { "aria-hidden": "true" }, mark) : null, word ? hiddenText(word) : null, step, name);
}

function chips(entry) {
  const shown = entry.labels.map((row) => chip(entry, row)).filter((element) => element);
  const uncertain = gallery.state.view === "unsure" && rowOf(entry, entry.closest);
  if (uncertain) shown.unshift(make("span", { class: "chip doubt", title: "the class closest to its threshold" }, `? ${data.classes[entry.closest]} ${labelOf(entry, entry.closest).toFixed(2)}`));
  if (gallery.state.view === "score" && gallery.state.class !== "") {
    const c = data.classes.indexOf(gallery.state.class);
    shown.unshift(make("span", { class: "chip doubt" }, `${data.classes[c]} ${scoreOf(entry, c).toFixed(3)}`, truthMark(entry, c)));
  }
  return make("div", { class: "chips" }, ...(shown.length ? shown : [make("span", { class: "muted" }, "no label")]));
}

function matches(entry) {
  const { state } = gallery;
  if (state.split && entry.split !== state.split) return false;
  if (state.id && !entry.id.toLowerCase().includes(state.id.trim().toLowerCase())) return false;
  if (state.what === "none" && entry.labels.some((row) => decided(entry, row))) return false;
  if (state.count !== "" && entry.labels.filter((row) => decided(entry, row)).length !== Number(state.count)) return false;
  if (state.between) {
    const [low, high] = state.between.split("-").map(Number);
    const inside = (score) => score >= low && (score < high || (high >= 1 && score <= 1));
    if (!data.classes.some((_, c) => inside(labelOf(entry, c)))) return false;
  }
  for (const key of ["class", "also"]) {
    if (!state[key] || state.view === "score") continue;
    const row = rowOf(entry, data.classes.indexOf(state[key]));
    const [, holds] = kinds[key === "class" ? state.what : ""] ?? kinds[""];
    if (!row || !holds(row, entry)) return false;
  }
  const key = views[state.view]?.[1];
  return !key || entry[key] > 0;
}

// Shows the photos of a state, and puts the state into the address; ignores unknown values.
function showPhotos(changes, { fresh = false } = {}) {
  const state = { ...(fresh ? FRESH : gallery.state), ...changes };
  if (!(state.view in views)) state.view = "all";
  for (const key of ["class", "also"]) if (!data.classes.includes(state[key])) state[key] = "";
  if (state.view === "score" && !state.class) state.class = data.classes[0];
  gallery.state = state;
  gallery.photos = data.gallery.entries.filter(matches);
  const key = views[state.view][1];
  const c = data.classes.indexOf(state.class);
  if (key) gallery.photos.sort((a, b) => b[key] - a[key]);
  if (state.view === "score") gallery.photos.sort((a, b) => (a.split < b.split ? 1 : a.split > b.split ? -1 : scoreOf(b, c) - scoreOf(a, c)));
  gallery.drawn = 0;
  byId("images").replaceChildren();
  const shown = gallery.photos.length === 1 ? "1 photo" : `${count(gallery.photos.length)} photos`;
  byId("shown").textContent = shown + (data.gallery.entries.length < data.gallery.total ? " on this page" : "");
  for (const button of byId("views").children) button.setAttribute("aria-pressed", button.dataset.view === state.view);
  byId("filter-class").value = state.class;
  byId("filter-what").value = state.what in kinds ? state.what : "";
  byId("filter-what").disabled = !state.class || state.view === "score";
  byId("filter-split").value = state.split;
  if (byId("filter-id").value !== state.id) byId("filter-id").value = state.id;
  const tokens = { also: `and ${state.also}`, count: `${state.count} classes predicted`, between: `a label in ${state.between.replace("-", " to ")}`, what: state.what === "none" ? "no label" : "" };
  byId("tokens").replaceChildren(...Object.entries(tokens).filter(([name, text]) => state[name] !== "" && text).map(([name, text]) =>
    make("button", { type: "button", class: "token", "aria-label": `remove: ${text}`, on: { click: () => showPhotos({ [name]: "" }) } }, `${text} ×`)));
  drawMore();
  keepAddress();
}

function keepAddress() {
  const changed = Object.fromEntries(Object.entries(gallery.state).filter(([key, value]) => value !== FRESH[key]));
  const address = Object.keys(changed).length ? toPhotos(changed) : "#gallery";
  if (address !== "#gallery" || location.hash.startsWith("#images?")) history.replaceState(null, "", address);
}

// Follows a link on the page, or the address of the page.
function followAddress({ scroll }) {
  if (!location.hash.startsWith("#images?")) return;
  const state = Object.fromEntries(new URLSearchParams(location.hash.slice("#images?".length)));
  showPhotos(state, { fresh: true });
  if (scroll) byId("gallery").scrollIntoView({ behavior: "instant" });
  const index = gallery.photos.findIndex((entry) => entry.id === state.photo);
  if (index >= 0) openDetail(index);
  else if (byId("detail").open) byId("detail").close();
  else if (scroll) byId("gallery-title").focus({ preventScroll: true });
}

function card(entry, index) {
  const open = make("button", { class: "open", type: "button", "data-id": entry.id, on: { click: () => openDetail(index) } }, frame(entry, entry.boxes), chips(entry));
  if (entry.split !== "train" || data.gallery.fixed) return make("div", { class: "photo" }, open);
  const box = make("input", { type: "checkbox", checked: gallery.picked.has(entry.id), on: { change: () => pick(entry, box.checked) } });
  return make("div", { class: "photo" }, open, make("label", { class: "pick", title: "select for review" }, box, hiddenText(`select ${entry.id} for review`)));
}

function pick(entry, on) {
  gallery.picked[on ? "add" : "delete"](entry.id);
  byId("picked").hidden = !gallery.picked.size;
  byId("picked-count").textContent = `${count(gallery.picked.size)} selected`;
}

function saveSelection() {
  const cell = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  saveText("selection.csv", ["image_id", ...[...gallery.picked].map(cell)].join("\n") + "\n");
}

function drawMore() {
  const start = gallery.drawn;
  const next = gallery.photos.slice(start, start + PAGE);
  const { view, class: name } = gallery.state;
  const cards = next.flatMap((entry, k) => {
    const last = gallery.photos[start + k - 1];
    const threshold = view === "score" && data.sliders?.split === entry.split ? data.sliders.own[data.classes.indexOf(name)] : null;
    const c = data.classes.indexOf(name);
    const cutHere = threshold !== null && (!last || last.split !== entry.split || scoreOf(last, c) >= threshold) && scoreOf(entry, c) < threshold;
    return [...(cutHere ? [make("div", { class: "cut-line" }, `threshold ${threshold.toFixed(3)}: the photos below are not predicted`)] : []), card(entry, start + k)];
  });
  byId("images").append(...cards);
  gallery.drawn += next.length;
  const left = gallery.photos.length - gallery.drawn;
  byId("more").hidden = !left;
  byId("more").textContent = `Show ${Math.min(PAGE, left)} more (${count(left)} left)`;
  return cards.find((element) => element.querySelector(".open"));
}

function drawGallery() {
  byId("views").append(...Object.entries(views).map(([view, [title]]) => make("button", { type: "button", "data-view": view, on: { click: () => showPhotos({ view }) } }, title)));
  options(byId("filter-class"), [["", "all classes"], ...data.classes.map((name) => [name, name])]);
  options(byId("filter-what"), Object.entries(kinds).map(([key, [title]]) => [key, title]));
  options(byId("filter-split"), [["", "train and test"], ["train", "train"], ["test", "test"]]);
  const read = (key, id) => byId(id).addEventListener("input", () => showPhotos({ [key]: byId(id).value }));
  for (const [key, id] of [["class", "filter-class"], ["what", "filter-what"], ["split", "filter-split"], ["id", "filter-id"]]) read(key, id);
  byId("clear").addEventListener("click", () => showPhotos({}, { fresh: true }));
  byId("show-boxes").addEventListener("change", (event) => byId("images").classList.toggle("boxes", event.target.checked));
  byId("more").addEventListener("click", () => drawMore()?.querySelector(".open").focus());
  byId("save-selection")?.addEventListener("click", saveSelection);
  byId("clear-selection")?.addEventListener("click", () => { gallery.picked.clear(); byId("picked").hidden = true; showPhotos({}); });
  addEventListener("hashchange", () => followAddress({ scroll: true }));
  if (location.hash.startsWith("#images?")) requestAnimationFrame(() => followAddress({ scroll: true }));
  else showPhotos({});
}

// One image: boxes, crops, and the scores of every stage.

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

function cutOut(entry, box, height) {
  const [, x1, y1, x2, y2] = box.map(Number);
  const [width_, height_] = [((x2 - x1) * entry.size[0]) / 1000, ((y2 - y1) * entry.size[1]) / 1000];
  const place = (low, high) => (high - low >= 1000 ? 0 : (100 * low) / (1000 - (high - low)));
  return make("div", { class: "cut-out", style: `height:${height}px;max-width:100%;aspect-ratio:${width_}/${height_};background-image:url(${picture(entry)});background-size:${100000 / (x2 - x1)}% ${100000 / (y2 - y1)}%;background-position:${place(x1, x2)}% ${place(y1, y2)}%` });
}

function scoreTable(entry) {
  const mark = (row) => ({ 1: make("span", { class: "tick" }, "✓", hiddenText("present")), 0: make("span", { class: "muted" }, "–", hiddenText("absent")), "-1": make("span", { title: "not counted" }, "?") })[truthOf(entry, row)];
  const last = names(entry).length - 1;
  const marked = (row, k) => (entry.decided && k === last ? scoreOf(entry, row[0]) >= data.sliders.own[row[0]] : k === last - (entry.decided ? 1 : 0) && decided(entry, row));
  const number = (row) => (name, k) => make("td", { class: "number", style: `--color:${colour(name)}` }, marked(row, k) ? "● " : "", row[1 + k] ?? "–", make("i", { style: `width:${0.86 * Math.min(row[1 + k] ?? 0, 100)}%` }));
  return make("table", { class: "score-table" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "class"), ...names(entry).map((name) => make("th", { class: "number", scope: "col" }, name)), known ? make("th", { scope: "col" }, "truth") : null)),
    make("tbody", {}, ...entry.labels.map((row) => make("tr", { class: decided(entry, row) ? "present" : "" },
      make("th", { scope: "row" }, data.classes[row[0]]), ...names(entry).map(number(row)), known ? make("td", {}, mark(row) ?? "") : null))));
}

function openDetail(index) {
  const entry = gallery.photos[index];
  if (!entry) return;
  const dialog = byId("detail");
  const focused = dialog.open ? document.activeElement?.dataset?.step : undefined;
  const holder = frame(entry, entry.boxes);
  holder.style.aspectRatio = `${entry.size[0]} / ${entry.size[1]}`;
  const rects = [...holder.querySelectorAll("rect")];
  const crops = entry.boxes.map((box) => {
    const top = box[5].map(([c, score]) => `${data.classes[c]} ${score}`).join(", ");
    const title = box[0] < 0 ? "" : data.classes[box[0]];
    return make("button", { class: "crop", type: "button" }, cutOut(entry, box, 84), make("b", {}, title), make("div", { class: "muted" }, top || "not scored"));
  });
  const light = (chosen) => {
    rects.forEach((rect, k) => rect.classList.toggle("lit", k === chosen));
    crops.forEach((crop, k) => crop.classList.toggle("lit", k === chosen));
    heat(holder, entry.boxes[chosen]);
  };
  crops.forEach((crop, k) => ["pointerenter", "focus", "click"].forEach((event) => crop.addEventListener(event, () => light(k))));
  const step = (sign, text, label) => make("button", { type: "button", "data-step": sign, "aria-label": label, "aria-disabled": gallery.photos[index + sign] ? null : "true", on: { click: () => openDetail(index + sign) } }, text);
  const full = entry.href ? make("a", { href: entry.href, target: "_blank", rel: "noopener" }, "full size") : null;
  byId("detail-body").replaceChildren(
    make("div", { class: "detail-head" }, make("h2", { id: "detail-title", tabindex: -1 }, entry.id), make("span", { class: "muted" }, `${entry.split}, ${index + 1} of ${count(gallery.photos.length)}`), full,
      step(-1, "‹", "previous"), step(1, "›", "next"), make("button", { type: "button", "aria-label": "close", on: { click: () => dialog.close() } }, "×")),
    make("div", { class: "detail" },
      make("div", {}, holder, crops.length ? make("div", { class: "crops" }, ...crops) : null),
      make("div", {}, make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "scores" }, scoreTable(entry)),
        make("p", { class: "hint" }, ["Scores in per cent. ●: labelled or predicted.", crops.length ? "Point at a crop to see its place" + (data.gallery.cam_size ? " and the class activation map." : ".") : ""].join(" ")))));
  dialog.dataset.index = index;
  gallery.state.photo = entry.id;
  keepAddress();
  if (!dialog.open) {
    dialog.showModal();
    dialog.scrollTop = 0;
  }
  // keep the focus on the arrow that was pressed
  (dialog.querySelector(`[data-step="${focused}"]`) ?? byId("detail-title")).focus({ preventScroll: true });
}

byId("detail").addEventListener("click", (event) => { if (event.target === byId("detail")) byId("detail").close(); });
byId("detail").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) openDetail(Number(byId("detail").dataset.index) + step);
});
byId("detail").addEventListener("close", () => {
  const index = Number(byId("detail").dataset.index);
  gallery.state.photo = "";
  keepAddress();
  while (gallery.drawn <= index && gallery.drawn < gallery.photos.length) drawMore();
  byId("images").querySelector(`[data-id="${CSS.escape(gallery.photos[index]?.id ?? "")}"]`)?.focus();
});
