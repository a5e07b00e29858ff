// The box to write in: who speaks, formatting, replies and edits.
import { createTray, withFiles } from "./attachments.js";
import { h, post } from "./dom.js";
import { face, hue } from "./face.js";
import { toMatrixHtml } from "./html.js";
import { markdown } from "./markdown.js";
import { SIDES } from "./message.js";

const MARKS = [["**", "B", "Bold"], ["*", "I", "Italic"], ["__", "U", "Underline"], ["~~", "S", "Strike through"], ["||", "▒", "Spoiler"], ["`", "</>", "Code"]];

/** `latest(key)`: the newest message of one of the cast; `sent`: called when somebody wrote something. */
export function createComposer(root, side, { people, place, alert, latest, sent }) {
  const [form, field, context] = [".composer", "textarea", ".context"].map((selector) => root.querySelector(selector));
  let target = null; // {mode: "reply" | "edit", view}
  const tray = createTray(root, { alert, add: attach });
  furnish(root, side, people, place, field);

  const speaker = () => root.querySelector(`input[name=${side}-speaker]:checked`).value;
  const send = (body) => post(`api/${side}`, body).then(() => true, (error) => { alert(error.message); return false; });

  function attach(files) {
    if (target?.mode === "edit") aim(null); // an edit changes words only
    tray.add(files);
  }

  function aim(next, text = next?.mode === "edit" ? next.view.body : next ? field.value : "") {
    target = next;
    if (next?.mode === "edit") tray.take();
    context.hidden = !next;
    if (next) context.firstElementChild.textContent = next.mode === "edit" ? "Editing" : `Replying to ${next.view.author.name}`;
    field.value = text;
    grow(field);
    if (next) field.focus();
  }

  async function submit(event) {
    event.preventDefault();
    const [text, before, files] = [field.value.trim(), target, tray.take()];
    if (!text && !files.length) return;
    const as = before?.mode === "edit" ? before.view.author.key : speaker();
    const wish = { act: before?.mode ?? "say", as, target: before?.view.id, ...worded(side, text) };
    const going = files.length ? withFiles(wish, files).then(send) : send(wish);
    aim(null);
    sent();
    if (await going) files.forEach(({ url }) => URL.revokeObjectURL(url));
    else if (!field.value) { aim(before, text); tray.restore(files); } // nobody has to write it again
  }

  function type(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    if (event.key === "Escape" && target) aim(null);
    if (event.key === "ArrowUp" && !field.value && !target && latest(speaker())) {
      event.preventDefault();
      aim({ mode: "edit", view: latest(speaker()) });
    }
  }

  form.addEventListener("submit", submit);
  field.addEventListener("input", () => grow(field));
  field.addEventListener("keydown", type);
  context.querySelector("button").addEventListener("click", () => aim(null));

  return {
    /** What somebody chose on a message. */
    act(name, view, detail) {
      if (name === "reply" || name === "edit") aim({ mode: name, view });
      else if (name === "delete") send({ act: name, as: view.author.key, target: view.id });
      else if (name === "react") send({ act: name, as: speaker(), target: view.id, key: detail });
      else if (name === "thread") send({ act: name, as: speaker(), target: view.id, ...worded(side, detail) });
    },
    /** A message is gone, and with it what was being written about it. */
    forget(id) { if (target?.view.id === id) aim(null); },
  };
}

function furnish(root, side, people, place, field) {
  field.setAttribute("aria-label", `Message ${place.name} on ${SIDES[side].name}`);
  field.placeholder = `Message, or ${side === "discord" ? "/" : "!"}relay help`;
  root.querySelector(".speakers").append(...people.map((person, index) => {
    const picture = h("span", { className: "avatar small", "aria-hidden": "true" }, face(side, person));
    picture.style.setProperty("--hue", hue(person.name));
    return h("label", {}, h("input", { type: "radio", name: `${side}-speaker`, value: person.key, checked: index === 0 }), picture, person.name);
  }));
  root.querySelector(".marks").append(...MARKS.map(([mark, sign, label]) =>
    h("button", { type: "button", title: label, "aria-label": label, on: { click: () => surround(field, mark) } }, sign)));
}

/** What each platform's client makes of what was typed. */
function worded(side, text) {
  return side === "matrix" ? { body: text, html: toMatrixHtml(markdown(text)) } : { body: text };
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
