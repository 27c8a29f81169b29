// The page of `ccd serve`. Each photo is a request of its own; the server batches photos that arrive together.

const SHOWN = 5;
const thresholds = new Map(data.classes.map((each) => [each.name, each.threshold]));
const counts = { sent: 0, done: 0 };

function bars(scores) {
  const leading = Object.entries(scores).sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
  return make("div", { class: "bars" }, ...leading.flatMap(([name, score]) => {
    const faint = score >= thresholds.get(name) ? "" : " faint";
    return [make("span", { class: "name", title: name }, name),
      make("span", { class: "track", "aria-hidden": "true" }, make("i", { class: `fill${faint}`, style: `width:${100 * score}%;--color:var(--classifier)` })),
      make("span", { class: "value" }, score.toFixed(2))];
  }));
}

function shown(photo) {
  if (photo.error) return [make("p", { class: "cross" }, photo.error)];
  const chips = photo.labels.map((name) => make("span", { class: "chip" }, name));
  return [make("div", { class: "chips" }, ...(chips.length ? chips : [make("span", { class: "muted" }, "none of the classes")])), bars(photo.scores)];
}

async function send(file) {
  const result = make("div", { class: "result" }, make("p", { class: "muted" }, "…"));
  const address = URL.createObjectURL(file);
  const image = make("img", { src: address, alt: "", on: { error: () => image.remove() } });
  byId("results").prepend(make("article", {}, make("div", { class: "frame" }, image), make("h2", {}, file.name), result));
  counts.sent += 1;
  try {
    const form = new FormData();
    form.append("photo", file);
    const response = await fetch("predict", { method: "POST", body: form });
    const json = response.headers.get("Content-Type").startsWith("application/json");
    const content = json ? await response.json() : { error: await response.text() };
    result.replaceChildren(...shown(content.photos ? content.photos[0] : content));
  } catch (error) {
    result.replaceChildren(...shown({ error: `${error.message}. Is \`ccd serve\` still running?` }));
  }
  counts.done += 1;
  byId("status").textContent = `${counts.done} of ${counts.sent} photos classified`;
}

const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") for (const file of event.dataTransfer.files) send(file);
  });
}
byId("files").addEventListener("change", (event) => {
  for (const file of event.target.files) send(file);
  event.target.value = "";
});
byId("example").textContent = byId("example").textContent.replace("ADDRESS", location.origin);
