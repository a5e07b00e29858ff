// The picture of somebody: what their platform has of them, else a letter on a colour of their own.
import { h } from "./dom.js";

/** The nodes for an avatar; `author`: {name, avatar}. */
export function face(side, { name, avatar }) {
  if (!avatar) return [letter(name)];
  const image = h("img", { src: `/files/${side}/${avatar}`, alt: "" });
  image.addEventListener("error", () => image.replaceWith(letter(name)), { once: true });
  return [image];
}

/** The colour behind the letter: the same on both sides. */
export function hue(name) {
  let sum = 13;
  for (const character of name) sum = (sum * 61 + character.codePointAt(0)) % 65_521;
  return (sum * 137.508) % 360; // the golden angle: names that are alike get colours that are not
}

function letter(name) {
  return [...name.replace(/[^\p{L}\p{N}]/gu, "")][0]?.toUpperCase() ?? "?";
}
