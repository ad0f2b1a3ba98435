/**
 * The explorer: all neurons of a checkpoint in one table. Reads the columns that core/columns.py writes and states.
 *
 * The address's fragment holds the whole state; every control changes the state, and the page follows from it. Numbers of all
 * neurons lie in typed arrays in the order of layers and neurons; filters set bits in one array, a radix sort orders the rows,
 * and only the rows in sight are elements. Tables are raw: `at` of a field turns them by the orientation for the oriented view.
 *
 * @typedef {{layer: number, first: number, width: number, summary: any}} Block
 *   The neurons of a layer are the rows first … first + width - 1.
 * @typedef {object} Field
 * @property {string} id the column's name in the tables where it has one
 * @property {string} name what it is, in full
 * @property {[string, string]} heading two lines
 * @property {string} group the script that it needs
 * @property {(data: any, i: number, flip: boolean, block: Block) => number} [at] the value of a layer's neuron; NaN: none
 * @property {string[]} [categories] what the values 0, 1, … stand for
 * @property {"%"|""} unit
 * @property {(value: number) => string} [text]
 * @property {(i: number, data: any) => string} [sample] the sample size behind the value, in words
 * @property {(cell: HTMLElement, block: Block, i: number, flip: boolean) => void} [draw] of columns that only show
 * @property {number} width in rem
 * @typedef {{kind: "range", field: string, low: number|null, high: number|null} | {kind: "in", field: string, names: string[]}
 *   | {kind: "token", role: string, text: string} | {kind: "text", text: string}} Filter
 * @typedef {{field: string, down: boolean}} Order
 */
