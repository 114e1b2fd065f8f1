// What the panel's viewer can be asked without a browser: geometry, words, and the sending of files.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  afterDoubleClick,
  afterKey,
  afterWheel,
  bounded,
  doneText,
  fitted,
  heardKey,
  moved,
  neighbour,
  PIECE,
  pieces,
  progressText,
  rowMessage,
  transform,
  unreadable,
  uploader,
  WHOLE,
  wheelFactor,
  zoomed,
} from "../../retina_nb/deploy/static/viewer.js";

const near = (a, b) => assert.ok(Math.abs(a - b) < 1e-9, `${a} is not ${b}`);

// ---- geometry

test("magnification stays between 1 and 16", () => {
  assert.equal(zoomed(WHOLE, 0.1).z, 1);
  assert.equal(zoomed(WHOLE, 1e9).z, 16);
  assert.equal(bounded({ z: 99, x: 0, y: 0 }).z, 16);
});

test("zooming keeps the point under the pointer where it is", () => {
  // a point p of the picture is shown at x + z * p
  let view = { z: 2, x: 0.1, y: -0.2 };
  const [px, py] = [0.3, 0.15];
  const before = [(px - view.x) / view.z, (py - view.y) / view.z];
  view = zoomed(view, 1.7, px, py);
  near((px - view.x) / view.z, before[0]);
  near((py - view.y) / view.z, before[1]);
});

test("zooming in and out again comes back to the whole picture", () => {
  let view = WHOLE;
  for (let i = 0; i < 20; i += 1) view = zoomed(view, 1.3, 0.4, -0.3);
  for (let i = 0; i < 30; i += 1) view = zoomed(view, 1 / 1.3, -0.2, 0.1);
  near(view.z, 1);
  near(view.x, 0);
  near(view.y, 0);
});

test("no view leaves the picture", () => {
  for (const z of [1, 1.5, 4, 16]) {
    const view = moved({ z, x: 0, y: 0 }, 100, -100);
    near(view.x, (z - 1) / 2);
    near(view.y, -(z - 1) / 2);
  }
  assert.deepEqual(moved(WHOLE, 5, 5), WHOLE); // there is nowhere to go at magnification 1
});

test("keys: plus, minus, arrows, 0, and nothing else", () => {
  near(afterKey(WHOLE, "+").z, 1.5);
  near(afterKey(WHOLE, "=").z, 1.5);
  near(afterKey({ z: 3, x: 0, y: 0 }, "-").z, 2);
  assert.deepEqual(afterKey({ z: 3, x: 0.2, y: 0 }, "0"), WHOLE);
  near(afterKey({ z: 3, x: 0, y: 0 }, "ArrowRight").x, -0.1);
  near(afterKey({ z: 3, x: 0, y: 0 }, "ArrowUp").y, 0.1);
  for (const key of ["a", "Tab", "Enter", "Escape", "toString"]) assert.equal(afterKey(WHOLE, key), null);
});

test("a double click looks closer, and back", () => {
  const close = afterDoubleClick(WHOLE, 0.25, 0);
  assert.equal(close.z, 3);
  near(close.x, -0.5);
  assert.deepEqual(afterDoubleClick(close, 0.1, 0.1), WHOLE);
});

test("the wheel magnifies one way and undoes it the other", () => {
  assert.ok(wheelFactor(-100) > 1);
  near(wheelFactor(120) * wheelFactor(-120), 1);
});

test("the wheel zooms at once, and lets the page scroll where there is nothing to zoom", () => {
  assert.ok(afterWheel(WHOLE, -120, 0.2, 0.1).z > 1);
  assert.equal(afterWheel(WHOLE, 120, 0, 0), null);
  assert.ok(afterWheel({ z: 3, x: 0, y: 0 }, 120, 0, 0).z < 3);
  assert.equal(afterWheel({ z: 16, x: 0, y: 0 }, -120, 0, 0), null);
});

test("a picture fills its frame as far as its shape allows, in the middle", () => {
  assert.deepEqual(fitted(400, 300, 800, 800), { w: 300, h: 300, left: 50, top: 0 });
  assert.deepEqual(fitted(400, 300, 1600, 400), { w: 400, h: 100, left: 0, top: 100 });
  assert.equal(fitted(400, 300, 0, 0), null); // not loaded yet
});

test("a view as a CSS transform", () => {
  assert.equal(transform({ z: 1.5, x: -0.1, y: 0 }, 400, 300), "translate(-40px,0px) scale(1.5)");
});

// ---- words and keys

test("the status line", () => {
  assert.equal(progressText(0, ["eye.jpg"]), "Grading eye.jpg");
  assert.equal(progressText(1, ["a.jpg", "b.jpg", "c.jpg"]), "Grading 2 of 3: b.jpg");
});

test("what is done is counted, and what could not be graded is not called done without a word", () => {
  const states = (n, of) => Array(n).fill(of);
  assert.equal(doneText(["graded"]), "");
  assert.equal(doneText(states(40, "graded")), "40 photographs done");
  const some = [...states(5, "graded"), ...states(3, "failed")];
  assert.equal(doneText(some), "8 photographs done, of which 3 could not be graded");
  assert.match(doneText([...some, "withheld"]), /^9 .*, of which 3 could not be graded and 1 withheld$/);
  assert.equal(doneText(["graded", "withheld"]), "2 photographs done, of which 1 withheld");
});

