// Discord's markdown as its client shows it (https://discord.com/developers/docs/reference#message-formatting).
import { h, link, spoiler } from "./dom.js";

const FENCE = /^```(?:([\w+#.-]{1,32})\n)?([\s\S]*?)```/;
const CODE = /^(`{1,2})((?:(?!\1)[\s\S])+?)\1(?!`)/;
const URL_ = /^https?:\/\/[^\s<>]*[^\s<>.,:;!?"'\])]/;
const SPANS = [
  [/^\*\*\*(?=\S)([\s\S]+?)\*\*\*(?!\*)/, (inner) => h("em", {}, h("strong", {}, inner))],
  [/^\*\*(?=\S)([\s\S]+?)\*\*(?!\*)/, (inner) => h("strong", {}, inner)],
  [/^__(?=\S)([\s\S]+?)__(?!_)/, (inner) => h("u", {}, inner)],
  [/^~~([\s\S]+?)~~/, (inner) => h("s", {}, inner)],
  [/^\|\|([\s\S]+?)\|\|/, (inner) => spoiler("", inner)],
  [/^\*(?=\S)((?:\*\*|[^*])+?)\*(?!\*)/, (inner) => h("em", {}, inner)],
  [/^_(?=\S)((?:__|[^_])+?)_(?![\w_])/, (inner) => h("em", {}, inner)],
];
const TOKENS = [
  [/^\\([^\w\s])/, ([, character]) => character],
  [CODE, ([, , text]) => h("code", {}, text.replace(/^ (?=`)|(?<=`) $/g, ""))],
  [/^\[([^\[\]\n]+)\]\(<?(https?:\/\/[^\s<>()]+(?:\([^\s<>()]*\)[^\s<>()]*)*)>?\)/, ([, words, url], names) => link(url, inline(words, names))],
  [/^<(https?:\/\/[^\s<>]+)>/, ([, url], names) => bare(url, names)],
  [URL_, ([url], names) => bare(url, names)],
  [/^<@!?(\d+)>/, ([, id], names) => h("span", { className: "pill" }, `@${names.users[id] ?? "unknown"}`)],
  [/^<#(\d+)>/, ([, id], names) => h("span", { className: "pill" }, `#${names.channels[id] ?? "unknown"}`)],
  [/^<@&(\d+)>/, () => h("span", { className: "pill" }, "@role")],
  [/^<a?:(\w+):(\d+)>/, ([, name, id]) => emoji(name, id)],
  [/^<t:(-?\d{1,12})(?::([tTdDfFR]))?>/, ([, at, style]) => moment(new Date(at * 1000), style)],
];
const STYLES = {
  t: { timeStyle: "short" }, T: { timeStyle: "medium" }, d: { dateStyle: "short" }, D: { dateStyle: "long" },
  f: { dateStyle: "long", timeStyle: "short" }, F: { dateStyle: "full", timeStyle: "short" }, R: { dateStyle: "medium", timeStyle: "short" },
};
const PLAIN = /^(?:https?(?!:)|[^\\`*_~|<\[h\n]+|[\s\S])/;

/** A message's nodes. `names`: {users, channels}, by ID. */
export function markdown(text, names = { users: {}, channels: {} }) {
  return blocks(text.split("\n"), names);
}

function blocks(lines, names) {
  const out = [];
  let words = [];
  const flush = () => { if (words.length) out.push(h("div", {}, inline(words.join("\n"), names))); words = []; };
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at];
    const fence = line.startsWith("```") && FENCE.exec(lines.slice(at).join("\n"));
    const heading = /^(#{1,3}) +(.+)/.exec(line);
    if (fence && !words.join("\n").endsWith("\\")) {
      flush();
      out.push(h("pre", {}, h("code", { data: { language: fence[1] ?? "" } }, fence[2].replace(/^\n|\n$/g, ""))));
      at += fence[0].split("\n").length - 1;
      const rest = lines[at].slice(lines[at].lastIndexOf("```") + 3);
      if (rest) words.push(rest);
    } else if (line.startsWith(">>> ")) {
      flush();
      out.push(h("blockquote", {}, blocks([line.slice(4), ...lines.slice(at + 1)], names)));
      break;
    } else if (line.startsWith("> ")) {
      flush();
      const quoted = [];
      while (at < lines.length && (lines[at].startsWith("> ") || lines[at] === ">")) quoted.push(lines[at++].slice(2));
      at--;
      out.push(h("blockquote", {}, blocks(quoted, names)));
    } else if (heading) {
      flush();
      out.push(h(`h${heading[1].length}`, {}, inline(heading[2], names)));
    } else if (/^-# \S/.test(line)) {
      flush();
      out.push(h("small", { className: "subtext" }, inline(line.slice(3), names)));
    } else if (ITEM.test(line)) {
      flush();
      const items = [];
      while (at < lines.length && ITEM.test(lines[at])) items.push(ITEM.exec(lines[at++]));
      at--;
      out.push(list(items, names));
    } else words.push(line);
  }
  flush();
  return out;
}

const ITEM = /^( *)([-*]|\d{1,9}\.) +(\S.*)/;

/** Lines of a list, of which those that stand further in belong to the one before. */
function list(items, names) {
  const indent = items[0][1].length;
  const numbered = /\d/.test(items[0][2]);
  const made = h(numbered ? "ol" : "ul", {});
  if (numbered) made.start = Number.parseInt(items[0][2], 10);
  for (let at = 0; at < items.length; at++) {
    const inner = [];
    const item = h("li", {}, inline(items[at][3], names));
    while (at + 1 < items.length && items[at + 1][1].length > indent) inner.push(items[++at]);
    if (inner.length) item.append(list(inner, names));
    made.append(item);
  }
  return made;
}

/** A link without words; one to a message says where that stands. */
function bare(url, names) {
  const place = /^https:\/\/discord\.com\/channels\/\d+\/(\d+)\/\d+$/.exec(url);
  if (!place) return link(url, url);
  const made = link(url, `#${names.channels[place[1]] ?? "unknown"} › message`);
  made.classList.add("pill");
  return made;
}

function emoji(name, id) {
  const image = h("img", { className: "emoji", src: `/files/discord/emoji-${id}`, alt: `:${name}:`, title: `:${name}:` });
  image.addEventListener("error", () => image.replaceWith(`:${name}:`), { once: true });
  return image;
}

function moment(at, style = "f") {
  if (Number.isNaN(at.getTime())) return "Invalid date";
  return h("time", { className: "moment", dateTime: at.toISOString(), title: at.toLocaleString() }, at.toLocaleString([], STYLES[style]));
}

function inline(text, names) {
  const out = [];
  let before = "";
  for (let rest = text; rest;) {
    const [length, node] = token(rest, before, names);
    out.push(node);
    before = rest[length - 1];
    rest = rest.slice(length);
  }
  return out;
}

function token(rest, before, names) {
  for (const [pattern, make] of TOKENS) {
    const match = pattern.exec(rest);
    if (match) return [match[0].length, make(match, names)];
  }
  for (const [pattern, wrap] of SPANS) {
    const match = pattern.exec(rest);
    if (match && !(rest[0] === "_" && rest[1] !== "_" && /\w/.test(before))) return [match[0].length, wrap(inline(match[1], names))];
  }
  if (rest[0] === "\n") return [1, h("br")];
  const plain = PLAIN.exec(rest)[0];
  return [plain.length, plain];
}
