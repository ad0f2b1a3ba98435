/**
 * What the explorer can show of a neuron: statistics, tokens, texts and pictures, each a field.
 *
 * Tables are raw: `at` of a field turns them by the orientation for the oriented view.
 *
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
 */
"use strict";
(() => {
  const { explorer, QUADRANTS, format, signed, share, count } = window.gluscope;
  if (!explorer) return;
  const { checkpoints, COSINES, FLIPPED, ATYPICAL, CLASS, CLASSES, nameAt, turned, make, read, nameOf } = explorer;

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
        const other = read.get(nameOf(explorer.state.since, block.layer, "summary"));
        if (!other || i >= other.width) return NaN;
        let sum = Math.abs(data.zero[i] / data.seen[i] - other.zero[i] / other.seen[i]);
        for (let q = 0; q < 4; q++) sum += Math.abs(data.counts[q][i] / data.seen[i] - other.counts[q][i] / other.seen[i]);
        return sum / 2;
      }),
      width: 6,
      get name() { return `change of the shares since ${nameAt(explorer.state.since)}`; },
      sample: (i, data) => `total variation distance of the raw shares from those at ${nameAt(explorer.state.since)}; ${positions(data.seen[i])}`,
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
    const data = read.get(nameOf(explorer.state.checkpoint, block.layer, ROLES[role][1])), found = new Set();
    if (data) for (const list of roleLists(role, flip)) {
      const { first, identities } = data.lists[list];
      for (let at = first[i]; at < first[i + 1]; at++) found.add(identities[at]);
    }
    return data ? [...found] : null;
  }

  /** The example that a row shows: where the search found its text, else the strongest |post| of all quadrants. */
  function exampleOf(block, i, flip) {
    const data = read.get(nameOf(explorer.state.checkpoint, block.layer, "contexts"));
    if (!data) return null;
    const searched = explorer.evaluation.matches ? explorer.evaluation.matches[block.first + i] - 1 : -1;
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
  const isKnown = (field) => (field.id === "change" ? checkpoints.length > 1 : field.id === "expert" || field.id === "index" ? explorer.frame.several : true);

  Object.assign(explorer, { fields, ROLES, roleLists, placeOf, pieceOf, NAMES, tokensOf, exampleOf, SHOWN, statistics });
})();
