/**
 * The explorer's page: controls, columns to choose, questions to start from, downloads, and one update of all its parts.
 *
 * The parts lie in explorer-*.js, which come first and each add what the others use to `gluscope.explorer`. What changes and is
 * shared is there too: `state` (explorer-state.js), `frame` and `evaluation` (explorer-rows.js), and `inSight`.
 */
"use strict";
(() => {
  const { explorer, QUADRANTS, count } = window.gluscope;
  if (!explorer) return;
  const {
    here, checkpoints, get, COSINES, FLIPPED, nameAt, entryOf, make, read, missing, nameOf, isIdle, want, NAMES,
    placeOf, fields, ROLES, pieceOf, tokensOf, exampleOf, SHOWN, statistics, normal, filterText, addressText,
    stateFrom, go, layersOf, frameNow, blockOf, flips, measured, plain, evaluate, columnsNow, pagesOf, drawTable,
    note, filterOn, cards, drawCards, plot, drawPlot, brushOf, setBrush, drawRanges,
  } = explorer;

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
    const all = field.categories ? { kind: "in", field: field.id, names: [] } : { kind: "range", field: field.id, low: null, high: null };
    go({ where: [...explorer.state.where, all] });
    cards.get(field.id)?.node.querySelector("input")?.focus();
  });
  get("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = get("token").value, filter = { kind: "token", role: get("token-role").value, text };
    if (!text || explorer.state.where.some((other) => filterText(other) === filterText(filter))) return;
    get("token").value = "";
    go({ where: [...explorer.state.where, filter] });
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
      const text = get("text").value, rest = explorer.state.where.filter(({ kind }) => kind !== "text");
      go({ where: text ? [...rest, { kind: "text", text }] : rest }, explorer.state.where.length !== rest.length);
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
      input.disabled = input.checked && !(explorer.state.columns || columnsNow().map(({ id }) => id)).includes(input.value);
    }
  }
  get("choices").addEventListener("change", (event) => {
    const { columns, sort } = explorer.state, id = event.target.value;
    const before = columns || columnsNow().map((field) => field.id).filter((other) => !sort.some(({ field }) => field === other));
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
  const answering = (change) => normal({ ...explorer.state, sort: [], where: [], ...change });
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
      if (text === addressText(explorer.state)) link.setAttribute("aria-current", "true");
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
    const { checkpoint, view } = explorer.state, routed = block.summary.seen[i];
    const out = { checkpoint, layer: block.layer, neuron: i, mlp, expert, index, orientation, view, routed };
    for (const field of columns) {
      if (field.id === "example") {
        const found = exampleOf(block, i, flip), example = found && found.quadrant >= 0 ? found : null;
        out.example_quadrant = example ? QUADRANTS[example.quadrant] : null;
        out.example_post = example ? shortest(example.post) : null;
        for (const part of ["before", "peak", "after"]) out[`example_${part}`] = example ? example[part] : null;
      } else if (field.id.startsWith("tokens:")) {
        out[field.id.replace(":", "_")] = (tokensOf(field.id.slice(7), block, i, flip) || []).map(pieceOf);
      } else if (field.at && !(field.id in out)) {
        const data = read.get(nameOf(explorer.frame.key, block.layer, field.group)), value = data ? field.at(data, i, flip, block) : NaN;
        const isFloat = field.group !== "summary" || COSINES.includes(field.id), name = field.id === "change" ? `change_since_${explorer.state.since}` : field.id;
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
    const columns = columnsNow(), layers = explorer.frame.blocks.map(({ layer }) => layer), { rows } = explorer.evaluation;
    const names = columns.flatMap(({ group }) => layers.map((layer) => nameOf(explorer.state.checkpoint, layer, group))).filter((name) => !read.has(name));
    button.disabled = true;
    explorer.inSight = [...explorer.inSight, ...names];
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
    make("a", { href: url, download: `${document.body.dataset.study}-${explorer.state.checkpoint}-neurons.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    button.disabled = false;
  }
  for (const kind of ["csv", "jsonl"]) get(kind).addEventListener("click", () => download(kind, get(kind)));

  // What is needed

  /** [group, checkpoint, what it is called] of all that the state needs of each layer. */
  function needs() {
    const found = new Map([["summary", [explorer.state.checkpoint, "shares, cosines and classes"]]]);
    const used = [...explorer.state.sort.map(({ field }) => field), ...explorer.state.where.map(({ field }) => field), ...columnsNow().map(({ id }) => id)];
    if (get("scatter").open) used.push(explorer.state.x, explorer.state.y, explorer.state.colour);
    for (const field of used.map((id) => fields.get(id))) {
      if (!field || !field.at || found.has(field.group)) continue;
      const [activation, statistic] = field.group.split("-");
      found.set(field.group, [explorer.state.checkpoint, NAMES[statistic](activation)]);
    }
    const out = [...found].map(([group, [key, name]]) => ({ group, key, name }));
    if (used.includes("change") && explorer.state.since) out.push({ group: "summary", key: explorer.state.since, name: `shares at ${nameAt(explorer.state.since)}` });
    for (const filter of explorer.state.where) {
      if (filter.kind === "token") out.push({ group: ROLES[filter.role][1], key: explorer.state.checkpoint, name: `tokens ${ROLES[filter.role][0]}` });
      if (filter.kind === "text") out.push({ group: "contexts", key: explorer.state.checkpoint, name: "texts of examples" });
    }
    return out;
  }
  /** Scripts of the rows in sight, for columns that only show. */
  explorer.inSight = [];
  function request() {
    const { layers } = layersOf(entryOf(explorer.state.checkpoint), explorer.state.layers), all = needs();
    const names = all.flatMap(({ group, key }) => layers.map((layer) => nameOf(key, layer, group)));
    const words = explorer.state.where.some(({ kind }) => kind === "token") || columnsNow().some(({ id }) => id.startsWith("tokens:"));
    const vocabulary = words || document.activeElement === get("token") ? ["vocabulary"] : [];
    want([...names.slice(0, 1), ...explorer.inSight, ...vocabulary, ...names]);
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
    if (waited > 300 || isIdle()) update();
    else timer = setTimeout(update, 300 - waited);
  }
  // All together

  function sayCount() {
    const { rows } = explorer.evaluation, chosen = explorer.frame.blocks, all = [...new Set(chosen.map(({ summary }) => summary.positions))].map(count).join(" or ");
    get("count").replaceChildren(make("b", { textContent: count(rows.length) }), ` of ${count(explorer.frame.rows)} neurons`);
    const order = explorer.state.sort.map(({ field, down: falling }) => `${fields.get(field).name}, ${falling ? "largest first" : "smallest first"}`);
    const parts = [];
    if (order.length) parts.push(`sorted by ${order.join(", then ")}`);
    if (all) parts.push(explorer.frame.several ? `over the positions routed to each, of ${all}` : `over n = ${all} positions each`);
    get("count").append(make("span", { className: "note", textContent: parts.length ? ` · ${parts.join(" · ")}` : "" }));
    get("clear").hidden = !explorer.state.where.length;
    const unlinked = chosen.some(({ layer, width }) => pagesOf(layer).reduce((sum, [first, end]) => sum + Math.min(end, width) - first, 0) < width);
    note.textContent = unlinked ? "Neurons without a link have no page here; gluscope serve renders any neuron on demand." : "";
  }
  function syncControls() {
    get("checkpoint").value = explorer.state.checkpoint;
    get("since").value = explorer.state.since;
    for (const option of get("since").options) option.disabled = option.value === explorer.state.checkpoint;
    if (document.activeElement !== get("layers")) get("layers").value = explorer.state.layers;
    const entry = entryOf(explorer.state.checkpoint), all = entry.layers.map(({ layer }) => layer);
    const { layers, wrong } = layersOf(entry, explorer.state.layers);
    const known = `it has ${all[0]} to ${all[all.length - 1]}, written as 0-3, 7`;
    get("layers-note").textContent = wrong.length ? `${nameAt(explorer.state.checkpoint)} has no layer ${wrong.join(", ")}; ${known}.` : "";
    get("layers").setAttribute("aria-invalid", String(wrong.length > 0));
    get("layers").title = `${layers.length} of ${all.length} layers`;
    for (const input of get("place").elements.view) input.checked = input.value === explorer.state.view;
    const search = explorer.state.where.find(({ kind }) => kind === "text");
    if (document.activeElement !== get("text")) get("text").value = search ? search.text : "";
    const numeric = statistics().map(([name, list]) => [name, list.filter((field) => !field.categories)]).filter(([, list]) => list.length);
    fillSelect(get("x"), numeric, explorer.state.x);
    fillSelect(get("y"), numeric, explorer.state.y);
    fillSelect(get("colour"), statistics(), explorer.state.colour, new Option("number of neurons", "none"));
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

  Object.assign(explorer, { update, request, arrived });
  explorer.state = stateFrom(location.hash);
  here.hidden = false;
  update();
})();
