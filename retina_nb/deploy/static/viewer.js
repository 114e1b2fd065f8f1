// The viewer of the grading panel: takes files, shows a strip of thumbnails, and a stage on which pictures zoom and
// pan. Plain JavaScript for anywidget, without any library. What can be reasoned about without a browser is exported as
// small functions and tested by tests/deploy/viewer.test.mjs; the rest builds elements and connects them with Python.
// nbs/deploy/60_viewer.ipynb shows what it does.

// ---- Geometry of the stage

// A view is the magnification `z` and the position `x`, `y` of the pictures, as fractions of a picture's size: so two
// pictures side by side, of any size, move together.
export const WHOLE = { z: 1, x: 0, y: 0 };
const MAX_ZOOM = 16;
const STEP = 1.5; // one press of plus or minus
const CLICK_ZOOM = 3; // a double click

const between = (low, value, high) => Math.min(high, Math.max(low, value));

// The view with its magnification from 1 to 16 and its position inside the picture.
export function bounded({ z, x, y }) {
  const zoom = between(1, z, MAX_ZOOM);
  const margin = (zoom - 1) / 2;
  return { z: zoom, x: between(-margin, x, margin), y: between(-margin, y, margin) };
}

// The view magnified by `factor`; the point `px`, `py` (fractions of the picture from its middle) stays where it is.
export function zoomed(view, factor, px = 0, py = 0) {
  const z = between(1, view.z * factor, MAX_ZOOM);
  const ratio = z / view.z;
  return bounded({ z, x: px - (px - view.x) * ratio, y: py - (py - view.y) * ratio });
}

export function moved(view, dx, dy) {
  return bounded({ ...view, x: view.x + dx, y: view.y + dy });
}

const MOVES = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };

// What a key makes of a view: plus and minus zoom, arrows move, 0 resets; null for any other key.
export function afterKey(view, key) {
  if (key === "+" || key === "=") return zoomed(view, STEP);
  if (key === "-") return zoomed(view, 1 / STEP);
  if (key === "0") return WHOLE;
  if (Object.hasOwn(MOVES, key)) return moved(view, ...MOVES[key]);
  return null;
}

// A double click looks closer at one point, or back at the whole picture.
export function afterDoubleClick(view, px, py) {
  return view.z > 1 ? WHOLE : zoomed(view, CLICK_ZOOM, px, py);
}

// How much a turn of the wheel magnifies.
export const wheelFactor = (deltaY) => Math.exp(-deltaY / 400);

// What a turn of the wheel over a picture makes of a view; null where it makes nothing, so that the page scrolls.
export function afterWheel(view, deltaY, px, py) {
  const next = zoomed(view, wheelFactor(deltaY), px, py);
  return next.z === view.z ? null : next;
}

// Size and place, in pixels, of a picture that fills its frame as far as its shape allows; null before it has loaded.
export function fitted(frameWidth, frameHeight, width, height) {
  const scale = Math.min(frameWidth / width, frameHeight / height);
  if (!Number.isFinite(scale)) return null;
  const [w, h] = [width * scale, height * scale];
  return { w, h, left: (frameWidth - w) / 2, top: (frameHeight - h) / 2 };
}

// A view as a CSS transform of a picture `w` by `h` pixels large.
export const transform = (view, w, h) => `translate(${view.x * w}px,${view.y * h}px) scale(${view.z})`;

// ---- Words and keys

// What the status line says while files are being graded.
export function progressText(i, names) {
  if (names.length === 1) return `Grading ${names[0]}`;
  return `Grading ${i + 1} of ${names.length}: ${names[i]}`;
}

