// How the Matrix side is shown: clients differ in what they know, and homeservers in what they allow.
import { h, post } from "./dom.js";

const VIEWS = {
  profiles: ["With profiles", "Clients that know per-message profiles, such as gomuks and Sable."],
  plain: ["As Element shows it", "The bot’s name and picture, and the author in front of the words."],
  ghosts: ["With ghosts", "From now on, people of Discord have accounts of their own here."],
};

/** A switch; `choose(view)` is called with `profiles` or `plain`, at first with what somebody chose last time. Ghosts
    are no view, but a setting of the daemon, and only there with `relay demo --ghosts`: the page is told of them. */
export function createViewSwitch({ alert, choose }) {
  let ghosts = null; // whether there are any; null where there cannot be
  let view = localStorage.getItem("view") === "plain" ? "plain" : "profiles";
  let wish = null; // what was pressed, until the relay has read the setting
  let last = 0; // the number of the newest wish: it is the one that counts
  const note = h("p", { className: "faint", id: "view-note" });
  const options = Object.entries(VIEWS).map(([name, [label]]) => h("label", {},
    h("input", { type: "radio", name: "view", value: name, "aria-describedby": note.id, on: { change: () => pick(name) } }), label));

  function draw() {
    const now = wish ?? (ghosts ? "ghosts" : view);
    for (const option of options) {
      option.firstChild.checked = option.firstChild.value === now;
      option.hidden = option.firstChild.value === "ghosts" && ghosts === null;
    }
    const kept = ghosts === false ? " What ghosts have said stays theirs." : "";
    note.textContent = wish ? "One moment: the relay reads the new setting." : VIEWS[now][1] + kept;
    choose(view);
  }

  function pick(name) {
    const wanted = name === "ghosts";
    if (!wanted) localStorage.setItem("view", view = name);
    if (ghosts === null || (ghosts === wanted && wish === null)) return draw();
    const asked = ++last;
    wish = name;
    draw();
    post("api/ghosts", { ghosts: wanted }).then(() => { ghosts = wanted; }, (error) => alert(error.message)).finally(() => {
      if (asked === last) { wish = null; draw(); }
    });
  }

  draw();
  return {
    element: h("div", { className: "views" }, h("fieldset", {}, h("legend", { className: "hidden" }, "How the Matrix side is shown"), options), note),
    tell(now) { ghosts = now; draw(); },
  };
}