"use strict";
(() => {
  const { QUADRANTS, format, signed, share, count, inflate, Reader, load } = window.gluscope;
  const here = document.getElementById("explorer");
  const manifest = window.gluscopeNeurons || { checkpoints: [] };
  const checkpoints = manifest.checkpoints;
  if (!here || !checkpoints.length || typeof DecompressionStream === "undefined") return;
  const root = document.body.dataset.root || "";
  const get = (id) => /** @type {any} */ (document.getElementById(id));

  const COSINES = ["cos_gate_in", "cos_gate_out", "cos_in_out"];
  const FLIPPED = 128, ATYPICAL = 64, CLASS = 63;
  /** From neurons that write what they read to those that take it back. */
  const CLASSES = ["strengthening", "conditional strengthening", "proportional change", "orthogonal output", "conditional weakening", "weakening"];
  /** The place of a class in `CLASSES`, to which a new one is added. */
  const classPlace = (name) => (CLASSES.includes(name) ? CLASSES.indexOf(name) : CLASSES.push(name) - 1);
  const ROW = 32;
  /** Browsers cannot lay out elements much higher than this; rows of a longer table share its pixels. */
  const MOST_PIXELS = 8_000_000;
  /** Examples are shown from the start up to so many neurons: their texts are the largest columns. */
  const MOST_WITH_EXAMPLES = 50_000;
  const AT_ONCE = 6;

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
    arrived();
  }
  function fetchAll() {
    while (asked.size < AT_ONCE && queue.length) fetchNext();
  }
  /** Ask for scripts that are not there yet; those that wait and are not wanted any more are forgotten. */
  function want(names) {
    queue = [...new Set(names)].filter((name) => !read.has(name) && !asked.has(name) && !missing.has(name));
    fetchAll();
  }

  // Fields

  const quadrantName = (q) => QUADRANTS[q].replace("_", " ").replace(/-/g, "−");
  const NAMES = { mean: (a) => `mean ${a}`, std: (a) => `standard deviation of ${a}`, largest: (a) => `largest |${a}|` };
  const SHORT = { mean: (a) => `mean ${a}`, std: (a) => `std ${a}`, largest: (a) => `largest |${a}|` };
  const positions = (n) => `n = ${count(n)} positions`;

  /** The place of a neuron in a layer with several gated MLPs. */
  function placeOf(summary, i) {
    let low = 0, high = summary.mlps.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (summary.mlps[middle][2] <= i) low = middle;
      else high = middle - 1;
    }
    const [mlp, expert, first, index] = summary.mlps[low];
    return { mlp, expert, index: index + i - first };
  }

  /** @type {Map<string, Field>} */
  const fields = new Map();
  /** Headings of the selects, with the fields below them. @type {[string, Field[]][]} */
  const chapters = [];
  function chapter(name, ...list) {
    chapters.push([name, list]);
    for (const field of list) fields.set(field.id, field);
  }
  const whole = (value) => (Number.isNaN(value) ? "–" : count(value));
  const sampleOfAll = (i, data) => positions(data.seen[i]);
  const shareField = (id, heading, name, at) => ({ id, heading, name, group: "summary", at, unit: "%", text: share, sample: sampleOfAll, width: 5 });

  chapter("share of positions",
    ...QUADRANTS.map((quadrant, q) => shareField(`${quadrant}_routed_frequency`, ["share", quadrantName(q)], `share of ${quadrantName(q)}`,
      (data, i, flip) => data.counts[turned(q, flip)][i] / data.seen[i])),
    shareField("gate+_routed_frequency", ["share", "gate+"], "share of gate+", (data, i) => (data.counts[0][i] + data.counts[1][i]) / data.seen[i]),
    shareField("smallest_routed_frequency", ["smallest", "share"], "smallest of the four shares",
      (data, i) => Math.min(data.counts[0][i], data.counts[1][i], data.counts[2][i], data.counts[3][i]) / data.seen[i]),
    shareField("zero_routed_frequency", ["share", "zero"], "share where gate or in is 0", (data, i) => data.zero[i] / data.seen[i]),
    {
      ...shareField("change", ["change", "of shares"], "", (data, i, flip, block) => {
        const other = read.get(nameOf(state.since, block.layer, "summary"));
        if (!other || i >= other.width) return NaN;
        let sum = Math.abs(data.zero[i] / data.seen[i] - other.zero[i] / other.seen[i]);
        for (let q = 0; q < 4; q++) sum += Math.abs(data.counts[q][i] / data.seen[i] - other.counts[q][i] / other.seen[i]);
        return sum / 2;
      }),
      width: 6,
      get name() { return `change of the shares since ${nameAt(state.since)}`; },
      sample: (i, data) => `total variation distance of the raw shares from those at ${nameAt(state.since)}; ${positions(data.seen[i])}`,
    });
  const summaryField = (id, heading, name, width, at, more) => ({ id, heading, name, width, at, group: "summary", unit: "", ...more });
  chapter("weights",
    ...COSINES.map((id, place) => {
      const [one, other] = id.split("_").slice(1), odd = place < 2;
      const at = (data, i, flip) => (flip && odd ? -data.cosines[place][i] : data.cosines[place][i]);
      return summaryField(id, ["cos", `(${one}, ${other})`], `cos(w_${one}, w_${other})`, 5.25, at, { text: (value) => signed(value, 3) });
    }),
    summaryField("class", ["class", ""], "class", 14, (data, i) => data.classOf[data.code[i] & CLASS], { categories: CLASSES }),
    summaryField("atypical", ["atypical", ""], "atypical for its class", 5, (data, i) => (data.code[i] & ATYPICAL ? 1 : 0),
      { categories: ["typical", "atypical"] }),
    summaryField("orientation", ["orien-", "tation"], "orientation s", 4.5, (data, i) => (data.code[i] & FLIPPED ? 1 : 0),
      { categories: ["s = +1", "s = −1"] }));
  chapter("place",
    summaryField("layer", ["layer", ""], "layer", 4, (data, i, flip, block) => block.layer, { text: whole }),
    summaryField("neuron", ["neuron", ""], "neuron", 5, (data, i) => i, { text: whole }),
    summaryField("expert", ["expert", ""], "expert", 4.5, (data, i) => placeOf(data, i).expert ?? NaN, { text: whole }),
    summaryField("index", ["index in", "its MLP"], "index in its MLP or expert", 5, (data, i) => placeOf(data, i).index, { text: whole }),
    summaryField("routed", ["n", "positions"], "positions that the neuron sees", 6, (data, i) => data.seen[i], { text: whole }));
  chapter("number of positions", ...QUADRANTS.map((quadrant, q) => summaryField(
    `${quadrant}_count`, ["n", quadrantName(q)], `positions in ${quadrantName(q)}`, 6, (data, i, flip) => data.counts[turned(q, flip)][i], { text: whole })));
  for (const statistic of ["largest", "mean", "std"]) {
    for (const activation of ["post", "gate", "in", "act"]) {
      const odd = statistic === "mean" && (activation === "in" || activation === "post");
      chapter(NAMES[statistic](activation), ...QUADRANTS.map((quadrant, q) => ({
        id: `${quadrant}_${activation}_${statistic}`,
        heading: [SHORT[statistic](activation), quadrantName(q)],
        name: `${NAMES[statistic](activation)} in ${quadrantName(q)}`,
        group: `${activation}-${statistic}`,
        unit: "",
        width: 6.5,
        text: (value) => format(value),
        at: (data, i, flip) => (flip && odd ? -data.quadrants[turned(q, flip)][i] : data.quadrants[turned(q, flip)][i]),
        sample: (i, data, flip) => positions(data.counts[turned(q, flip)][i]),
      })));
    }
  }

  /** Roles of tokens: [name in words, group, lists in the raw view, lists where s = −1 in the oriented view]. */
  const ROLES = {
    promoted: ["promoted", "tokens-out", [0], [1]],
    suppressed: ["suppressed", "tokens-out", [1], [0]],
    "gate+": ["read by gate+", "tokens-gate", [0], [0]],
    "gate-": ["read by gate−", "tokens-gate", [1], [1]],
    "in+": ["read by in+", "tokens-in", [0], [1]],
    "in-": ["read by in−", "tokens-in", [1], [0]],
    peak: ["at any peak", "tokens-peaks", [0, 1, 2, 3], [0, 1, 2, 3]],
    ...Object.fromEntries(QUADRANTS.map((quadrant, q) => [quadrant, [`at peaks in ${quadrantName(q)}`, "tokens-peaks", [q], [q ^ 1]]])),
  };
  const roleLists = (role, flip) => ROLES[role][flip ? 3 : 2];
  function pieceOf(identity) {
    const known = read.get("vocabulary");
    return known && identity < known.pieces.length ? known.pieces[identity] : `⟨token ${identity}⟩`;
  }
  function tokensOf(role, block, i, flip) {
    const data = read.get(nameOf(state.checkpoint, block.layer, ROLES[role][1])), found = new Set();
    if (data) for (const list of roleLists(role, flip)) {
      const { first, identities } = data.lists[list];
      for (let at = first[i]; at < first[i + 1]; at++) found.add(identities[at]);
    }
    return data ? [...found] : null;
  }

  /** The example that a row shows: where the search found its text, else the strongest |post| of all quadrants. */
  function exampleOf(block, i, flip) {
    const data = read.get(nameOf(state.checkpoint, block.layer, "contexts"));
    if (!data) return null;
    const searched = evaluation.matches ? evaluation.matches[block.first + i] - 1 : -1;
    let best = searched;
    if (best < 0) for (let q = 0; q < 4; q++) {
      const size = Math.abs(data.post[q * data.width + i]);
      if (!Number.isNaN(size) && (best < 0 || size > Math.abs(data.post[best * data.width + i]))) best = q;
    }
    if (best < 0) return { quadrant: -1, post: NaN, before: "", peak: "", after: "" };
    const at = best * data.width + i, text = data.text.slice(data.first[at], data.first[at + 1] - 1);
    const begin = data.peak[at], end = begin + data.length[at];
    return {
      quadrant: turned(best, flip),
      post: flip ? -data.post[at] : data.post[at],
      before: text.slice(0, begin),
      peak: text.slice(begin, end),
      after: text.slice(end),
    };
  }

  const SVG = "http://www.w3.org/2000/svg";
  function picture(className, viewBox, rects) {
    const svg = document.createElementNS(SVG, "svg");
    const own = { class: className, viewBox, "aria-hidden": "true", preserveAspectRatio: "none" };
    for (const [name, value] of Object.entries(own)) svg.setAttribute(name, value);
    for (const attributes of rects) {
      const rect = document.createElementNS(SVG, "rect");
      for (const [name, value] of Object.entries(attributes)) rect.setAttribute(name, value);
      svg.append(rect);
    }
    return svg;
  }
  /** The four squares of the site's sign, with one quadrant marked. */
  const sign = (quadrant) => picture("mark", "0 0 16 16", [2, 0, 3, 1].map((q, place) =>
    ({ class: q === quadrant ? `s${q}` : "", x: place % 2 ? 9 : 0, y: place > 1 ? 9 : 0, width: 7, height: 7 })));

  /** Indentation would push the words out of sight. */
  const narrow = (text) => text.replace(/ {3,}/g, "  ");
  const shown = (id, heading, name, group, width, draw) => ({ id, heading, name, group, width, unit: "", draw });
  const SHOWN = [
    shown("quadrants", ["quadrants", ""], "bar of the four shares", "summary", 6, (cell, block, i, flip) => {
      const { counts, seen } = block.summary;
      let x = 0;
      cell.append(picture("shares", "0 0 100 1", QUADRANTS.map((_, q) => {
        const width = seen[i] ? (100 * counts[turned(q, flip)][i]) / seen[i] : 0;
        x += width;
        return { class: `s${q}`, x: (x - width).toFixed(1), width: width.toFixed(1), height: 1 };
      })));
    }),
    shown("example", ["strongest example", ""], "text around the strongest |post|", "contexts", 22, (cell, block, i, flip) => {
      const example = exampleOf(block, i, flip);
      if (!example || example.quadrant < 0) {
        cell.append(make("span", { className: "note", textContent: example ? "no example" : "…" }));
        return;
      }
      const title = `post ${signed(example.post, 7)} in ${quadrantName(example.quadrant)}`;
      const value = make("span", { className: "post", textContent: signed(example.post), title });
      const snippet = make("span", { className: "snippet", title: example.before + example.peak + example.after },
        make("span", { className: "left" }, make("bdi", { textContent: narrow(example.before.slice(-80)) })),
        make("mark", { textContent: narrow(example.peak) }),
        make("span", { className: "right" }, make("bdi", { textContent: narrow(example.after.slice(0, 80)) })));
      cell.append(sign(example.quadrant), value, snippet);
    }),
    ...Object.entries(ROLES).filter(([role]) => role !== "peak").map(([role, [name, group]]) =>
      shown(`tokens:${role}`, ["tokens", name.replace("at peaks in", "at peaks,")], `tokens ${name}`, group, 15, (cell, block, i, flip) => {
        const tokens = tokensOf(role, block, i, flip);
        if (!tokens) cell.append(make("span", { className: "note", textContent: "…" }));
        else for (const token of tokens.slice(0, 10)) cell.append(make("span", { className: "chip", textContent: pieceOf(token), title: `token ${token}` }));
      })),
  ];
  for (const field of SHOWN) fields.set(field.id, field);
  const statistics = () => chapters.map(([name, list]) => [name, list.filter((field) => isKnown(field))]).filter(([, list]) => list.length);
  /** Whether a field says something in this study. */
  const isKnown = (field) => (field.id === "change" ? checkpoints.length > 1 : field.id === "expert" || field.id === "index" ? frame.several : true);

  // State and address

  const PLACE = { checkpoint: checkpoints[checkpoints.length - 1].key, layers: "", view: manifest.view || "oriented" };
  const SCATTER = { x: "cos_in_out", y: "gate+_routed_frequency", colour: "class" };
  /**
   * @type {{checkpoint: string, layers: string, view: string, since: string, columns: string[]|null, sort: Order[],
   *   where: Filter[], x: string, y: string, colour: string}}
   */
  let state;
  const nameAt = (key) => (checkpoints.find((entry) => entry.key === key) || { name: key }).name;
  const entryOf = (key) => checkpoints.find((entry) => entry.key === key);
  function sinceOf(checkpoint) {
    const others = checkpoints.filter((entry) => entry.key !== checkpoint);
    return others.length ? (checkpoint === checkpoints[0].key ? others[others.length - 1] : others[0]).key : "";
  }

  const hasValues = (id) => fields.has(id) && !!fields.get(id).at;
  function isWhole(filter, place, all) {
    if (filter.kind === "token") return ROLES[filter.role] && filter.text;
    if (filter.kind === "text") return filter.text && all.findIndex(({ kind }) => kind === "text") === place;
    return hasValues(filter.field);
  }
  /** A whole state from parts that may be unknown to this study. */
  function normal(parts) {
    const checkpoint = entryOf(parts.checkpoint) ? parts.checkpoint : PLACE.checkpoint;
    const numeric = (id) => hasValues(id) && !fields.get(id).categories;
    return {
      checkpoint,
      layers: parts.layers || "",
      view: ["oriented", "raw"].includes(parts.view) ? parts.view : PLACE.view,
      since: entryOf(parts.since) && parts.since !== checkpoint ? parts.since : sinceOf(checkpoint),
      columns: parts.columns ? parts.columns.filter((id) => fields.has(id)) : null,
      sort: (parts.sort || []).filter(({ field }) => hasValues(field)).slice(0, 4),
      // A bit for each.
      where: (parts.where || []).filter(isWhole).slice(0, 30),
      x: numeric(parts.x) ? parts.x : SCATTER.x,
      y: numeric(parts.y) ? parts.y : SCATTER.y,
      colour: parts.colour === "none" || hasValues(parts.colour) ? parts.colour : SCATTER.colour,
    };
  }

  /** Signs that fragments may hold as they are stay readable. */
  const encode = (text) => encodeURIComponent(text.replace(/[\ud800-\udfff]/gu, "\ufffd")).replace(/%(2B|3A|2C|2F|7C|3D)/g, (code) => decodeURIComponent(code));
  function filterText(filter) {
    if (filter.kind === "range") return `${filter.field}:${filter.low ?? ""}..${filter.high ?? ""}`;
    if (filter.kind === "in") return `${filter.field}:${filter.names.join("|")}`;
    return filter.kind === "token" ? `token:${filter.role}:${filter.text}` : `text:${filter.text}`;
  }
  /** @returns {Filter} */
  function filterFrom(text) {
    const colon = text.indexOf(":"), head = text.slice(0, colon), rest = text.slice(colon + 1), field = fields.get(head);
    if (head === "text") return { kind: "text", text: rest };
    if (head === "token") return { kind: "token", role: rest.slice(0, rest.indexOf(":")), text: rest.slice(rest.indexOf(":") + 1) };
    if (field && field.categories) return { kind: "in", field: head, names: rest.split("|").filter((name) => field.categories.includes(name)) };
    const [low, high] = rest.split("..").map((bound) => (bound.trim() === "" || !Number.isFinite(Number(bound)) ? null : Number(bound)));
    return { kind: "range", field: head, low: low ?? null, high: high ?? null };
  }
  function addressText(whole) {
    const parts = [], add = (name, value) => parts.push(`${name}=${encode(value)}`);
    if (whole.checkpoint !== PLACE.checkpoint) add("checkpoint", whole.checkpoint);
    if (whole.layers) add("layers", whole.layers);
    if (whole.view !== PLACE.view) add("view", whole.view);
    if (whole.since !== sinceOf(whole.checkpoint)) add("since", whole.since);
    if (whole.sort.length) add("sort", whole.sort.map(({ field, down }) => (down ? "-" : "") + field).join(","));
    for (const filter of whole.where) add("where", filterText(filter));
    if (whole.columns) add("columns", whole.columns.join(","));
    for (const name of ["x", "y", "colour"]) if (whole[name] !== SCATTER[name]) add(name, whole[name]);
    return parts.join("&");
  }
  function stateFrom(text) {
    const parts = { where: [] };
    for (const part of text.replace(/^#/, "").split("&").filter(Boolean)) {
      const equals = part.indexOf("="), name = part.slice(0, equals);
      let value = part.slice(equals + 1);
      try { value = decodeURIComponent(value); } catch { /* as it is */ }
      if (name === "where") parts.where.push(filterFrom(value));
      else if (name === "columns") parts.columns = value.split(",");
      else if (name === "sort") parts.sort = value.split(",").map((id) => ({ field: id.replace(/^-/, ""), down: id.startsWith("-") }));
      else parts[name] = value;
    }
    return normal(parts);
  }
  /** Change the state. Steps of one gesture, such as letters of a search, replace their address. */
  function go(change, replace = false) {
    const before = addressText(state);
    state = normal({ ...state, ...change });
    const text = addressText(state), address = `${location.pathname}${location.search}${text ? `#${text}` : ""}`;
    if (text !== before) {
      // A browser may refuse this for pages from disk.
      try { history[replace ? "replaceState" : "pushState"](null, "", address); } catch { location.hash = text; }
    }
    if ("sort" in change || "where" in change) top = active = 0;
    update();
  }
  addEventListener("hashchange", () => {
    const next = stateFrom(location.hash);
    if (addressText(next) === addressText(state)) return;
    state = next;
    update();
  });

  // The neurons at hand

  /** Layers of the chosen checkpoint that the state names; `wrong` holds what is not a layer. */
  function layersOf(entry, text) {
    const all = entry.layers.map(({ layer }) => layer), wrong = [], chosen = new Set();
    for (const part of text.split(",").map((piece) => piece.trim()).filter((piece) => piece && piece !== "all")) {
      const [, first, last = first] = /^(\d+)(?:\s*[-–]\s*(\d+))?$/.exec(part) || [];
      const found = all.filter((layer) => layer >= Number(first) && layer <= Number(last));
      if (!found.length) wrong.push(part);
      for (const layer of found) chosen.add(layer);
    }
    return { layers: chosen.size ? all.filter((layer) => chosen.has(layer)) : all, wrong };
  }

  /** @type {{key: string, layers: number[], blocks: Block[], rows: number, several: boolean, version: number,
   *   values: Map<string, any>, searches: Map<string, any>}}
   */
  let frame = { key: "", layers: [], blocks: [], rows: 0, several: false, version: 0, values: new Map(), searches: new Map() };
  function frameNow() {
    const { layers } = layersOf(entryOf(state.checkpoint), state.layers);
    const there = layers.filter((layer) => read.has(nameOf(state.checkpoint, layer, "summary")));
    if (frame.key === state.checkpoint && frame.layers.join() === there.join()) return;
    let first = 0;
    const blocks = there.map((layer) => {
      const summary = read.get(nameOf(state.checkpoint, layer, "summary")), block = { layer, first, width: summary.width, summary };
      first += summary.width;
      return block;
    });
    const several = blocks.some(({ summary }) => summary.mlps.length > 1 || summary.mlps.some(([, expert]) => expert !== null));
    frame = { key: state.checkpoint, layers: there, blocks, rows: first, several, version: frame.version + 1, values: new Map(), searches: new Map() };
  }
  function blockOf(row) {
    let low = 0, high = frame.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (frame.blocks[middle].first <= row) low = middle;
      else high = middle - 1;
    }
    return frame.blocks[low];
  }
  const flips = (block, i) => state.view === "oriented" && block.summary.code[i] >= FLIPPED;

  /** A statistic of all rows, NaN where it is not there (yet). @param {Field} field */
  function valuesOf(field) {
    const key = `${field.id} ${state.view} ${field.id === "change" ? state.since : ""}`;
    let entry = frame.values.get(key);
    if (!entry) frame.values.set(key, (entry = { values: new Float32Array(frame.rows).fill(NaN), done: new Set(), low: NaN, high: NaN }));
    for (const block of frame.blocks) {
      const data = read.get(nameOf(frame.key, block.layer, field.group));
      if (entry.done.has(block) || !data || (field.id === "change" && !read.has(nameOf(state.since, block.layer, "summary")))) continue;
      const { values } = entry, { first, width, summary } = block, oriented = state.view === "oriented", { at } = field;
      for (let i = 0; i < width; i++) values[first + i] = at(data, i, oriented && summary.code[i] >= FLIPPED, block);
      entry.done.add(block);
      let { low, high } = entry;
      for (let i = first; i < first + width; i++) {
        if (!(values[i] >= low)) low = Number.isNaN(values[i]) ? low : values[i];
        if (!(values[i] <= high)) high = Number.isNaN(values[i]) ? high : values[i];
      }
      entry.low = low;
      entry.high = high;
    }
    return entry;
  }

  // Sorting and filtering

  const measured = (name, work) => {
    const start = performance.now(), result = work();
    performance.measure(`explorer ${name}`, { start, end: performance.now() });
    return result;
  };

  /** Order `rows` by `values`, stably, rows without a value last. Two passes over 16 bits of the sortable bit patterns. */
  function radixSort(rows, values, down) {
    const bits = new Uint32Array(values.buffer), size = rows.length, keys = new Uint32Array(bits.length);
    const low = new Uint32Array(65537), high = new Uint32Array(65537);
    for (let i = 0; i < bits.length; i++) {
      const pattern = bits[i];
      if ((pattern & 0x7fffffff) > 0x7f800000) keys[i] = 0xffffffff;
      else {
        // −0 sorts as 0.
        const key = pattern === 0x80000000 ? 0x80000000 : pattern & 0x80000000 ? ~pattern : pattern | 0x80000000;
        keys[i] = down ? ~key : key;
      }
    }
    for (let i = 0; i < size; i++) {
      const key = keys[rows[i]];
      low[(key & 0xffff) + 1]++;
      high[(key >>> 16) + 1]++;
    }
    for (let i = 0; i < 65536; i++) {
      low[i + 1] += low[i];
      high[i + 1] += high[i];
    }
    const half = new Uint32Array(size), out = new Uint32Array(size);
    for (let i = 0; i < size; i++) half[low[keys[rows[i]] & 0xffff]++] = rows[i];
    for (let i = 0; i < size; i++) out[high[keys[half[i]] >>> 16]++] = half[i];
    return out;
  }
  let ordered = { key: "", rows: new Uint32Array(0) };
  function orderedRows() {
    const columns = state.sort.map(({ field, down }) => ({ entry: valuesOf(fields.get(field)), down }));
    const parts = columns.map(({ entry, down }, place) => `${state.sort[place].field} ${down} ${entry.done.size}`);
    const key = [frame.version, state.view, state.since, ...parts].join();
    if (ordered.key !== key) {
      ordered = { key, rows: measured("sort", () => {
        let rows = new Uint32Array(frame.rows);
        for (let i = 0; i < rows.length; i++) rows[i] = i;
        for (const { entry, down } of columns.reverse()) rows = radixSort(rows, entry.values, down);
        return rows;
      }) };
    }
    return ordered.rows;
  }

  const plain = (text) => text.trim().toLowerCase();
  /** The tokens that a text in a filter means: in quotation marks that token, else all with the same letters. */
  function tokensMeant(text) {
    const known = read.get("vocabulary"), exact = /^"(.*)"$/s.exec(text), letters = plain(text), found = [];
    const isMeant = exact ? (piece) => piece === exact[1] : (piece) => letters !== "" && plain(piece) === letters;
    if (known) known.pieces.forEach((piece, identity) => { if (isMeant(piece)) found.push(identity); });
    const number = /^(?:token |#)(\d+)$/.exec(text.trim());
    if (number && !found.length) found.push(Number(number[1]));
    return found;
  }

  function failRange(failing, bit, { field, low, high }) {
    if (low === null && high === null) return;
    // Bounds are rounded as values are.
    const { values } = valuesOf(fields.get(field)), least = Math.fround(low ?? -Infinity), most = Math.fround(high ?? Infinity);
    for (let i = 0; i < values.length; i++) if (!(values[i] >= least && values[i] <= most)) failing[i] |= bit;
  }
  function failCategories(failing, bit, { field, names }) {
    if (!names.length) return;
    const { values } = valuesOf(fields.get(field)), wanted = fields.get(field).categories.map((name) => names.includes(name));
    for (let i = 0; i < values.length; i++) if (!wanted[values[i]]) failing[i] |= bit;
  }
  /** What a search found in each row, kept while its filter stands; `search(block, data, found)` looks through a layer once. */
  function searched(filter, group, search) {
    const key = `${filterText(filter)} ${state.view} ${read.has("vocabulary")}`;
    let entry = frame.searches.get(key);
    if (!entry) frame.searches.set(key, (entry = { found: new Uint8Array(frame.rows), done: new Set() }));
    for (const block of frame.blocks) {
      const data = read.get(nameOf(frame.key, block.layer, group));
      if (!data || entry.done.has(block)) continue;
      search(block, data, entry.found.subarray(block.first, block.first + block.width));
      entry.done.add(block);
    }
    entry.used = true;
    return entry.found;
  }
  function failTokens(failing, bit, filter) {
    const { role, text } = filter, meant = tokensMeant(text), wanted = new Uint8Array(meant.reduce((most, identity) => Math.max(most, identity), 0) + 1);
    for (const identity of meant) wanted[identity] = 1;
    const found = searched(filter, ROLES[role][1], (block, data, rows) => {
      for (let turn = 0; turn < 2; turn++) {
        for (const list of roleLists(role, turn === 1)) {
          const { first, identities } = data.lists[list];
          for (let i = 0; i < block.width; i++) {
            if (flips(block, i) !== (turn === 1)) continue;
            for (let at = first[i]; at < first[i + 1]; at++) if (wanted[identities[at]] === 1) rows[i] = 1;
          }
        }
      }
    });
    for (let i = 0; i < found.length; i++) if (!found[i]) failing[i] |= bit;
  }
  function failTexts(failing, bit, filter) {
    const pattern = new RegExp(filter.text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
    const found = searched(filter, "contexts", (block, data, rows) => {
      const { width, text, first, post } = data;
      pattern.lastIndex = 0;
      let at = 0;
      for (let match = pattern.exec(text); match; match = pattern.exec(text)) {
        // Texts lie in the order of quadrants, then neurons.
        while (first[at + 1] <= match.index) at++;
        const i = at % width, before = rows[i] - 1;
        if (before < 0 || Math.abs(post[at]) > Math.abs(post[before * width + i])) rows[i] = Math.floor(at / width) + 1;
        pattern.lastIndex = first[at + 1];
      }
    });
    for (let i = 0; i < found.length; i++) if (!found[i]) failing[i] |= bit;
    return found;
  }

  /** Rows that pass; for each row the filters that it fails; for each row the quadrant of a text that was found, plus 1. */
  let evaluation = { rows: new Uint32Array(0), failing: new Uint32Array(0), matches: null };
  function evaluate() {
    const all = orderedRows();
    measured("filter", () => {
      const failing = new Uint32Array(frame.rows), fail = { range: failRange, in: failCategories, token: failTokens, text: failTexts };
      for (const entry of frame.searches.values()) entry.used = false;
      let matches = null;
      state.where.forEach((filter, place) => { matches = fail[filter.kind](failing, 1 << place, filter) || matches; });
      for (const [key, entry] of frame.searches) if (!entry.used) frame.searches.delete(key);
      let rows = all;
      if (state.where.length) {
        rows = new Uint32Array(all.length);
        let kept = 0;
        for (let i = 0; i < all.length; i++) if (!failing[all[i]]) rows[kept++] = all[i];
        rows = rows.subarray(0, kept);
      }
      evaluation = { rows, failing, matches };
    });
  }
  /** The bits of the range filters on some fields. */
  const bitsOn = (...ids) => state.where.reduce(
    (bits, { kind, field }, place) => (kind === "range" && ids.includes(field) ? bits | (1 << place) : bits), 0);

  // What is needed

  /** [group, checkpoint, what it is called] of all that the state needs of each layer. */
  function needs() {
    const found = new Map([["summary", [state.checkpoint, "shares, cosines and classes"]]]);
    const used = [...state.sort.map(({ field }) => field), ...state.where.map(({ field }) => field), ...columnsNow().map(({ id }) => id)];
    if (get("scatter").open) used.push(state.x, state.y, state.colour);
    for (const field of used.map((id) => fields.get(id))) {
      if (!field || !field.at || found.has(field.group)) continue;
      const [activation, statistic] = field.group.split("-");
      found.set(field.group, [state.checkpoint, NAMES[statistic](activation)]);
    }
    const out = [...found].map(([group, [key, name]]) => ({ group, key, name }));
    if (used.includes("change") && state.since) out.push({ group: "summary", key: state.since, name: `shares at ${nameAt(state.since)}` });
    for (const filter of state.where) {
      if (filter.kind === "token") out.push({ group: ROLES[filter.role][1], key: state.checkpoint, name: `tokens ${ROLES[filter.role][0]}` });
      if (filter.kind === "text") out.push({ group: "contexts", key: state.checkpoint, name: "texts of examples" });
    }
    return out;
  }
  /** Scripts of the rows in sight, for columns that only show. */
  let inSight = [];
  function request() {
    const { layers } = layersOf(entryOf(state.checkpoint), state.layers), all = needs();
    const names = all.flatMap(({ group, key }) => layers.map((layer) => nameOf(key, layer, group)));
    const words = state.where.some(({ kind }) => kind === "token") || columnsNow().some(({ id }) => id.startsWith("tokens:"));
    const vocabulary = words || document.activeElement === get("token") ? ["vocabulary"] : [];
    want([...names.slice(0, 1), ...inSight, ...vocabulary, ...names]);
    return { layers, all };
  }
  function sayProgress({ layers, all }) {
    const parts = [];
    for (const { group, key, name } of all) {
      const done = layers.filter((layer) => read.has(nameOf(key, layer, group))), lost = layers.filter((layer) => missing.has(nameOf(key, layer, group)));
      if (lost.length) parts.push(`No ${name} of layer ${lost.join(", ")}: build the study's pages again.`);
      if (done.length + lost.length < layers.length) parts.push(`Reading ${name}: ${done.length} of ${layers.length} layers.`);
    }
    get("progress").textContent = parts.join(" ");
    here.setAttribute("aria-busy", String(parts.some((part) => part.startsWith("Reading"))));
  }

  /** Redraw when scripts arrive: at once after a pause, then a few times a second, and at the end. */
  let lastDrawn = 0, timer = 0;
  function arrived() {
    clearTimeout(timer);
    const waited = performance.now() - lastDrawn;
    if (waited > 300 || (!asked.size && !queue.length)) update();
    else timer = setTimeout(update, 300 - waited);
  }

  // Table

  const table = get("table"), space = get("space"), rowsNode = get("rows");
  const head = make("div", { className: "head", role: "row", "aria-rowindex": "1" });
  table.prepend(head);
  /** @returns {Field[]} */
  function columnsNow() {
    const { several, blocks, rows } = frame, layers = layersOf(entryOf(state.checkpoint), state.layers).layers.length;
    // Layers that have not arrived yet are as wide as the others.
    const small = rows * layers <= MOST_WITH_EXAMPLES * blocks.length || state.where.some(({ kind }) => kind === "text");
    const few = ["quadrants", ...QUADRANTS.map((quadrant) => `${quadrant}_routed_frequency`), ...(several ? ["routed"] : [])];
    const ids = state.columns || [...few, ...(small ? ["example"] : []), "cos_in_out", "class"];
    const extra = state.sort.map(({ field }) => field).filter((id) => !ids.includes(id) && id !== "layer" && id !== "neuron");
    const at = ids.indexOf("quadrants") + 1;
    return [...ids.slice(0, at), ...extra, ...ids.slice(at)].map((id) => fields.get(id));
  }
  /** Half-open ranges of the neurons of a layer that have pages. */
  const pagesOf = (layer) => entryOf(state.checkpoint).layers.find((pages) => pages.layer === layer)?.pages || [];
  const hasPage = (layer, neuron) => pagesOf(layer).some(([first, end]) => neuron >= first && neuron < end);
  const pageOf = (layer, neuron) => `${root}${state.checkpoint}/${folderOf(layer)}/${neuron}.html${state.view === PLACE.view ? "" : `?view=${state.view}`}`;

  function drawHead(columns) {
    const cell = (id, lines, title, sortable) => {
      const place = state.sort.findIndex(({ field }) => field === id), order = state.sort.length || id !== "neuron" ? state.sort[place] : { down: false };
      const sorted = order ? (order.down ? "descending" : "ascending") : "none";
      const arrow = order ? make("span", { className: "arrow", textContent: `${order.down ? "↓" : "↑"}${place > 0 ? place + 1 : ""}` }) : "";
      const words = make("span", {}, lines[0], ...(lines[1] ? [make("br"), lines[1]] : []), arrow);
      const inner = sortable ? make("button", { type: "button", title: `${title}: click to sort, with Shift as a further key` }, words) : words;
      if (sortable) inner.dataset.sort = id;
      const node = make("div", { className: `cell ${kindOf(id)}`, role: "columnheader" }, inner);
      if (sortable) node.setAttribute("aria-sort", sorted);
      return node;
    };
    const focused = head.contains(document.activeElement) ? document.activeElement.dataset.sort : null;
    const cells = columns.map((field) => cell(field.id, field.heading, field.name, !!field.at));
    head.replaceChildren(cell("neuron", ["layer · neuron", ""], "Layer and neuron", true), ...cells);
    if (focused) head.querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    const name = frame.several ? 14 : 8, widths = columns.map(({ id, width }) => (id === "example" ? `minmax(${width}rem, 1fr)` : `${width}rem`));
    table.style.setProperty("--columns", `${name}rem ${widths.join(" ")}`);
    table.style.setProperty("--width", `${name + columns.reduce((sum, { width }) => sum + width, 0)}rem`);
    table.setAttribute("aria-colcount", String(columns.length + 1));
  }
  function kindOf(id) {
    const field = fields.get(id);
    if (id === "neuron") return "of-place";
    return field.at && !field.categories ? "figure" : `of-${id.replace(/:.*/, "")}`;
  }

  function drawRow(place, columns) {
    const row = evaluation.rows[place], block = blockOf(row), i = row - block.first, flip = flips(block, i);
    const text = `${block.layer} · ${i}`, linked = hasPage(block.layer, i);
    const name = linked
      ? make("a", { href: pageOf(block.layer, i), tabIndex: -1, textContent: text })
      : make("span", { textContent: text, title: "no page here" });
    const first = make("div", { className: "cell of-place", role: "rowheader" }, name);
    if (frame.several) {
      const { mlp, expert, index } = placeOf(block.summary, i);
      first.append(make("span", { className: "note", textContent: ` ${expert === null ? mlp : `expert ${expert}`}, ${index}` }));
    }
    const node = make("div", { className: "line-row", role: "row", id: `row-${place}`, "aria-rowindex": String(place + 2) }, first);
    for (const field of columns) {
      const cell = make("div", { className: `cell ${kindOf(field.id)}`, role: "gridcell" });
      if (field.draw) field.draw(cell, block, i, flip);
      else {
        const data = read.get(nameOf(frame.key, block.layer, field.group)), value = data ? field.at(data, i, flip, block) : NaN;
        cell.textContent = field.categories ? field.categories[value] : data ? field.text(value) : "…";
        if (field.id === "class" && block.summary.code[i] & ATYPICAL) cell.append(make("span", { className: "note", textContent: " atypical" }));
        if (field.sample) cell.title = field.sample(i, block.summary, flip);
      }
      node.append(cell);
    }
    node.classList.toggle("active", place === active);
    node.setAttribute("aria-selected", String(place === active));
    return node;
  }

  /** The row that the keys move, by its place in the table. */
  let active = 0;
  /** Scrolled so far, in pixels of a table without a limit to its height, and where the scrollbar was then. */
  let top = 0, bar = 0;
  /** @type {Map<number, HTMLElement>} */
  const drawn = new Map();
  const fullHeight = () => evaluation.rows.length * ROW;
  const barHeight = () => Math.min(fullHeight(), MOST_PIXELS);
  const bodyHeight = () => Math.max(table.clientHeight - head.offsetHeight, ROW);
  /** How many pixels of the table one of the scrollbar stands for. */
  const ratio = () => Math.max(1, (fullHeight() - bodyHeight()) / Math.max(barHeight() - bodyHeight(), 1));

  function drawRows() {
    const columns = columnsNow(), height = bodyHeight(), last = evaluation.rows.length;
    const from = Math.max(0, Math.floor(top / ROW) - 4), until = Math.min(last, Math.ceil((top + height) / ROW) + 4);
    for (const [place, node] of drawn) {
      if (place >= from && place < until) continue;
      node.remove();
      drawn.delete(place);
    }
    const layers = new Set();
    for (let place = from; place < until; place++) {
      layers.add(blockOf(evaluation.rows[place]).layer);
      if (drawn.has(place)) continue;
      const node = drawRow(place, columns);
      drawn.set(place, node);
      const after = drawn.get(place + 1);
      rowsNode.insertBefore(node, after || null);
    }
    rowsNode.style.setProperty("transform", `translateY(${from * ROW - top + bar}px)`);
    const lazy = columns.filter(({ draw, group }) => draw && group !== "summary").map(({ group }) => group);
    inSight = [...layers].flatMap((layer) => [...new Set(lazy)].map((group) => nameOf(state.checkpoint, layer, group)));
    return inSight.some((name) => !read.has(name) && !asked.has(name) && !missing.has(name));
  }
  function drawTable() {
    for (const node of drawn.values()) node.remove();
    drawn.clear();
    drawHead(columnsNow());
    table.setAttribute("aria-rowcount", String(evaluation.rows.length + 1));
    space.style.setProperty("height", `${barHeight()}px`);
    active = Math.max(0, Math.min(active, evaluation.rows.length - 1));
    place(top);
    if (evaluation.rows.length) table.setAttribute("aria-activedescendant", `row-${active}`);
    else table.removeAttribute("aria-activedescendant");
  }

  let frameAsked = 0, settling = 0;
  /** Once the reader stops: what the rows in sight lack, and the scrollbar where it belongs. */
  function settle() {
    if (drawRows()) request();
    if (ratio() > 1) place(top);
  }
  table.addEventListener("scroll", () => {
    const next = table.scrollTop, moved = next - bar;
    if (!moved) return;
    // Small steps move by as many pixels as the reader scrolled, large ones to the same share of the table.
    const small = ratio() > 1 && Math.abs(moved) < 2 * bodyHeight() && next > 0 && next < barHeight() - bodyHeight() - 1;
    top = Math.max(0, Math.min(small ? top + moved : next * ratio(), fullHeight() - bodyHeight()));
    bar = next;
    if (!frameAsked) {
      frameAsked = requestAnimationFrame(() => {
        frameAsked = 0;
        measured("scroll", drawRows);
      });
    }
    if ("onscrollend" in window) return;
    clearTimeout(settling);
    settling = setTimeout(settle, 200);
  }, { passive: true });
  table.addEventListener("scrollend", settle);
  /** Show the table from this pixel on, with the scrollbar where it belongs. */
  function place(pixels) {
    top = Math.max(0, Math.min(pixels, fullHeight() - bodyHeight()));
    table.scrollTop = Math.round(top / ratio());
    bar = table.scrollTop;
    if (ratio() === 1) top = bar;
    if (drawRows()) request();
  }
  function activate(chosen) {
    if (!evaluation.rows.length) return;
    active = Math.max(0, Math.min(chosen, evaluation.rows.length - 1));
    if (active * ROW < top) place(active * ROW);
    else if ((active + 1) * ROW > top + bodyHeight()) place((active + 1) * ROW - bodyHeight());
    for (const [at, node] of drawn) {
      node.classList.toggle("active", at === active);
      node.setAttribute("aria-selected", String(at === active));
    }
    table.setAttribute("aria-activedescendant", `row-${active}`);
    // The table itself may reach beyond the window.
    const box = drawn.get(active).getBoundingClientRect(), below = box.bottom + 8 - innerHeight;
    if (below > 0 || box.top < 0) scrollBy(0, below > 0 ? below : box.top - 8);
  }
  table.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== table) return;
    const page = Math.max(1, Math.floor(bodyHeight() / ROW) - 1), end = evaluation.rows.length - 1;
    const steps = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: end };
    const to = steps[event.key];
    if (to !== undefined) activate(to);
    else if (event.key === "Enter" && evaluation.rows.length) {
      const link = drawn.get(active)?.querySelector("a");
      if (link) link.click();
      else sayNoPage();
    } else return;
    event.preventDefault();
  });
  rowsNode.addEventListener("click", (event) => {
    const node = event.target.closest(".line-row");
    if (node) activate(Number(node.id.slice(4)));
  });
  head.addEventListener("click", (event) => {
    const id = event.target.closest("[data-sort]")?.dataset.sort;
    if (!id) return;
    const before = state.sort.find((order) => order.field === id), falls = !fields.get(id).categories && id !== "neuron";
    const order = { field: id, down: before ? !before.down : falls };
    if (event.shiftKey) go({ sort: [...state.sort.filter(({ field }) => field !== id), order] });
    // Layer and neuron together are the table's own order.
    else if (id === "neuron") go({ sort: state.sort.length ? [] : [{ field: "layer", down: true }, { field: "neuron", down: true }] });
    else go({ sort: [order] });
  });
  const note = get("table-note");
  function sayNoPage() {
    const row = evaluation.rows[active], block = blockOf(row);
    note.textContent = `Neuron ${row - block.first} of layer ${block.layer} has no page here; gluscope serve renders it on demand.`;
  }
  new ResizeObserver(() => { if (evaluation.rows.length) drawRows(); }).observe(table);

  // Range inputs, histograms and filters

  const filterOn = (id) => state.where.find((filter) => filter.field === id);
  function setFilter(id, filter, replace = false) {
    const others = state.where.filter((other) => other.field !== id), at = state.where.findIndex((other) => other.field === id);
    if (filter && at >= 0) go({ where: state.where.map((other, place) => (place === at ? filter : other)) }, replace);
    else go({ where: filter ? [...others, filter] : others }, replace);
  }
  /** A bound as its input shows it, in the field's unit. */
  const toInput = (field, value) => (value === null ? "" : String(field.unit ? Number((100 * value).toPrecision(12)) : value));
  function fromInput(field, text) {
    if (text.trim() === "" || !Number.isFinite(Number(text))) return null;
    return field.unit ? Number((Number(text) / 100).toPrecision(12)) : Number(text);
  }
  function rangeInputs(field) {
    const inputs = ["from", "to"].map((word, high) => {
      const input = make("input", { type: "number", step: "any", "aria-label": `${field.name}, ${word}${field.unit ? ", in percent" : ""}` });
      input.addEventListener("change", () => {
        const before = filterOn(field.id) || { kind: "range", field: field.id, low: null, high: null };
        setFilter(field.id, { ...before, [high ? "high" : "low"]: fromInput(field, input.value) });
      });
      return input;
    });
    const node = make("span", { className: "range" }, inputs[0], " to ", inputs[1], field.unit ? " %" : "");
    const sync = () => {
      const filter = filterOn(field.id), entry = valuesOf(field);
      [filter?.low ?? null, filter?.high ?? null].forEach((bound, high) => {
        if (document.activeElement !== inputs[high]) inputs[high].value = toInput(field, bound);
        const most = high ? entry.high : entry.low;
        inputs[high].placeholder = Number.isNaN(most) ? "" : String(Number((field.unit ? 100 * most : most).toPrecision(3)));
      });
    };
    return { node, sync };
  }

  const colourOf = (name) => getComputedStyle(here).getPropertyValue(name).trim();
  /** A canvas's context in CSS pixels, cleared. */
  function fresh(canvas) {
    const scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    return { context, width, height };
  }
  function drawHistogram(canvas, field) {
    const { values, low, high } = valuesOf(field), filter = filterOn(field.id), bins = 48, mask = ~bitsOn(field.id), { failing } = evaluation;
    const all = new Uint32Array(bins), inside = new Uint32Array(bins), scale = high > low ? bins / (high - low) : 0;
    const least = Math.fround(filter?.low ?? -Infinity), most = Math.fround(filter?.high ?? Infinity);
    let without = 0;
    for (let i = 0; i < values.length; i++) {
      const value = values[i];
      if (failing[i] & mask) continue;
      if (Number.isNaN(value)) { without++; continue; }
      const bin = Math.min(bins - 1, Math.floor((value - low) * scale));
      all[bin]++;
      if (value >= least && value <= most) inside[bin]++;
    }
    const { context, width, height } = fresh(canvas), peak = Math.max(1, ...all);
    [[all, "--mark-off"], [inside, "--ink"]].forEach(([counts, colour]) => {
      context.fillStyle = colourOf(colour);
      counts.forEach((value, bin) => {
        const size = value ? Math.max(1, (value / peak) * height) : 0;
        context.fillRect((bin * width) / bins, height - size, width / bins - 1, size);
      });
    });
    return { inside: inside.reduce((sum, value) => sum + value, 0), without };
  }

  /** @type {Map<string, {node: HTMLElement, sync: () => void}>} */
  const cards = new Map();
  const cardKey = (filter) => (filter.field ? filter.field : filterText(filter));
  function makeCard(filter) {
    const removal = make("button", { type: "button", className: "remove", textContent: "×" });
    const title = make("b"), said = make("span", { className: "note" }), node = make("li", {}, make("div", { className: "card-head" }, title, removal));
    const mine = () => state.where.find((other) => cardKey(other) === cardKey(filter));
    removal.addEventListener("click", () => {
      go({ where: state.where.filter((other) => cardKey(other) !== cardKey(filter)) });
      get("add").focus();
    });
    const name = (text) => {
      title.textContent = text;
      removal.setAttribute("aria-label", `Remove the filter ${text}`);
    };
    if (filter.kind === "range") {
      const field = fields.get(filter.field), canvas = make("canvas", { className: "histogram", "aria-hidden": "true" }), range = rangeInputs(field);
      name(field.name);
      node.append(canvas, range.node, said);
      return { node, sync() {
        range.sync();
        const { inside, without } = drawHistogram(canvas, field);
        said.textContent = `n = ${count(inside)} neurons${without ? `, ${count(without)} without a value` : ""}`;
      } };
    }
    if (filter.kind === "in") {
      const field = fields.get(filter.field), boxes = field.categories.map((category) => {
        const input = make("input", { type: "checkbox" }), said = make("span", { className: "note" });
        input.addEventListener("change", () => {
          const names = boxes.filter((box) => box.input.checked).map((box) => box.category);
          setFilter(field.id, { kind: "in", field: field.id, names });
        });
        return { category, input, said, node: make("label", {}, input, category, said) };
      });
      name(field.name);
      node.append(...boxes.map((box) => box.node));
      return { node, sync() {
        const counts = new Uint32Array(field.categories.length), { values } = valuesOf(field), { failing } = evaluation;
        const place = state.where.findIndex((other) => other.field === field.id), mask = ~(1 << place);
        for (let i = 0; i < values.length; i++) if (!(failing[i] & mask)) counts[values[i]]++;
        boxes.forEach((box, i) => {
          box.input.checked = mine().names.includes(box.category);
          box.said.textContent = `n = ${count(counts[i])}`;
          box.node.hidden = !counts[i] && !box.input.checked;
        });
      } };
    }
    if (filter.kind === "token") {
      name(`token ${ROLES[filter.role][0]}: ${filter.text}`);
      node.append(said);
      return { node, sync() {
        const meant = tokensMeant(filter.text), few = meant.slice(0, 8).map((identity) => `“${pieceOf(identity)}”`).join(" ");
        const all = `${meant.length === 1 ? "the token" : `${meant.length} tokens:`} ${few}${meant.length > 8 ? " …" : ""}`;
        said.textContent = !read.has("vocabulary") ? "Reading the vocabulary." : meant.length ? all : "No token has this text.";
      } };
    }
    name(`text: ${filter.text}`);
    node.append(said);
    return { node, sync() { said.textContent = "within 24 tokens before and 12 after the strongest |post| of any quadrant"; } };
  }
  function drawCards() {
    const keys = new Set(state.where.map(cardKey));
    for (const [key, card] of cards) if (!keys.has(key)) {
      card.node.remove();
      cards.delete(key);
    }
    for (const filter of state.where) {
      const key = cardKey(filter);
      if (!cards.has(key)) {
        const card = makeCard(filter);
        cards.set(key, card);
        get("cards").append(card.node);
      }
      cards.get(key).sync();
    }
    get("filters-note").textContent = state.where.length ? `${state.where.length} active` : "";
  }

  // Scatter plot

  const plot = get("plot"), BORDER = { left: 46, right: 10, top: 10, bottom: 30 };
  /** Pixels of a square, and how many neurons have a mark each. */
  const CELL = 3, MOST_DOTS = 3000;
  /** @type {{x: [number, number], y: [number, number]}|null} the rectangle that is being drawn, in values */
  let brushing = null;
  let axes = null;
  function ticksOf(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) || 10);
    const out = [];
    for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + step * 1e-9; tick++) out.push(Number((tick * step).toPrecision(12)));
    return out;
  }
  function tickText(field, value) {
    const text = Math.abs(value) >= 1e5 ? value.toExponential(0).replace("e+", "e") : String(value);
    return (field.unit ? `${Number((100 * value).toPrecision(6))}%` : text).replace("-", "−");
  }
  /** The ends of an axis; where all values are equal, something around them. */
  function ends({ low, high }) {
    if (Number.isNaN(low)) return [0, 1];
    const margin = high > low ? (high - low) * 0.02 : Math.abs(low) / 2 || 1;
    return [low - margin, high + margin];
  }
  const mix = (one, other, part) => `rgb(${one.map((channel, place) => Math.round(channel + (other[place] - channel) * part)).join(" ")})`;
  function channelsOf(name) {
    const text = colourOf(name), hex = /^#(..)(..)(..)$/.exec(text);
    return hex ? hex.slice(1).map((pair) => parseInt(pair, 16)) : text.split(/[ ,]+/).map(Number);
  }
  /** Colours of the third statistic: by category, or from low to high, through grey at 0 where it has both signs. */
  function colouring(field) {
    if (!field) return null;
    if (field.categories) return { field, categories: field.categories.map((_, place) => colourOf(`--class-${place % 6}`)) };
    const { low, high } = valuesOf(field), [neutral, plus, minus] = ["--neutral", "--plus", "--minus"].map(channelsOf);
    const both = low < 0 && high > 0, most = Math.max(Math.abs(low), Math.abs(high)), none = colourOf("--mark-off");
    const depth = (value) => (both ? Math.sqrt(Math.min(Math.abs(value) / most, 1)) : high > low ? (value - low) / (high - low) : 0);
    const of = (value) => (Number.isNaN(value) ? none : mix(neutral, both && value < 0 ? minus : plus, depth(value)));
    return { field, both, low: both ? -most : low, high: both ? most : high, of };
  }

  function drawAxes(context, fieldX, fieldY) {
    const { x0, x1, y0, y1, w, h, toX, toY } = axes, soft = colourOf("--soft"), right = BORDER.left + w, bottom = BORDER.top + h;
    const line = (tick, ...ends) => {
      context.strokeStyle = colourOf(tick === 0 ? "--mark-off" : "--line");
      context.beginPath();
      context.moveTo(ends[0], ends[1]);
      context.lineTo(ends[2], ends[3]);
      context.stroke();
    };
    const write = (text, x, y, align, baseline) => {
      Object.assign(context, { fillStyle: soft, textAlign: align, textBaseline: baseline });
      context.fillText(text, x, y);
    };
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.lineWidth = 1;
    for (const tick of ticksOf(x0, x1, Math.max(2, w / 70))) {
      const at = Math.round(toX(tick)) + 0.5;
      line(tick, at, BORDER.top, at, bottom);
      write(tickText(fieldX, tick), at, bottom + 5, "center", "top");
    }
    for (const tick of ticksOf(y0, y1, Math.max(2, h / 45))) {
      const at = Math.round(toY(tick)) + 0.5;
      line(tick, BORDER.left, at, right, at);
      write(tickText(fieldY, tick), BORDER.left - 5, at, "right", "middle");
    }
  }
  /** A mark a neuron. */
  function drawDots(context, dots, xs, ys, paint, values) {
    const ink = colourOf("--ink"), many = dots.length > 600;
    context.globalAlpha = many ? 0.55 : 0.75;
    for (const i of dots) {
      context.fillStyle = !paint ? ink : paint.categories ? paint.categories[values[i]] : paint.of(values[i]);
      context.beginPath();
      context.arc(axes.toX(xs[i]), axes.toY(ys[i]), many ? 1.75 : 2.5, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
  }
  /** Squares in the colour of `colourAt`, stronger for more neurons. @param {Uint32Array} inside neurons of each square */
  function drawSquares(context, inside, across, paint, colourAt) {
    let most = 1;
    for (const value of inside) most = Math.max(most, value);
    const least = paint ? 0.35 : 0.14, scale = (paint ? 0.65 : 0.8) / Math.max(Math.log(most), 1e-9);
    for (let at = 0; at < inside.length; at++) {
      if (!inside[at]) continue;
      context.globalAlpha = most > 1 ? least + scale * Math.log(inside[at]) : 1;
      context.fillStyle = colourAt(at);
      square(context, at, across);
    }
    context.globalAlpha = 1;
    return most;
  }
  const square = (context, at, across) => context.fillRect(BORDER.left + (at % across) * CELL, BORDER.top + Math.floor(at / across) * CELL, CELL, CELL);
  function drawBrush(context) {
    const bounds = brushing || brushOf();
    if (!bounds) return;
    const clip = (value, low, high) => Math.max(low, Math.min(value, high));
    const [left, right] = bounds.x.map((value) => clip(axes.toX(value), BORDER.left, BORDER.left + axes.w));
    const [low, high] = bounds.y.map((value) => clip(axes.toY(value), BORDER.top, BORDER.top + axes.h));
    context.fillStyle = colourOf("--brush");
    context.fillRect(left, high, right - left, low - high);
    context.strokeStyle = colourOf("--ink");
    context.strokeRect(Math.round(left) + 0.5, Math.round(high) + 0.5, Math.round(right - left), Math.round(low - high));
  }

  function drawPlot() {
    if (!get("scatter").open || !plot.clientWidth) return;
    const fieldX = fields.get(state.x), fieldY = fields.get(state.y), entryX = valuesOf(fieldX), entryY = valuesOf(fieldY);
    const xs = entryX.values, ys = entryY.values, { failing } = evaluation;
    const [x0, x1] = ends(entryX), [y0, y1] = ends(entryY), { context, width, height } = fresh(plot);
    const w = width - BORDER.left - BORDER.right, h = height - BORDER.top - BORDER.bottom, scaleX = w / (x1 - x0), scaleY = h / (y1 - y0);
    axes = { x0, x1, y0, y1, w, h, toX: (value) => BORDER.left + (value - x0) * scaleX, toY: (value) => BORDER.top + h - (value - y0) * scaleY };
    drawAxes(context, fieldX, fieldY);

    // Neurons that only the rectangle leaves out stay visible, in grey.
    const others = ~bitsOn(state.x, state.y), paint = colouring(state.colour === "none" ? null : fields.get(state.colour));
    const values = paint ? valuesOf(paint.field).values : null, kinds = paint && paint.categories ? paint.categories.length : 0;
    const few = evaluation.rows.length <= MOST_DOTS && frame.rows <= MOST_WITH_EXAMPLES, dots = [];
    const across = Math.ceil(w / CELL) + 1, cells = across * (Math.ceil(h / CELL) + 1);
    const inside = new Uint32Array(cells), outside = new Uint32Array(cells), byKind = new Uint32Array(few ? 0 : cells * kinds);
    const sums = new Float64Array(few || kinds ? 0 : cells), valued = new Uint32Array(sums.length);
    let n = 0, sumX = 0, sumY = 0, sumXX = 0, sumYY = 0, sumXY = 0;
    for (let i = 0; i < xs.length; i++) {
      if (failing[i] & others) continue;
      const x = xs[i] - x0, y = ys[i] - y0;
      if (!(x - x === 0 && y - y === 0)) continue;
      const at = Math.floor((h - y * scaleY) / CELL) * across + Math.floor((x * scaleX) / CELL);
      if (failing[i]) {
        outside[at]++;
        continue;
      }
      inside[at]++;
      n++;
      sumX += x;
      sumY += y;
      sumXX += x * x;
      sumYY += y * y;
      sumXY += x * y;
      if (few) dots.push(i);
      else if (kinds) byKind[at * kinds + values[i]]++;
      else if (values && values[i] === values[i]) {
        sums[at] += values[i];
        valued[at]++;
      }
    }
    context.fillStyle = colourOf("--mark-off");
    for (let at = 0; at < cells; at++) if (outside[at] && !inside[at]) square(context, at, across);
    const ink = colourOf("--ink");
    function colourAt(at) {
      if (!paint) return ink;
      if (!kinds) return paint.of(valued[at] ? sums[at] / valued[at] : NaN);
      let best = 0;
      for (let kind = 1; kind < kinds; kind++) if (byKind[at * kinds + kind] > byKind[at * kinds + best]) best = kind;
      return paint.categories[best];
    }
    const most = few ? 1 : drawSquares(context, inside, across, paint, colourAt);
    if (few) drawDots(context, dots, xs, ys, paint, values);
    drawBrush(context);

    const spread = Math.sqrt((sumXX - (sumX * sumX) / n) * (sumYY - (sumY * sumY) / n)), r = (sumXY - (sumX * sumY) / n) / spread;
    const correlation = r.toFixed(2).replace(/^-(?=.*[1-9])/, "−").replace("-", "");
    const said = [`n = ${count(n)} neurons${n > 2 && spread > 0 ? `, Pearson's r = ${correlation}` : ""}.`];
    plot.setAttribute("aria-label", `${fieldX.name} across, ${fieldY.name} up: ${said[0]} The number inputs below select the same ranges as a rectangle.`);
    if (!few) said.push(`Stronger shades for more neurons, at most ${count(most)} in a square, on a logarithmic scale.`);
    if (!few && paint) said.push(kinds ? "A square has the colour of its most frequent class." : "A square has the colour of its mean.");
    get("plot-note").textContent = said.join(" ");
    drawKey(paint, values);
  }
  function drawKey(paint, values) {
    const key = get("key");
    if (!paint) { key.replaceChildren(); return; }
    if (paint.categories) {
      const counts = new Uint32Array(paint.categories.length);
      for (const row of evaluation.rows) counts[values[row]]++;
      key.replaceChildren(...paint.categories.flatMap((colour, kind) => {
        if (!counts[kind]) return [];
        const swatch = make("i");
        swatch.style.setProperty("background-color", colour);
        return [make("span", {}, swatch, paint.field.categories[kind], make("span", { className: "note", textContent: ` n = ${count(counts[kind])}` }))];
      }));
      return;
    }
    const scale = make("span", { className: "scale" });
    for (let step = 0; step <= 12; step++) {
      const cell = make("i"), part = step / 12, depth = Math.sign(part - 0.5) * (2 * part - 1) ** 2;
      const value = paint.both ? depth * paint.high : paint.low + part * (paint.high - paint.low);
      cell.style.setProperty("background-color", paint.of(value));
      cell.title = paint.field.text(value);
      scale.append(cell);
    }
    const end = (value) => make("span", { textContent: paint.field.text(value) });
    key.replaceChildren(make("span", { title: paint.field.name }, end(paint.low), scale, end(paint.high)));
  }

  /** The rectangle that the filters on both axes make. */
  function brushOf() {
    const [x, y] = [filterOn(state.x), filterOn(state.y)], has = (filter) => filter && filter.kind === "range" && (filter.low !== null || filter.high !== null);
    if (!has(x) && !has(y)) return null;
    const pair = (filter) => (has(filter) ? [filter.low ?? -Infinity, filter.high ?? Infinity] : [-Infinity, Infinity]);
    return { x: pair(x), y: pair(y) };
  }
  const rounded = (value) => Number(value.toPrecision(4));
  function setBrush(bounds, replace = false) {
    const kept = state.where.filter((filter) => filter.kind !== "range" || ![state.x, state.y].includes(filter.field));
    const range = (field, [low, high]) => ({ kind: "range", field, low: rounded(low), high: rounded(high) });
    go({ where: bounds ? [...kept, range(state.x, bounds.x), ...(state.y === state.x ? [] : [range(state.y, bounds.y)])] : kept }, replace);
  }
  plot.addEventListener("pointerdown", (event) => {
    if (event.button || !axes) return;
    const box = plot.getBoundingClientRect(), start = [event.clientX - box.left, event.clientY - box.top];
    const within = (pixel, border, size) => Math.max(0, Math.min(pixel - border, size)) / size;
    const value = ([x, y]) => [
      axes.x0 + within(x, BORDER.left, axes.w) * (axes.x1 - axes.x0),
      axes.y1 - within(y, BORDER.top, axes.h) * (axes.y1 - axes.y0),
    ];
    const first = value(start);
    let asked = 0;
    plot.setPointerCapture(event.pointerId);
    const move = (next) => {
      const at = [next.clientX - box.left, next.clientY - box.top], last = value(at);
      if (Math.hypot(at[0] - start[0], at[1] - start[1]) < 4) { brushing = null; return; }
      brushing = { x: [Math.min(first[0], last[0]), Math.max(first[0], last[0])], y: [Math.min(first[1], last[1]), Math.max(first[1], last[1])] };
      if (!asked) asked = requestAnimationFrame(() => { asked = 0; if (brushing) drawPlot(); });
    };
    const end = (next) => {
      plot.removeEventListener("pointermove", move);
      plot.removeEventListener("pointerup", end);
      plot.removeEventListener("pointercancel", end);
      const bounds = brushing;
      brushing = null;
      if (next.type === "pointerup" && (bounds || brushOf())) setBrush(bounds);
      else drawPlot();
    };
    plot.addEventListener("pointermove", move);
    plot.addEventListener("pointerup", end);
    plot.addEventListener("pointercancel", end);
    event.preventDefault();
  });
  let ranges = { key: "", parts: [] };
  function drawRanges() {
    const key = `${state.x} ${state.y}`;
    if (ranges.key !== key) {
      const parts = [...new Set([state.x, state.y])].map((id) => {
        const field = fields.get(id), range = rangeInputs(field);
        return { sync: range.sync, node: make("div", { className: "row" }, make("span", { textContent: field.name }), range.node) };
      });
      const clear = make("button", { type: "button", id: "unbrush", textContent: "Clear selection" });
      clear.addEventListener("click", () => setBrush(null));
      get("ranges").replaceChildren(...parts.map((part) => part.node), clear);
      ranges = { key, parts };
    }
    for (const part of ranges.parts) part.sync();
    get("unbrush").hidden = !brushOf();
  }

  // Controls

  /** @param {HTMLSelectElement} select */
  function fillSelect(select, list, value, ...firstOptions) {
    const key = list.map(([, options]) => options.map(({ name }) => name)).join();
    if (select.dataset.key !== key) {
      select.dataset.key = key;
      const groups = list.map(([label, options]) => make("optgroup", { label }, ...options.map(({ name, id }) => new Option(name, id))));
      select.replaceChildren(...firstOptions, ...groups);
    }
    select.value = value;
  }
  for (const entry of [...checkpoints].reverse()) {
    get("checkpoint").add(new Option(entry.name, entry.key));
    get("since").add(new Option(entry.name, entry.key));
  }
  get("since-label").hidden = checkpoints.length < 2;
  for (const [role, [name]] of Object.entries(ROLES)) get("token-role").add(new Option(name, role));
  get("place").addEventListener("submit", (event) => event.preventDefault());
  get("place").addEventListener("change", (event) => {
    const { name, id, value } = event.target;
    go({ [name === "view" ? "view" : id]: value.trim() });
  });
  for (const id of ["x", "y", "colour"]) get(id).addEventListener("change", () => go({ [id]: get(id).value }));
  get("add").addEventListener("change", () => {
    const field = fields.get(get("add").value);
    get("add").value = "";
    if (!field || filterOn(field.id)) return;
    go({ where: [...state.where, field.categories ? { kind: "in", field: field.id, names: [] } : { kind: "range", field: field.id, low: null, high: null }] });
    cards.get(field.id)?.node.querySelector("input")?.focus();
  });
  get("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = get("token").value, filter = { kind: "token", role: get("token-role").value, text };
    if (!text || state.where.some((other) => filterText(other) === filterText(filter))) return;
    get("token").value = "";
    go({ where: [...state.where, filter] });
  });
  get("token").addEventListener("focus", request);
  get("token").addEventListener("input", () => {
    const known = read.get("vocabulary"), typed = plain(get("token").value.replace(/^"|"$/g, "")), found = [];
    if (known && typed) for (const starts of [(piece) => plain(piece) === typed, (piece) => plain(piece) !== typed && plain(piece).startsWith(typed)]) {
      for (const piece of known.pieces) if (found.length < 30 && starts(piece)) found.push(piece);
    }
    get("token-list").replaceChildren(...[...new Set(found)].map((piece) => make("option", { value: `"${piece}"` })));
  });
  let typing = 0;
  get("text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const text = get("text").value, rest = state.where.filter(({ kind }) => kind !== "text");
      go({ where: text ? [...rest, { kind: "text", text }] : rest }, state.where.length !== rest.length);
    }, 250);
  });
  for (const id of ["filters", "scatter"]) {
    if (matchMedia("(max-width: 60rem)").matches) get(id).open = false;
    get(id).addEventListener("toggle", update);
  }
  get("clear").addEventListener("click", () => go({ where: [] }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  new ResizeObserver(() => { drawPlot(); }).observe(plot);

  // Columns to choose

  function drawChoices() {
    const menu = get("choices"), now = new Set(columnsNow().map(({ id }) => id));
    const all = [["pictures, texts and tokens", SHOWN], ...statistics()], key = all.map(([, list]) => list.map(({ name }) => name)).join();
    if (menu.dataset.key !== key) {
      menu.dataset.key = key;
      const reset = make("button", { type: "button", textContent: "As at first" });
      reset.addEventListener("click", () => go({ columns: null }));
      menu.replaceChildren(reset, ...all.map(([name, list]) => make("fieldset", {}, make("legend", { textContent: name }), ...list.map((field) => {
        const input = make("input", { type: "checkbox", value: field.id });
        return make("label", {}, input, field.name);
      }))));
    }
    for (const input of menu.querySelectorAll("input")) {
      input.checked = now.has(input.value);
      input.disabled = input.checked && !(state.columns || columnsNow().map(({ id }) => id)).includes(input.value);
    }
  }
  get("choices").addEventListener("change", (event) => {
    const before = state.columns || columnsNow().map(({ id }) => id).filter((id) => !state.sort.some(({ field }) => field === id)), id = event.target.value;
    go({ columns: event.target.checked ? [...before, id] : before.filter((other) => other !== id) });
  });
  addEventListener("pointerdown", (event) => { if (!get("columns").contains(event.target)) get("columns").open = false; });
  addEventListener("keydown", (event) => {
    const menu = get("columns");
    if (event.key !== "Escape") return;
    if (menu.open && menu.contains(document.activeElement)) {
      menu.open = false;
      menu.querySelector("summary").focus();
    } else if (get("scatter").contains(document.activeElement) && brushOf()) setBrush(null);
  });

  // Questions to start from

  const down = (field) => [{ field, down: true }], up = (field) => [{ field, down: false }];
  const PRESETS = [
    ["every neuron", "in the order of layers", {}],
    ["balanced in all four quadrants", "by the smallest of the four shares", { sort: down("smallest_routed_frequency") }],
    ["mostly negative gate", "gate positive at half of the positions at most, the seldomest first",
      { sort: up("gate+_routed_frequency"), where: [{ kind: "range", field: "gate+_routed_frequency", low: null, high: 0.5 }] }],
    ["strongest post in gate− in−", "by the largest |post| there", { sort: down("gate-_in-_post_largest") }],
    ["class: weakening", "by cos(w_in, w_out), most negative first", { sort: up("cos_in_out"), where: [{ kind: "in", field: "class", names: ["weakening"] }] }],
    ["changes most over training", "by the change of its shares", { sort: down("change") }],
  ].filter(([, , change]) => checkpoints.length > 1 || !change.sort || change.sort[0].field !== "change");
  /** The state that a preset leads to: what is not its question stays. */
  const answering = (change) => normal({ ...state, sort: [], where: [], ...change });
  const presets = PRESETS.map(([name, how, change]) => {
    const link = make("a", { textContent: name, title: how });
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(answering(change));
    });
    get("presets").append(link);
    return { link, change };
  });
  function drawPresets() {
    for (const { link, change } of presets) {
      const text = addressText(answering(change));
      link.href = `#${text}`;
      if (text === addressText(state)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  // Downloads

  const shortest = (value) => {
    const short = Number(value.toPrecision(7));
    return Math.fround(short) === value ? short : Number(value.toPrecision(9));
  };
  /** A row's values by name; texts and numbers as they are, null where there is none. */
  function record(row, columns) {
    const block = blockOf(row), i = row - block.first, flip = flips(block, i), { mlp, expert, index } = placeOf(block.summary, i);
    const orientation = block.summary.code[i] >= FLIPPED ? -1 : 1;
    const out = { checkpoint: state.checkpoint, layer: block.layer, neuron: i, mlp, expert, index, orientation, view: state.view, routed: block.summary.seen[i] };
    for (const field of columns) {
      if (field.id === "example") {
        const found = exampleOf(block, i, flip), example = found && found.quadrant >= 0 ? found : null;
        out.example_quadrant = example ? QUADRANTS[example.quadrant] : null;
        out.example_post = example ? shortest(example.post) : null;
        for (const part of ["before", "peak", "after"]) out[`example_${part}`] = example ? example[part] : null;
      } else if (field.id.startsWith("tokens:")) {
        out[field.id.replace(":", "_")] = (tokensOf(field.id.slice(7), block, i, flip) || []).map(pieceOf);
      } else if (field.at && !(field.id in out)) {
        const data = read.get(nameOf(frame.key, block.layer, field.group)), value = data ? field.at(data, i, flip, block) : NaN;
        const isFloat = field.group !== "summary" || COSINES.includes(field.id), name = field.id === "change" ? `change_since_${state.since}` : field.id;
        if (Number.isNaN(value)) out[name] = null;
        else if (field.id === "atypical") out[name] = value === 1;
        else out[name] = field.categories ? field.categories[value] : isFloat ? shortest(value) : value;
      }
    }
    return out;
  }
  const csvCell = (value) => {
    const text = value === null ? "" : Array.isArray(value) ? JSON.stringify(value) : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  async function download(kind, button) {
    const columns = columnsNow(), layers = frame.blocks.map(({ layer }) => layer), { rows } = evaluation;
    const names = columns.flatMap(({ group }) => layers.map((layer) => nameOf(state.checkpoint, layer, group))).filter((name) => !read.has(name));
    button.disabled = true;
    inSight = [...inSight, ...names];
    request();
    while (names.some((name) => !read.has(name) && !missing.has(name))) await new Promise((resolve) => { setTimeout(resolve, 50); });
    const parts = [];
    for (let first = 0; first < rows.length; first += 5000) {
      const lines = [...rows.subarray(first, first + 5000)].map((row) => record(row, columns));
      if (kind === "csv" && !first && lines.length) parts.push(`${Object.keys(lines[0]).map(csvCell).join(",")}\r\n`);
      parts.push(lines.map((line) => (kind === "csv" ? `${Object.values(line).map(csvCell).join(",")}\r\n` : `${JSON.stringify(line)}\n`)).join(""));
      // The page stays alive between parts.
      await new Promise((resolve) => { setTimeout(resolve); });
    }
    const url = URL.createObjectURL(new Blob(parts, { type: kind === "csv" ? "text/csv" : "application/jsonl" }));
    make("a", { href: url, download: `${document.body.dataset.study}-${state.checkpoint}-neurons.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    button.disabled = false;
  }
  for (const kind of ["csv", "jsonl"]) get(kind).addEventListener("click", () => download(kind, get(kind)));

  // All together

  function sayCount() {
    const { rows } = evaluation, chosen = frame.blocks, all = [...new Set(chosen.map(({ summary }) => summary.positions))].map(count).join(" or ");
    get("count").replaceChildren(make("b", { textContent: count(rows.length) }), ` of ${count(frame.rows)} neurons`);
    const order = state.sort.map(({ field, down: falling }) => `${fields.get(field).name}, ${falling ? "largest first" : "smallest first"}`);
    const parts = [];
    if (order.length) parts.push(`sorted by ${order.join(", then ")}`);
    if (all) parts.push(frame.several ? `over the positions routed to each, of ${all}` : `over n = ${all} positions each`);
    get("count").append(make("span", { className: "note", textContent: parts.length ? ` · ${parts.join(" · ")}` : "" }));
    get("clear").hidden = !state.where.length;
    const unlinked = chosen.some(({ layer, width }) => pagesOf(layer).reduce((sum, [first, end]) => sum + Math.min(end, width) - first, 0) < width);
    note.textContent = unlinked ? "Neurons without a link have no page here; gluscope serve renders any neuron on demand." : "";
  }
  function syncControls() {
    get("checkpoint").value = state.checkpoint;
    get("since").value = state.since;
    for (const option of get("since").options) option.disabled = option.value === state.checkpoint;
    if (document.activeElement !== get("layers")) get("layers").value = state.layers;
    const { layers, wrong } = layersOf(entryOf(state.checkpoint), state.layers), all = entryOf(state.checkpoint).layers.map(({ layer }) => layer);
    const known = `it has ${all[0]} to ${all[all.length - 1]}, written as 0-3, 7`;
    get("layers-note").textContent = wrong.length ? `${nameAt(state.checkpoint)} has no layer ${wrong.join(", ")}; ${known}.` : "";
    get("layers").setAttribute("aria-invalid", String(wrong.length > 0));
    get("layers").title = `${layers.length} of ${all.length} layers`;
    for (const input of get("place").elements.view) input.checked = input.value === state.view;
    const search = state.where.find(({ kind }) => kind === "text");
    if (document.activeElement !== get("text")) get("text").value = search ? search.text : "";
    const numeric = statistics().map(([name, list]) => [name, list.filter((field) => !field.categories)]).filter(([, list]) => list.length);
    fillSelect(get("x"), numeric, state.x);
    fillSelect(get("y"), numeric, state.y);
    fillSelect(get("colour"), statistics(), state.colour, new Option("number of neurons", "none"));
    fillSelect(get("add"), statistics(), "", new Option("add a filter …", ""));
  }
  function update() {
    clearTimeout(timer);
    frameNow();
    const wanted = request();
    evaluate();
    syncControls();
    drawPresets();
    drawChoices();
    sayCount();
    sayProgress(wanted);
    measured("table", drawTable);
    drawCards();
    drawRanges();
    measured("scatter", drawPlot);
    lastDrawn = performance.now();
  }

  state = stateFrom(location.hash);
  here.hidden = false;
  update();
})();
