// How the Matrix side is shown: clients differ in what they know.
import { h } from "./dom.js";

const VIEWS = {
  profiles: ["With profiles", "Clients that know per-message profiles, such as gomuks and Sable."],
  plain: ["As Element shows it", "The bot’s name and picture, and the author in front of the words."],
};

/** A switch; `choose(view)` is called with what somebody chose, and at first with what they chose last time. */
export function createViewSwitch(choose) {
  const note = h("p", { className: "faint", id: "view-note" });
  const pick = (view) => {
    note.textContent = VIEWS[view][1];
    localStorage.setItem("view", view);
    choose(view);
  };
  const chosen = Object.hasOwn(VIEWS, localStorage.getItem("view")) ? localStorage.getItem("view") : "profiles";
  const options = Object.entries(VIEWS).map(([view, [label]]) => h("label", {},
    h("input", { type: "radio", name: "view", value: view, checked: view === chosen, "aria-describedby": note.id, on: { change: () => pick(view) } }), label));
  pick(chosen);
  return h("div", { className: "views" }, h("fieldset", {}, h("legend", { className: "hidden" }, "How the Matrix side is shown"), options), note);
}
