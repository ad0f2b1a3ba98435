/**
 * What a neuron's page offers besides its examples: its citation, its data as JSON, and the same neuron along training.
 */
"use strict";
(() => {
  const { QUADRANTS, examples, view, otherQuadrant, label, share, signed, load, pages, pageOf, hasPage } = window.gluscope;
  const here = document.body.dataset, address = location.href.replace(/[?#].*$/, "");

  /** The same neuron at each checkpoint: quadrant shares and the strongest example of each, in the view of this page. */
  function showTraining({ first, checkpoints }) {
    const at = Number(here.neuron) - first, section = document.getElementById("training");
    const known = checkpoints.filter((stage) => at < stage.shares.length);
    if (known.length < 2) return;
    const raw = shownView() === "raw", made = (tag, className, content = "") => Object.assign(document.createElement(tag), { className, textContent: content });
    const list = made("ol", "");
    for (const stage of known) {
      const flipped = !raw && stage.orientation[at] < 0, entry = pages.find((one) => one.key === stage.key);
      const of = (values, place) => values[QUADRANTS.indexOf(flipped ? otherQuadrant(QUADRANTS[place]) : QUADRANTS[place])];
      const item = made("li", "stage"), name = entry ? entry.name : stage.key, current = stage.key === here.key;
      const title = made(current || !hasPage(entry, Number(here.layer), Number(here.neuron)) ? "b" : "a", "", name);
      if (title.tagName === "A") title.href = pageOf(stage.key, Number(here.layer), here.neuron);
      if (current) title.setAttribute("aria-current", "page");
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      bar.setAttribute("class", "shares");
      bar.setAttribute("viewBox", "0 0 1 1");
      bar.setAttribute("preserveAspectRatio", "none");
      bar.setAttribute("aria-hidden", "true");
      const rows = made("dl", "");
      let left = 0;
      QUADRANTS.forEach((quadrant, place) => {
        const size = of(stage.shares[at], place), best = of(stage.strongest[at], place);
        const part = document.createElementNS(bar.namespaceURI, "rect");
        for (const [attribute, value] of Object.entries({ class: `s${place}`, x: left, width: size, height: 1 })) part.setAttribute(attribute, String(value));
        bar.append(part);
        left += size;
        const row = made("div", ""), term = made("dt", ""), text = made("dd", ""), snippet = made("span", "snippet");
        term.append(document.querySelector(`.tile[data-quadrant="${quadrant}"] .mark`).cloneNode(true), made("span", "unseen", label(quadrant)));
        if (best) {
          const [post, before, peak, after] = best, sides = [made("span", "left"), made("span", "right")];
          sides[0].append(made("bdi", "", before));
          sides[1].append(made("bdi", "", after));
          snippet.append(sides[0], made("mark", "", peak), sides[1]);
          snippet.title = `post ${signed(flipped ? -post : post)}`;
        } else snippet.append("–");
        text.append(snippet);
        row.append(term, made("dd", "share", share(size)), text);
        rows.append(row);
      });
      item.append(title, bar, rows);
      list.append(item);
    }
    section.replaceChildren(made("h2", "", "The same neuron along training"), made("p", "note", `How often each quadrant occurs at ${known.length} checkpoints, and its strongest example there, ${raw ? "as the models compute them" : "each oriented by its own s"}.`), list);
    section.hidden = false;
  }
  const { together = 1, layers = {} } = (window.gluscopeNeurons || {}).training || {};
  if ((layers[Number(here.layer)] || []).some(([low, high]) => Number(here.neuron) >= low && Number(here.neuron) < high)) {
    const layer = String(here.layer).padStart(2, "0"), first = Math.floor(Number(here.neuron) / together) * together;
    const name = `training/${layer}/${first}`;
    const strip = () => load(name, `${here.root}${name}.js`).then(showTraining, () => {});
    strip();
    view.turns.push(strip);
  }

  const place = document.getElementById("address");
  if (place && location.protocol.startsWith("http")) place.textContent = `,\n  url = {${address}}`;
  if (!examples) return;
  document.querySelector(".cite .actions").hidden = false;
  document.getElementById("copy-citation").addEventListener("click", (event) => examples.copy(document.getElementById("bibtex").textContent, event.target));

  /** "oriented" or "raw"; of a neuron with s = +1, whose views are one, the study's. */
  function shownView() {
    const chosen = document.querySelector("#view input:checked");
    return chosen ? chosen.value : here.view;
  }
  /** The neuron's statistics in the view that the page shows. */
  function statistics() {
    const out = {}, names = ["mean", "std", "largest", "quantile_0.05", "quantile_0.25", "quantile_0.5", "quantile_0.75", "quantile_0.95"];
    for (const quadrant of QUADRANTS) {
      const held = examples.data.quadrants[QUADRANTS.indexOf(view.turned ? otherQuadrant(quadrant) : quadrant)];
      out[quadrant] = { count: held.count, sampled: held.sampled };
      for (const activation of ["gate", "in", "act", "post"]) {
        let values = held[activation];
        if (view.turned && (activation === "in" || activation === "post")) {
          const [mean, deviation, largest, ...quantiles] = values, negative = (value) => (value === null ? null : -value);
          values = [negative(mean), deviation, negative(largest), ...quantiles.reverse().map(negative)];
        }
        out[quadrant][activation] = Object.fromEntries(names.map((name, i) => [name, values[i]]));
      }
    }
    return out;
  }
  document.getElementById("download").addEventListener("click", async () => {
    const { data } = examples, said = document.getElementById("done");
    try {
      const content = {
        study: here.study, checkpoint: here.key, layer: Number(here.layer), neuron: Number(here.neuron), address,
        view: shownView(), orientation: data.orientation, activation: data.activation,
        positions: data.positions, routed: data.routed, zero: data.zero,
        statistics: statistics(), weights: weights(), examples: await examples.allLists(),
      };
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
      link.download = `${here.study}-${here.key}-layer-${here.layer}-neuron-${here.neuron}.json`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      said.textContent = `${link.download} holds the ${content.view} view.`;
    } catch (error) {
      said.textContent = error.message;
    }
  });
  /** The weights' view as the page shows it. */
  function weights() {
    const number = (text) => Number(text.replace("−", "-"));
    const cosines = Object.fromEntries([...document.querySelectorAll(".cosines tr")].map((row) => [row.querySelector("th").textContent, number(row.lastElementChild.textContent)]));
    const tokens = Object.fromEntries([...document.querySelectorAll("[data-tokens]")].map((list) => [list.dataset.tokens, [...list.querySelectorAll("li[title]")].map((chip) => {
      const [, id, score] = /^token (\d+), (\S+)$/.exec(chip.title);
      return { token: chip.textContent, id: Number(id), score: number(score) };
    })]));
    return { class: document.querySelector(".weights .class").firstChild.textContent.trim(), cosines, tokens };
  }
})();
