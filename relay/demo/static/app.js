// The page: both sides, the relay between them, and the stream of what happens.
import { h, post, took } from "./dom.js";
import { createPanel } from "./panel.js";

const $ = (id) => document.getElementById(id);
const panels = {};
const order = ["discord", "relay", "matrix"];
let shown = "discord";

function alert(text) {
  $("alert").textContent = text;
  clearTimeout(alert.timer);
  alert.timer = setTimeout(() => { $("alert").textContent = ""; }, 6000);
}

/** Bring a message into view and let it glow. */
function show(side, id) {
  const item = $(`${side}-${id}`);
  if (!item) return;
  if (matchMedia("(max-width: 760px)").matches) open(side);
  item.scrollIntoView({ block: "center", behavior: "smooth" });
  item.classList.remove("glow");
  requestAnimationFrame(() => item.classList.add("glow"));
  item.focus({ preventScroll: true });
}

// --- Tabs, on a phone -------------------------------------------------------------------------------------------

function open(name) { $("columns").scrollTo({ left: $(name).offsetLeft, behavior: "smooth" }); }

function mark(name) {
  shown = name;
  for (const each of order) {
    $(`tab-${each}`).setAttribute("aria-selected", String(each === name));
    $(`tab-${each}`).tabIndex = each === name ? 0 : -1;
  }
  settle(name);
}

function settle(name) {
  const count = $(`tab-${name}`).querySelector("i");
  count.textContent = count.dataset.count = "";
}

function badge(name) {
  if (name === shown) return;
  const count = $(`tab-${name}`).querySelector("i");
  const sum = Number(count.dataset.count || 0) + 1;
  count.dataset.count = sum;
  count.textContent = sum > 99 ? "99+" : String(sum);
}

for (const [index, name] of order.entries()) {
  $(`tab-${name}`).addEventListener("click", () => open(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = order[(index + step + order.length) % order.length];
    open(next);
    $(`tab-${next}`).focus();
  });
}
let pending = 0;
function nearest() {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(() => {
    const columns = $("columns");
    if (columns.scrollWidth > columns.clientWidth) mark(order[Math.round(columns.scrollLeft / columns.clientWidth)]);
  });
}
$("columns").addEventListener("scroll", nearest, { passive: true });
addEventListener("resize", nearest);

// --- The strip --------------------------------------------------------------------------------------------------

function status(now) {
  for (const side of ["discord", "matrix"]) {
    $(`side-${side}`).dataset.state = now[side].state;
    $(`side-${side}`).lastElementChild.textContent = now[side].state === "ready" ? "connected" : now[side].problem ?? now[side].state;
  }
  $("median").textContent = now.median === null ? "–" : took(now.median);
  $("crossed").textContent = now.crossed;
  const drops = Object.entries(now.dropped);
  $("dropped").textContent = drops.reduce((sum, [, count]) => sum + count, 0);
  $("features").textContent = drops.length ? `(${drops.map(([feature, count]) => `${feature} ${count}`).join(", ")})` : "";
  $("features").title = $("features").textContent; // all of it, where the strip is too narrow
}

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});
if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");

$("play").addEventListener("click", () => {
  $("play").disabled = true;
  post("api/play", {}).catch((error) => { $("play").disabled = false; alert(error.message); });
});

// --- The relay in the middle ------------------------------------------------------------------------------------

const ARROWS = { to_matrix: "→", to_discord: "←", both: "↔" };

