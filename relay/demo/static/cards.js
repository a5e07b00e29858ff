// What stands below the words of a message: embeds, polls, forwarded messages, places, buttons.
import { h, icon, link } from "./dom.js";
import { markdown } from "./markdown.js";

export function card(view, names) {
  const make = { embed, poll, forward, place, buttons }[view.kind];
  return make ? make(view, names) : null;
}

const COLOUR = /^#[0-9a-f]{6}$/;

function embed(view, names) {
  const made = h("section", { className: "card embed" },
    view.author ? h("p", { className: "author" }, view.authorUrl ? link(view.authorUrl, view.author) : view.author) : null,
    view.title ? h("p", { className: "title" }, view.url ? link(view.url, view.title) : view.title) : null,
    view.description ? h("div", { className: "text" }, markdown(view.description, names)) : null,
    view.fields.length ? h("dl", {}, view.fields.map((field) => h("div", { className: field.inline ? "inline" : "" },
      h("dt", {}, field.name), h("dd", { className: "text" }, markdown(field.value, names))))) : null,
    view.footer ? h("p", { className: "faint" }, view.footer) : null);
  if (COLOUR.test(view.colour)) made.style.borderLeftColor = view.colour;
  return made;
}

function poll(view) {
  const total = view.answers.reduce((sum, answer) => sum + answer.votes, 0);
  const most = Math.max(...view.answers.map((answer) => answer.votes));
  const votes = (count) => `${count} ${count === 1 ? "vote" : "votes"}`;
  return h("section", { className: "card poll" },
    h("p", { className: "title" }, view.question),
    h("ol", {}, view.answers.map((answer) => {
      const part = total ? answer.votes / total : 0;
      const bar = h("i", { "aria-hidden": "true" });
      bar.style.width = `${part * 100}%`;
      return h("li", { className: view.over && total && answer.votes === most ? "won" : "" }, bar, h("span", {}, answer.text), h("data", { value: String(answer.votes) }, votes(answer.votes)));
    })),
    h("p", { className: "faint" }, votes(total), view.over ? " · Poll closed" : " · Poll open"));
}

function forward(view, names) {
  return h("section", { className: "card forward" }, h("p", { className: "faint" }, icon("forward"), " Forwarded"),
    view.body ? h("div", { className: "text" }, markdown(view.body, names)) : null, view.cards.map((inner) => card(inner, names)));
}

function place(view) {
  const [latitude, longitude] = /^geo:(-?[\d.]+),(-?[\d.]+)/.exec(view.uri)?.slice(1) ?? [];
  return h("section", { className: "card place" }, h("p", { className: "title" }, icon("place"), " ", view.title),
    latitude ? link(`https://www.openstreetmap.org/?mlat=${latitude}&mlon=${longitude}`, `${latitude}, ${longitude}`) : null);
}

function buttons(view) {
  return h("p", { className: "buttons" }, view.buttons.map((button) => button.url ? link(button.url, button.label) : h("span", {}, button.label)));
}
