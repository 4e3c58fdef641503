// Keeps the page up to date: one fetch for all that has changed meanwhile, and what a reader opened, scrolled or is at stays so.
"use strict";
const now = document.getElementById("now");
const state = document.getElementById("state");
let busy = false, again = false;

// What a reader can change, and where it stands: the section, and its number there among its like.
const KINDS = ["details", "summary", ".scroll"];
const parts = () => KINDS.flatMap((kind) => [...now.querySelectorAll("section")].flatMap((section) => {
  const heading = section.querySelector("h2").textContent;
  return [...section.querySelectorAll(kind)].map((part, i) => [`${heading}/${kind}/${i}`, part]);
}));

const show = (text) => {
  const was = new Map(parts().map(([name, part]) =>
    [name, { open: part.open, left: part.scrollLeft, focus: part === document.activeElement }]));
  now.innerHTML = text;
  for (const [name, part] of parts()) {
    const before = was.get(name);
    if (!before) continue;
    if (before.open !== undefined) part.open = before.open;
    if (before.left) part.scrollLeft = before.left;
    if (before.focus) part.focus({ preventScroll: true });
  }
  state.textContent = "as of " + new Date().toLocaleTimeString();
};

const update = async () => {
  if (busy) { again = true; return; }
  busy = true;
  do {
    again = false;
    try {
      show(await (await fetch("now")).text());
    } catch {
      state.textContent = "hardy watch does not answer; shown is what it last said";
    }
  } while (again);
  busy = false;
};

const source = new EventSource("events");
source.onmessage = update;
source.onerror = () => { state.textContent = "hardy watch does not answer; shown is what it last said"; };

addEventListener("keydown", (event) => {
  const step = { j: 1, k: -1 }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  const tops = [...document.querySelectorAll("h2")].map((heading) => heading.getBoundingClientRect().top + scrollY);
  const next = step > 0 ? tops.find((top) => top > scrollY + 8) : tops.reverse().find((top) => top < scrollY - 8);
  scrollTo({ top: next === undefined ? (step > 0 ? document.body.scrollHeight : 0) : next });
});
