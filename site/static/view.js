/**
 * The raw and the oriented view of a neuron's page: relabels what the page holds without its examples' data, and tells
 * `gluscope.view.turns` so that examples follow. A page whose neuron has s = +1 has one view.
 *
 * In the other view in+ and in− change places, and in, post, w_in and w_out their sign.
 */
"use strict";
window.gluscope.view = (() => {
  const { keep, kept, QUADRANTS, otherQuadrant } = window.gluscope;
  const VIEWS = ["oriented", "raw"];
  const view = document.getElementById("view");
  const own = view ? view.dataset.own : "";
  const state = {
    /** Whether the page shows the view that it was not rendered in. */
    turned: false,
    /** Called after each turn. @type {(() => void)[]} */
    turns: [],
    /** Show the other view, where there is one. */
    turn() {
      if (view) choose(VIEWS.find((name) => (name === own) === state.turned));
    },
  };

  /** A number as the page writes it, with the other sign; `plus` is what stands before a positive one. */
  const negated = (text, plus) => (text === "0" || text === "–" ? text : text.startsWith("−") ? plus + text.slice(1) : `−${text.replace("+", "")}`);

  /** Let two nodes take each other's place. */
  function exchange(one, other) {
    const place = document.createComment("");
    one.replaceWith(place);
    other.replaceWith(one);
    place.replaceWith(other);
  }

  /** Mirror the picture: in grows upwards in both views. */
  function turnPicture() {
    const picture = document.getElementById("picture");
    for (const box of picture.querySelectorAll(".cells, .in-bars")) {
      const rows = box.viewBox.baseVal.height;
      for (const path of box.querySelectorAll("path")) {
        const lines = [...path.getAttribute("d").matchAll(/M([\d.]+) ([\d.]+)h(\d+)/g)].map(([, x, y, length]) => [Number(x), rows - Number(y), length]);
        lines.sort((one, other) => one[1] - other[1] || one[0] - other[0]);
        path.setAttribute("d", lines.map(([x, y, length]) => `M${x} ${y}h${length}`).join(""));
      }
    }
    // The plot reaches from 64 to 352; a tick's text stands 4 below its place.
    const mirror = (element, name, sum) => element.setAttribute(name, (sum - Number(element.getAttribute(name))).toFixed(1));
    for (const line of picture.querySelectorAll(".in-zero")) for (const name of ["y1", "y2"]) mirror(line, name, 416);
    for (const ticks of picture.querySelectorAll(".in-ticks")) {
      for (const tick of ticks.children) {
        mirror(tick, "y", 424);
        tick.textContent = negated(tick.textContent, "");
      }
      ticks.replaceChildren(...[...ticks.children].reverse());
    }
  }

  function turnPage() {
    turnPicture();
    for (const quadrant of QUADRANTS.filter((name) => name.endsWith("+"))) {
      for (const [place, parts] of [
        [".corner", [".of"]],
        [".tile", ["strong", ".n", ".strongest", ".best"]],
        [".list", [".share", ".interval", ".n", ".body"]],
      ]) {
        const [plus, minus] = [quadrant, otherQuadrant(quadrant)].map((name) => document.querySelector(`${place}[data-quadrant="${name}"]`));
        for (const part of parts) exchange(plus.querySelector(part), minus.querySelector(part));
      }
    }
    // Text in SVG keeps its place.
    for (const share of document.querySelectorAll(".corner .of")) {
      const name = share.parentElement.querySelector(".name");
      share.setAttribute("x", name.getAttribute("x"));
      share.setAttribute("y", String(Number(name.getAttribute("y")) - 14));
    }
    for (const [one, other] of [["promoted", "suppressed"], ["in_positive", "in_negative"]]) {
      const lists = [one, other].map((name) => document.querySelector(`[data-tokens="${name}"] ul`));
      exchange(...lists);
      for (const chip of lists.flatMap((list) => [...list.querySelectorAll("[title]")])) chip.title = chip.title.replace(/\S+$/, (score) => negated(score, "+"));
    }
    for (const row of document.querySelectorAll(".statistics [data-odd]")) {
      const cells = [...row.querySelectorAll("td")], [mean, deviation, largest, ...quantiles] = cells.map((cell) => cell.textContent);
      const turned = [negated(mean, ""), deviation, ...[largest, ...quantiles.reverse()].map((text) => negated(text, ""))];
      cells.forEach((cell, i) => { cell.textContent = turned[i]; });
    }
    for (const row of document.querySelectorAll(".cosines [data-odd]")) {
      const cell = row.lastElementChild, bar = row.querySelector("rect"), plus = bar.classList.contains("plus");
      cell.textContent = negated(cell.textContent, "+");
      bar.setAttribute("class", plus ? "minus" : "plus");
      bar.setAttribute("x", plus ? `-${bar.getAttribute("width")}` : "0");
    }
    for (const post of document.querySelectorAll(".tile .strongest")) post.textContent = post.textContent.replace(/\S+$/, (value) => negated(value, "+"));
    // The three examples that need no script; those that a script builds it builds again.
    for (const value of document.querySelectorAll(".example .value")) value.textContent = negated(value.textContent, "+");
    for (const sentence of view.querySelectorAll("[data-view]")) sentence.hidden = !sentence.hidden;
  }

  /** @param {string} chosen one of `VIEWS` */
  function set(chosen) {
    if (state.turned !== (chosen !== own)) {
      state.turned = !state.turned;
      turnPage();
      for (const follow of state.turns) follow();
    }
    for (const input of view.querySelectorAll("input")) input.checked = input.value === chosen;
    const address = new URL(location.href);
    if (state.turned) address.searchParams.set("view", chosen);
    else address.searchParams.delete("view");
    // So that the address leads to what is shown; a browser may refuse this for pages from disk.
    try { history.replaceState(history.state, "", address); } catch { /* the address stays */ }
  }
  function choose(chosen) {
    keep({ view: chosen });
    set(chosen);
  }

  const asked = new URLSearchParams(location.search).get("view");
  if (VIEWS.includes(asked)) keep({ view: asked });
  if (view) {
    view.querySelector(".switch").hidden = false;
    view.addEventListener("change", (event) => choose(event.target.value));
    set(VIEWS.includes(kept.view) ? kept.view : own);
  }
  return state;
})();
