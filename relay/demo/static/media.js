// Files of a message: pictures, films, sounds, stickers, and what can only be saved.
import { h, icon, size } from "./dom.js";

/** What stands for one file; it is fetched from this page's own address. */
export function media(side, file) {
  const make = { image: picture, sticker, video: film, audio: sound, voice }[file.kind];
  if (!make || !file.source) return h("li", { className: "chip" }, saved(side, file));
  const shown = make(address(side, file), file);
  if (file.kind !== "voice") orSaved(shown.querySelector("audio") ?? shown, side, file);
  return h("li", { className: file.kind }, file.spoiler ? veil(shown) : shown);
}

export function address(side, file) {
  return `/files/${side}/${file.source}`;
}

function saved(side, file) {
  const words = [icon("file"), h("span", { className: "name" }, file.name), file.size ? h("span", { className: "faint" }, size(file.size)) : null];
  return file.source ? h("a", { href: address(side, file), download: file.name, title: `Save ${file.name}` }, words) : h("span", {}, words);
}

/** Width and height are given at once, so that nothing jumps when a picture arrives. */
function measured(file) {
  return file.width && file.height ? { width: file.width, height: file.height } : {};
}

function picture(src, file) {
  return h("img", { src, alt: file.alt || file.name, title: file.alt || file.name, loading: "lazy", ...measured(file) });
}

/** What the browser cannot show or play can still be saved. */
function orSaved(shown, side, file) {
  shown.addEventListener("error", () => {
    const item = shown.closest("li");
    item.className = "chip";
    item.replaceChildren(saved(side, file));
  }, { once: true });
  return shown;
}

function sticker(src, file) {
  return h("img", { src, alt: `Sticker: ${file.alt || file.name}`, title: file.alt || file.name, loading: "lazy" });
}

function film(src, file) {
  return h("video", { src, controls: true, preload: "metadata", playsInline: true, title: file.name, "aria-label": file.name, ...measured(file) });
}

function sound(src, file) {
  return h("figure", {}, h("figcaption", {}, h("span", { className: "name" }, file.name), h("span", { className: "faint" }, size(file.size))),
    h("audio", { src, controls: true, preload: "metadata", "aria-label": file.name }));
}

/** Hidden until somebody asks for it. */
function veil(shown) {
  const button = h("button", { type: "button", "aria-label": "Spoiler; press to show", on: { click: () => { button.remove(); holder.classList.add("open"); } } }, h("span", {}, "Spoiler"));
  const holder = h("div", { className: "veil" }, shown, button);
  return holder;
}

const BARS = 40;

/** A voice message: a button, its loudness over time, and how long it is. */
function voice(src, file) {
  const audio = new Audio();
  audio.preload = "none";
  audio.src = src;
  const bars = loudness(file.waveform).map((loud) => {
    const bar = h("i", {});
    bar.style.height = `${Math.round(12 + loud * 88)}%`;
    return bar;
  });
  const time = h("time", {}, clock(file.duration));
  const button = h("button", { type: "button", "aria-label": `Play the voice message, ${Math.round(file.duration)} seconds`, on: { click: () => { if (audio.paused) audio.play().catch(() => {}); else audio.pause(); } } }, icon("play"));
  const wave = h("span", { className: "wave", "aria-hidden": "true" }, bars);
  const show = () => {
    const share = audio.currentTime / (file.duration || 1);
    bars.forEach((bar, index) => bar.classList.toggle("past", index / bars.length < share));
    time.textContent = clock(audio.currentTime || file.duration);
  };
  for (const name of ["timeupdate", "ended"]) audio.addEventListener(name, show);
  for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, () => button.replaceChildren(icon(audio.paused ? "play" : "pause")));
  return h("div", { className: "player" }, button, wave, time);
}

/** The same number of bars for every voice message. */
function loudness(waveform) {
  if (!waveform.length) return Array(BARS).fill(0.3);
  return Array.from({ length: BARS }, (_, bar) => waveform[Math.floor((bar * waveform.length) / BARS)]);
}

function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
