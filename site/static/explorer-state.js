/**
 * The explorer's state, which the address's fragment holds whole; every control changes the state, and the page follows from it.
 *
 * @typedef {{kind: "range", field: string, low: number|null, high: number|null} | {kind: "in", field: string, names: string[]}
 *   | {kind: "token", role: string, text: string} | {kind: "text", text: string}} Filter
 * @typedef {{field: string, down: boolean}} Order
 */
"use strict";
(() => {
  const { explorer } = window.gluscope;
  if (!explorer) return;
  const { manifest, checkpoints, entryOf, fields, ROLES } = explorer;

  const PLACE = { checkpoint: checkpoints[checkpoints.length - 1].key, layers: "", view: manifest.view || "oriented" };
  const SCATTER = { x: "cos_in_out", y: "gate+_routed_frequency", colour: "class" };
  /**
   * @type {{checkpoint: string, layers: string, view: string, since: string, columns: string[]|null, sort: Order[],
   *   where: Filter[], x: string, y: string, colour: string}}
   */
  explorer.state = null;
  function sinceOf(checkpoint) {
    const others = checkpoints.filter((entry) => entry.key !== checkpoint);
    return others.length ? (checkpoint === checkpoints[0].key ? others[others.length - 1] : others[0]).key : "";
  }

  const hasValues = (id) => fields.has(id) && !!fields.get(id).at;
  function isWhole(filter, place, all) {
    if (filter.kind === "token") return ROLES[filter.role] && filter.text;
    if (filter.kind === "text") return filter.text && all.findIndex(({ kind }) => kind === "text") === place;
    return hasValues(filter.field);
  }
  /** A whole state from parts that may be unknown to this study. */
  function normal(parts) {
    const checkpoint = entryOf(parts.checkpoint) ? parts.checkpoint : PLACE.checkpoint;
    const numeric = (id) => hasValues(id) && !fields.get(id).categories;
    return {
      checkpoint,
      layers: parts.layers || "",
      view: ["oriented", "raw"].includes(parts.view) ? parts.view : PLACE.view,
      since: entryOf(parts.since) && parts.since !== checkpoint ? parts.since : sinceOf(checkpoint),
      columns: parts.columns ? parts.columns.filter((id) => fields.has(id)) : null,
      sort: (parts.sort || []).filter(({ field }) => hasValues(field)).slice(0, 4),
      // A bit for each.
      where: (parts.where || []).filter(isWhole).slice(0, 30),
      x: numeric(parts.x) ? parts.x : SCATTER.x,
      y: numeric(parts.y) ? parts.y : SCATTER.y,
      colour: parts.colour === "none" || hasValues(parts.colour) ? parts.colour : SCATTER.colour,
    };
  }

  /** Signs that fragments may hold as they are stay readable. */
  const encode = (text) => encodeURIComponent(text.replace(/[\ud800-\udfff]/gu, "\ufffd")).replace(/%(2B|3A|2C|2F|7C|3D)/g, (code) => decodeURIComponent(code));
  function filterText(filter) {
    if (filter.kind === "range") return `${filter.field}:${filter.low ?? ""}..${filter.high ?? ""}`;
    if (filter.kind === "in") return `${filter.field}:${filter.names.join("|")}`;
    return filter.kind === "token" ? `token:${filter.role}:${filter.text}` : `text:${filter.text}`;
  }
  /** @returns {Filter} */
  function filterFrom(text) {
    const colon = text.indexOf(":"), head = text.slice(0, colon), rest = text.slice(colon + 1), field = fields.get(head);
    if (head === "text") return { kind: "text", text: rest };
    if (head === "token") return { kind: "token", role: rest.slice(0, rest.indexOf(":")), text: rest.slice(rest.indexOf(":") + 1) };
    if (field && field.categories) return { kind: "in", field: head, names: rest.split("|").filter((name) => field.categories.includes(name)) };
    const [low, high] = rest.split("..").map((bound) => (bound.trim() === "" || !Number.isFinite(Number(bound)) ? null : Number(bound)));
    return { kind: "range", field: head, low: low ?? null, high: high ?? null };
  }
  function addressText(whole) {
    const parts = [], add = (name, value) => parts.push(`${name}=${encode(value)}`);
    if (whole.checkpoint !== PLACE.checkpoint) add("checkpoint", whole.checkpoint);
    if (whole.layers) add("layers", whole.layers);
    if (whole.view !== PLACE.view) add("view", whole.view);
    if (whole.since !== sinceOf(whole.checkpoint)) add("since", whole.since);
    if (whole.sort.length) add("sort", whole.sort.map(({ field, down }) => (down ? "-" : "") + field).join(","));
    for (const filter of whole.where) add("where", filterText(filter));
    if (whole.columns) add("columns", whole.columns.join(","));
    for (const name of ["x", "y", "colour"]) if (whole[name] !== SCATTER[name]) add(name, whole[name]);
    return parts.join("&");
  }
  function stateFrom(text) {
    const parts = { where: [] };
    for (const part of text.replace(/^#/, "").split("&").filter(Boolean)) {
      const equals = part.indexOf("="), name = part.slice(0, equals);
      let value = part.slice(equals + 1);
      try { value = decodeURIComponent(value); } catch { /* as it is */ }
      if (name === "where") parts.where.push(filterFrom(value));
      else if (name === "columns") parts.columns = value.split(",");
      else if (name === "sort") parts.sort = value.split(",").map((id) => ({ field: id.replace(/^-/, ""), down: id.startsWith("-") }));
      else parts[name] = value;
    }
    return normal(parts);
  }
  /** Change the state. Steps of one gesture, such as letters of a search, replace their address. */
  function go(change, replace = false) {
    const before = addressText(explorer.state);
    explorer.state = normal({ ...explorer.state, ...change });
    const text = addressText(explorer.state), address = `${location.pathname}${location.search}${text ? `#${text}` : ""}`;
    if (text !== before) {
      // A browser may refuse this for pages from disk.
      try { history[replace ? "replaceState" : "pushState"](null, "", address); } catch { location.hash = text; }
    }
    if ("sort" in change || "where" in change) explorer.goToTop();
    explorer.update();
  }
  addEventListener("hashchange", () => {
    const next = stateFrom(location.hash);
    if (addressText(next) === addressText(explorer.state)) return;
    explorer.state = next;
    explorer.update();
  });

  Object.assign(explorer, { filterText, PLACE, go, normal, addressText, stateFrom });
})();
