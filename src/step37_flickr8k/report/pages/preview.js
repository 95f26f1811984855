"use strict";
// All text from outside is set as text (textContent, alt), never as HTML.
const { rows, perPage } = JSON.parse(document.getElementById("rows").textContent);
const [query, bad, back, on, page, found, tiles] = ["query", "bad", "back", "on", "page", "found", "tiles"].map((id) => document.getElementById(id));
const sought = rows.map(([file, caption]) => `${caption} ${file}`.toLowerCase());
let hits = rows.map((_, number) => number);
let at = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function tile([file, caption, bytes, width, height, decodeError, copy]) {
  const item = element("li");
  const frame = element("div", "image");
  if (decodeError) {
    frame.append(element("span", "bad", decodeError));
  } else {
    const image = element("img");
    image.alt = caption;
    image.src = `data:image/webp;base64,${copy}`;
    frame.append(image);
  }
  const words = element("p", "words", caption);
  words.dir = "auto";
  const name = element("p", "facts mono", file);
  const facts = bytes ? `${(bytes / 1000).toFixed(1)} kB${width ? `, ${width} × ${height}` : ""}` : "";
  item.append(frame, words, name, element("p", "facts", facts));
  return item;
}

function show() {
  const pages = Math.max(1, Math.ceil(hits.length / perPage));
  at = Math.min(Math.max(at, 0), pages - 1);
  tiles.replaceChildren(...hits.slice(at * perPage, (at + 1) * perPage).map((number) => tile(rows[number])));
  page.textContent = `page ${at + 1} of ${pages}`;
  found.textContent = hits.length === rows.length ? "" : `${hits.length.toLocaleString("en")} found`;
  // Not disabled: that would take the focus away from a button just pressed
  back.ariaDisabled = at === 0;
  on.ariaDisabled = at === pages - 1;
}

function search() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (number) => words.every((word) => sought[number].includes(word)) && (!bad?.checked || rows[number][5]);
  hits = [...rows.keys()].filter(fits);
  at = 0;
  show();
}

function turn(by) {
  const before = at;
  at += by;
  show();
  if (at !== before) window.scrollTo(0, 0);
}

query.addEventListener("input", search);
bad?.addEventListener("change", search);
query.form.addEventListener("submit", (event) => event.preventDefault());
back.addEventListener("click", () => turn(-1));
on.addEventListener("click", () => turn(1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === query) {
    if (event.key === "Escape") {
      query.value = "";
      search();
      query.blur();
    }
  } else if (event.key === "/") {
    event.preventDefault();
    query.focus();
  } else if (event.key === "ArrowRight") {
    turn(1);
  } else if (event.key === "ArrowLeft") {
    turn(-1);
  }
});
show();
