/**
 * The explorer's table: only the rows in sight are elements.
 */
"use strict";
(() => {
  const { explorer, QUADRANTS } = window.gluscope;
  if (!explorer) return;
  const {
    root, get, ATYPICAL, MOST_WITH_EXAMPLES, entryOf, folderOf, make, read, nameOf, isLacking, placeOf, fields, PLACE,
    go, layersOf, blockOf, flips, measured,
  } = explorer;

  const ROW = 32;
  /** Browsers cannot lay out elements much higher than this; rows of a longer table share its pixels. */
  const MOST_PIXELS = 8_000_000;

  const table = get("table"), space = get("space"), rowsNode = get("rows");
  const head = make("div", { className: "head", role: "row", "aria-rowindex": "1" });
  table.prepend(head);
  /** @returns {Field[]} */
  function columnsNow() {
    const { several, blocks, rows } = explorer.frame, layers = layersOf(entryOf(explorer.state.checkpoint), explorer.state.layers).layers.length;
    // Layers that have not arrived yet are as wide as the others.
    const small = rows * layers <= MOST_WITH_EXAMPLES * blocks.length || explorer.state.where.some(({ kind }) => kind === "text");
    const few = ["quadrants", ...QUADRANTS.map((quadrant) => `${quadrant}_routed_frequency`), ...(several ? ["routed"] : [])];
    const ids = explorer.state.columns || [...few, ...(small ? ["example"] : []), "cos_in_out", "class"];
    const extra = explorer.state.sort.map(({ field }) => field).filter((id) => !ids.includes(id) && id !== "layer" && id !== "neuron");
    const at = ids.indexOf("quadrants") + 1;
    return [...ids.slice(0, at), ...extra, ...ids.slice(at)].map((id) => fields.get(id));
  }
  /** Half-open ranges of the neurons of a layer that have pages. */
  const pagesOf = (layer) => entryOf(explorer.state.checkpoint).layers.find((pages) => pages.layer === layer)?.pages || [];
  const hasPage = (layer, neuron) => pagesOf(layer).some(([first, end]) => neuron >= first && neuron < end);
  function pageOf(layer, neuron) {
    const { checkpoint, view } = explorer.state;
    return `${root}${checkpoint}/${folderOf(layer)}/${neuron}.html${view === PLACE.view ? "" : `?view=${view}`}`;
  }

  function drawHead(columns) {
    const cell = (id, lines, title, sortable) => {
      const { sort } = explorer.state, place = sort.findIndex(({ field }) => field === id);
      const order = sort.length || id !== "neuron" ? sort[place] : { down: false };
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
    const name = explorer.frame.several ? 14 : 8, widths = columns.map(({ id, width }) => (id === "example" ? `minmax(${width}rem, 1fr)` : `${width}rem`));
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
    const row = explorer.evaluation.rows[place], block = blockOf(row), i = row - block.first, flip = flips(block, i);
    const text = `${block.layer} · ${i}`, linked = hasPage(block.layer, i);
    const name = linked
      ? make("a", { href: pageOf(block.layer, i), tabIndex: -1, textContent: text })
      : make("span", { textContent: text, title: "no page here" });
    const first = make("div", { className: "cell of-place", role: "rowheader" }, name);
    if (explorer.frame.several) {
      const { mlp, expert, index } = placeOf(block.summary, i);
      first.append(make("span", { className: "note", textContent: ` ${expert === null ? mlp : `expert ${expert}`}, ${index}` }));
    }
    const node = make("div", { className: "line-row", role: "row", id: `row-${place}`, "aria-rowindex": String(place + 2) }, first);
    for (const field of columns) {
      const cell = make("div", { className: `cell ${kindOf(field.id)}`, role: "gridcell" });
      if (field.draw) field.draw(cell, block, i, flip);
      else {
        const data = read.get(nameOf(explorer.frame.key, block.layer, field.group)), value = data ? field.at(data, i, flip, block) : NaN;
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
  const fullHeight = () => explorer.evaluation.rows.length * ROW;
  const barHeight = () => Math.min(fullHeight(), MOST_PIXELS);
  const bodyHeight = () => Math.max(table.clientHeight - head.offsetHeight, ROW);
  /** How many pixels of the table one of the scrollbar stands for. */
  const ratio = () => Math.max(1, (fullHeight() - bodyHeight()) / Math.max(barHeight() - bodyHeight(), 1));

  function drawRows() {
    const columns = columnsNow(), height = bodyHeight(), last = explorer.evaluation.rows.length;
    const from = Math.max(0, Math.floor(top / ROW) - 4), until = Math.min(last, Math.ceil((top + height) / ROW) + 4);
    for (const [place, node] of drawn) {
      if (place >= from && place < until) continue;
      node.remove();
      drawn.delete(place);
    }
    const layers = new Set();
    for (let place = from; place < until; place++) {
      layers.add(blockOf(explorer.evaluation.rows[place]).layer);
      if (drawn.has(place)) continue;
      const node = drawRow(place, columns);
      drawn.set(place, node);
      const after = drawn.get(place + 1);
      rowsNode.insertBefore(node, after || null);
    }
    rowsNode.style.setProperty("transform", `translateY(${from * ROW - top + bar}px)`);
    const lazy = columns.filter(({ draw, group }) => draw && group !== "summary").map(({ group }) => group);
    explorer.inSight = [...layers].flatMap((layer) => [...new Set(lazy)].map((group) => nameOf(explorer.state.checkpoint, layer, group)));
    return explorer.inSight.some(isLacking);
  }
  /** Of the next table, show its first rows. */
  function goToTop() {
    top = active = 0;
  }
  function drawTable() {
    for (const node of drawn.values()) node.remove();
    drawn.clear();
    drawHead(columnsNow());
    table.setAttribute("aria-rowcount", String(explorer.evaluation.rows.length + 1));
    space.style.setProperty("height", `${barHeight()}px`);
    active = Math.max(0, Math.min(active, explorer.evaluation.rows.length - 1));
    place(top);
    if (explorer.evaluation.rows.length) table.setAttribute("aria-activedescendant", `row-${active}`);
    else table.removeAttribute("aria-activedescendant");
  }

  let frameAsked = 0, settling = 0;
  /** Once the reader stops: what the rows in sight lack, and the scrollbar where it belongs. */
  function settle() {
    if (drawRows()) explorer.request();
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
    if (drawRows()) explorer.request();
  }
  function activate(chosen) {
    if (!explorer.evaluation.rows.length) return;
    active = Math.max(0, Math.min(chosen, explorer.evaluation.rows.length - 1));
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
    const page = Math.max(1, Math.floor(bodyHeight() / ROW) - 1), end = explorer.evaluation.rows.length - 1;
    const steps = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: end };
    const to = steps[event.key];
    if (to !== undefined) activate(to);
    else if (event.key === "Enter" && explorer.evaluation.rows.length) {
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
    const before = explorer.state.sort.find((order) => order.field === id), falls = !fields.get(id).categories && id !== "neuron";
    const order = { field: id, down: before ? !before.down : falls };
    if (event.shiftKey) go({ sort: [...explorer.state.sort.filter(({ field }) => field !== id), order] });
    // Layer and neuron together are the table's own order.
    else if (id === "neuron") go({ sort: explorer.state.sort.length ? [] : [{ field: "layer", down: true }, { field: "neuron", down: true }] });
    else go({ sort: [order] });
  });
  const note = get("table-note");
  function sayNoPage() {
    const row = explorer.evaluation.rows[active], block = blockOf(row);
    note.textContent = `Neuron ${row - block.first} of layer ${block.layer} has no page here; gluscope serve renders it on demand.`;
  }
  new ResizeObserver(() => { if (explorer.evaluation.rows.length) drawRows(); }).observe(table);

  Object.assign(explorer, { note, columnsNow, pagesOf, drawTable, goToTop });
})();