test("what cannot be read is told from a connection that is lost", () => {
  for (const name of ["NotFoundError", "NotReadableError"]) assert.match(unreadable({ name }), /cannot be read/);
  assert.equal(unreadable(new Error("no answer")), null);
});

test("a click in the table shows or removes a photograph", () => {
  const within = (marks) => ({
    closest: (selector) => (selector in marks ? { dataset: marks[selector] } : null),
  });
  const row = { "[data-rnb-row]": { rnbRow: "7" } };
  const cross = { ...row, "[data-rnb-remove]": { rnbRemove: "7" } };
  assert.deepEqual(rowMessage(within(row)), { t: "select", key: 7 });
  assert.deepEqual(rowMessage(within(cross)), { t: "remove", key: 7 });
  assert.equal(rowMessage(within({})), null);
});

test("arrows lead along the strip and not beyond it", () => {
  assert.equal(neighbour(0, 3, "ArrowRight"), 1);
  assert.equal(neighbour(2, 3, "ArrowLeft"), 1);
  for (const [i, key] of [
    [2, "ArrowRight"],
    [0, "ArrowLeft"],
    [1, "Enter"],
  ])
    assert.equal(neighbour(i, 3, key), null);
});

test("a key is heard in the panel, not where it belongs to something else", () => {
  const keys = ["0", "3", "Enter"];
  const on = (key, inside = "", more = {}) =>
    heardKey({ key, target: { closest: (found) => inside && found.split(", ").includes(inside) }, ...more }, keys);
  assert.equal(on("3"), "3");
  assert.equal(on("3", "button"), "3"); // a digit means nothing to a button
  assert.equal(on("Enter"), "Enter");
  assert.equal(on("Enter", "button"), null);
  assert.equal(on("3", "input"), null);
  assert.equal(on("7"), null);
  for (const held of ["ctrlKey", "altKey", "metaKey"]) assert.equal(on("0", "", { [held]: true }), null);
});

// ---- sending files

test("pieces cover a file, and an empty file has one", () => {
  assert.deepEqual(pieces(0), [0]);
  assert.deepEqual(pieces(PIECE), [0]);
  assert.deepEqual(pieces(2 * PIECE + 1), [0, PIECE, 2 * PIECE]);
});

const file = (name, size) => {
  const made = new Blob([new Uint8Array(size)]);
  made.name = name;
  return made;
};

// Python's side: keeps what was sent, and answers unless told not to.
function python({ answers = true, max_mb = 64, became = () => "graded" } = {}) {
  const sent = [];
  const said = [];
  const model = {
    get: (name) => (name === "word" ? "photograph" : max_mb),
    send: (message, _callbacks, buffers) => {
      sent.push({ ...message, bytes: buffers[0]?.byteLength ?? 0 });
      if (answers) queueMicrotask(() => up.answered(message.id, became(message)));
    },
  };
  const say = (text, fraction, bad) => said.push({ text, fraction, bad: !!bad });
  say.last = 1; // do not leave a timer's message behind
  const up = uploader(model, say, { patience: 50, shown: 0 });
  return { up, sent, said };
}

test("a file goes in pieces, in order, one message at a time", async () => {
  const { up, sent, said } = python();
  await up.send([file("eye.png", 2 * PIECE + 5)]);
  assert.deepEqual(
    sent.map((m) => [m.t, m.at, m.bytes]),
    [
      ["piece", 0, PIECE],
      ["piece", PIECE, PIECE],
      ["piece", 2 * PIECE, 5],
    ],
  );
  assert.equal(new Set(sent.map((m) => m.token)).size, 1);
  assert.equal(new Set(sent.map((m) => m.id)).size, 3);
  assert.deepEqual(said.at(-1), { text: "", fraction: null, bad: false });
});

test("two drops wait for each other", async () => {
  const { up, sent, said } = python();
  up.send([file("a", 3), file("b", 3)]);
  await up.send([file("c", 3)]);
  assert.deepEqual(
    sent.map((m) => m.name),
    ["a", "b", "c"],
  );
  assert.ok(said.some((o) => o.text === "2 photographs done"));
});

test("a file over the limit is announced and not sent", async () => {
  const { up, sent } = python({ max_mb: 1 });
  await up.send([file("huge.tif", PIECE + 1)]);
  assert.deepEqual(
    sent.map((m) => [m.t, m.name, m.bytes]),
    [["refused", "huge.tif", 0]],
  );
});

test("silence from Python is said, and the rest is not sent", async () => {
  const { up, sent, said } = python({ answers: false });
  await up.send([file("a.jpg", 3), file("b.jpg", 3)]);
  assert.equal(sent.length, 1);
  assert.ok(said.at(-1).bad);
  assert.match(said.at(-1).text, /^a\.jpg: no answer from Python/);
});

const folder = {
  name: "photos",
  size: 4096,
  slice: () => ({ arrayBuffer: () => Promise.reject(Object.assign(new Error("x"), { name: "NotFoundError" })) }),
};

test("a folder that was dropped is a sentence in the list, and the files after it are sent", async () => {
  const { up, sent, said } = python({ became: (m) => (m.t === "refused" ? "failed" : "graded") });
  await up.send([folder, file("a.jpg", 3)]);
  assert.deepEqual(
    sent.map((m) => [m.t, m.name]),
    [
      ["refused", "photos"],
      ["piece", "a.jpg"],
    ],
  );
  assert.match(sent[0].why, /is a folder/);
  assert.equal(said.at(-1).text, "2 photographs done, of which 1 could not be graded");
});
