/**
 * What every page does with the manifest, neurons.js: links that lead beyond this page's own layer, the pickers of the
 * index, and the keys. The examples of a neuron belong to neuron.js.
 *
 * @typedef {{key: string, name: string, layers: {layer: number, neurons: number}[]}} CheckpointPages
 *   A layer has pages for its first so many neurons.
 */
"use strict";
(() => {
  const here = document.body.dataset;
  const root = here.root || "";
  /** @type {CheckpointPages[]} */
  const checkpoints = (window.gluscopeNeurons || { checkpoints: [] }).checkpoints;
  const current = checkpoints.find((entry) => entry.key === here.key);
  document.documentElement.classList.add("js");

  /** @param {string} key @param {number} layer @param {number|string} neuron */
  const pageOf = (key, layer, neuron) => `${root}${key}/${String(layer).padStart(2, "0")}/${neuron}.html`;
  /** @param {CheckpointPages} entry @param {number} layer */
  const neuronsOf = (entry, layer) => (entry.layers.find((pages) => pages.layer === layer) || { neurons: 0 }).neurons;

  /** Another page of this page's checkpoint, or any of the last one. */
  function randomPage() {
    const entry = current || checkpoints[checkpoints.length - 1];
    const pages = entry.layers.reduce((sum, { neurons }) => sum + neurons, 0);
    let chosen = Math.floor(Math.random() * pages);
    const at = (place) => {
      let rest = place;
      const { layer } = entry.layers.find(({ neurons }) => rest < neurons || ((rest -= neurons), false));
      return { layer, neuron: rest };
    };
    if (at(chosen).layer === Number(here.layer) && at(chosen).neuron === Number(here.neuron)) chosen = (chosen + 1) % pages;
    return pageOf(entry.key, at(chosen).layer, at(chosen).neuron);
  }

  /** Give a link that the page left without a target its page and its label. */
  function connect(id, layer, neuron) {
    const link = document.getElementById(id);
    if (!link || link.hasAttribute("href")) return;
    link.href = pageOf(here.key, layer, neuron);
    link.querySelector("span").textContent = `layer ${layer}, ${neuron}`;
    link.hidden = false;
  }

  const random = document.getElementById("random");
  if (random && checkpoints.length) {
    random.href = randomPage();
    random.hidden = false;
    random.addEventListener("click", () => { random.href = randomPage(); });
  }

  if (current && here.neuron !== undefined) {
    const layer = Number(here.layer), neuron = Number(here.neuron);
    const place = current.layers.findIndex((pages) => pages.layer === layer);
    if (place > 0) connect("previous", current.layers[place - 1].layer, current.layers[place - 1].neurons - 1);
    if (place >= 0 && place + 1 < current.layers.length) connect("next", current.layers[place + 1].layer, 0);
    const others = checkpoints.filter((entry) => neuron < neuronsOf(entry, layer));
    const elsewhere = document.getElementById("checkpoints");
    if (elsewhere && others.length > 1) {
      elsewhere.append("The same neuron at ");
      for (const entry of others) {
        const mark = document.createElement(entry === current ? "b" : "a");
        mark.textContent = entry.name;
        if (entry !== current) mark.href = pageOf(entry.key, layer, neuron);
        elsewhere.append(mark);
      }
      elsewhere.hidden = false;
    }
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
    const checkpoint = document.getElementById("pick-checkpoint"), layer = document.getElementById("pick-layer");
    const neuron = document.getElementById("pick-neuron"), note = document.getElementById("pick-note");
    for (const entry of [...checkpoints].reverse()) checkpoint.add(new Option(entry.name, entry.key));
    const chosen = () => checkpoints.find((entry) => entry.key === checkpoint.value);
    const fill = () => {
      const before = layer.value;
      layer.replaceChildren(...chosen().layers.map((pages) => new Option(String(pages.layer), String(pages.layer))));
      if ([...layer.options].some((option) => option.value === before)) layer.value = before;
      say();
    };
    const say = () => {
      const count = neuronsOf(chosen(), Number(layer.value));
      note.textContent = `${chosen().name} has pages for the neurons 0 to ${count - 1} of layer ${layer.value}.`;
    };
    checkpoint.addEventListener("change", fill);
    layer.addEventListener("change", say);
    picker.addEventListener("submit", (event) => {
      event.preventDefault();
      if (Number(neuron.value) < neuronsOf(chosen(), Number(layer.value))) location.href = pageOf(checkpoint.value, Number(layer.value), Number(neuron.value));
      else note.textContent = `Neuron ${neuron.value} has no page at ${chosen().name}.`;
    });
    fill();
    picker.hidden = false;
  }
})();
