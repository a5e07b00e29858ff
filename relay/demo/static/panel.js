// One side: its messages, in order, and the box to write in.
import { createComposer } from "./composer.js";
import { SIDES, createMessage } from "./message.js";
import { createViewSwitch } from "./views.js";

const NEAR = 80; // pixels from the end that still count as being there

export function createPanel(side, { people, place, alert, show, badge }) {
  const root = document.getElementById(side);
  root.append(document.getElementById("chat").content.cloneNode(true));
  const [scroller, list, empty] = [".scroller", ".messages", ".empty"].map((selector) => root.querySelector(selector));
  const messages = new Map();
  const names = { users: place.users ?? {}, channels: place.channels ?? {} };
  let stuck = true; // whether the newest message is in sight, and is to stay there
  let top = 0; // how far it was scrolled last
  let shownAs = "";

  root.querySelector("h2").textContent = place.name;
  root.querySelector("header p").textContent = place.note;
  scroller.setAttribute("aria-label", `Messages in ${place.name} on ${SIDES[side].name}`);
  const latest = (key) => [...list.children].map((item) => messages.get(item.dataset.id).view()).findLast((view) => view.author.key === key);
  const composer = createComposer(root, side, { people, place, alert, latest, sent: bottom });
  const views = side === "matrix" ? createViewSwitch({ alert, choose(view) { shownAs = view; redraw(); } }) : null;
  if (views) root.querySelector("header").after(views.element);
  travel(list);
  link(list, side);
  press(list, show);

  function bottom() {
    stuck = true;
    scroller.scrollTop = scroller.scrollHeight;
  }

  function redraw() {
    const follow = stuck;
    for (const message of messages.values()) message.redraw();
    if (follow) bottom();
  }

  function put(view) {
    const follow = stuck;
    if (messages.has(view.id)) messages.get(view.id).update(view);
    else add(view);
    if (follow) bottom();
  }

  function add(view) {
    const message = createMessage(side, { act: composer.act, names, show, plain: () => shownAs === "plain" });
    messages.set(view.id, message);
    message.update(view);
    const after = [...list.children].findLast((item) => messages.get(item.dataset.id).view().order < view.order);
    if (after) after.after(message.element); else list.prepend(message.element);
    for (const item of list.children) item.tabIndex = item === list.lastElementChild ? 0 : -1;
    empty.hidden = true;
    badge(side);
  }

  function remove(id) {
    messages.get(id)?.element.remove();
    messages.delete(id);
    composer.forget(id);
    if (list.lastElementChild) list.lastElementChild.tabIndex = 0;
    empty.hidden = messages.size > 0;
  }

  // A picture that loads before this event moves the end away, not the reader: who lets go of the end scrolls up.
  scroller.addEventListener("scroll", () => {
    const near = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
    if (near || scroller.scrollTop < top) stuck = near;
    top = scroller.scrollTop;
  }, { passive: true });
  const watch = new ResizeObserver(() => { if (stuck) bottom(); });
  watch.observe(scroller);
  watch.observe(list);
  return { put, remove, clear: () => [...messages.keys()].forEach(remove), bottom, ghosts: views?.tell };
}

/** Links to a message lead to it on this page; a finger, which cannot hover, brings up a message's actions. */
function press(list, show) {
  list.addEventListener("click", (event) => {
    const address = event.target.closest("a")?.href ?? "";
    const [discord] = /^https:\/\/discord\.com\/channels\/\d+\/\d+\/(\d+)$/.exec(address)?.slice(1) ?? [];
    const [matrix] = /^https:\/\/matrix\.to\/#\/![^/]+\/(\$[\w-]+)/.exec(address)?.slice(1) ?? [];
    if (discord || matrix) { event.preventDefault(); show(discord ? "discord" : "matrix", discord ?? matrix); }
    else if (!event.target.closest("a, button, input, .spoiler")) event.target.closest(".message")?.focus();
  });
}

/** Arrow keys go from message to message; Tab goes on to the actions of the one that has the focus. */
function travel(list) {
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest(".message");
    if (event.target !== item) {
      if (event.key === "Escape") { item?.querySelector(".picker")?.setAttribute("hidden", ""); item?.focus(); }
      return;
    }
    const next = { ArrowUp: item.previousElementSibling, ArrowDown: item.nextElementSibling, Home: list.firstElementChild, End: list.lastElementChild }[event.key];
    if (next) { event.preventDefault(); next.focus(); }
  });
  list.addEventListener("focusin", (event) => {
    const here = event.target.closest(".message");
    for (const item of list.children) {
      item.tabIndex = item === here ? 0 : -1;
      for (const button of item.querySelectorAll(".actions button, .quote button")) button.tabIndex = item === here ? 0 : -1;
    }
  });
}

/** A message and its copies light up together. */
function link(list, side) {
  const mark = (event, on) => {
    const item = event.target.closest(".message");
    for (const id of (item?.dataset.with ?? "").split(" ").filter(Boolean)) {
      document.getElementById(`${SIDES[side].other}-${id}`)?.classList.toggle("linked", on);
    }
  };
  for (const [name, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
    list.addEventListener(name, (event) => mark(event, on));
  }
}
