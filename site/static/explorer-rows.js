/**
 * The explorer's rows: numbers of all neurons in typed arrays in the order of layers and neurons, filtered and sorted.
 *
 * Filters set bits in one array, a radix sort orders the rows.
 */
"use strict";
(() => {
  const { explorer } = window.gluscope;
  if (!explorer) return;
  const { FLIPPED, entryOf, read, nameOf, fields, ROLES, roleLists, filterText } = explorer;

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
  explorer.frame = { key: "", layers: [], blocks: [], rows: 0, several: false, version: 0, values: new Map(), searches: new Map() };
  function frameNow() {
    const { layers } = layersOf(entryOf(explorer.state.checkpoint), explorer.state.layers);
    const there = layers.filter((layer) => read.has(nameOf(explorer.state.checkpoint, layer, "summary")));
    if (explorer.frame.key === explorer.state.checkpoint && explorer.frame.layers.join() === there.join()) return;
    let first = 0;
    const blocks = there.map((layer) => {
      const summary = read.get(nameOf(explorer.state.checkpoint, layer, "summary")), block = { layer, first, width: summary.width, summary };
      first += summary.width;
      return block;
    });
    const several = blocks.some(({ summary }) => summary.mlps.length > 1 || summary.mlps.some(([, expert]) => expert !== null));
    const version = explorer.frame.version + 1, kept = { values: new Map(), searches: new Map() };
    explorer.frame = { key: explorer.state.checkpoint, layers: there, blocks, rows: first, several, version, ...kept };
  }
  function blockOf(row) {
    let low = 0, high = explorer.frame.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (explorer.frame.blocks[middle].first <= row) low = middle;
      else high = middle - 1;
    }
    return explorer.frame.blocks[low];
  }
  const flips = (block, i) => explorer.state.view === "oriented" && block.summary.code[i] >= FLIPPED;

  /** A statistic of all rows, NaN where it is not there (yet). @param {Field} field */
  function valuesOf(field) {
    const key = `${field.id} ${explorer.state.view} ${field.id === "change" ? explorer.state.since : ""}`;
    let entry = explorer.frame.values.get(key);
    if (!entry) explorer.frame.values.set(key, (entry = { values: new Float32Array(explorer.frame.rows).fill(NaN), done: new Set(), low: NaN, high: NaN }));
    for (const block of explorer.frame.blocks) {
      const data = read.get(nameOf(explorer.frame.key, block.layer, field.group));
      if (entry.done.has(block) || !data || (field.id === "change" && !read.has(nameOf(explorer.state.since, block.layer, "summary")))) continue;
      const { values } = entry, { first, width, summary } = block, oriented = explorer.state.view === "oriented", { at } = field;
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
    const columns = explorer.state.sort.map(({ field, down }) => ({ entry: valuesOf(fields.get(field)), down }));
    const parts = columns.map(({ entry, down }, place) => `${explorer.state.sort[place].field} ${down} ${entry.done.size}`);
    const key = [explorer.frame.version, explorer.state.view, explorer.state.since, ...parts].join();
    if (ordered.key !== key) {
      ordered = { key, rows: measured("sort", () => {
        let rows = new Uint32Array(explorer.frame.rows);
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
    const key = `${filterText(filter)} ${explorer.state.view} ${read.has("vocabulary")}`;
    let entry = explorer.frame.searches.get(key);
    if (!entry) explorer.frame.searches.set(key, (entry = { found: new Uint8Array(explorer.frame.rows), done: new Set() }));
    for (const block of explorer.frame.blocks) {
      const data = read.get(nameOf(explorer.frame.key, block.layer, group));
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
  explorer.evaluation = { rows: new Uint32Array(0), failing: new Uint32Array(0), matches: null };
  function evaluate() {
    const all = orderedRows();
    measured("filter", () => {
      const failing = new Uint32Array(explorer.frame.rows), fail = { range: failRange, in: failCategories, token: failTokens, text: failTexts };
      for (const entry of explorer.frame.searches.values()) entry.used = false;
      let matches = null;
      explorer.state.where.forEach((filter, place) => { matches = fail[filter.kind](failing, 1 << place, filter) || matches; });
      for (const [key, entry] of explorer.frame.searches) if (!entry.used) explorer.frame.searches.delete(key);
      let rows = all;
      if (explorer.state.where.length) {
        rows = new Uint32Array(all.length);
        let kept = 0;
        for (let i = 0; i < all.length; i++) if (!failing[all[i]]) rows[kept++] = all[i];
        rows = rows.subarray(0, kept);
      }
      explorer.evaluation = { rows, failing, matches };
    });
  }
  /** The bits of the range filters on some fields. */
  const bitsOn = (...ids) => explorer.state.where.reduce(
    (bits, { kind, field }, place) => (kind === "range" && ids.includes(field) ? bits | (1 << place) : bits), 0);

  Object.assign(explorer, {
    layersOf, blockOf, flips, measured, valuesOf, tokensMeant, bitsOn, frameNow, plain, evaluate,
  });
})();
