/**
 * The explorer's scatter plot of any two statistics, coloured by a third; a rectangle drawn on it filters both.
 */
"use strict";
(() => {
  const { explorer, count } = window.gluscope;
  if (!explorer) return;
  const { get, MOST_WITH_EXAMPLES, make, fields, go, valuesOf, bitsOn, filterOn, rangeInputs, colourOf, fresh } = explorer;

  const plot = get("plot"), BORDER = { left: 46, right: 10, top: 10, bottom: 30 };
  /** Pixels of a square, and how many neurons have a mark each. */
  const CELL = 3, MOST_DOTS = 3000;
  /** @type {{x: [number, number], y: [number, number]}|null} the rectangle that is being drawn, in values */
  let brushing = null;
  let axes = null;
  function ticksOf(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) || 10);
    const out = [];
    for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + step * 1e-9; tick++) out.push(Number((tick * step).toPrecision(12)));
    return out;
  }
  function tickText(field, value) {
    const text = Math.abs(value) >= 1e5 ? value.toExponential(0).replace("e+", "e") : String(value);
    return (field.unit ? `${Number((100 * value).toPrecision(6))}%` : text).replace("-", "−");
  }
  /** The ends of an axis; where all values are equal, something around them. */
  function ends({ low, high }) {
    if (Number.isNaN(low)) return [0, 1];
    const margin = high > low ? (high - low) * 0.02 : Math.abs(low) / 2 || 1;
    return [low - margin, high + margin];
  }
  const mix = (one, other, part) => `rgb(${one.map((channel, place) => Math.round(channel + (other[place] - channel) * part)).join(" ")})`;
  function channelsOf(name) {
    const text = colourOf(name), hex = /^#(..)(..)(..)$/.exec(text);
    return hex ? hex.slice(1).map((pair) => parseInt(pair, 16)) : text.split(/[ ,]+/).map(Number);
  }
  /** Colours of the third statistic: by category, or from low to high, through grey at 0 where it has both signs. */
  function colouring(field) {
    if (!field) return null;
    if (field.categories) return { field, categories: field.categories.map((_, place) => colourOf(`--class-${place % 6}`)) };
    const { low, high } = valuesOf(field), [neutral, plus, minus] = ["--neutral", "--plus", "--minus"].map(channelsOf);
    const both = low < 0 && high > 0, most = Math.max(Math.abs(low), Math.abs(high)), none = colourOf("--mark-off");
    const depth = (value) => (both ? Math.sqrt(Math.min(Math.abs(value) / most, 1)) : high > low ? (value - low) / (high - low) : 0);
    const of = (value) => (Number.isNaN(value) ? none : mix(neutral, both && value < 0 ? minus : plus, depth(value)));
    return { field, both, low: both ? -most : low, high: both ? most : high, of };
  }

  function drawAxes(context, fieldX, fieldY) {
    const { x0, x1, y0, y1, w, h, toX, toY } = axes, soft = colourOf("--soft"), right = BORDER.left + w, bottom = BORDER.top + h;
    const line = (tick, ...ends) => {
      context.strokeStyle = colourOf(tick === 0 ? "--mark-off" : "--line");
      context.beginPath();
      context.moveTo(ends[0], ends[1]);
      context.lineTo(ends[2], ends[3]);
      context.stroke();
    };
    const write = (text, x, y, align, baseline) => {
      Object.assign(context, { fillStyle: soft, textAlign: align, textBaseline: baseline });
      context.fillText(text, x, y);
    };
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.lineWidth = 1;
    for (const tick of ticksOf(x0, x1, Math.max(2, w / 70))) {
      const at = Math.round(toX(tick)) + 0.5;
      line(tick, at, BORDER.top, at, bottom);
      write(tickText(fieldX, tick), at, bottom + 5, "center", "top");
    }
    for (const tick of ticksOf(y0, y1, Math.max(2, h / 45))) {
      const at = Math.round(toY(tick)) + 0.5;
      line(tick, BORDER.left, at, right, at);
      write(tickText(fieldY, tick), BORDER.left - 5, at, "right", "middle");
    }
  }
  /** A mark a neuron. */
  function drawDots(context, dots, xs, ys, paint, values) {
    const ink = colourOf("--ink"), many = dots.length > 600;
    context.globalAlpha = many ? 0.55 : 0.75;
    for (const i of dots) {
      context.fillStyle = !paint ? ink : paint.categories ? paint.categories[values[i]] : paint.of(values[i]);
      context.beginPath();
      context.arc(axes.toX(xs[i]), axes.toY(ys[i]), many ? 1.75 : 2.5, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
  }
  /** Squares in the colour of `colourAt`, stronger for more neurons. @param {Uint32Array} inside neurons of each square */
  function drawSquares(context, inside, across, paint, colourAt) {
    let most = 1;
    for (const value of inside) most = Math.max(most, value);
    const least = paint ? 0.35 : 0.14, scale = (paint ? 0.65 : 0.8) / Math.max(Math.log(most), 1e-9);
    for (let at = 0; at < inside.length; at++) {
      if (!inside[at]) continue;
      context.globalAlpha = most > 1 ? least + scale * Math.log(inside[at]) : 1;
      context.fillStyle = colourAt(at);
      square(context, at, across);
    }
    context.globalAlpha = 1;
    return most;
  }
  const square = (context, at, across) => context.fillRect(BORDER.left + (at % across) * CELL, BORDER.top + Math.floor(at / across) * CELL, CELL, CELL);
  function drawBrush(context) {
    const bounds = brushing || brushOf();
    if (!bounds) return;
    const clip = (value, low, high) => Math.max(low, Math.min(value, high));
    const [left, right] = bounds.x.map((value) => clip(axes.toX(value), BORDER.left, BORDER.left + axes.w));
    const [low, high] = bounds.y.map((value) => clip(axes.toY(value), BORDER.top, BORDER.top + axes.h));
    context.fillStyle = colourOf("--brush");
    context.fillRect(left, high, right - left, low - high);
    context.strokeStyle = colourOf("--ink");
    context.strokeRect(Math.round(left) + 0.5, Math.round(high) + 0.5, Math.round(right - left), Math.round(low - high));
  }

  function drawPlot() {
    if (!get("scatter").open || !plot.clientWidth) return;
    const fieldX = fields.get(explorer.state.x), fieldY = fields.get(explorer.state.y), entryX = valuesOf(fieldX), entryY = valuesOf(fieldY);
    const xs = entryX.values, ys = entryY.values, { failing } = explorer.evaluation;
    const [x0, x1] = ends(entryX), [y0, y1] = ends(entryY), { context, width, height } = fresh(plot);
    const w = width - BORDER.left - BORDER.right, h = height - BORDER.top - BORDER.bottom, scaleX = w / (x1 - x0), scaleY = h / (y1 - y0);
    axes = { x0, x1, y0, y1, w, h, toX: (value) => BORDER.left + (value - x0) * scaleX, toY: (value) => BORDER.top + h - (value - y0) * scaleY };
    drawAxes(context, fieldX, fieldY);

    // Neurons that only the rectangle leaves out stay visible, in grey.
    const others = ~bitsOn(explorer.state.x, explorer.state.y), paint = colouring(explorer.state.colour === "none" ? null : fields.get(explorer.state.colour));
    const values = paint ? valuesOf(paint.field).values : null, kinds = paint && paint.categories ? paint.categories.length : 0;
    const few = explorer.evaluation.rows.length <= MOST_DOTS && explorer.frame.rows <= MOST_WITH_EXAMPLES, dots = [];
    const across = Math.ceil(w / CELL) + 1, cells = across * (Math.ceil(h / CELL) + 1);
    const inside = new Uint32Array(cells), outside = new Uint32Array(cells), byKind = new Uint32Array(few ? 0 : cells * kinds);
    const sums = new Float64Array(few || kinds ? 0 : cells), valued = new Uint32Array(sums.length);
    let n = 0, sumX = 0, sumY = 0, sumXX = 0, sumYY = 0, sumXY = 0;
    for (let i = 0; i < xs.length; i++) {
      if (failing[i] & others) continue;
      const x = xs[i] - x0, y = ys[i] - y0;
      if (!(x - x === 0 && y - y === 0)) continue;
      const at = Math.floor((h - y * scaleY) / CELL) * across + Math.floor((x * scaleX) / CELL);
      if (failing[i]) {
        outside[at]++;
        continue;
      }
      inside[at]++;
      n++;
      sumX += x;
      sumY += y;
      sumXX += x * x;
      sumYY += y * y;
      sumXY += x * y;
      if (few) dots.push(i);
      else if (kinds) byKind[at * kinds + values[i]]++;
      else if (values && values[i] === values[i]) {
        sums[at] += values[i];
        valued[at]++;
      }
    }
    context.fillStyle = colourOf("--mark-off");
    for (let at = 0; at < cells; at++) if (outside[at] && !inside[at]) square(context, at, across);
    const ink = colourOf("--ink");
    function colourAt(at) {
      if (!paint) return ink;
      if (!kinds) return paint.of(valued[at] ? sums[at] / valued[at] : NaN);
      let best = 0;
      for (let kind = 1; kind < kinds; kind++) if (byKind[at * kinds + kind] > byKind[at * kinds + best]) best = kind;
      return paint.categories[best];
    }
    const most = few ? 1 : drawSquares(context, inside, across, paint, colourAt);
    if (few) drawDots(context, dots, xs, ys, paint, values);
    drawBrush(context);

    const spread = Math.sqrt((sumXX - (sumX * sumX) / n) * (sumYY - (sumY * sumY) / n)), r = (sumXY - (sumX * sumY) / n) / spread;
    const correlation = r.toFixed(2).replace(/^-(?=.*[1-9])/, "−").replace("-", "");
    const said = [`n = ${count(n)} neurons${n > 2 && spread > 0 ? `, Pearson's r = ${correlation}` : ""}.`];
    plot.setAttribute("aria-label", `${fieldX.name} across, ${fieldY.name} up: ${said[0]} The number inputs below select the same ranges as a rectangle.`);
    if (!few) said.push(`Stronger shades for more neurons, at most ${count(most)} in a square, on a logarithmic scale.`);
    if (!few && paint) said.push(kinds ? "A square has the colour of its most frequent class." : "A square has the colour of its mean.");
    get("plot-note").textContent = said.join(" ");
    drawKey(paint, values);
  }
  function drawKey(paint, values) {
    const key = get("key");
    if (!paint) { key.replaceChildren(); return; }
    if (paint.categories) {
      const counts = new Uint32Array(paint.categories.length);
      for (const row of explorer.evaluation.rows) counts[values[row]]++;
      key.replaceChildren(...paint.categories.flatMap((colour, kind) => {
        if (!counts[kind]) return [];
        const swatch = make("i");
        swatch.style.setProperty("background-color", colour);
        return [make("span", {}, swatch, paint.field.categories[kind], make("span", { className: "note", textContent: ` n = ${count(counts[kind])}` }))];
      }));
      return;
    }
    const scale = make("span", { className: "scale" });
    for (let step = 0; step <= 12; step++) {
      const cell = make("i"), part = step / 12, depth = Math.sign(part - 0.5) * (2 * part - 1) ** 2;
      const value = paint.both ? depth * paint.high : paint.low + part * (paint.high - paint.low);
      cell.style.setProperty("background-color", paint.of(value));
      cell.title = paint.field.text(value);
      scale.append(cell);
    }
    const end = (value) => make("span", { textContent: paint.field.text(value) });
    key.replaceChildren(make("span", { title: paint.field.name }, end(paint.low), scale, end(paint.high)));
  }

  /** The rectangle that the filters on both axes make. */
  function brushOf() {
    const [x, y] = [filterOn(explorer.state.x), filterOn(explorer.state.y)];
    const has = (filter) => filter && filter.kind === "range" && (filter.low !== null || filter.high !== null);
    if (!has(x) && !has(y)) return null;
    const pair = (filter) => (has(filter) ? [filter.low ?? -Infinity, filter.high ?? Infinity] : [-Infinity, Infinity]);
    return { x: pair(x), y: pair(y) };
  }
  const rounded = (value) => Number(value.toPrecision(4));
  function setBrush(bounds, replace = false) {
    const { x, y, where } = explorer.state, kept = where.filter((filter) => filter.kind !== "range" || ![x, y].includes(filter.field));
    const range = (field, [low, high]) => ({ kind: "range", field, low: rounded(low), high: rounded(high) });
    go({ where: bounds ? [...kept, range(x, bounds.x), ...(y === x ? [] : [range(y, bounds.y)])] : kept }, replace);
  }
  plot.addEventListener("pointerdown", (event) => {
    if (event.button || !axes) return;
    const box = plot.getBoundingClientRect(), start = [event.clientX - box.left, event.clientY - box.top];
    const within = (pixel, border, size) => Math.max(0, Math.min(pixel - border, size)) / size;
    const value = ([x, y]) => [
      axes.x0 + within(x, BORDER.left, axes.w) * (axes.x1 - axes.x0),
      axes.y1 - within(y, BORDER.top, axes.h) * (axes.y1 - axes.y0),
    ];
    const first = value(start);
    let asked = 0;
    plot.setPointerCapture(event.pointerId);
    const move = (next) => {
      const at = [next.clientX - box.left, next.clientY - box.top], last = value(at);
      if (Math.hypot(at[0] - start[0], at[1] - start[1]) < 4) { brushing = null; return; }
      brushing = { x: [Math.min(first[0], last[0]), Math.max(first[0], last[0])], y: [Math.min(first[1], last[1]), Math.max(first[1], last[1])] };
      if (!asked) asked = requestAnimationFrame(() => { asked = 0; if (brushing) drawPlot(); });
    };
    const end = (next) => {
      plot.removeEventListener("pointermove", move);
      plot.removeEventListener("pointerup", end);
      plot.removeEventListener("pointercancel", end);
      const bounds = brushing;
      brushing = null;
      if (next.type === "pointerup" && (bounds || brushOf())) setBrush(bounds);
      else drawPlot();
    };
    plot.addEventListener("pointermove", move);
    plot.addEventListener("pointerup", end);
    plot.addEventListener("pointercancel", end);
    event.preventDefault();
  });
  let ranges = { key: "", parts: [] };
  function drawRanges() {
    const key = `${explorer.state.x} ${explorer.state.y}`;
    if (ranges.key !== key) {
      const parts = [...new Set([explorer.state.x, explorer.state.y])].map((id) => {
        const field = fields.get(id), range = rangeInputs(field);
        return { sync: range.sync, node: make("div", { className: "row" }, make("span", { textContent: field.name }), range.node) };
      });
      const clear = make("button", { type: "button", id: "unbrush", textContent: "Clear selection" });
      clear.addEventListener("click", () => setBrush(null));
      get("ranges").replaceChildren(...parts.map((part) => part.node), clear);
      ranges = { key, parts };
    }
    for (const part of ranges.parts) part.sync();
    get("unbrush").hidden = !brushOf();
  }

  Object.assign(explorer, { plot, drawPlot, brushOf, setBrush, drawRanges });
})();
