// The page on which a person corrects labels. An answer is with the server before the next photo is shown.

const KEYS = 9;
const asked = { index: 0, ticked: new Set(), order: [], busy: false };
const opened = data.questions.length - data.earlier;

// As many classes as there are keys keep their order, so that a key means one class on every photo. Of more, ticked and doubtful classes first, so that the keys are for what matters; the rest by score.
function orderOf(head) {
  if (data.classes.length <= KEYS) return data.classes.map((_, c) => c);
  const rank = (c) => (head.present.includes(c) ? 2 : 0) + (head.doubtful.includes(c) ? 1 : 0);
  return data.classes.map((_, c) => c).sort((a, b) => (rank(b) > 0) - (rank(a) > 0) || rank(b) - rank(a) || head.scores[b] - head.scores[a]);
}

function drawTicks() {
  const head = data.questions[asked.index];
  const text = byId("find").value.trim().toLowerCase();
  byId("classes").replaceChildren(...asked.order.flatMap((c, k) => {
    if (text && !data.classes[c].toLowerCase().includes(text)) return [];
    const on = asked.ticked.has(c);
    const key = k < KEYS ? make("kbd", {}, k + 1) : make("kbd", { class: "none" });
    const doubt = head.doubtful.includes(c) ? make("span", { class: "muted", title: "doubtful" }, "?") : null;
    return [make("button", { type: "button", class: "tick-class", "data-class": c, "aria-pressed": String(on), on: { click: () => toggle(c) } },
      key, make("span", { class: "box", "aria-hidden": "true" }, on ? "✓" : ""), make("span", { class: "name" }, data.classes[c]), doubt,
      make("small", {}, head.scores[c].toFixed(2)))];
  }));
}

function toggle(c) {
  asked.ticked[asked.ticked.has(c) ? "delete" : "add"](c);
  const held = document.activeElement?.dataset?.class;
  drawTicks();
  if (held !== undefined) byId("classes").querySelector(`[data-class="${held}"]`)?.focus();
}

function show(index) {
  asked.index = Math.max(0, index);
  const done = asked.index >= data.questions.length;
  byId("head").hidden = done;
  byId("finished").hidden = !done;
  byId("progress").textContent = progress(done);
  byId("undo").disabled = byId("undo-last").disabled = data.history.length === 0 && !data.questions[asked.index]?.answered;
  if (done) { byId("finished-title").focus(); return; }
  const head = data.questions[asked.index];
  asked.ticked = new Set(head.present);
  asked.order = orderOf(head);
  byId("find").value = "";
  byId("photo").src = `photo/${asked.index}`;
  byId("photo").alt = head.id;
  byId("photo-id").textContent = head.id;
  byId("hint").textContent = head.answered ? "Answered: the ticks are the answer. Save to change it, u to undo it."
    : `Most doubtful: ${head.doubtful.map((c) => data.classes[c]).join(", ")}`;
  byId("back").disabled = asked.index === 0;
  drawTicks();
  if (asked.index + 1 < data.questions.length) new Image().src = `photo/${asked.index + 1}`;
}

// Photos, whatever the number of classes.
function progress(done) {
  const answered = data.questions.slice(data.earlier).filter((head) => head.answered).length;
  const before = data.earlier ? `, ${count(data.earlier)} earlier` : "";
  if (!done && asked.index < data.earlier) return `Earlier photo ${asked.index + 1} of ${data.earlier}`;
  return done ? `${answered} of ${opened} photos answered${before}` : `Photo ${asked.index - data.earlier + 1} of ${opened}, ${answered} answered${before}`;
}

// Sends an answer, or null to undo it, and takes over what the server has written.
async function send(index, present, next) {
  if (asked.busy) return;
  asked.busy = true;
  const head = data.questions[index];
  try {
    const reply = await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ index, present }) });
    if (!reply.ok) throw new Error(await reply.text());
    const now = await reply.json();
    Object.assign(head, { present: now.present, answered: now.answered });
    data.history = data.history.filter((each) => each !== index);
    if (now.answered) data.history.push(index);
    const names = now.present.map((c) => data.classes[c]).join(", ") || "none of the classes";
    byId("said").textContent = present ? `written: ${head.id}, ${names}` : now.answered ? `undone: ${head.id} has its earlier answer again, ${names}` : `undone: ${head.id} has no answer now`;
    show(next);
  } catch (error) {
    byId("said").textContent = `NOT written: ${error.message}. Is \`ccd review\` still running?`;
  } finally {
    asked.busy = false;
  }
}

function save() {
  if (asked.index < data.questions.length) send(asked.index, [...asked.ticked].sort((a, b) => a - b), asked.index + 1);
}

// The answer to the photo that is shown, or else the latest one that was given on this page, today or before.
function undo() {
  const index = data.questions[asked.index]?.answered ? asked.index : data.history.at(-1);
  if (index !== undefined) send(index, null, index);
}

// The next photo whose name has the text.
function findPhoto() {
  const text = byId("find-photo").value.trim().toLowerCase();
  const all = data.questions.map((_, n) => (asked.index + 1 + n) % data.questions.length);
  const found = text ? all.find((n) => data.questions[n].id.toLowerCase().includes(text)) : undefined;
  if (found === undefined) byId("said").textContent = `no photo here is called ${text}`;
  else show(found);
}

byId("save").addEventListener("click", save);
for (const id of ["undo", "undo-last"]) byId(id).addEventListener("click", undo);
byId("find-photo").addEventListener("keydown", (event) => {
  if (event.key === "Enter") findPhoto();
  else if (event.key !== "Escape") return;
  byId("find-photo").blur();
  event.preventDefault();
});
byId("skip").addEventListener("click", () => show(asked.index + 1));
for (const id of ["back", "again"]) byId(id).addEventListener("click", () => show(asked.index - 1));
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
  const act = { Enter: save, s: () => show(asked.index + 1), u: undo, ArrowLeft: () => show(asked.index - 1), "/": () => byId("find").focus() }[event.key];
  // a button that has the focus does what it says
  if (act && !(event.key === "Enter" && event.target.tagName === "BUTTON" && event.target !== byId("save"))) {
    event.preventDefault();
    act();
  } else if (/^[1-9]$/.test(event.key) && asked.order[event.key - 1] !== undefined && !byId("head").hidden) toggle(asked.order[event.key - 1]);
});
const open = data.questions.findIndex((head, n) => n >= data.earlier && !head.answered);
show(open < 0 ? data.questions.length : open);
