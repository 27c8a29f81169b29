// The page of one run.

// Text with commands in backquotes.
const withCommands = (text) => text.split("`").map((part, k) => (k % 2 ? make("code", {}, part) : part));

function drawVerdict() {
  const entries = new Map(data.gallery.entries.map((entry) => [entry.id, entry]));
  const example = (entry) => make("a", { href: toPhotos({ photo: entry.id }), title: entry.id },
    make("img", { src: picture(entry), alt: entry.id }), chips(entry));
  byId("examples")?.replaceChildren(...data.verdict.examples.filter((id) => entries.get(id)?.thumb).map((id) => example(entries.get(id))));
  const card = (alert) => make("li", { class: `alert ${alert.level}` },
    make("div", {}, make("h3", {}, make("span", { class: "sign", "aria-hidden": "true" }, alert.level === "warn" ? "!" : "i"), alert.title),
      make("p", {}, alert.text), make("p", { class: "remedy" }, ...withCommands(alert.remedy)), Object.keys(alert.show).length ? make("a", { href: toPhotos(alert.show) }, "show the photos") : null),
    make("div", { class: "alert-photos" }, ...alert.photos.filter((id) => entries.has(id) && entries.get(id).thumb).map((id) =>
      make("a", { href: toPhotos({ ...alert.show, photo: id }), title: id }, make("img", { src: picture(entries.get(id)), alt: id })))));
  byId("alerts")?.replaceChildren(...data.verdict.alerts.map(card));
}

drawVerdict();
if (data.stages.length) drawStages(data.stages);
if (data.bias) drawBias();
drawClasses();
if (data.sliders) drawSlider();
if (data.curves.length) drawCurves();
if (data.training) drawTraining();
if (data.distribution) { drawDistribution(); drawMatrix(); }
drawGallery();
