// Keeps the page up to date: one fetch for all that has changed meanwhile, and what a reader opened stays open.
"use strict";
const now = document.getElementById("now");
const state = document.getElementById("state");
let busy = false, again = false;

const name = (part) => {
  const section = part.closest("section");
  const heading = section ? section.querySelector("h2").textContent : "";
  return heading + "/" + [...(section || now).querySelectorAll("details")].indexOf(part);
};

const show = (text) => {
  const open = new Map([...now.querySelectorAll("details")].map((part) => [name(part), part.open]));
  now.innerHTML = text;
  for (const part of now.querySelectorAll("details")) {
    if (open.has(name(part))) part.open = open.get(name(part));
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