// A word as a sentence or a label begins with it.
export function capital(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

// What became of `states.length` files, each "graded", "withheld" or "failed"; the panel itself says it of a single one.
export function doneText(states, word = "photograph") {
  if (states.length < 2) return "";
  const count = (state) => states.filter((o) => o === state).length;
  const [failed, withheld] = [count("failed"), count("withheld")];
  const parts = [];
  if (failed) parts.push(`${failed} could not be graded`);
  if (withheld) parts.push(`${withheld} withheld`);
  return `${states.length} ${word}s done${parts.length ? `, of which ${parts.join(" and ")}` : ""}`;
}

// Why a file could not be sent, to follow its name; null where it is the connection that failed, not the file.
export function unreadable(error) {
  const ours = ["NotFoundError", "NotReadableError", "SecurityError"].includes(error.name);
  return ours ? "is a folder, or cannot be read" : null;
}

// What a click in the table of the session asks for: a photograph to be shown, or to be removed; null for nothing.
export function rowMessage(target) {
  const cross = target.closest("[data-rnb-remove]");
  if (cross) return { t: "remove", key: Number(cross.dataset.rnbRemove) };
  const row = target.closest("[data-rnb-row]");
  return row ? { t: "select", key: Number(row.dataset.rnbRow) } : null;
}

const TYPED = "input, textarea, select"; // what is typed into, and keeps its focus and its keys

// The place in the strip that an arrow key leads to from place `i`; null where there is none.
export function neighbour(i, n, key) {
  const next = i + ({ ArrowRight: 1, ArrowLeft: -1 }[key] ?? Number.NaN);
  return next >= 0 && next < n ? next : null;
}

// Which of `keys` a press in the panel means; null where it belongs to something else: to a field that is typed into, to
// a shortcut of the browser, to the button that Enter presses.
export function heardKey({ key, target, ctrlKey, altKey, metaKey }, keys) {
  if (!keys.includes(key) || ctrlKey || altKey || metaKey) return null;
  if (target.closest(TYPED)) return null;
  return key === "Enter" && target.closest("button, summary") ? null : key;
}

// ---- Sending files

export const PIECE = 2 ** 20; // bytes: Jupyter's websocket closes without a word on messages over 10 MB
const PATIENCE = 120000; // milliseconds without an answer from Python
const SHOWN = 5000; // milliseconds for which the last message stays
const MB = 2 ** 20;

// Where the pieces of a file of `size` bytes begin; an empty file has one, empty piece.
export function pieces(size) {
  const starts = [0];
  for (let at = PIECE; at < size; at += PIECE) starts.push(at);
  return starts;
}

// Sends files to Python one after the other, each in pieces; every message is acknowledged before the next one goes.
export function uploader(model, say, { patience = PATIENCE, shown = SHOWN } = {}) {
  const waiting = new Map();
  let queue = Promise.resolve();
  let count = 0;

  function ask(message, data) {
    return new Promise((done, fail) => {
      count += 1;
      const id = `${Math.random().toString(36).slice(2)}.${count}`;
      const late = () => {
        waiting.delete(id);
        fail(new Error("no answer from Python: is the kernel busy, or has it stopped?"));
      };
      const timer = setTimeout(late, patience);
      waiting.set(id, (became) => {
        clearTimeout(timer);
        waiting.delete(id);
        done(became);
      });
      model.send({ ...message, id }, undefined, data ? [data] : []);
    });
  }

  async function sendOne(file) {
    const about = { name: file.name, size: file.size };
    if (file.size > model.get("max_mb") * MB) return ask({ t: "refused", ...about });
    const token = `${Date.now()}.${Math.random()}`;
    let became = "";
    try {
      for (const at of pieces(file.size)) {
        const data = await file.slice(at, at + PIECE).arrayBuffer();
        became = await ask({ t: "piece", token, at, ...about }, data);
      }
    } catch (error) {
      const why = unreadable(error);
      if (!why) throw error;
      return ask({ t: "refused", why, ...about });
    }
    return became;
  }

  async function sendAll(files) {
    const names = files.map((file) => file.name);
    const states = [];
    for (const [i, file] of files.entries()) {
      say(progressText(i, names), (i + 0.3) / files.length);
      try {
        states.push(await sendOne(file));
      } catch (error) {
        say(`${file.name}: ${error.message}`, null, true);
        return;
      }
    }
    say(doneText(states, model.get("word")), null);
    setTimeout(() => say.last == null && say("", null), shown);
  }

  const send = (files) => {
    const list = [...files];
    queue = queue.then(() => sendAll(list));
    return queue;
  };
  return { send, answered: (id, became) => waiting.get(id)?.(became) };
}

// ---- Elements

function element(tag, name, attributes = {}, ...children) {
  const made = document.createElement(tag);
  made.className = name;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function button(text, label, onclick) {
  const made = element("button", "rnb-tool", { type: "button", "aria-label": label, title: label }, text);
  made.onclick = onclick;
  return made;
}

const pictureUrl = (data, type) => URL.createObjectURL(new Blob([data], { type }));

// The small pictures that are sent once: thumbnails and those for paper.
function makePictures() {
  const urls = new Map();
  const keep = (kind, key, data) => urls.set(`${kind} ${key}`, pictureUrl(data, "image/jpeg"));
  const get = (kind, key) => urls.get(`${kind} ${key}`);
  function only(keys) {
    const kept = new Set(keys.map(String));
    for (const [name, url] of urls) {
      if (kept.has(name.split(" ")[1])) continue;
      URL.revokeObjectURL(url);
      urls.delete(name);
    }
  }
  return { keep, get, only };
}

// ---- The strip of thumbnails: each a button with a name that a screen reader can say; arrow keys move along it

function makeStrip(model, pictures) {
  const title = `${capital(model.get("word"))}s of this session`;
  const box = element("div", "rnb-strip", { role: "group", "aria-label": title });

  function thumbnail(item, current) {
    const name = item.key === current ? "rnb-thumb rnb-current" : "rnb-thumb";
    const label = { title: item.label, "aria-label": item.label, "aria-pressed": item.key === current };
    const made = element("button", name, { type: "button", ...label });
    const url = pictures.get("thumb", item.key);
    if (url) made.append(element("img", "", { src: url, alt: "" }));
    const badge = element("span", "rnb-badge", { "data-text": item.badge });
    badge.style.background = item.colour;
    badge.style.color = item.ink;
    made.append(badge);
    made.onclick = () => model.send({ t: "select", key: item.key });
    return made;
  }

  function show(items, current) {
    const focused = box.contains(document.activeElement);
    box.replaceChildren(...items.map((item) => thumbnail(item, current)));
    box.hidden = items.length < 2;
    const now = box.querySelector(".rnb-current");
    if (!now) return;
    if (focused) now.focus({ preventScroll: true });
    box.scrollLeft = now.offsetLeft - box.clientWidth / 2;
  }

  box.onkeydown = (event) => {
    if (!(event.key === "ArrowRight" || event.key === "ArrowLeft")) return;
    event.preventDefault();
    const all = [...box.children];
    const next = neighbour(all.indexOf(document.activeElement), all.length, event.key);
    if (next != null) all[next].click();
  };
  return { box, show };
}

// ---- The stage: one or two pictures, each with its heat map on top

function makePane(about, buffers) {
  const source = pictureUrl(buffers[about.picture], about.type);
  const photo = element("img", "rnb-photo", { alt: about.alt, draggable: "false", src: source });
  const world = element("div", "rnb-world", {}, photo);
  if (about.heat != null) {
    const heat = element("img", "rnb-heat", { alt: "", src: pictureUrl(buffers[about.heat], "image/png") });
    const [left, top, width, height] = about.frame.map((fraction) => `${100 * fraction}%`);
    Object.assign(heat.style, { left, top, width, height });
    world.append(heat);
  }
  const frame = element("div", "rnb-frame", {}, world);
  const figure = element("figure", "rnb-pane", {}, element("figcaption", "", {}, about.title), frame);
  return { photo, world, frame, figure, w: 1, h: 1 };
}

function fitPane(pane) {
  const { frame, photo, world } = pane;
  const place = fitted(frame.clientWidth, frame.clientHeight, photo.naturalWidth, photo.naturalHeight);
  if (!place) return;
  const px = (n) => `${n}px`;
  const style = { width: px(place.w), height: px(place.h), left: px(place.left), top: px(place.top) };
  Object.assign(world.style, style);
  Object.assign(pane, { w: place.w, h: place.h });
}

function forgetPane(pane) {
  for (const image of pane.world.querySelectorAll("img")) URL.revokeObjectURL(image.src);
}

function makeStage(word, keys) {
  const resets = keys.includes("0") ? "" : ", 0 resets"; // a key with another meaning in this panel
  const label = `${capital(word)}: plus and minus or the wheel zoom, arrows move${resets}`;
  const box = element("div", "rnb-panes", { tabindex: 0, role: "group", "aria-label": label });
  let panes = [];
  let view = WHOLE;

  function look(next) {
    view = bounded(next);
    for (const pane of panes) pane.world.style.transform = transform(view, pane.w, pane.h);
    box.classList.toggle("rnb-zoomed", view.z > 1);
  }
  function fit() {
    panes.forEach(fitPane);
    look(view);
  }
  // Where in the picture the pointer is, as fractions of its size from its middle.
  function pointed(event) {
    const pane = panes.find((p) => p.frame.contains(event.target)) ?? panes[0];
    const area = pane.frame.getBoundingClientRect();
    const [dx, dy] = [event.clientX - area.left - area.width / 2, event.clientY - area.top - area.height / 2];
    return [dx / pane.w, dy / pane.h];
  }
  function show(list, buffers) {
    panes.forEach(forgetPane);
    panes = list.map((about) => makePane(about, buffers));
    for (const pane of panes) pane.photo.onload = fit;
    box.replaceChildren(...panes.map((pane) => pane.figure));
    box.hidden = !panes.length;
    fit();
  }

  const control = { view: () => view, look, pointed, size: () => panes[0], empty: () => !panes.length };
  listenToPointer(box, control);
  listenToKeys(box, control);
  new ResizeObserver(fit).observe(box);
  return { box, show, zoom: (factor) => look(zoomed(view, factor)), reset: () => look(WHOLE) };
}

function listenToPointer(box, stage) {
  let drag = null;
  box.onpointerdown = (event) => {
    if (stage.view().z <= 1 || event.button !== 0) return;
    drag = { x: event.clientX, y: event.clientY, view: stage.view() };
    box.setPointerCapture(event.pointerId);
  };
  box.onpointermove = (event) => {
    if (!drag) return;
    const { w, h } = stage.size();
    stage.look(moved(drag.view, (event.clientX - drag.x) / w, (event.clientY - drag.y) / h));
  };
  const stop = () => {
    drag = null;
  };
  box.onpointerup = stop;
  box.onpointercancel = stop;
  box.ondblclick = (event) => stage.look(afterDoubleClick(stage.view(), ...stage.pointed(event)));
  const wheel = (event) => {
    if (stage.empty()) return;
    const next = afterWheel(stage.view(), event.deltaY, ...stage.pointed(event));
    if (!next) return;
    event.preventDefault();
    stage.look(next);
  };
  box.addEventListener("wheel", wheel, { passive: false });
}

function listenToKeys(box, stage) {
  box.onkeydown = (event) => {
    const next = afterKey(stage.view(), event.key);
    if (!next) return;
    stage.look(next);
    event.preventDefault();
    event.stopPropagation();
  };
}

// ---- The field for files with the menu of samples beside it, and the status line below them

function makeSamples(model) {
  const menu = element("select", "", { "aria-label": "Take a sample" });
  const named = (name) => element("option", "", { value: name }, name);
  menu.append(element("option", "", { value: "" }, "or take a sample\u2026"), ...model.get("samples").map(named));
  menu.onchange = () => {
    if (menu.value) model.send({ t: "sample", name: menu.value });
    menu.value = "";
  };
  return element("div", "rnb-sample", {}, menu);
}

function makeDrop(model, send) {
  const word = model.get("word");
  const label = { "aria-label": `Choose ${word}s` };
  const accept = { type: "file", multiple: "", accept: model.get("accept"), ...label };
  const input = element("input", "rnb-file", accept);
  input.onchange = () => {
    send(input.files);
    input.value = "";
  };
  const kinds = `JPEG, PNG, TIFF and others, up to ${model.get("max_mb")} MB each.`;
  const small = `${kinds} ${model.get("fate")}`;
  const invite = element("b", "", {}, `Drop ${word}s here`);
  const words = element(
    "span",
    "",
    {},
    invite,
    " or ",
    element("u", "", {}, "choose files"),
    element("small", "", {}, small),
  );
  return element("label", "rnb-drop", {}, input, element("span", "rnb-plus", { "aria-hidden": "true" }, "+"), words);
}

function listenToDrops(root, drop, send) {
  const over = (on) => (event) => {
    event.preventDefault();
    drop.classList.toggle("rnb-over", on);
  };
  root.addEventListener("dragover", over(true));
  root.addEventListener("dragleave", over(false));
  root.addEventListener("drop", (event) => {
    over(false)(event);
    send(event.dataTransfer.files);
  });
}

function makeStatus() {
  const note = element("div", "rnb-note", { role: "status", "aria-live": "polite" });
  const bar = element("div", "rnb-progress", { "aria-hidden": "true" }, element("div", ""));
  bar.hidden = true;
  function say(text, fraction, bad) {
    say.last = bad ? 1 : fraction; // null: nothing is going on, and the text may be cleared
    note.textContent = text;
    note.classList.toggle("rnb-bad", !!bad);
    bar.hidden = fraction == null;
    bar.firstChild.style.width = `${100 * (fraction ?? 0)}%`;
  }
  return { note, bar, say };
}

function saveFile(name, data) {
  const link = element("a", "", { download: name, href: pictureUrl(data, "text/csv") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- Paper: one page a patient, unseen until it is printed

// Is the panel all there is to print? Voila's page looks like JupyterLab's but for its mark.
const OTHERS = ".jp-LabShell, [data-notebook], .notebook_app";
const isAlone = () => "voila" in document.body.dataset || !document.querySelector(OTHERS);

function makePaper(pictures) {
  const box = element("div", "rnb-paper", { "aria-hidden": "true" });
  const pages = new Map();
  const alone = isAlone();
  const prints = (on) => document.documentElement.classList.toggle("rnb-prints", on && pages.size > 0);

  function fill(html) {
    const page = element("section", "rnb-sheet");
    page.innerHTML = html; // made by words.py and sheets.py, which escape what comes from outside
    for (const image of page.querySelectorAll("[data-rnb-page]")) {
      const url = pictures.get("page", image.dataset.rnbPage);
      if (url) image.src = url;
    }
    return page;
  }
  function stamp() {
    for (const time of box.querySelectorAll(".rnb-printed")) time.textContent = new Date().toLocaleString();
  }
  function show(sheets) {
    const kept = new Set(sheets.map(([key]) => key));
    for (const key of [...pages.keys()]) if (!kept.has(key)) pages.delete(key);
    for (const [key, html] of sheets) if (html != null) pages.set(key, fill(html));
    box.replaceChildren(...sheets.map(([key]) => pages.get(key)).filter(Boolean));
    stamp();
    prints(alone);
  }
  async function print() {
    await Promise.all([...box.querySelectorAll("img[src]")].map((image) => image.decode().catch(() => null)));
    prints(true);
    window.print();
    prints(alone);
  }
  function remove() {
    window.removeEventListener("beforeprint", stamp);
    document.documentElement.classList.remove("rnb-prints");
    box.remove();
  }
  window.addEventListener("beforeprint", stamp);
  document.body.append(box);
  return { show, print, remove };
}

// ---- The rest of the panel: rows that can be clicked, names for controls that ipywidgets leaves without one

const setAttribute = (node, name, value) => node.getAttribute(name) !== value && node.setAttribute(name, value);

function nameControls(panel) {
  for (const slider of panel.querySelectorAll(".widget-slider")) {
    const handle = slider.querySelector("[role=slider]");
    const label = slider.querySelector(".widget-label")?.textContent || slider.title;
    if (handle && label) setAttribute(handle, "aria-label", label);
  }
  for (const toggle of panel.querySelectorAll(".widget-toggle-button"))
    setAttribute(toggle, "aria-pressed", String(toggle.classList.contains("mod-active")));
  nameTabs(panel);
}

// The tabs of a panel on a service: buttons for ipywidgets, and what they are for who reads with the ears.
function nameTabs(panel) {
  const box = panel.querySelector(".rnb-tabs");
  if (!box) return;
  setAttribute(box, "role", "tablist");
  setAttribute(box, "aria-label", "What to do");
  for (const tab of box.children) {
    setAttribute(tab, "role", "tab");
    setAttribute(tab, "aria-selected", String(tab.classList.contains("rnb-on")));
  }
  for (const page of panel.querySelectorAll(".rnb-tab-page")) setAttribute(page, "role", "tabpanel");
  if (box.onkeydown) return;
  box.onkeydown = (event) => {
    const tabs = [...box.children];
    const next = neighbour(tabs.indexOf(document.activeElement), tabs.length, event.key);
    if (next == null) return;
    tabs[next].focus();
    tabs[next].click();
  };
}

// Calls `tend` now and after every change of the panel.
function watch(panel, tend) {
  tend();
  const watched = { childList: true, subtree: true, attributes: true, attributeFilter: ["class"] };
  new MutationObserver(tend).observe(panel, watched);
}

// Tables are made anew with every change: the focus goes back to the button that had it.
function makeFocusKeeper(panel) {
  let wanted = null;
  panel.addEventListener("focusin", (event) => {
    const { rnbSelect, rnbRemove } = event.target.dataset;
    wanted = rnbSelect ? `[data-rnb-select="${rnbSelect}"]` : rnbRemove ? `[data-rnb-remove="${rnbRemove}"]` : null;
  });
  return () => {
    if (wanted && document.activeElement === document.body) panel.querySelector(wanted)?.focus({ preventScroll: true });
  };
}

// Reports the keys that mean something to Python wherever in the panel they are pressed. JupyterLab's own shortcuts rest
// meanwhile, as a digit would make a heading of the cell. A click leaves the focus with the photograph, and not with a
// button that Enter would press once more.
function listenToPanel(panel, stage, model) {
  if (!model.get("hotkeys").length) return;
  panel.tabIndex = -1;
  panel.setAttribute("data-lm-suppress-shortcuts", "true");
  const press = (event) => {
    const key = heardKey(event, model.get("hotkeys")); // none any more once a reading has ended
    if (!key) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) model.send({ t: "key", key });
  };
  panel.addEventListener("keydown", press, true);
  panel.addEventListener("click", (event) => {
    if (event.detail > 0 && !event.target.closest(`${TYPED}, summary, a`)) focusOn(panel, stage);
  });
}

// Gives the focus to the photograph; where none can be shown to the panel, so that its keys are heard all the same.
function focusOn(panel, stage) {
  (stage.box.checkVisibility() ? stage.box : panel).focus({ preventScroll: true });
}

// The same, where the focus is with neither a button nor a field, or with a photograph that has gone.
function keepFocus(panel, stage) {
  if ([document.body, panel, stage.box].includes(document.activeElement)) focusOn(panel, stage);
}

// Calls `f` with the panel that the viewer is a part of, once it is on the page; never where there is none.
function whenInPanel(root, f) {
  const panel = root.closest(".rnb-panel");
  if (panel) f(panel);
  else if (!root.isConnected) setTimeout(() => whenInPanel(root, f), 50);
}

function tendPanel(panel, root, model) {
  const refocus = makeFocusKeeper(panel);
  panel.addEventListener("click", (event) => {
    const message = rowMessage(event.target);
    if (!message) return;
    model.send(message);
    if (message.t === "select") root.scrollIntoView({ behavior: "smooth", block: "nearest" });
  });
  watch(panel, () => {
    nameControls(panel);
    refocus();
  });
}

// ---- The widget: lays out the parts and connects them with Python

function makeTools(stage) {
  return element(
    "div",
    "rnb-tools",
    {},
    button("+", "Zoom in", () => stage.zoom(STEP)),
    button("\u2212", "Zoom out", () => stage.zoom(1 / STEP)),
    button("\u21ba", "Whole picture", stage.reset),
    element("span", "rnb-hint", {}, "The wheel zooms, dragging moves, a double click looks closer."),
  );
}

// Asks before a page is left on which something was not exported.
function makeGuard() {
  let unsaved = false;
  const ask = (event) => {
    if (!unsaved) return;
    event.preventDefault();
    event.returnValue = true; // for browsers that know nothing newer
  };
  window.addEventListener("beforeunload", ask);
  const set = (now) => {
    unsaved = now;
  };
  return { set, remove: () => window.removeEventListener("beforeunload", ask) };
}

function render({ model, el: root }) {
  const { note, bar, say } = makeStatus();
  const upload = uploader(model, say);
  const drop = makeDrop(model, upload.send);
  const field = element("div", "rnb-field", {}, drop);
  if (model.get("samples").length) field.append(makeSamples(model));
  const [pictures, guard] = [makePictures(), makeGuard()];
  const strip = makeStrip(model, pictures);
  const stage = makeStage(model.get("word"), model.get("hotkeys"));
  const paper = makePaper(pictures);
  const whole = element("div", "rnb-stage", {}, stage.box, makeTools(stage));
  root.classList.add("rnb-viewer");
  root.append(field, bar, note, strip.box, whole);
  whole.hidden = true;
  strip.box.hidden = true;
  listenToDrops(root, drop, upload.send);
  const takes = model.get("takes"); // a viewer that takes no files stands in a panel of its own, or beside one that does
  field.hidden = !takes;
  whenInPanel(root, (panel) => {
    if (takes) tendPanel(panel, root, model);
    else watch(panel, () => nameControls(panel));
    listenToPanel(panel, stage, model);
  });

  const hears = {
    done: (m) => upload.answered(m.id, m.became),
    keep: (m, buffers) => {
      m.keys.forEach((key, i) => {
        pictures.keep(m.kind, key, buffers[i]);
      });
    },
    strip: (m) => {
      pictures.only(m.items.map((item) => item.key));
      strip.show(m.items, m.current);
      field.classList.toggle("rnb-small", m.items.length > 0);
      guard.set(m.unsaved);
    },
    panes: (m, buffers) => {
      if (m.reset) stage.reset();
      stage.show(m.panes, buffers);
      whole.hidden = !m.panes.length;
      if (model.get("hotkeys").length) keepFocus(root.closest(".rnb-panel"), stage);
    },
    sheets: (m) => paper.show(m.sheets),
    print: () => paper.print(),
    say: (m) => say(m.text, null, m.bad),
    save: (m, buffers) => saveFile(m.name, buffers[0]),
  };
  const hear = (m, buffers) => hears[m.t]?.(m, buffers);
  const opacity = () => root.style.setProperty("--rnb-heat", model.get("opacity"));
  model.on("change:opacity", opacity);
  opacity();
  model.on("msg:custom", hear);
  model.send({ t: "ready" });
  return () => {
    model.off("msg:custom", hear);
    model.off("change:opacity", opacity);
    guard.remove();
    paper.remove();
  };
}

export default { render };
