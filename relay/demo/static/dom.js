// Elements made by hand: text only ever becomes text, never markup.

/** An element with properties, attributes (names with a dash, or `role`) and children (nodes, strings, lists, null). */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A drawing of `icons.svg`. */
export function icon(name) {
  const [drawing, use] = ["svg", "use"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  drawing.setAttribute("class", "sign");
  drawing.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `icons.svg#${name}`);
  drawing.append(use);
  return drawing;
}

/** A link that leaves the page only when somebody follows it; anything but http(s), mailto and matrix stays text. */
export function link(url, ...children) {
  let parsed;
  try { parsed = new URL(url); } catch { return h("span", {}, ...children); }
  if (!["http:", "https:", "mailto:", "matrix:"].includes(parsed.protocol)) return h("span", {}, ...children);
  return h("a", { href: parsed.href, target: "_blank", rel: "noopener noreferrer nofollow", title: parsed.href }, ...children);
}

/** Words that show when somebody asks for them. */
export function spoiler(reason, ...children) {
  const words = h("span", { className: "hush" }, ...children);
  const cover = h("span", {
    className: "spoiler", role: "button", tabIndex: 0, "aria-expanded": "false",
    "aria-label": `Spoiler${reason ? `: ${reason}` : ""}, hidden; press to reveal`,
  }, words);
  words.setAttribute("aria-hidden", "true");
  const toggle = (event) => {
    if (event.target.closest("a") && cover.classList.contains("open")) return;
    event.preventDefault();
    event.stopPropagation();
    const open = cover.classList.toggle("open");
    cover.setAttribute("aria-expanded", String(open));
    words.setAttribute("aria-hidden", String(!open));
    cover.toggleAttribute("aria-label", !open);
    if (!open) cover.setAttribute("aria-label", "Spoiler, hidden; press to reveal");
  };
  cover.addEventListener("click", toggle);
  cover.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") toggle(event); });
  return reason ? h("span", {}, h("small", { className: "reason" }, `(${reason}) `), cover) : cover;
}

/** POST as JSON, or a form as it is; rejects with the server's sentence. */
export async function post(path, body) {
  const request = body instanceof FormData ? { headers: { "X-Relay-Demo": "1" }, body }
    : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { method: "POST", ...request });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `The demo answered ${answer.status}.`);
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Milliseconds as people read them. */
export function took(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
