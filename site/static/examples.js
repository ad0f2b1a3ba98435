/**
 * The examples of a neuron's page: unpacks them, builds their lines, colours tokens, shows their values.
 *
 * The page holds the lists by |post|; its second file, named like it, holds all others and is loaded once it may be needed.
 * Each packs its lists like this (`gluscope.Reader`), numbers of one type together: pieces and document names; uint32: token id
 * of each piece, of each segment its text, the text's place in its document, and its first position; float32: value and post of
 * the examples of all lists; uint16: of each segment its document and length, of each example its segment, and in it window start,
 * peak and window end, of each position of all segments its piece; float16: of each position gate and in, NaN where nothing is
 * kept; then places (uint32) and values (float32) of gates, and of ins, that 16 bits cannot hold.
 *
 * @typedef {"gate"|"in"|"act"|"post"} Activation
 * @typedef {{part: Part, first: number, count: number, ranked: Activation, sampled: boolean, quantiles: number[]}} List
 *   Examples first to first + count of a part, ranked by `ranked`, or of the random sample.
 * @typedef {Awaited<ReturnType<typeof unpack>>} Part
 * @typedef {{part: Part, example: number, flat: number, peak: boolean, list: List}} Meaning what a token's element stands for
 */
"use strict";
window.gluscope.examples = (() => {
  const { QUADRANTS, otherQuadrant, format, signed, label, count: counted, halves, inflate, Reader, load, kept, keep, view } = window.gluscope;
  const ACTIVATIONS = /** @type {Activation[]} */ (["gate", "in", "act", "post"]);
  /** The lists of the second file, in its order; under gate+ act orders as gate does. */
  const OTHER_LISTS = [
    ...QUADRANTS.flatMap((quadrant) => ["gate", "in", ...(quadrant.startsWith("gate-") ? ["act"] : [])].map((kind) => `${quadrant} ${kind}`)),
    ...QUADRANTS.map((quadrant) => `${quadrant} random`),
    ...QUADRANTS.map((quadrant) => `${quadrant} quantile`),
  ];
  /** Tokens around the peak in a snippet, and in the example that stands first. */
  const NEAR_BEFORE = 32, NEAR_AFTER = 16;
  /** Two examples are alike if of the 4 tokens before the peak, the peak and the 4 after it at most two differ. */
  const ALIKE_REACH = 4, ALIKE_MOST = 2;

  const node = document.getElementById("data");
  if (!node || typeof DecompressionStream === "undefined") return null;
  const data = JSON.parse(node.textContent), here = document.body.dataset;
  const name = `${here.key}/${Number(here.layer)}/${here.neuron}`;
  const special = new Set(data.special);
  /** The largest size of each activation in the corpus: the end of its colour scale. @type {Record<Activation, number>} */
  const scale = Object.fromEntries(ACTIVATIONS.map((activation) =>
    [activation, Math.max(...data.quadrants.map((quadrant) => Math.abs(quadrant[activation][2] || 0)))]));

  /** erfc, relative error below 1.2e-7 everywhere (Press et al., Numerical Recipes, rational Chebyshev fit). */
  function erfc(x) {
    const z = Math.abs(x), t = 1 / (1 + z / 2);
    const terms = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223];
    const tail = t * Math.exp(-z * z + terms.reduce((sum, term) => sum * t + term, 0));
    return x >= 0 ? tail : 2 - tail;
  }
  /** @type {Record<string, (x: number) => number>} */
  const FUNCTIONS = {
    silu: (x) => x / (1 + Math.exp(-x)),
    gelu: (x) => (x / 2) * erfc(-x * Math.SQRT1_2),
    gelu_tanh: (x) => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
    quick_gelu: (x) => x / (1 + Math.exp(-1.702 * x)),
    relu: (x) => Math.max(x, 0),
    relu_squared: (x) => Math.max(x, 0) ** 2,
    relu_gelu_tanh: (x) => FUNCTIONS.gelu_tanh(Math.max(x, 0)),
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  };
  const activate = FUNCTIONS[data.activation];

  async function unpack({ packed, sizes, lists }) {
    const reader = new Reader(await inflate(packed)), examples = lists.reduce((sum, count) => sum + count, 0);
    const { segments, positions } = sizes, pieces = reader.strings(sizes.pieceBytes), documents = reader.strings(sizes.documentBytes);
    const [token, segmentText, textStart, segmentStart] = reader.arrays(Uint32Array, sizes.pieces, segments, segments, segments);
    const [value, post] = reader.arrays(Float32Array, examples, examples);
    const [segmentDocument, segmentLength, segment, first, peak, end, piece] =
      reader.arrays(Uint16Array, segments, segments, examples, examples, examples, examples, positions);
    const [gate, in_] = reader.arrays(Uint16Array, positions, positions).map(halves);
    const out = {
      lists, pieces, documents, token, segmentText, textStart, segmentStart, value, post, segmentDocument, segmentLength,
      segment, first, peak, end, piece, gate, in: in_, segmentFirst: [0],
    };
    for (const [values, count] of [[out.gate, sizes.wideGates], [out.in, sizes.wideIns]]) {
      const places = reader.numbers(Uint32Array, count), wide = reader.numbers(Float32Array, count);
      places.forEach((position, i) => { values[position] = wide[i]; });
    }
    for (const length of out.segmentLength) out.segmentFirst.push(out.segmentFirst[out.segmentFirst.length - 1] + length);
    return out;
  }

  /** @type {Part} */ let posts;
  /** @type {Part & {quantiles: number[][]} | null} */ let others = null;
  let asking = null;
  /** Load and unpack the second file, once. */
  function askOthers() {
    asking = asking || load(name, `${here.neuron}.js`).then(async (found) => {
      others = Object.assign(await unpack(found), { quantiles: found.quantiles });
      return others;
    });
    asking.catch(() => { asking = null; });
    return asking;
  }

  /** −1 where in and post are shown with the other sign than the page was rendered with. */
  const sign = () => (view.turned ? -1 : 1);
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  /** The list of a shown quadrant; null while its file is not there. @returns {List | null} */
  function listOf(quadrant, kind) {
    const rendered = view.turned ? otherQuadrant(quadrant) : quadrant;
    const at = (part, place, ranked, more) => ({ part, first: sum(part.lists.slice(0, place)), count: part.lists[place], ranked, sampled: false, quantiles: [], ...more });
    if (kind === "post") return at(posts, QUADRANTS.indexOf(rendered), "post");
    if (!others) return null;
    const sampled = kind === "random" || kind === "quantile";
    const held = kind === "act" && rendered.startsWith("gate+") ? "gate" : kind;
    const quantiles = kind === "quantile" ? others.quantiles[QUADRANTS.indexOf(rendered)] : [];
    return at(others, OTHER_LISTS.indexOf(`${rendered} ${held}`), sampled ? "post" : held, { sampled, quantiles });
  }
  const quadrantOf = (gate, linear) => (gate && linear ? `gate${gate > 0 ? "+" : "-"}_in${linear > 0 ? "+" : "-"}` : "");

  /** @param {Part} part */
  function valuesOf(part, flat) {
    const gate = part.gate[flat], linear = sign() * part.in[flat], act = activate(gate);
    return { gate, in: linear, act, post: act * linear };
  }
  const odd = (activation) => (activation === "in" || activation === "post" ? sign() : 1);
  /** A position's values, with those that the list keeps of its peak in place of the 16-bit ones. @param {Meaning} known */
  function exactValues({ part, flat, example, peak, list }) {
    const values = valuesOf(part, flat);
    if (peak && !list.sampled) {
      values.post = sign() * part.post[example];
      values[list.ranked] = odd(list.ranked) * part.value[example];
    }
    return values;
  }

  /** @type {WeakMap<Element, Meaning>} */
  const meaning = new WeakMap();
  const settings = { rank: "post", colour: "own", layout: "lines" };
  const sections = [...document.querySelectorAll("section.list")];

  const made = (tag, className, content = "") => Object.assign(document.createElement(tag), { className, textContent: content });

  function tokenElement(/** @type {Meaning} */ known) {
    const { part, flat, peak } = known, text = part.pieces[part.piece[flat]], element = made("span", "t");
    if (!text.includes("\n") && !text.includes("  ")) element.textContent = text;
    else {
      const lines = text.split("\n");
      lines.forEach((line, i) => {
        // Runs of spaces are set narrow in lines, where indentation would push the words out of sight.
        for (const run of line.split(/( {2,})/)) if (run) element.append(run.startsWith("  ") ? made("span", "indent", run) : run);
        if (i < lines.length - 1) element.append(document.createElement("br"));
      });
    }
    if (!text) element.classList.add("rest");
    if (special.has(part.token[part.piece[flat]])) element.classList.add("special");
    if (peak) element.classList.add("peak");
    element.tabIndex = peak ? 0 : -1;
    meaning.set(element, known);
    return element;
  }
  /** The elements of a window: [before the peak, from the peak on]; those far from it can be left out of sight. */
  function windowOf(list, example, before = Infinity, after = Infinity) {
    const { part } = list, offset = part.segmentFirst[part.segment[example]], peak = offset + part.peak[example];
    const sides = [document.createDocumentFragment(), document.createDocumentFragment()];
    const first = Math.max(offset + part.first[example], peak - before), end = Math.min(offset + part.end[example], peak + after + 1);
    for (let flat = first; flat < end; flat++) {
      const element = tokenElement({ part, flat, example, peak: flat === peak, list });
      if (flat < peak - NEAR_BEFORE || flat > peak + NEAR_AFTER) element.classList.add("far");
      sides[flat < peak ? 0 : 1].append(element);
    }
    return sides;
  }
  const placeOf = (list, example) => {
    const { part } = list, segment = part.segment[example];
    return { document: part.documents[part.segmentDocument[segment]], text: part.segmentText[segment], position: part.segmentStart[segment] + part.peak[example], start: part.textStart[segment] };
  };
  const shownValue = (list, example, rank) => {
    const value = odd(list.ranked) * list.part.value[example];
    return rank === "act" && list.ranked === "gate" ? activate(value) : value;
  };

  function lineOf(list, example, number, rank, id) {
    const row = made("li", "example"), place = placeOf(list, example);
    row.id = id;
    const own = made("a", "rank", list.quantiles.length ? `${Math.round(100 * list.quantiles[number - 1])}%` : String(number));
    own.href = `#${id}`;
    own.title = "Link to this example";
    own.setAttribute("aria-label", `Example ${number}: link to it`);
    const shown = shownValue(list, example, rank), value = made("span", "value", signed(shown));
    if (!list.sampled) value.title = `${rank} ${signed(shown, 7)}, post ${signed(sign() * list.part.post[example], 7)}`;
    const line = made("span", "line"), left = made("span", "left"), right = made("span", "right"), before = made("span", "");
    const [one, other] = windowOf(list, example);
    before.append(one);
    left.append(before);
    right.append(other);
    line.append(left, right);
    const source = made("span", "source"), document_ = made("bdi", ""), more = made("button", "more");
    document_.append(/^https?:\/\//.test(place.document) ? Object.assign(made("a", "", place.document), { href: place.document, rel: "noopener noreferrer" }) : made("span", "", place.document));
    source.title = `${place.document}, text ${place.text}, position ${place.position}; the text begins at token ${place.start} of its document`;
    more.type = "button";
    more.title = "The whole window, copy, values as a table";
    more.setAttribute("aria-expanded", "false");
    more.setAttribute("aria-label", `Example ${number}: whole window and more`);
    source.append(document_, made("span", "", `${place.text}:${place.position}`), more);
    row.append(own, value, line, source);
    return row;
  }

  /** What stands above a section's lines. */
  function said(quadrant, list) {
    const { rank } = settings, { count } = list;
    if (rank === "random") return `${count} random positions, the first of the sample by hash. Values are kept for the outlined token alone; where another list has the same text, its neighbours are coloured too.`;
    if (rank === "quantile") return `Positions of the sample at quantiles of |post| in this quadrant. Values are kept for the outlined token alone.`;
    const same = rank === "act" && list.ranked === "gate" ? ", the same list as by |gate|, since act grows with gate here" : "";
    return `${count === 1 ? "The text" : `The ${count} texts`} with the largest |${rank}|${same}.`;
  }

  /** Lists and examples of a section's rows. @type {WeakMap<Element, {list: List, example: number}>} */
  const rows = new WeakMap();
  const stale = new Set();

  /** Hide what is alike to a stronger example behind a button that says how many there are. */
  function fold(built, list) {
    const { part } = list;
    const around = (example) => {
      const offset = part.segmentFirst[part.segment[example]], peak = offset + part.peak[example], out = [];
      for (let flat = peak - ALIKE_REACH; flat <= peak + ALIKE_REACH; flat++) {
        out.push(flat < offset + part.first[example] || flat >= offset + part.end[example] ? -1 : part.token[part.piece[flat]]);
      }
      return out;
    };
    const leaders = [];
    for (const row of built) {
      const tokens = around(rows.get(row).example);
      const leader = leaders.find((known) => known.tokens[ALIKE_REACH] === tokens[ALIKE_REACH] && known.tokens.filter((token, i) => token !== tokens[i]).length <= ALIKE_MOST);
      if (leader) {
        leader.alike.push(row);
        row.classList.add("folded");
      } else leaders.push({ row, tokens, alike: [] });
    }
    for (const { row, alike } of leaders) {
      if (!alike.length) continue;
      const button = made("button", "alike", `+${alike.length} alike`);
      button.type = "button";
      button.title = `${alike.length} weaker ${alike.length === 1 ? "example" : "examples"} with nearly the same tokens around the peak (at most ${ALIKE_MOST} of ${2 * ALIKE_REACH + 1} differ)`;
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        const opened = button.getAttribute("aria-expanded") !== "true";
        button.setAttribute("aria-expanded", String(opened));
        for (const other of alike) other.classList.toggle("folded", !opened);
      });
      row.querySelector(".source").prepend(button);
    }
  }
  /** Where else on the page, under the same ranking, an example's text stands. */
  function elsewhere(list, example, quadrant) {
    const text = placeOf(list, example).text, found = [];
    sections.forEach((section, at) => {
      if (section.dataset.quadrant === quadrant) return;
      const other = listOf(section.dataset.quadrant, settings.rank);
      for (let i = 0; other && i < other.count; i++) {
        if (placeOf(other, other.first + i).text === text) found.push({ href: `#q${at}-${settings.rank}-${i + 1}`, name: `${label(section.dataset.quadrant)} ${i + 1}` });
      }
    });
    return found;
  }

  /** Build a section's lines, if they are not those of the present ranking and view. */
  function build(section) {
    if (!stale.has(section)) return;
    const { quadrant } = section.dataset, list = listOf(quadrant, settings.rank), place = section.querySelector(".examples");
    if (!list) return;
    stale.delete(section);
    section.removeAttribute("aria-busy");
    if (!place) return;
    const at = sections.indexOf(section), built = [];
    for (let i = 0; i < list.count; i++) {
      const example = list.first + i, row = lineOf(list, example, i + 1, settings.rank, `q${at}-${settings.rank}-${i + 1}`);
      rows.set(row, { list, example });
      const others = elsewhere(list, example, quadrant);
      if (others.length) {
        const link = made("a", "also", "⇄");
        link.href = others[0].href;
        link.title = `The same text is an example of ${others.map((other) => other.name).join(", ")}`;
        link.setAttribute("aria-label", link.title);
        row.querySelector(".source").prepend(link);
      }
      built.push(row);
    }
    if (!list.sampled) fold(built, list);
    place.replaceChildren(...built);
    section.querySelector(".said .what").textContent = list.count ? said(quadrant, list) : "No sampled position falls in this quadrant.";
    colour(section);
  }

  /** A busy page may have no idle time at all. */
  const idle = (work) => (window.requestIdleCallback ? requestIdleCallback(work, { timeout: 100 }) : setTimeout(work, 1));
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) build(/** @type {HTMLElement} */ (entry.target));
  }, { rootMargin: "200px" });
  /** Build all sections anew: those in sight at once, the others when there is time. */
  function buildAll() {
    hide();
    for (const section of sections) {
      stale.add(section);
      section.setAttribute("aria-busy", "true");
      // What stood there belongs to another ranking or view.
      if (section.querySelector("a.rank")) section.querySelector(".examples").replaceChildren();
      near.unobserve(section);
      near.observe(section);
    }
    if (settings.rank !== "post" && !others) {
      askOthers().then(buildAll, () => {
        for (const section of sections) {
          const what = section.querySelector(".said .what");
          if (what) what.textContent = `These lists are in ${here.neuron}.js, which is not beside this page.`;
        }
      });
      return;
    }
    const next = () => {
      const section = sections.find((one) => stale.has(one));
      if (!section) return;
      build(section);
      idle(next);
    };
    idle(next);
  }
  function finish() {
    for (const section of sections) build(section);
  }

  /** The strongest example of each quadrant, with its tokens. */
  function buildTiles() {
    for (const tile of document.querySelectorAll(".tile")) {
      const list = listOf(tile.dataset.quadrant, "post"), best = tile.querySelector(".best");
      if (!list.count) continue;
      const [left, right] = windowOf(list, list.first, NEAR_BEFORE, NEAR_AFTER), whole = made("span", "");
      whole.append(left, right);
      best.replaceChildren(whole);
      colour(tile);
    }
  }

  function paint(element, value, most) {
    const depth = most > 0 && !Number.isNaN(value) ? Math.sqrt(Math.min(Math.abs(value) / most, 1)) : 0;
    element.classList.toggle("positive", value > 0);
    element.classList.toggle("negative", value < 0);
    element.style.setProperty("--depth", depth.toFixed(3));
  }
  const SAMPLED = ["random", "quantile"];
  /** The activation whose values colour tokens. */
  const coloured = () => (settings.colour !== "own" ? settings.colour : SAMPLED.includes(settings.rank) ? "post" : settings.rank);
  function colour(place) {
    // The strongest examples are by |post| whatever the lists are.
    const own = settings.colour === "own", shown = own && place.classList.contains("tile") ? "post" : coloured(), most = scale[shown];
    for (const element of place.querySelectorAll(".t")) {
      const { part, flat } = meaning.get(element), values = valuesOf(part, flat);
      const inside = quadrantOf(values.gate, values.in) === place.dataset.quadrant && !element.classList.contains("special");
      paint(element, own && !inside ? 0 : values[shown], most);
    }
  }
  function colourAll() {
    for (const place of [...document.querySelectorAll(".tile"), ...sections]) colour(place);
    explainColour();
  }
  function explainColour() {
    const shown = coloured(), most = scale[shown];
    const legend = document.getElementById("legend"), cells = made("span", "scale");
    for (let step = -5; step <= 5; step++) {
      const cell = document.createElement("i");
      cell.title = signed((Math.sign(step) * step * step * most) / 25);
      paint(cell, (Math.sign(step) * step * step) / 25, 1);
      cells.append(cell);
    }
    const what = made("span", "what");
    what.append(made("b", "", shown));
    legend.replaceChildren(what, made("span", "", `−${format(most, 3)}`), cells, made("span", "", `+${format(most, 3)}`));
    legend.title = `Full depth is the largest |${shown}| in the corpus, ${format(most)}; depth grows with the square root of the size.`;
  }

  // The values of a token.

  const tip = document.getElementById("tip");
  let described = null;
  function hide() {
    tip.hidden = true;
    if (described) described.removeAttribute("aria-describedby");
    described = null;
  }
  function tell(element) {
    const known = meaning.get(element), { part, flat, example, peak, list } = known;
    const segment = part.segment[example], position = part.segmentStart[segment] + flat - part.segmentFirst[segment];
    const values = exactValues(known), quadrant = quadrantOf(values.gate, values.in), piece = part.pieces[part.piece[flat]];
    const add = (tag, className, content, parent = tip) => {
      const child = made(tag, className, content);
      parent.append(child);
      return child;
    };
    tip.replaceChildren();
    add("div", "token", piece ? `“${piece.replace(/\n/g, "")}”` : "rest of the character before");
    add("div", "where", `token ${part.token[part.piece[flat]]}, text ${part.segmentText[segment]}, position ${position}${peak ? ", peak" : ""}`);
    const kept_ = !Number.isNaN(values.gate), missing = list.sampled ? "values are not kept here" : "not routed to this expert";
    const what = quadrant ? label(quadrant) : kept_ ? "no quadrant: a value is 0" : missing;
    add("div", "where", `${what}${element.classList.contains("special") ? ", special token, not counted" : ""}`);
    const table = add("table", "", "");
    for (const activation of ACTIVATIONS) {
      const row = add("tr", "", "", table), exact = peak && !list.sampled && (activation === "post" || activation === list.ranked);
      add("th", "", activation, row).scope = "row";
      const bar = add("i", "", "", add("td", "sizes", "", row));
      const cell = add("td", "", kept_ ? signed(values[activation], exact ? 7 : 5) : "–", row);
      cell.dataset.activation = activation;
      paint(bar, values[activation], scale[activation]);
    }
    tip.hidden = false;
    if (described && described !== element) described.removeAttribute("aria-describedby");
    element.setAttribute("aria-describedby", "tip");
    described = element;
    const box = element.getClientRects()[0] || element.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const above = box.bottom + 6 + size.height > innerHeight;
    tip.style.setProperty("left", `${Math.max(8, Math.min(box.left, innerWidth - size.width - 8))}px`);
    tip.style.setProperty("top", `${above ? Math.max(8, box.top - 6 - size.height) : box.bottom + 6}px`);
  }
  const tokenAt = (event) => (event.target instanceof Element ? event.target.closest(".t") : null);

  // One example: its window as text, its values as a table.

  /** An example's window in plain text, the peak between guillemets, and where it comes from. */
  function textOf(row) {
    const { list, example } = rows.get(row), { part } = list, place = placeOf(list, example);
    const plain = (element) => part.pieces[part.piece[meaning.get(element).flat]].replace(/↵\n/g, "\n").replace(/⇥\t/g, "\t");
    const text = [...row.querySelectorAll(".line .t")].map((element) => (element.classList.contains("peak") ? `«${plain(element)}»` : plain(element))).join("");
    const peak = exactValues(meaning.get(row.querySelector(".t.peak")));
    const values = ACTIVATIONS.map((activation) => `${activation} ${signed(peak[activation], 5)}`).join(", ");
    return `${text}\n\n${values}\n${place.document}, text ${place.text}, position ${place.position}\n${addressOf(row)}\n`;
  }
  const addressOf = (row) => `${location.href.replace(/#.*$/, "")}#${row.id}`;
  function tableOf(row) {
    const table = made("table", "values"), head = made("tr", ""), body = document.createElement("tbody");
    table.append(made("caption", "", "Values of each token of the window"), document.createElement("thead"), body);
    for (const column of ["position", "token", "id", ...ACTIVATIONS]) head.append(Object.assign(made("th", "", column), { scope: "col" }));
    table.tHead.append(head);
    for (const element of row.querySelectorAll(".line .t")) {
      const known = meaning.get(element), { part, flat, example } = known, segment = part.segment[example], values = exactValues(known);
      const line = document.createElement("tr"), piece = part.pieces[part.piece[flat]];
      if (known.peak) line.className = "peak";
      line.append(
        Object.assign(made("th", "", String(part.segmentStart[segment] + flat - part.segmentFirst[segment])), { scope: "row" }),
        made("td", "piece", piece.replace(/\n/g, "")),
        made("td", "", String(part.token[part.piece[flat]])),
        ...ACTIVATIONS.map((activation) => made("td", "", Number.isNaN(values.gate) ? "–" : signed(values[activation], 5))),
      );
      body.append(line);
    }
    return table;
  }
  async function copy(text, button) {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser refused";
    }
    setTimeout(() => { button.textContent = before; }, 1500);
  }
  function open(row, opened) {
    row.classList.toggle("open", opened);
    row.querySelector(".more").setAttribute("aria-expanded", String(opened));
    if (!opened || row.querySelector(".tools")) return;
    const tools = made("div", "tools"), { list, example } = rows.get(row);
    const button = (content, work) => {
      const one = Object.assign(made("button", "", content), { type: "button" });
      one.addEventListener("click", () => work(one));
      tools.append(one);
    };
    button("Copy text", (one) => copy(textOf(row), one));
    button("Copy link", (one) => copy(addressOf(row), one));
    button("Values as a table", (one) => {
      const table = row.querySelector(".values");
      if (table) table.remove();
      else row.append(tableOf(row));
      one.setAttribute("aria-expanded", String(!table));
    });
    for (const other of elsewhere(list, example, row.closest("section").dataset.quadrant)) {
      tools.append(Object.assign(made("a", "", `also ${other.name}`), { href: other.href }));
    }
    row.append(tools);
  }

  /** Show the example that the address names, under its ranking. */
  function follow() {
    const found = /^#q[0-3]-(gate|in|act|post|quantile|random)-\d+$/.exec(location.hash);
    if (!found) return;
    if (found[1] !== settings.rank) {
      settings.rank = controls.elements.rank.value = found[1];
      buildAll();
    }
    const reach = () => {
      finish();
      const row = document.getElementById(location.hash.slice(1));
      if (!row) return;
      if (row.classList.contains("folded")) row.classList.remove("folded");
      row.scrollIntoView({ block: "center" });
      for (const other of document.querySelectorAll(".example.named")) other.classList.remove("named");
      row.classList.add("named");
    };
    if (settings.rank === "post") reach();
    else askOthers().then(reach, () => {});
  }

  const controls = /** @type {HTMLFormElement} */ (document.getElementById("controls"));
  function lay() {
    document.body.dataset.layout = settings.layout;
  }

  function listen() {
    // Not pointerover, which also comes when the page scrolls under a resting pointer, and would hide what the keys lead to.
    document.addEventListener("pointermove", (event) => {
      const element = tokenAt(event);
      if (event.pointerType === "touch" || (element && element === described)) return;
      if (element) tell(element);
      else hide();
    });
    document.addEventListener("focusin", (event) => { if (tokenAt(event)) tell(tokenAt(event)); });
    document.addEventListener("focusout", (event) => { if (tokenAt(event)) hide(); });
    document.addEventListener("scroll", () => {
      if (tip.hidden || !described) return;
      const box = described.getBoundingClientRect();
      if (box.bottom < 0 || box.top > innerHeight) hide();
      else tell(described);
    }, { passive: true });
    document.addEventListener("click", (event) => {
      const element = tokenAt(event);
      if (element) {
        element.focus({ preventScroll: true });
        tell(element);
        return;
      }
      hide();
      const button = event.target.closest(".more");
      if (button) open(button.closest(".example"), button.getAttribute("aria-expanded") !== "true");
    });
    /** Move the focus to a token, opening its line if the token is cut off. */
    function go(element) {
      if (!element) return;
      const row = element.closest(".example"), side = element.parentElement.closest(".left, .right");
      if (row && side && !row.classList.contains("open")) {
        const box = element.getBoundingClientRect(), frame = side.getBoundingClientRect();
        if (!box.width || box.left < frame.left || box.right > frame.right) open(row, true);
      }
      element.focus();
      element.scrollIntoView({ block: "nearest" });
    }
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") { hide(); return; }
      const element = tokenAt(event);
      if (element && event.key.startsWith("Arrow")) {
        const frame = element.closest(".example, .tile"), tokens = [...frame.querySelectorAll(".t")], peaks = [...document.querySelectorAll(".example:not(.folded) .t.peak, .tile .t.peak")];
        const step = event.key === "ArrowLeft" || event.key === "ArrowUp" ? -1 : 1;
        event.preventDefault();
        if (event.key === "ArrowLeft" || event.key === "ArrowRight") go(tokens[tokens.indexOf(element) + step]);
        else go(peaks[peaks.indexOf(frame.querySelector(".t.peak")) + step]);
      } else if (event.key === "v") {
        view.turn();
      } else if (event.key === "c" || event.key === "w") {
        const inputs = [...controls.elements[event.key === "c" ? "colour" : "layout"]];
        const next = inputs[(inputs.findIndex((input) => input.checked) + 1) % inputs.length];
        next.checked = true;
        next.dispatchEvent(new Event("change", { bubbles: true }));
      }
      // Captured, so that the arrow keys of a token are spent before they lead to another neuron.
    }, true);
    controls.addEventListener("change", (event) => {
      settings[event.target.name] = event.target.value;
      hide();
      if (event.target.name === "rank") {
        buildAll();
        explainColour();
      } else if (event.target.name === "colour") colourAll();
      else lay();
      keep({ rank: settings.rank, layout: settings.layout });
    });
    controls.addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("hashchange", follow);
    // Whoever moves or types may soon want the other lists.
    const ahead = ["pointermove", "pointerdown", "keydown", "scroll"];
    const once = () => {
      for (const kind of ahead) window.removeEventListener(kind, once);
      askOthers().catch(() => {});
    };
    for (const kind of ahead) window.addEventListener(kind, once, { passive: true });
  }

  /** Once the browser has painted what the page holds without this script. */
  const painted = () => new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve)); });

  async function start() {
    await painted();
    posts = await unpack(data);
    for (const setting of Object.keys(settings)) {
      // Colouring starts anew with each neuron.
      if (setting !== "colour" && [...controls.elements[setting]].some((input) => input.value === kept[setting])) settings[setting] = kept[setting];
      controls.elements[setting].value = settings[setting];
    }
    lay();
    buildTiles();
    buildAll();
    explainColour();
    listen();
    controls.hidden = false;
    view.turns.push(() => {
      buildTiles();
      buildAll();
    });
    follow();
    document.documentElement.dataset.ready = "";
  }

  /** All lists of the page in the view it shows, for a download. */
  async function allLists() {
    await askOthers();
    const out = {};
    for (const quadrant of QUADRANTS) {
      out[quadrant] = {};
      for (const kind of ["gate", "in", "act", "post", "random", "quantile"]) {
        if (kind === "act" && quadrant.startsWith("gate+")) continue;
        const list = listOf(quadrant, kind);
        out[quadrant][kind] = Array.from({ length: list.count }, (_, i) => {
          const example = list.first + i, { part } = list, offset = part.segmentFirst[part.segment[example]], place = placeOf(list, example);
          const flats = [];
          for (let flat = offset + part.first[example]; flat < offset + part.end[example]; flat++) flats.push(flat);
          const known = (value) => (Number.isNaN(value) ? null : Number(value.toPrecision(5)));
          return {
            ...(list.sampled ? {} : { value: Number((odd(list.ranked) * part.value[example]).toPrecision(8)) }),
            ...(list.quantiles.length ? { quantile: list.quantiles[i] } : {}),
            post: Number((sign() * part.post[example]).toPrecision(8)),
            ...place,
            window_start: place.position - part.peak[example] + part.first[example],
            tokens: flats.map((flat) => part.pieces[part.piece[flat]]),
            token_ids: flats.map((flat) => part.token[part.piece[flat]]),
            gate: flats.map((flat) => known(part.gate[flat])),
            in: flats.map((flat) => known(sign() * part.in[flat])),
          };
        });
      }
    }
    return out;
  }

  start();
  return { data, allLists, copy };
})();
