// The page of one run.

function drawVerdict() {
  const entries = new Map(data.gallery.entries.map((entry) => [entry.id, entry]));
  const card = (alert) => make("li", { class: `alert ${alert.level}` },
    make("div", {}, make("h3", {}, make("span", { class: "sign", "aria-hidden": "true" }, alert.level === "warn" ? "!" : "i"), alert.title),
      make("p", {}, alert.text), Object.keys(alert.show).length ? make("a", { href: toPhotos(alert.show) }, "show the photos") : null),
    make("div", { class: "alert-photos" }, ...alert.photos.filter((id) => entries.has(id) && entries.get(id).thumb).map((id) =>
      make("a", { href: toPhotos({ ...alert.show, photo: id }), title: id }, make("img", { src: picture(entries.get(id)), alt: id })))));
  byId("alerts").replaceChildren(...data.verdict.alerts.map(card));
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
