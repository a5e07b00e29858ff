// One message: made once, and afterwards only what changed in it is made anew, so that nothing jumps or closes.
import { card } from "./cards.js";
import { h, icon, took } from "./dom.js";
import { face, hue } from "./face.js";
import { matrixHtml } from "./html.js";
import { markdown } from "./markdown.js";
import { media } from "./media.js";

export const SIDES = {
  discord: { name: "Discord", other: "matrix" },
  matrix: { name: "Matrix", other: "discord" },
};
const EMOJI = ["👍", "❤️", "🎉", "😂", "🌊"];
const ACTIONS = [
  ["reply", "Reply"], ["react", "React"], ["thread", "Open a thread"], ["edit", "Edit"], ["delete", "Delete"],
];

/** `act(name, view, detail)` carries out what somebody chose; `names` resolves Discord's mentions; `plain()` says
    whether the client that is shown knows no per-message profiles. */
export function createMessage(side, { act, names, show, plain }) {
  let latest = null; // as it was told
  let view = null; // as it is shown
  const slots = {};
  const slot = (name, tag, className) => (slots[name] = { element: h(tag, { className }), last: undefined }).element;
  const fill = (name, value, render) => {
    const key = JSON.stringify(value ?? null);
    if (slots[name].last === key) return;
    slots[name].last = key;
    slots[name].element.replaceChildren(...render(value).filter((node) => node !== null && node !== undefined));
  };
  const seen = (message) => plain() && message.plain ? { ...message, ...message.plain } : message;
  const thread = threadSection(side, { act: (text) => act("thread", view, text), names, seen });
  const picker = h("div", { className: "picker", role: "group", "aria-label": "Reactions", hidden: true }, EMOJI.map((emoji) =>
    button("", emoji, `React with ${emoji}`, () => { picker.hidden = true; act("react", view, emoji); })));
  const choose = { react: () => { picker.hidden = !picker.hidden; if (!picker.hidden) picker.firstChild.focus(); }, thread: thread.open };
  const toolbar = h("div", { className: "actions", role: "toolbar", "aria-label": "Message actions" },
    ACTIONS.map(([name, label]) => button(name, icon(name), label, () => (choose[name] ?? (() => act(name, view)))())), picker);
  const element = h("li", { className: "message", tabIndex: -1 },
    slot("avatar", "span", "avatar"),
    h("article", {}, slot("quote", "div", "quote"), slot("head", "header"), slot("text", "div", "text"), slot("cards", "div", "cards"), slot("files", "ul", "files"),
      slot("reactions", "div", "reactions"), slot("cross", "footer", "cross"), thread.element),
    toolbar);
  slots.avatar.element.setAttribute("aria-hidden", "true");

  function update(next) {
    latest = next;
    view = seen(next);
    element.id = `${side}-${view.id}`;
    element.dataset.kind = view.kind;
    element.dataset.id = view.id;
    element.dataset.with = (view.cross?.with ?? []).join(" ");
    fill("avatar", [view.author, view.kind], ([author, kind]) => kind === "system" ? [icon("arrow")] : face(side, author));
    slots.avatar.element.style.setProperty("--hue", hue(view.author.name));
    fill("quote", view.reply, (reply) => reply ? [quotation(side, reply, show)] : []);
    fill("head", [view.author, view.at, view.edited, view.kind === "system" && view.body], () => head(side, view));
    fill("text", [view.body, view.html], () => view.kind === "system" && !view.body.includes("\n") ? [] : folded(text(side, view, names), view.body));
    fill("cards", view.cards, (cards) => cards.map((each) => card(each, names)));
    fill("files", view.files, (files) => files.map((file) => media(side, file)));
    fill("reactions", view.reactions, (list) => list.map(({ key, count }) => h("span", { className: "reaction" }, key, " ", String(count))));
    fill("cross", [view.cross, view.kind], ([cross, kind]) => kind === "private" ? ["Only the one who asked can see this."] : crossing(side, cross));
    thread.update(view.thread);
    for (const name of ["edit", "delete"]) toolbar.querySelector(`[data-action=${name}]`).hidden = view.kind !== "person";
    toolbar.querySelector("[data-action=thread]").hidden = Boolean(view.thread);
  }
  return { element, update, view: () => view, redraw: () => update(latest) };
}

