// Matrix's HTML as a client shows it: only the tags and attributes that the specification permits are copied
// (https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes), into elements of our own.
import { h, link, spoiler } from "./dom.js";

const SAME = new Set(("del h1 h2 h3 h4 h5 h6 blockquote p ul ol sup sub li b i u strong em s code hr br div table thead tbody "
  + "tr th td caption pre details summary").split(" "));
const GONE = new Set("script style head title template iframe object embed mx-reply svg math noscript textarea select".split(" "));
const COLOUR = /^#[0-9a-f]{6}$/i;

/** The nodes of a formatted body. It is parsed in a document without scripts, and nothing of that document is kept. */
export function matrixHtml(html) {
  return copy(new DOMParser().parseFromString(html, "text/html").body, 0);
}

function copy(parent, depth) {
  if (depth > 100) return [parent.textContent];
  return [...parent.childNodes].map((node) => node.nodeType === Node.TEXT_NODE ? node.data
    : node.nodeType === Node.ELEMENT_NODE ? element(node, depth + 1) : null);
}

function element(node, depth) {
  const tag = node.localName;
  if (GONE.has(tag)) return null;
  const children = copy(node, depth);
  if (tag === "a") return pill(node.getAttribute("href") ?? "", children);
  const source = /^mxc:\/\/([\w.:-]+\/[\w-]+)$/.exec(node.getAttribute("src") ?? "");
  if (tag === "img" && source) return h("img", { className: "emoji", src: `/files/matrix/${source[1]}`, alt: node.getAttribute("alt") ?? "", title: node.getAttribute("title") ?? "" });
  if (tag === "img") return h("span", { className: "pill" }, node.getAttribute("alt") || node.getAttribute("title") || "image");
  if (tag === "span" && node.hasAttribute("data-mx-spoiler")) return spoiler(node.getAttribute("data-mx-spoiler"), children);
  if (tag === "strong" && node.hasAttribute("data-mx-profile-fallback")) return null;
  if (tag === "span" || tag === "font") {
    const copied = h("span", {}, children);
    const colour = node.getAttribute("data-mx-color") ?? "";
    if (COLOUR.test(colour)) copied.style.color = colour;
    return copied;
  }
  if (!SAME.has(tag)) return children;
  const copied = h(tag, {}, children);
  if (tag === "ol" && /^\d{1,9}$/.test(node.getAttribute("start") ?? "")) copied.start = Number(node.getAttribute("start"));
  return copied;
}

function pill(url, children) {
  const message = /^https:\/\/matrix\.to\/#\/![^/]+\/\$/.test(url);
  // A bare link to a message says what it is, as clients have it.
  const copied = link(url, message && children.join("") === url ? "a message in this room" : children);
  if (message || url.startsWith("https://matrix.to/#/@")) copied.classList.add("pill");
  return copied;
}

/** What a Matrix client sends for what somebody typed: nodes (of `markdown.js`) as HTML, spoilers as Matrix has them. */
export function toMatrixHtml(nodes) {
  const holder = h("div", {}, nodes);
  for (const cover of holder.querySelectorAll(".spoiler")) {
    const words = document.createElement("span");
    words.setAttribute("data-mx-spoiler", "");
    words.append(...cover.querySelector(".hush").childNodes);
    cover.replaceWith(words);
  }
  for (const node of holder.querySelectorAll("a")) for (const name of ["target", "rel", "title"]) node.removeAttribute(name);
  for (const node of holder.querySelectorAll("code[data-language]")) {
    if (node.dataset.language) node.className = `language-${node.dataset.language}`;
    node.removeAttribute("data-language");
  }
  for (const node of holder.querySelectorAll("img")) node.replaceWith(node.alt);
  for (const node of holder.querySelectorAll("small, time, span:not([data-mx-spoiler])")) node.replaceWith(...node.childNodes);
  for (const node of [...holder.children].filter((child) => child.localName === "div")) {
    const paragraph = h("p", {});
    paragraph.append(...node.childNodes);
    node.replaceWith(paragraph);
  }
  const single = holder.children.length === 1 && holder.firstElementChild.localName === "p";
  return single ? holder.firstElementChild.innerHTML : holder.innerHTML;
}
