// Keeps the status page up to date. Without it, the page is loaded again now and then.
"use strict";

const SECONDS = 5;
let since = null;

function changed(document_) {
  const old = document.getElementById("now");
  const now = document_.getElementById("now");
  if (now === null) {
    // Whoever was signed in is not any more.
    location.reload();
    return;
  }
  // What is open stays open, and what has the focus keeps it: nobody is disturbed while they read.
  for (const open of old.querySelectorAll("details[open]")) {
    const same = open.id && now.querySelector("#" + CSS.escape(open.id));
    if (same) same.open = true;
  }
  const focused = old.contains(document.activeElement) ? place(old, document.activeElement) : -1;
  const scrolled = [...old.querySelectorAll(".scroll")].map((it) => it.scrollLeft);
  old.replaceWith(document.adoptNode(now));
  [...now.querySelectorAll(".scroll")].forEach((it, number) => { it.scrollLeft = scrolled[number] || 0; });
  if (focused !== -1) find(now, focused)?.focus({ preventScroll: true });
  document.getElementById("process").textContent = document_.getElementById("process").textContent;
  // Only if it is another one: a screen reader reads it out.
  const verdict = document.getElementById("verdict");
  const fresh = document_.getElementById("verdict");
  if (verdict.textContent !== fresh.textContent) {
    verdict.textContent = fresh.textContent;
    verdict.className = fresh.className;
    document.title = document_.title;
  }
}

const FOCUSABLE = "summary, a, button, [tabindex]";

// The next thing around it with an ID, and the how manieth in there it is.
function place(within, element) {
  const named = element.closest("[id]");
  const around = named !== null && within.contains(named) && named !== within ? named.id : "";
  const scope = around ? named : within;
  return { around, number: [...scope.querySelectorAll(FOCUSABLE)].indexOf(element) };
}

function find(within, { around, number }) {
  const scope = around ? within.querySelector("#" + CSS.escape(around)) : within;
  return scope?.querySelectorAll(FOCUSABLE)[number];
}

function away(text) {
  const banner = document.getElementById("away");
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = text === "";
}

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch("./", { cache: "no-store", credentials: "same-origin" });
    if (answer.status !== 200 && answer.status !== 401) throw new Error(String(answer.status));
    changed(new DOMParser().parseFromString(await answer.text(), "text/html"));
    since = null;
    away("");
  } catch {
    since ??= new Date();
    away(`The relay has not answered since ${since.toLocaleTimeString()}: what is below was true then.`);
  }
}

async function forever() {
  for (;;) {
    await new Promise((done) => setTimeout(done, SECONDS * 1000));
    await look();
  }
}

document.addEventListener("visibilitychange", look);
forever();
