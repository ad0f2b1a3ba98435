/**
 * The explorer's filters: number inputs, histograms, and a card for each filter.
 */
"use strict";
(() => {
  const { explorer, count } = window.gluscope;
  if (!explorer) return;
  const { here, get, make, read, fields, ROLES, pieceOf, filterText, go, valuesOf, tokensMeant, bitsOn } = explorer;

  const filterOn = (id) => explorer.state.where.find((filter) => filter.field === id);
  function setFilter(id, filter, replace = false) {
    const others = explorer.state.where.filter((other) => other.field !== id), at = explorer.state.where.findIndex((other) => other.field === id);
    if (filter && at >= 0) go({ where: explorer.state.where.map((other, place) => (place === at ? filter : other)) }, replace);
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
    const { values, low, high } = valuesOf(field), filter = filterOn(field.id), bins = 48, mask = ~bitsOn(field.id), { failing } = explorer.evaluation;
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
    const mine = () => explorer.state.where.find((other) => cardKey(other) === cardKey(filter));
    removal.addEventListener("click", () => {
      go({ where: explorer.state.where.filter((other) => cardKey(other) !== cardKey(filter)) });
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
        const counts = new Uint32Array(field.categories.length), { values } = valuesOf(field), { failing } = explorer.evaluation;
        const place = explorer.state.where.findIndex((other) => other.field === field.id), mask = ~(1 << place);
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
    const keys = new Set(explorer.state.where.map(cardKey));
    for (const [key, card] of cards) if (!keys.has(key)) {
      card.node.remove();
      cards.delete(key);
    }
    for (const filter of explorer.state.where) {
      const key = cardKey(filter);
      if (!cards.has(key)) {
        const card = makeCard(filter);
        cards.set(key, card);
        get("cards").append(card.node);
      }
      cards.get(key).sync();
    }
    get("filters-note").textContent = explorer.state.where.length ? `${explorer.state.where.length} active` : "";
  }

  Object.assign(explorer, { filterOn, rangeInputs, colourOf, fresh, cards, drawCards });
})();
