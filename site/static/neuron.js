/**
 * One neuron: turns its page between the oriented and the raw view; unpacks the examples, builds their lines, colours
 * tokens, shows their values.
 *
 * Packed data, deflated, numbers little-endian with all first bytes of an array before all second bytes, in this order:
 * pieces and document names (UTF-8, separated by NUL); token id of each piece; segments: text, the text's place in its
 * document, first position (uint32), document, length (uint16); examples of all lists: value, post (float32), segment,
 * and in it window start, peak, window end (uint16); positions of all segments: piece (uint16), gate, in (float16);
 * places (uint32) and values (float32) of gates, then of ins, that 16 bits cannot hold.
 *
 * @typedef {"gate"|"in"|"act"|"post"} Activation
 */
"use strict";
(() => {
  const { format, signed, label, halves, inflate, Reader } = window.gluscope;
  const ACTIVATIONS = /** @type {Activation[]} */ (["gate", "in", "act", "post"]);
  const QUADRANTS = ["gate+_in+", "gate+_in-", "gate-_in+", "gate-_in-"];
  const LISTS = QUADRANTS.flatMap((quadrant) =>
    ACTIVATIONS.filter((activation) => activation !== "act" || quadrant.startsWith("gate-")).map((activation) => [quadrant, activation]));

  const KEPT = "gluscope";
  /** Ranking, layout and view stay from neuron to neuron. Storage may be closed to pages from disk. */
  const kept = {};
  try { Object.assign(kept, JSON.parse(sessionStorage.getItem(KEPT) || "{}")); } catch { /* nothing kept */ }
  function remember(change) {
    Object.assign(kept, change);
    try { sessionStorage.setItem(KEPT, JSON.stringify(kept)); } catch { /* not kept */ }
  }

  /** The two views of a neuron with s = −1; a page without this element has one. */
  const view = document.getElementById("view");
  const VIEWS = ["oriented", "raw"], own = view ? view.dataset.own : "";
  /** Whether the page shows the view that it was not rendered in. */
  let turned = false;
  /** What else to do at each turn, once the examples are there. */
  let turnExamples = () => {};
  const otherQuadrant = (quadrant) => quadrant.slice(0, -1) + (quadrant.endsWith("+") ? "-" : "+");
  /** A number as the page writes it, with the other sign; `plus` is what stands before a positive one. */
  const negated = (text, plus) => (text === "0" || text === "–" ? text : text.startsWith("−") ? plus + text.slice(1) : `−${text.replace("+", "")}`);

  /** Let two nodes take each other's place. */
  function exchange(one, other) {
    const place = document.createComment("");
    one.replaceWith(place);
    other.replaceWith(one);
    place.replaceWith(other);
  }
  /** Relabel what the page holds without the examples' data: in+ and in− change places, in, post and w_out their sign. */
  function turnPage() {
    for (const quadrant of QUADRANTS.filter((name) => name.endsWith("+"))) {
      for (const [place, parts] of [
        [".tile", ["strong", ".n", ".bar", "caption span", "tbody", ".snippet"]],
        [".list", [".share", ".said", ".examples, .list > .empty"]],
      ]) {
        const [plus, minus] = [quadrant, otherQuadrant(quadrant)].map((name) => document.querySelector(`${place}[data-quadrant="${name}"]`));
        for (const part of parts) exchange(plus.querySelector(part), minus.querySelector(part));
      }
    }
    for (const [one, other] of [["promoted", "suppressed"], ["in_positive", "in_negative"]]) {
      const lists = [one, other].map((name) => document.querySelector(`[data-tokens="${name}"] ul`));
      exchange(...lists);
      for (const chip of lists.flatMap((list) => [...list.querySelectorAll("[title]")])) chip.title = chip.title.replace(/\S+$/, (score) => negated(score, "+"));
    }
    // Mean and largest value; the standard deviation between them has no sign.
    for (const cell of document.querySelectorAll(".tile [data-odd] td:not(:nth-child(3))")) cell.textContent = negated(cell.textContent, "");
    for (const row of document.querySelectorAll(".cosines [data-odd]")) {
      const cell = row.lastElementChild, bar = row.querySelector("rect"), plus = bar.classList.contains("plus");
      cell.textContent = negated(cell.textContent, "+");
      bar.setAttribute("class", plus ? "minus" : "plus");
      bar.setAttribute("x", plus ? `-${bar.getAttribute("width")}` : "0");
    }
    for (const snippet of document.querySelectorAll(".tile .snippet[title]")) snippet.title = snippet.title.replace(/\S+$/, (post) => negated(post, "+"));
    // The three examples that need no script; those that the script builds it builds again.
    for (const value of document.querySelectorAll(".example .value")) value.textContent = negated(value.textContent, "+");
    for (const sentence of view.querySelectorAll("[data-view]")) sentence.hidden = !sentence.hidden;
  }
  /** @param {string} chosen one of `VIEWS` */
  function setView(chosen) {
    if (turned !== (chosen !== own)) {
      turned = !turned;
      turnPage();
      turnExamples();
    }
    for (const input of view.querySelectorAll("input")) input.checked = input.value === chosen;
    const address = new URL(location.href);
    if (turned) address.searchParams.set("view", chosen);
    else address.searchParams.delete("view");
    // So that the address leads to what is shown; a browser may refuse this for pages from disk.
    try { history.replaceState(history.state, "", address); } catch { /* the address stays */ }
  }
  function choose(chosen) {
    remember({ view: chosen });
    setView(chosen);
  }
  const asked = new URLSearchParams(location.search).get("view");
  if (VIEWS.includes(asked)) remember({ view: asked });
  if (view) {
    view.querySelector(".switch").hidden = false;
    view.addEventListener("change", (event) => choose(event.target.value));
    setView(VIEWS.includes(kept.view) ? kept.view : own);
  }

  const node = document.getElementById("data");
  if (!node || typeof DecompressionStream === "undefined") return;
  const data = JSON.parse(node.textContent);
  const special = new Set(data.special);

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
  const activate = FUNCTIONS[data.function];

  async function unpack() {
    const reader = new Reader(await inflate(data.packed)), sizes = data.sizes;
    const examples = data.lists.reduce((sum, count) => sum + count, 0);
    const planes = (Type, count) => reader.numbers(Type, count);
    const strings = (count) => reader.strings(count);
    const out = {
      pieces: strings(sizes.pieceBytes),
      documents: strings(sizes.documentBytes),
      token: planes(Uint32Array, sizes.pieces),
      segmentText: planes(Uint32Array, sizes.segments),
      textStart: planes(Uint32Array, sizes.segments),
      segmentStart: planes(Uint32Array, sizes.segments),
      segmentDocument: planes(Uint16Array, sizes.segments),
      segmentLength: planes(Uint16Array, sizes.segments),
      value: planes(Float32Array, examples),
      post: planes(Float32Array, examples),
      segment: planes(Uint16Array, examples),
      first: planes(Uint16Array, examples),
      peak: planes(Uint16Array, examples),
      end: planes(Uint16Array, examples),
      piece: planes(Uint16Array, sizes.positions),
      gate: halves(planes(Uint16Array, sizes.positions)),
      in: halves(planes(Uint16Array, sizes.positions)),
      segmentFirst: [0],
    };
    for (const [values, count] of [[out.gate, sizes.wideGates], [out.in, sizes.wideIns]]) {
      const places = planes(Uint32Array, count), wide = planes(Float32Array, count);
      places.forEach((position, i) => { values[position] = wide[i]; });
    }
    for (const length of out.segmentLength) out.segmentFirst.push(out.segmentFirst[out.segmentFirst.length - 1] + length);
    return out;
  }

  /** @param {Awaited<ReturnType<typeof unpack>>} all */
  function show(all) {
    /** What a token's element stands for: its example, the flat position, and whether it is the peak. */
    const meaning = new WeakMap();
    const firstOf = data.lists.map((_, i) => data.lists.slice(0, i).reduce((sum, count) => sum + count, 0));
    const settings = { rank: "post", colour: "own", layout: "lines" };
    const sections = [...document.querySelectorAll("section.list")];

    /** The list behind a ranking: under gate+ act orders as gate does. Lists lie in the order of the view rendered. */
    const listOf = (quadrant, rank) => LISTS.findIndex(([name, activation]) =>
      name === (turned ? otherQuadrant(quadrant) : quadrant) && activation === (rank === "act" && quadrant.startsWith("gate+") ? "gate" : rank));
    const quadrantOf = (gate, linear) => (gate && linear ? `gate${gate > 0 ? "+" : "-"}_in${linear > 0 ? "+" : "-"}` : "");

    function valuesOf(flat) {
      const gate = all.gate[flat], linear = all.in[flat], act = activate(gate);
      return { gate, in: linear, act, post: act * linear };
    }
    /** A position's values, with those that the list stores for its peak in place of the 16-bit ones. */
    function exactValues({ example, flat, peak, ranked }) {
      const values = valuesOf(flat);
      if (peak) {
        values.post = all.post[example];
        values[ranked] = all.value[example];
      }
      return values;
    }

    function tokenElement(flat, example, peak, ranked) {
      const element = document.createElement("span"), text = all.pieces[all.piece[flat]];
      element.className = "t";
      const parts = text.split("\n");
      parts.forEach((part, i) => {
        // Runs of spaces are set narrow in lines, where indentation would push the words out of sight.
        for (const run of part.split(/( {2,})/)) {
          if (run.startsWith("  ")) {
            const indent = document.createElement("span");
            indent.className = "indent";
            indent.textContent = run;
            element.append(indent);
          } else if (run) element.append(run);
        }
        if (i < parts.length - 1) element.append(document.createElement("br"));
      });
      if (!text) element.classList.add("rest");
      if (special.has(all.token[all.piece[flat]])) element.classList.add("special");
      element.tabIndex = peak ? 0 : -1;
      if (peak) element.classList.add("peak");
      meaning.set(element, { flat, example, peak, ranked });
      return element;
    }

    function lineOf(example, number, rank, ranked) {
      const row = document.createElement("li"), segment = all.segment[example], offset = all.segmentFirst[segment];
      row.className = "example";
      const button = document.createElement("button");
      button.type = "button";
      button.className = "rank";
      button.textContent = String(number);
      button.title = "Show the whole window";
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-label", `Example ${number}: show the whole window`);
      const value = document.createElement("span");
      value.className = "value";
      const shown = rank === ranked ? all.value[example] : activate(all.value[example]);
      value.textContent = signed(shown);
      value.title = `${rank} ${signed(shown, 7)}, post ${signed(all.post[example], 7)}`;
      const line = document.createElement("span"), left = document.createElement("span"), right = document.createElement("span");
      line.className = "line"; left.className = "left"; right.className = "right";
      const before = document.createElement("span");
      left.append(before);
      const peak = offset + all.peak[example];
      for (let flat = offset + all.first[example]; flat < offset + all.end[example]; flat++) {
        (flat < peak ? before : right).append(tokenElement(flat, example, flat === peak, ranked));
      }
      line.append(left, right);
      const source = document.createElement("span"), name = document.createElement("bdi"), inner = document.createElement("span");
      const where = document.createElement("span");
      source.className = "source";
      inner.textContent = all.documents[all.segmentDocument[segment]];
      name.append(inner);
      where.textContent = `${all.segmentText[segment]}:${all.segmentStart[segment] + all.peak[example]}`;
      source.title = `${inner.textContent}, text ${all.segmentText[segment]}, position ${all.segmentStart[segment] + all.peak[example]}; the text begins at token ${all.textStart[segment]} of its document`;
      source.append(name, where);
      row.append(button, value, line, source);
      return row;
    }

    function build() {
      sections.forEach((section, at) => {
        const quadrant = section.dataset.quadrant, list = listOf(quadrant, settings.rank), ranked = LISTS[list][1];
        const count = data.lists[list], said = section.querySelector(".said");
        if (!count) return;
        const rows = [];
        for (let i = 0; i < count; i++) {
          const row = lineOf(firstOf[list] + i, i + 1, settings.rank, ranked);
          row.id = `q${at}-${settings.rank}-${i + 1}`;
          rows.push(row);
        }
        section.querySelector(".examples").replaceChildren(...rows);
        const same = settings.rank === "act" && ranked === "gate" ? ", the same list as by |gate|, since act grows with gate here" : "";
        said.textContent = `${count === 1 ? "the text" : `the ${count} texts`} with the largest |${settings.rank}|${same}`;
      });
      layOut();
      colour();
    }

    function layOut() {
      for (const row of document.querySelectorAll(".example")) open(row, settings.layout === "full");
    }
    function open(row, opened) {
      row.classList.toggle("open", opened);
      const button = row.querySelector("button.rank");
      if (button) button.setAttribute("aria-expanded", String(opened));
    }

    function paint(element, value, most) {
      const depth = most > 0 && !Number.isNaN(value) ? Math.sqrt(Math.min(Math.abs(value) / most, 1)) : 0;
      element.classList.toggle("positive", value > 0);
      element.classList.toggle("negative", value < 0);
      element.style.setProperty("--depth", depth.toFixed(3));
    }

    function colour() {
      const own = settings.colour === "own", shown = own ? settings.rank : settings.colour, most = data.scale[shown];
      for (const section of sections) {
        for (const element of section.querySelectorAll(".t")) {
          const { flat } = meaning.get(element), values = valuesOf(flat);
          const inside = quadrantOf(values.gate, values.in) === section.dataset.quadrant && !element.classList.contains("special");
          paint(element, own && !inside ? 0 : values[shown], most);
        }
      }
      const legend = document.getElementById("legend"), scale = document.createElement("span");
      scale.className = "scale";
      for (let step = -5; step <= 5; step++) {
        const cell = document.createElement("i");
        cell.title = signed((Math.sign(step) * step * step * most) / 25);
        paint(cell, (Math.sign(step) * step * step) / 25, 1);
        scale.append(cell);
      }
      const text = (content, tag = "span", className = "") => Object.assign(document.createElement(tag), { textContent: content, className });
      const what = text("", "span", "what");
      what.append(text(shown, "b"), text(own ? " in own quadrant" : " of all tokens", "span", "reach"));
      legend.replaceChildren(what, text(`−${format(most, 3)}`), scale, text(`+${format(most, 3)}`));
      legend.title = `Full depth is the largest |${shown}| in the corpus, ${format(most)}; depth grows with the square root of the size.`;
    }

    const tip = document.getElementById("tip");
    let described = null;
    function hide() {
      tip.hidden = true;
      if (described) described.removeAttribute("aria-describedby");
      described = null;
    }
    function tell(element) {
      const known = meaning.get(element), { flat, example, peak } = known;
      const segment = all.segment[example], position = all.segmentStart[segment] + flat - all.segmentFirst[segment];
      const values = exactValues(known), quadrant = quadrantOf(values.gate, values.in), piece = all.pieces[all.piece[flat]];
      const counted = !element.classList.contains("special");
      const add = (tag, className, content, parent = tip) => {
        const child = document.createElement(tag);
        child.className = className;
        child.textContent = content;
        parent.append(child);
        return child;
      };
      tip.replaceChildren();
      add("div", "token", piece ? `“${piece.replace(/\n/g, "")}”` : "rest of the character before");
      add("div", "where", `token ${all.token[all.piece[flat]]}, text ${all.segmentText[segment]}, position ${position}${peak ? ", peak" : ""}`);
      const routed = !Number.isNaN(values.gate);
      add("div", "where", `${quadrant ? label(quadrant) : routed ? "no quadrant: a value is 0" : "not routed to this expert"}${counted ? "" : ", special token, not counted"}`);
      const table = add("table", "", "");
      for (const activation of ACTIVATIONS) {
        const row = add("tr", "", "", table), stored = peak && (activation === "post" || activation === known.ranked);
        add("th", "", activation, row).scope = "row";
        const bar = add("i", "", "", add("td", "sizes", "", row));
        const cell = add("td", "", routed ? signed(values[activation], stored ? 7 : 5) : "–", row);
        cell.dataset.activation = activation;
        paint(bar, values[activation], data.scale[activation]);
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

    document.addEventListener("pointerover", (event) => {
      const element = tokenAt(event);
      if (element) tell(element);
      else if (event.pointerType === "mouse") hide();
    });
    document.addEventListener("focusin", (event) => { if (tokenAt(event)) tell(tokenAt(event)); });
    document.addEventListener("focusout", (event) => { if (tokenAt(event)) hide(); });
    document.addEventListener("scroll", () => { if (!tip.hidden && described) tell(described); }, { passive: true });
    document.addEventListener("click", (event) => {
      const element = tokenAt(event);
      if (element) {
        element.focus({ preventScroll: true });
        tell(element);
        return;
      }
      hide();
      const button = event.target.closest("button.rank");
      if (button) open(button.closest(".example"), !button.closest(".example").classList.contains("open"));
    });

    /** Move the focus to a token, opening its line if the token is cut off. */
    function go(element) {
      if (!element) return;
      const row = element.closest(".example"), side = element.parentElement.closest(".left, .right");
      const box = element.getBoundingClientRect(), frame = side.getBoundingClientRect();
      if (!row.classList.contains("open") && (box.left < frame.left || box.right > frame.right)) open(row, true);
      element.focus();
      element.scrollIntoView({ block: "nearest" });
    }
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") { hide(); return; }
      const element = tokenAt(event);
      if (element && event.key.startsWith("Arrow")) {
        const row = element.closest(".example"), tokens = [...row.querySelectorAll(".t")], peaks = [...document.querySelectorAll(".t.peak")];
        const step = event.key === "ArrowLeft" || event.key === "ArrowUp" ? -1 : 1;
        event.preventDefault();
        if (event.key === "ArrowLeft" || event.key === "ArrowRight") go(tokens[tokens.indexOf(element) + step]);
        else go(peaks[peaks.indexOf(row.querySelector(".t.peak")) + step]);
      } else if (event.key === "v" && view) {
        choose(VIEWS.find((name) => (name === own) === turned));
      } else if (event.key === "c" || event.key === "w") {
        const inputs = [...controls.elements[event.key === "c" ? "colour" : "layout"]];
        const next = inputs[(inputs.findIndex((input) => input.checked) + 1) % inputs.length];
        next.checked = true;
        next.dispatchEvent(new Event("change", { bubbles: true }));
      }
      // Captured, so that the arrow keys of a token are spent before they lead to another neuron.
    }, true);

    const controls = /** @type {HTMLFormElement} */ (document.getElementById("controls"));
    for (const name of Object.keys(settings)) {
      const known = [...controls.elements[name]].some((input) => input.value === kept[name]);
      // Colouring starts anew with each neuron.
      if (known && name !== "colour") settings[name] = kept[name];
      controls.elements[name].value = settings[name];
    }
    controls.addEventListener("change", (event) => {
      settings[event.target.name] = event.target.value;
      hide();
      if (event.target.name === "rank") build();
      else if (event.target.name === "colour") colour();
      else layOut();
      remember({ rank: settings.rank, layout: settings.layout });
    });
    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.hidden = false;
    function turnData() {
      const negate = (values, first, end) => { for (let i = first; i < end; i++) values[i] = -values[i]; };
      negate(all.in, 0, all.in.length);
      negate(all.post, 0, all.post.length);
      LISTS.forEach(([, activation], list) => {
        if (activation === "in" || activation === "post") negate(all.value, firstOf[list], firstOf[list] + data.lists[list]);
      });
    }
    // The view may have been chosen before the data were there.
    if (turned) turnData();
    turnExamples = () => {
      hide();
      turnData();
      build();
    };
    build();
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target) target.scrollIntoView();
  }

  unpack().then(show);
})();
