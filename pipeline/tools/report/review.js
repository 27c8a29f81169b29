// The page on which a person corrects labels. An answer is with the server before the next photo is shown.

const KEYS = 9;
const asked = { index: 0, ticked: new Set(), order: [], busy: false };

// Ticked and doubtful classes first, so that the keys are for what matters; the rest by score.
function orderOf(question) {
  const rank = (c) => (question.present.includes(c) ? 2 : 0) + (question.doubtful.includes(c) ? 1 : 0);
  return data.classes.map((_, c) => c).sort((a, b) => (rank(b) > 0) - (rank(a) > 0) || rank(b) - rank(a) || question.scores[b] - question.scores[a]);
}

function drawTicks() {
  const question = data.questions[asked.index];
  const text = byId("find").value.trim().toLowerCase();
  byId("classes").replaceChildren(...asked.order.flatMap((c, k) => {
    if (text && !data.classes[c].toLowerCase().includes(text)) return [];
    const on = asked.ticked.has(c);
    const key = k < KEYS ? make("kbd", {}, k + 1) : make("kbd", { class: "none" });
    const doubt = question.doubtful.includes(c) ? make("span", { class: "muted", title: "doubtful" }, "?") : null;
    return [make("button", { type: "button", class: "tick-class", "data-class": c, "aria-pressed": String(on), on: { click: () => toggle(c) } },
      key, make("span", { class: "box", "aria-hidden": "true" }, on ? "✓" : ""), make("span", { class: "name" }, data.classes[c]), doubt,
      make("small", {}, question.scores[c].toFixed(2)))];
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
  byId("question").hidden = done;
  byId("finished").hidden = !done;
  const answered = data.questions.filter((question) => question.answered).length;
  byId("progress").textContent = done ? `${answered} of ${data.questions.length} written` : `${asked.index + 1} of ${data.questions.length}, ${answered} written`;
  if (done) { byId("finished-title").focus(); return; }
  const question = data.questions[asked.index];
  asked.ticked = new Set(question.present);
  asked.order = orderOf(question);
  byId("find").value = "";
  byId("photo").src = `photo/${asked.index}`;
  byId("photo").alt = question.id;
  byId("photo-id").textContent = question.id;
  byId("hint").textContent = `Most doubtful: ${question.doubtful.map((c) => data.classes[c]).join(", ")}`;
  byId("back").disabled = asked.index === 0;
  drawTicks();
  if (asked.index + 1 < data.questions.length) new Image().src = `photo/${asked.index + 1}`;
}

async function save() {
  if (asked.busy || asked.index >= data.questions.length) return;
  asked.busy = true;
  const [question, present] = [data.questions[asked.index], [...asked.ticked].sort((a, b) => a - b)];
  try {
    const reply = await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ index: asked.index, present }) });
    if (!reply.ok) throw new Error(await reply.text());
    Object.assign(question, { present, answered: true });
    byId("said").textContent = `written: ${question.id}, ${present.map((c) => data.classes[c]).join(", ") || "none of the classes"}`;
    show(asked.index + 1);
  } catch (error) {
    byId("said").textContent = `NOT written: ${error.message}. Is \`ccd review\` still running?`;
  } finally {
    asked.busy = false;
  }
}

byId("save").addEventListener("click", save);
byId("skip").addEventListener("click", () => show(asked.index + 1));
for (const id of ["back", "again"]) byId(id).addEventListener("click", () => show(asked.index - 1));
byId("find").addEventListener("input", drawTicks);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
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
  const act = { Enter: save, s: () => show(asked.index + 1), ArrowLeft: () => show(asked.index - 1), "/": () => byId("find").focus() }[event.key];
  // a button that has the focus does what it says
  if (act && !(event.key === "Enter" && event.target.tagName === "BUTTON" && event.target !== byId("save"))) {
    event.preventDefault();
    act();
  } else if (/^[1-9]$/.test(event.key) && asked.order[event.key - 1] !== undefined && !byId("question").hidden) toggle(asked.order[event.key - 1]);
});
const open = data.questions.findIndex((question) => !question.answered);
show(open < 0 ? data.questions.length : open);