function journal(entry) {
  const own = entry.way === "to_matrix" ? "discord" : "matrix";
  const words = [h("b", {}, entry.what), entry.who ? ` ${entry.who}` : ""];
  const line = h("li", { data: { way: entry.way, state: entry.state } },
    h("span", { className: "arrow", "aria-hidden": "true" }, entry.state === "dropped" ? "✕" : ARROWS[entry.way]),
    h("span", { className: "what" },
      entry.source ? h("button", { type: "button", title: "Show the message", on: { click: () => show(own, entry.source) } }, words) : words,
      entry.why ? h("small", {}, entry.why) : null),
    entry.ms === null ? null : h("data", { value: String(entry.ms) }, took(entry.ms)));
  line.setAttribute("aria-label", `${entry.what} ${entry.who}, ${entry.way === "to_matrix" ? "Discord to Matrix" : "Matrix to Discord"}, ${entry.state === "dropped" ? `dropped: ${entry.why}` : took(entry.ms)}`);
  if (entry.source) line.classList.add("press");
  // The reason is said once for drops of one kind in a row.
  const before = $("journal").firstElementChild;
  line.dataset.kind = `${entry.state} ${entry.what}`;
  if (entry.why && before?.dataset.kind === line.dataset.kind) before.querySelector("small")?.remove();
  $("journal").prepend(line);
  while ($("journal").children.length > 200) $("journal").lastElementChild.remove();
  $("quiet").hidden = true;
  badge("relay");
}

function script(state) {
  $("play").disabled = state.playing;
  $("script").hidden = state.lines.length === 0;
  $("quiet").hidden = $("quiet").hidden || state.lines.length > 0;
  const signs = { ok: "✓", failed: "✕", playing: "…", waiting: "·" };
  const well = state.lines.filter((line) => line.state === "ok").length;
  if (!state.lines.length) return;
  const begun = state.lines.filter((line) => line.state !== "waiting").length;
  $("score").textContent = state.playing ? `Line ${begun} of ${state.lines.length}` : `Script: ${well} of ${state.lines.length} lines check out`;
  $("score").className = state.playing ? "" : well === state.lines.length ? "good" : "bad";
  if (state.playing !== $("script").open) $("script").open = state.playing || well < state.lines.length;
  $("script").querySelector("ol").replaceChildren(...state.lines.map((line) => h("li", { data: { state: line.state } },
    h("span", { className: "arrow", "aria-label": line.state }, signs[line.state]),
    h("span", { className: "what" }, `${line.title} ${ARROWS[line.way]}`, line.seen ? h("small", {}, line.seen) : null),
    line.ms === null ? null : h("data", { value: String(line.ms) }, took(line.ms)))));
  // Not scrollIntoView: on a phone that would turn to this column while somebody reads another.
  const scroller = $("script").closest(".scroller");
  const [line] = state.playing ? [...$("script").querySelectorAll("li:not([data-state=waiting])")].slice(-1) : [];
  scroller.scrollTop = line ? Math.max(0, line.offsetTop - scroller.clientHeight / 2) : 0;
}

// --- The stream -------------------------------------------------------------------------------------------------

const handlers = {
  hello(hello) {
    for (const side of ["discord", "matrix"]) {
      panels[side] ??= createPanel(side, { people: hello.people[side], place: hello.places[side], alert, show, badge });
      panels[side].clear();
      hello.messages[side].forEach(panels[side].put);
      panels[side].bottom();
    }
    $("journal").replaceChildren();
    hello.journal.forEach(journal);
    order.forEach(settle);
    panels.matrix.ghosts(hello.ghosts);
    status(hello.status);
    script(hello.script);
    document.body.dataset.ready = "true";
  },
  message: ({ side, message }) => panels[side].put(message),
  gone: ({ side, id }) => panels[side].remove(id),
  ghosts: (now) => panels.matrix.ghosts(now),
  journal, status, script,
};
// A file that misses its column must not take the place of the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
const stream = new EventSource("events");
for (const [name, handle] of Object.entries(handlers)) stream.addEventListener(name, (event) => handle(JSON.parse(event.data)));
stream.addEventListener("error", () => {
  for (const side of ["discord", "matrix"]) { $(`side-${side}`).dataset.state = "failed"; $(`side-${side}`).lastElementChild.textContent = "demo ended"; }
});
