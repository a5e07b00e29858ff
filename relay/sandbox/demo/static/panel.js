// One side: its messages, and the box to write in.
import { h, hue, post } from "./dom.js";
import { toMatrixHtml } from "./html.js";
import { markdown } from "./markdown.js";
import { SIDES, createMessage } from "./message.js";

const MARKS = [["**", "B", "Bold"], ["*", "I", "Italic"], ["__", "U", "Underline"], ["~~", "S", "Strike through"], ["||", "▒", "Spoiler"], ["`", "</>", "Code"]];
const NEAR = 80;

export function createPanel(side, { people, place, alert, show, badge }) {
  const root = document.getElementById(side);
  root.append(document.getElementById("chat").content.cloneNode(true));
  const find = (selector) => root.querySelector(selector);
  const [scroller, list, form, field, context] = [".scroller", ".messages", ".composer", "textarea", ".context"].map(find);
  const messages = new Map();
  let stuck = true; // whether the newest message is in sight, and is to stay there
  const names = { users: place.users ?? {}, channels: place.channels ?? {} };
  let target = null; // {mode: "reply" | "edit", view}

  find("h2").textContent = place.name;
  find("header p").textContent = place.note;
  list.setAttribute("aria-label", `Messages in ${place.name} on ${SIDES[side].name}`);
  field.setAttribute("aria-label", `Message ${place.name} on ${SIDES[side].name}`);
  field.placeholder = `Message ${place.name}`;
  find(".speakers").append(...people.map((person, index) => {
    const letter = h("span", { className: "avatar small", "aria-hidden": "true" }, person.name[0]);
    letter.style.setProperty("--hue", hue(person.name));
    return h("label", {}, h("input", { type: "radio", name: `${side}-speaker`, value: person.key, checked: index === 0 }), letter, person.name);
  }));
  find(".marks").append(...MARKS.map(([mark, sign, label]) => h("button", { type: "button", title: label, "aria-label": label,
    on: { click: () => surround(field, mark) } }, sign)));

  const speaker = () => root.querySelector(`input[name=${side}-speaker]:checked`).value;
  const send = (body) => post(`api/${side}`, body).then(() => true, (error) => { alert(error.message); return false; });
  const worded = (text) => side === "matrix" ? { body: text, html: toMatrixHtml(markdown(text)) } : { body: text };

  function aim(next) {
    target = next;
    context.hidden = !next;
    if (next) context.firstElementChild.textContent = next.mode === "edit" ? "Editing" : `Replying to ${next.view.author.name}`;
    field.value = next?.mode === "edit" ? next.view.body : next ? field.value : "";
    grow(field);
    if (next) field.focus();
  }

  function act(name, view, detail) {
    const as = view.author.key ?? speaker();
    if (name === "reply" || name === "edit") aim({ mode: name, view });
    else if (name === "delete") send({ act: "delete", as, target: view.id });
    else if (name === "react") send({ act: "react", as: speaker(), target: view.id, key: detail });
    else if (name === "thread") send({ act: "thread", as: speaker(), target: view.id, ...worded(detail) });
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text) return;
    const as = target?.mode === "edit" ? target.view.author.key : speaker();
    const before = target;
    send({ act: target?.mode ?? "say", as, target: target?.view.id, ...worded(text) }).then((sent) => {
      if (sent || field.value) return;
      aim(before);
      field.value = text; // nobody has to write it again
      grow(field);
    });
    aim(null);
    bottom();
  });
  field.addEventListener("input", () => grow(field));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    if (event.key === "Escape" && target) aim(null);
    if (event.key === "ArrowUp" && !field.value && !target) {
      const mine = [...messages.values()].map((message) => message.view()).filter((view) => view.author.key === speaker());
      if (mine.length) { event.preventDefault(); aim({ mode: "edit", view: mine.reduce((a, b) => (a.order > b.order ? a : b)) }); }
    }
  });
  context.querySelector("button").addEventListener("click", () => aim(null));
  list.addEventListener("click", (event) => {
    const jump = /^https:\/\/discord\.com\/channels\/\d+\/\d+\/(\d+)$/.exec(event.target.closest("a")?.href ?? "");
    if (jump) { event.preventDefault(); show("discord", jump[1]); }
    else if (!event.target.closest("a, button, input, .spoiler")) event.target.closest(".message")?.focus(); // a finger has no hover
  });
  travel(list);
  link(list, side);

  function bottom() {
    stuck = true;
    scroller.scrollTop = scroller.scrollHeight;
  }

  function put(view) {
    const follow = stuck;
    let message = messages.get(view.id);
    if (!message) {
      message = createMessage(side, { act, names, show });
      messages.set(view.id, message);
      message.update(view);
      const after = [...list.children].findLast((item) => messages.get(item.dataset.id).view().order < view.order);
      if (after) after.after(message.element); else list.prepend(message.element);
      for (const item of list.children) item.tabIndex = item === list.lastElementChild ? 0 : -1;
      badge(side);
    } else message.update(view);
    find(".empty").hidden = messages.size > 0;
    if (follow) bottom();
  }

  function remove(id) {
    messages.get(id)?.element.remove();
    messages.delete(id);
    if (target?.view.id === id) aim(null);
    if (list.lastElementChild) list.lastElementChild.tabIndex = 0;
    find(".empty").hidden = messages.size > 0;
  }

  scroller.addEventListener("scroll", () => { stuck = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR; }, { passive: true });
  const watch = new ResizeObserver(() => { if (stuck) bottom(); });
  watch.observe(scroller);
  watch.observe(list);
  return { put, remove, clear: () => [...messages.keys()].forEach(remove), bottom };
}

function grow(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 160)}px`;
}

function surround(field, mark) {
  const { selectionStart: start, selectionEnd: end, value } = field;
  field.setRangeText(`${mark}${value.slice(start, end)}${mark}`, start, end, "select");
  field.setSelectionRange(start + mark.length, end + mark.length);
  field.focus();
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
