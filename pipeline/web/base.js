"use strict";
// Shared by all pages: elements, numbers, colours, addresses.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1));
const count = (value) => value.toLocaleString("en");
const colours = {
  "initial labels": "--initial", "final labels": "--final", initial: "--initial", final: "--final",
  "warm-up": "--warmup", classifier: "--classifier", crops: "--crops", "ground truth": "--truth",
};
const colour = (name) => `var(${name.startsWith("teacher") ? "--teacher" : colours[name] ?? "--classifier"})`;
const SVG = ["svg", "g", "path", "line", "rect", "text", "circle", "title"];

// An element with attributes and children; text is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const svg = SVG.includes(tag) || attributes.svg;
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "svg") continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
}

// Text for screen readers only.
const hiddenText = (text) => make("span", { class: "visually-hidden" }, text);

// The address of photos: the filters of the gallery, after "#".
const toPhotos = (show) => "#images?" + new URLSearchParams(show).toString();

// Cuts a list of more than data-rows rows and adds a button that shows all.
function cut(id, rows) {
  const holder = byId(id);
  if (rows <= Number(holder.dataset.rows)) return;
  holder.classList.add("cut");
  const open = () => {
    holder.classList.remove("cut");
    button.remove();
  };
  const button = make("button", { class: "show-all", type: "button", on: { click: open } }, `Show all ${rows}`);
  holder.after(button);
}

function saveText(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