export function text(side, view, names) {
  if (side === "discord") return markdown(view.body, names);
  const words = view.html ? matrixHtml(view.html) : view.body;
  if (view.emote) return [h("div", { className: "emote" }, `* ${view.author.name} `, words)];
  return view.html ? words : words ? [h("div", {}, words)] : [];
}

const LINES = 14;
const LETTERS = 700;

/** A long text shows its beginning until somebody asks for all of it. */
function folded(nodes, body) {
  if (body.length < LETTERS && body.split("\n").length <= LINES) return nodes;
  const words = h("div", { className: "fold" }, nodes);
  const more = h("button", { type: "button", className: "unfold", "aria-expanded": "false", on: { click: () => {
    const open = words.classList.toggle("open");
    more.textContent = open ? "Show less" : "Show all";
    more.setAttribute("aria-expanded", String(open));
  } } }, "Show all");
  return [words, more];
}

function button(action, sign, label, press) {
  return h("button", { type: "button", tabIndex: -1, title: label, "aria-label": label, data: { action }, on: { click: press } }, sign);
}

function head(side, view) {
  const at = new Date(view.at);
  const said = view.kind === "system" && !view.body.includes("\n") ? h("span", {}, view.body) : null;
  return [
    h("b", {}, view.author.name), said,
    view.author.badge ? h("span", { className: "badge" }, view.author.badge) : null,
    h("time", { dateTime: at.toISOString(), title: at.toLocaleString() }, at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })),
    view.edited ? h("span", { className: "edited" }, "(edited)") : null,
  ].filter(Boolean);
}

function quotation(side, reply, show) {
  const words = reply.author ? [h("b", {}, reply.author), ` ${reply.body}`] : ["a message that is gone"];
  return h("button", { type: "button", tabIndex: -1, on: { click: () => show(side, reply.id) }, "aria-label": `In reply to ${reply.author}` },
    h("span", { "aria-hidden": "true" }, "↱ "), words);
}

/** What became of it on the other side, or where it came from. */
function crossing(side, cross) {
  if (!cross) return [];
  const other = SIDES[SIDES[side].other].name;
  const parts = cross.with.length > 1 ? ` in ${cross.with.length} parts` : "";
  const states = {
    crossing: () => h("span", { className: "going" }, `→ ${other} …`),
    crossed: () => h("span", { className: "good" }, `✓ on ${other}${parts} in ${took(cross.ms)}`),
    arrived: () => h("span", {}, `from ${other}${cross.ms === null ? "" : `, ${took(cross.ms)}`}`),
  };
  return [
    states[cross.state]?.(),
    cross.changes.map(({ what, ms }) => h("span", { className: "good" }, ` · ${what} ${took(ms)}`)),
    stays(cross.dropped),
  ].flat().filter(Boolean);
}

/** What stayed, each kind once. */
function stays(dropped) {
  const counts = new Map();
  for (const what of dropped) counts.set(what, (counts.get(what) ?? 0) + 1);
  return [...counts].map(([what, count]) => h("span", { className: "bad" },
    what === "thread" ? ` · ${count === 1 ? "a message" : `${count} messages`} in the thread ${count === 1 ? "stays" : "stay"} here` : ` · ${what} stays here`));
}

function threadSection(side, { act, names, seen }) {
  const list = h("ol", { className: "replies", "aria-label": "Thread" });
  const input = h("input", { type: "text", placeholder: "Write in the thread", "aria-label": "Write in the thread", maxLength: 2000 });
  const form = h("form", { className: "reply", on: { submit: (event) => {
    event.preventDefault();
    if (input.value.trim()) act(input.value);
    input.value = "";
  } } }, input, h("button", { type: "submit", "aria-label": "Send in the thread" }, icon("send")));
  const element = h("section", { className: "thread", hidden: true, "aria-label": "Thread" }, h("p", { className: "faint" }, icon("thread"), "Thread"), list, form);
  let last = "";
  return {
    element,
    open() { element.hidden = false; input.focus(); },
    update(thread) {
      if (thread) element.hidden = false;
      const messages = (thread?.messages ?? []).map(seen);
      const key = JSON.stringify(messages);
      if (key === last) return;
      last = key;
      list.replaceChildren(...messages.map((message) => h("li", { data: { kind: message.kind } },
        h("b", {}, message.author.name), " ", h("span", { className: "text" }, text(side, message, names)))));
    },
  };
}
