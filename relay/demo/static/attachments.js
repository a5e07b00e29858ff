// Files that wait in the composer until they are sent: chosen with the button, pasted, or dropped on the column.
import { h, icon, size } from "./dom.js";

const MOST = 10; // files a message, as on Discord
const MOST_BYTES = 64 * 1024 * 1024; // at once, as `page.py` has it

/** `add`: called with files that somebody pasted or dropped. */
export function createTray(root, { alert, add }) {
  const [list, input, button, field] = [".tray", "input[type=file]", ".attach", "textarea"].map((selector) => root.querySelector(selector));
  let waiting = [];

  function show(next) {
    waiting = next;
    list.hidden = !next.length;
    list.replaceChildren(...next.map(chip));
  }

  function chip(item) {
    const name = item.file.name;
    const hide = h("button", { type: "button", className: "icon", "aria-pressed": String(item.spoiler), "aria-label": `Hide ${name} as a spoiler`, title: "Hide as a spoiler",
      on: { click: () => { item.spoiler = !item.spoiler; hide.setAttribute("aria-pressed", String(item.spoiler)); } } }, icon("hide"));
    const remove = h("button", { type: "button", className: "icon", "aria-label": `Do not send ${name}`, title: "Do not send",
      on: { click: () => { URL.revokeObjectURL(item.url); show(waiting.filter((other) => other !== item)); field.focus(); } } }, icon("close"));
    return h("li", {}, item.file.type.startsWith("image/") ? h("img", { src: item.url, alt: "" }) : icon("file"),
      h("span", { className: "name" }, name), h("span", { className: "faint" }, size(item.file.size)), hide, remove);
  }

  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  field.addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    // A word processor puts a picture of the words beside them: then the words are meant.
    if (files.length && !types.includes("text/plain")) { event.preventDefault(); add([...files]); }
  });
  accept(root, add);

  return {
    add(files) {
      const next = [...waiting, ...files.map((file) => ({ file, url: URL.createObjectURL(file), spoiler: false }))];
      if (next.length > MOST) alert(`A message takes ${MOST} files at most.`);
      else if (next.reduce((sum, { file }) => sum + file.size, 0) > MOST_BYTES) alert(`The demo takes ${MOST_BYTES >> 20} MiB at once.`);
      else show(next);
      field.focus();
    },
    /** What waits, which then no longer does. */
    take() {
      const taken = waiting;
      show([]);
      return taken;
    },
    restore(items) { show([...items, ...waiting]); },
  };
}

/** Files can be dropped anywhere on a column. */
function accept(root, add) {
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  root.addEventListener("dragover", (event) => { if (carries(event)) { event.preventDefault(); root.classList.add("dropping"); } });
  root.addEventListener("dragleave", (event) => { if (!root.contains(event.relatedTarget)) root.classList.remove("dropping"); });
  root.addEventListener("drop", (event) => {
    root.classList.remove("dropping");
    if (!carries(event)) return;
    event.preventDefault();
    add([...event.dataTransfer.files]);
  });
}

/** The wish as a form with the files, and what a client tells of each. */
export async function withFiles(wish, items) {
  const form = new FormData();
  const files = await Promise.all(items.map(async ({ file, url, spoiler }) => ({ width: 0, height: 0, duration: 0, ...await measured(file, url), spoiler })));
  form.append("wish", JSON.stringify({ ...wish, files }));
  for (const { file } of items) form.append("file", file, file.name);
  return form;
}

/** Pixels and seconds; nothing where the browser cannot read the file. */
async function measured(file, url) {
  if (file.type.startsWith("image/")) {
    return createImageBitmap(file).then(({ width, height }) => ({ width, height }), () => ({}));
  }
  const [kind] = /^(audio|video)(?=\/)/.exec(file.type) ?? [];
  if (!kind) return {};
  const player = h(kind, { preload: "metadata", src: url });
  return new Promise((done) => {
    player.addEventListener("error", () => done({}));
    player.addEventListener("loadedmetadata", () => done({
      width: player.videoWidth ?? 0, height: player.videoHeight ?? 0, duration: Number.isFinite(player.duration) ? player.duration : 0,
    }));
  });
}
