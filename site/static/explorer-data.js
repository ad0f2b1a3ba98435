/**
 * The explorer's data: the checkpoints at hand, and the columns of their layers, which core/columns.py writes and states.
 *
 * Scripts of columns are asked for by name, a few at a time, and kept decoded. What they mean belongs to explorer-fields.js.
 *
 * @typedef {{layer: number, first: number, width: number, summary: any}} Block
 *   The neurons of a layer are the rows first … first + width - 1.
 */
"use strict";
(() => {
  const { QUADRANTS, inflate, Reader, load } = window.gluscope;
  const here = document.getElementById("explorer");
  const manifest = window.gluscopeNeurons || { checkpoints: [] };
  const checkpoints = manifest.checkpoints;
  if (!here || !checkpoints.length || typeof DecompressionStream === "undefined") return;
  const explorer = (window.gluscope.explorer = {});
  const root = document.body.dataset.root || "";
  const get = (id) => /** @type {any} */ (document.getElementById(id));

  const COSINES = ["cos_gate_in", "cos_gate_out", "cos_in_out"];
  const FLIPPED = 128, ATYPICAL = 64, CLASS = 63;
  /** From neurons that write what they read to those that take it back. */
  const CLASSES = ["strengthening", "conditional strengthening", "proportional change", "orthogonal output", "conditional weakening", "weakening"];
  /** The place of a class in `CLASSES`, to which a new one is added. */
  const classPlace = (name) => (CLASSES.includes(name) ? CLASSES.indexOf(name) : CLASSES.push(name) - 1);
  /** Examples are shown from the start up to so many neurons: their texts are the largest columns. */
  const MOST_WITH_EXAMPLES = 50_000;
  const AT_ONCE = 6;

  /** A checkpoint's name. */
  const nameAt = (key) => (checkpoints.find((entry) => entry.key === key) || { name: key }).name;
  const entryOf = (key) => checkpoints.find((entry) => entry.key === key);

  /** Turned by the orientation, in+ and in− change places: 0 ↔ 1, 2 ↔ 3. */
  const turned = (quadrant, flip) => (flip ? quadrant ^ 1 : quadrant);
  const folderOf = (layer) => String(layer).padStart(2, "0");

  /** @param {string} tag @param {object} properties @param {...(Node|string)} children */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes("-") || name === "role") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children);
    return element;
  }

  // Data

  const DECODE = {
    summary(value, reader) {
      const { width } = value, Counts = value.wide ? Float64Array : Uint32Array, all = reader.numbers(Counts, 4 * width);
      const counts = QUADRANTS.map((_, q) => all.subarray(q * width, (q + 1) * width)), zero = reader.numbers(Counts, width);
      const cosines = COSINES.map(() => reader.numbers(Float32Array, width)), code = reader.numbers(Uint8Array, width);
      const seen = new Float64Array(width);
      for (let i = 0; i < width; i++) seen[i] = counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i] + zero[i];
      return { ...value, counts, zero, cosines, code, seen, classOf: value.classes.map(classPlace) };
    },
    statistic(value, reader) {
      const all = reader.numbers(Float32Array, 4 * value.width);
      return { quadrants: QUADRANTS.map((_, q) => all.subarray(q * value.width, (q + 1) * value.width)) };
    },
    tokens(value, reader) {
      const lengths = value.lists.map(() => reader.numbers(Uint16Array, value.width));
      return { lists: value.lists.map((name, list) => {
        const first = new Uint32Array(value.width + 1);
        for (let i = 0; i < value.width; i++) first[i + 1] = first[i] + lengths[list][i];
        return { name, first, identities: reader.numbers(Uint32Array, value.sizes[list]) };
      }) };
    },
    contexts(value, reader) {
      const size = 4 * value.width, post = reader.numbers(Float32Array, size);
      const peak = reader.numbers(Uint32Array, size), length = reader.numbers(Uint32Array, size);
      const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(reader.take(value.bytes)), first = new Uint32Array(size + 1);
      for (let i = 0; i < size; i++) first[i + 1] = text.indexOf("\0", first[i]) + 1;
      return { width: value.width, post, peak, length, text, first };
    },
    vocabulary(value, reader) {
      const pieces = new TextDecoder("utf-8", { ignoreBOM: true }).decode(reader.bytes).split("\0");
      pieces.pop();
      return { pieces };
    },
  };
  const decoderOf = (group) => DECODE[group] || (group.startsWith("tokens-") ? DECODE.tokens : DECODE.statistic);

  /** @type {Map<string, any>} decoded scripts by name */
  const read = new Map();
  /** Names that are under way, and names that failed. */
  const asked = new Set(), missing = new Set();
  /** @type {string[]} names that wait for their turn */
  let queue = [];
  const nameOf = (key, layer, group) => `${key}/${folderOf(layer)}/${group}`;
  const addressOf = (name) => (name === "vocabulary" ? `${root}vocabulary.js` : root + name.replace(/[^/]+$/, "columns/$&.js"));

  async function fetchNext() {
    const name = queue.shift();
    asked.add(name);
    try {
      const value = await load(name, addressOf(name)), reader = new Reader(await inflate(value.packed));
      // The text is as large as the numbers, and would stay in memory by its name.
      value.packed = "";
      read.set(name, decoderOf(name.split("/").pop())(value, reader));
    } catch {
      missing.add(name);
    }
    asked.delete(name);
    fetchAll();
    explorer.arrived();
  }
  function fetchAll() {
    while (asked.size < AT_ONCE && queue.length) fetchNext();
  }
  /** Whether a script has neither come nor failed, and is not on its way. */
  const isLacking = (name) => !read.has(name) && !asked.has(name) && !missing.has(name);
  /** Whether nothing is on its way. */
  const isIdle = () => !asked.size && !queue.length;
  /** Ask for scripts that are not there yet; those that wait and are not wanted any more are forgotten. */
  function want(names) {
    queue = [...new Set(names)].filter(isLacking);
    fetchAll();
  }

  Object.assign(explorer, {
    here, manifest, checkpoints, root, get, COSINES, FLIPPED, ATYPICAL, CLASS, CLASSES, nameAt, turned, make, read,
    nameOf, entryOf, MOST_WITH_EXAMPLES, folderOf, isLacking, missing, isIdle, want,
  });
})();
