/**
 * What every page does with the manifest, neurons.js: links that lead beyond this page's own layer, the picker of the
 * index, and the keys. The examples of a neuron belong to neuron.js.
 *
 * @typedef {{mlp: string, experts: number|null, first: number, neurons: number}} Part
 *   One gated MLP of a layer that has several, or all experts of one: its neurons lie one after the other from `first` on,
 *   and as many of them belong to each expert.
 * @typedef {{layer: number, width: number, pages: [number, number][], parts?: Part[]}} LayerPages
 *   `pages` are half-open ranges of the neurons that have pages, ascending.
 * @typedef {{key: string, name: string, layers: LayerPages[]}} CheckpointPages
 */
"use strict";
(() => {
  const here = document.body.dataset;
  const root = here.root || "";
  /** @type {CheckpointPages[]} */
  const checkpoints = (window.gluscopeNeurons || { checkpoints: [] }).checkpoints;
  const current = checkpoints.find((entry) => entry.key === here.key);
  /** Ranges of neurons that the picker names. */
  const MOST_RANGES = 8;
  document.documentElement.classList.add("js");

  /** @param {string} key @param {number} layer @param {number|string} neuron */
  const pageOf = (key, layer, neuron) => `${root}${key}/${String(layer).padStart(2, "0")}/${neuron}.html`;
  /** @param {CheckpointPages|undefined} entry @param {number} layer @returns {LayerPages|undefined} */
  const layerOf = (entry, layer) => entry && entry.layers.find((pages) => pages.layer === layer);
  /** Whether a neuron of a layer of a checkpoint has a page. */
  const hasPage = (entry, layer, neuron) => ((layerOf(entry, layer) || { pages: [] }).pages.some(([first, end]) => neuron >= first && neuron < end));
  Object.assign(window.gluscope, { pages: checkpoints, pageOf, hasPage });

  /** @param {LayerPages} layer */
  const countOf = ({ pages }) => pages.reduce((sum, [first, end]) => sum + end - first, 0);
  /** A page of a checkpoint by its place among all of them. @param {CheckpointPages} entry @param {number} place */
  function pageAt(entry, place) {
    for (const { layer, pages } of entry.layers) {
      for (const [first, end] of pages) {
        if (place < end - first) return { layer, neuron: first + place };
        place -= end - first;
      }
    }
    return undefined;
  }
  const pagesIn = (entry) => entry.layers.reduce((sum, layer) => sum + countOf(layer), 0);

  /** Another page of this page's checkpoint, or any of the last one that has pages. */
  function randomPage() {
    const entry = current && pagesIn(current) ? current : [...checkpoints].reverse().find(pagesIn);
    if (!entry) return "";
    const count = pagesIn(entry), chosen = Math.floor(Math.random() * count);
    const isHere = ({ layer, neuron }) => entry === current && layer === Number(here.layer) && neuron === Number(here.neuron);
    const found = pageAt(entry, chosen), { layer, neuron } = isHere(found) ? pageAt(entry, (chosen + 1) % count) : found;
    return pageOf(entry.key, layer, neuron);
  }

  /** Give a link that the page left without a target its page and its label. */
  function connect(id, layer, neuron) {
    const link = document.getElementById(id);
    if (!link || link.hasAttribute("href")) return;
    link.href = pageOf(here.key, layer, neuron);
    link.querySelector("span").textContent = `layer ${layer}, ${neuron}`;
    link.hidden = false;
  }

  const random = document.getElementById("random"), any = randomPage();
  if (random && any) {
    random.href = any;
    random.hidden = false;
    random.addEventListener("click", () => { random.href = randomPage(); });
  }

  if (current && here.neuron !== undefined) {
    const layers = current.layers.filter(countOf);
    const before = layers.filter(({ layer }) => layer < Number(here.layer)).pop(), after = layers.find(({ layer }) => layer > Number(here.layer));
    if (before) connect("previous", before.layer, before.pages[before.pages.length - 1][1] - 1);
    if (after) connect("next", after.layer, after.pages[0][0]);
  }

  const keys = { ArrowLeft: "previous", k: "previous", ArrowRight: "next", j: "next", r: "random" };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const focus = /** @type {HTMLElement} */ (event.target);
    const typing = focus.closest("input, select, textarea");
    if (typing && (event.key.startsWith("Arrow") || typing.type !== "radio")) return;
    const link = document.getElementById(keys[event.key] || "");
    if (link && link.href && !link.hidden) {
      event.preventDefault();
      link.click();
    }
  });

  const picker = document.getElementById("picker");
  if (picker && checkpoints.length) {
    const get = (name) => /** @type {any} */ (document.getElementById(`pick-${name}`));
    const checkpoint = get("checkpoint"), layer = get("layer"), mlp = get("mlp"), expert = get("expert"), neuron = get("neuron"), note = get("note");
    for (const entry of [...checkpoints].reverse()) checkpoint.add(new Option(entry.name, entry.key));
    const entryOf = () => checkpoints.find((entry) => entry.key === checkpoint.value);
    const chosen = () => layerOf(entryOf(), Number(layer.value));

    /** The neurons that the chosen layer, MLP and expert have: the first one's number in the layer, how many, and their name. */
    function place() {
      const { width, parts = [] } = chosen(), part = parts[Number(mlp.value)];
      if (!part) return { first: 0, size: width, of: "" };
      if (part.experts === null) return { first: part.first, size: part.neurons, of: ` of ${part.mlp}` };
      const size = part.neurons / part.experts, number = Math.min(Number(expert.value), part.experts - 1);
      return { first: part.first + number * size, size, of: ` of expert ${number}${parts.length > 1 ? ` of ${part.mlp}` : ""}` };
    }
    /** Keep what was chosen before if it is still there. */
    function offer(select, options) {
      const before = select.value;
      select.replaceChildren(...options);
      if (options.some(({ value }) => value === before)) select.value = before;
    }
    function fillLayers() {
      offer(layer, entryOf().layers.map((pages) => new Option(String(pages.layer), String(pages.layer))));
      fillParts();
    }
    function fillParts() {
      const { parts = [] } = chosen();
      offer(mlp, parts.map((part, at) => new Option(part.mlp, String(at))));
      get("mlp-label").hidden = parts.length < 2;
      fillExpert();
    }
    function fillExpert() {
      const part = (chosen().parts || [])[Number(mlp.value)], experts = (part && part.experts) || 0;
      get("expert-label").hidden = !experts;
      expert.disabled = !experts;
      expert.max = String(Math.max(experts - 1, 0));
      say();
    }
    function say() {
      const { first, size, of } = place();
      const held = chosen().pages.map(([low, end]) => [Math.max(low - first, 0), Math.min(end - first, size)]).filter(([low, end]) => low < end);
      const named = held.slice(0, MOST_RANGES).map(([low, end]) => (end - low > 1 ? `${low} to ${end - 1}` : String(low)));
      const which = held.length > MOST_RANGES ? `${named.join(", ")} and others` : named.join(", ");
      const many = held.length > 1 || held.some(([low, end]) => end - low > 1);
      note.textContent = `${entryOf().name} has pages for ${held.length ? `${many ? "the neurons" : "neuron"} ${which}` : "no neuron"}${of} of layer ${layer.value}.`;
    }
    checkpoint.addEventListener("change", fillLayers);
    layer.addEventListener("change", fillParts);
    mlp.addEventListener("change", fillExpert);
    expert.addEventListener("input", say);
    picker.addEventListener("submit", (event) => {
      event.preventDefault();
      const { first, size, of } = place(), index = Number(neuron.value);
      if (index < size && hasPage(entryOf(), Number(layer.value), first + index)) location.href = pageOf(checkpoint.value, Number(layer.value), first + index);
      else note.textContent = `Neuron ${neuron.value}${of} has no page at ${entryOf().name}.`;
    });
    fillLayers();
    picker.hidden = false;
  }
})();
