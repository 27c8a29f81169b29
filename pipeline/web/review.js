// The page of `ccd review`. The server has written a correction before the page shows the next photo.

const KEYS = 9;
const current = { index: 0, ticked: new Set(), order: [], busy: false };
const queued = data.photos.length - data.earlier;

// Up to nine classes keep their order, so that a key always means the same class. With more, ticked and uncertain classes come first, then the rest by score.
function orderOf(photo) {
  if (data.classes.length <= KEYS) return data.classes.map((_, c) => c);
  const rank = (c) => (photo.present.includes(c) ? 2 : 0) + (photo.uncertain.includes(c) ? 1 : 0);
  return data.classes.map((_, c) => c).sort((a, b) => (rank(b) > 0) - (rank(a) > 0) || rank(b) - rank(a) || photo.scores[b] - photo.scores[a]);
}

function drawTicks() {
  const photo = data.photos[current.index];
  const text = byId("find").value.trim().toLowerCase();
  byId("classes").replaceChildren(...current.order.flatMap((c, k) => {
    if (text && !data.classes[c].toLowerCase().includes(text)) return [];
    const on = current.ticked.has(c);
    const key = k < KEYS ? make("kbd", {}, k + 1) : make("kbd", { class: "none" });
    const mark = photo.uncertain.includes(c) ? make("span", { class: "muted", title: "uncertain" }, "?") : null;
    return [make("button", { type: "button", class: "tick-class", "data-class": c, "aria-pressed": String(on), on: { click: () => toggle(c) } },
      key, make("span", { class: "box", "aria-hidden": "true" }, on ? "✓" : ""), make("span", { class: "name" }, data.classes[c]), mark,
      make("small", {}, photo.scores[c].toFixed(2)))];
  }));
}

function toggle(c) {
  current.ticked[current.ticked.has(c) ? "delete" : "add"](c);
  const focused = document.activeElement?.dataset?.class;
  drawTicks();
  if (focused !== undefined) byId("classes").querySelector(`[data-class="${focused}"]`)?.focus();
}

function show(index) {
  current.index = Math.min(Math.max(0, index), data.photos.length);
  const done = current.index >= data.photos.length;
  byId("card").hidden = done;
  byId("finished").hidden = !done;
  byId("progress").textContent = progress(done);
  byId("undo").disabled = byId("undo-last").disabled = data.history.length === 0 && !data.photos[current.index]?.reviewed;
  if (done) { byId("finished-title").focus(); return; }
  const photo = data.photos[current.index];
  current.ticked = new Set(photo.present);
  current.order = orderOf(photo);
  byId("find").value = "";
  byId("photo").src = `photo/${current.index}`;
  byId("photo").alt = photo.id;
  byId("photo-id").textContent = photo.id;
  byId("hint").textContent = photo.reviewed ? "Reviewed: the ticks are your correction. Save to change it, press u to undo it."
    : data.order ? `Order: by the score of ${data.order}, highest first` : `Most uncertain: ${photo.uncertain.map((c) => data.classes[c]).join(", ")}`;
  byId("back").disabled = current.index === 0;
  drawTicks();
  if (current.index + 1 < data.photos.length) new Image().src = `photo/${current.index + 1}`;
}

function progress(done) {
  const reviewed = data.photos.slice(data.earlier).filter((photo) => photo.reviewed).length;
  const before = data.earlier ? `, ${count(data.earlier)} earlier` : "";
  if (!done && current.index < data.earlier) return `Earlier photo ${current.index + 1} of ${data.earlier}`;
  return done ? `${reviewed} of ${queued} photos reviewed${before}` : `Photo ${current.index - data.earlier + 1} of ${queued}, ${reviewed} reviewed${before}`;
}

// Sends a correction, or null to undo the last one, and shows what the server has written.
async function send(index, present, next) {
  if (current.busy) return;
  current.busy = true;
  const photo = data.photos[index];
  try {
    const response = await fetch("correction", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ index, present }) });
    const now = await response.json();
    if (!response.ok) throw new Error(now.error);
    Object.assign(photo, { present: now.present, reviewed: now.reviewed });
    data.history = data.history.filter((each) => each !== index);
    if (now.reviewed) data.history.push(index);
    const names = now.present.map((c) => data.classes[c]).join(", ") || "none of the classes";
    byId("status").textContent = present ? `Saved ${photo.id}: ${names}` : now.reviewed ? `Restored the earlier correction of ${photo.id}: ${names}` : `Undone: ${photo.id} is not reviewed`;
    show(next);
  } catch (error) {
    byId("status").textContent = `NOT saved: ${error.message}. Is \`ccd review\` still running?`;
  } finally {
    current.busy = false;
  }
}

function save() {
  if (current.index < data.photos.length) send(current.index, [...current.ticked].sort((a, b) => a - b), current.index + 1);
}

// Undoes the correction of the photo on the page, or else the latest correction, from an earlier day too.
function undo() {
  const index = data.photos[current.index]?.reviewed ? current.index : data.history.at(-1);
  if (index !== undefined) send(index, null, index);
}

// Shows the next photo whose name contains the text.
function findPhoto() {
  const text = byId("find-photo").value.trim().toLowerCase();
  const all = data.photos.map((_, n) => (current.index + 1 + n) % data.photos.length);
  const match = text ? all.find((n) => data.photos[n].id.toLowerCase().includes(text)) : undefined;
  if (match === undefined) byId("status").textContent = `No photo name contains "${text}"`;
  else show(match);
}

byId("save").addEventListener("click", save);
for (const id of ["undo", "undo-last"]) byId(id).addEventListener("click", undo);
byId("find-photo").addEventListener("keydown", (event) => {
  if (event.key === "Enter") findPhoto();
  else if (event.key !== "Escape") return;
  byId("find-photo").blur();
  event.preventDefault();
});
byId("skip").addEventListener("click", () => show(current.index + 1));
for (const id of ["back", "again"]) byId(id).addEventListener("click", () => show(current.index - 1));
byId("find").addEventListener("input", drawTicks);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === byId("find-photo")) return;
  if (event.target === byId("find")) {
    if (event.key === "Escape" || event.key === "Enter") {
      const [only, other] = byId("classes").children;
      if (event.key === "Enter" && only && !other) toggle(Number(only.dataset.class));
      byId("find").value = "";
      byId("find").blur();
      drawTicks();
      event.preventDefault();
    }
    return;
  }
  const action = { Enter: save, s: () => show(current.index + 1), u: undo, ArrowLeft: () => show(current.index - 1), "/": () => byId("find").focus() }[event.key];
  // Enter on a focused button presses that button
  if (action && !(event.key === "Enter" && event.target.tagName === "BUTTON" && event.target !== byId("save"))) {
    event.preventDefault();
    action();
  } else if (/^[1-9]$/.test(event.key) && current.order[event.key - 1] !== undefined && !byId("card").hidden) toggle(current.order[event.key - 1]);
});
const first = data.photos.findIndex((photo, n) => n >= data.earlier && !photo.reviewed);
show(first < 0 ? data.photos.length : first);
