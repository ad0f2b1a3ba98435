/**
 * What the scripts of all pages share: numbers as text, packed data, and data that lie in script files.
 *
 * Data lie in scripts that call `gluscope.provide`, because pages opened from disk may load scripts and nothing else.
 * Packed bytes are deflated, then base64; numbers are little-endian, all first bytes of an array before all second bytes.
 */
"use strict";
window.gluscope = (() => {
  /** `digits` significant digits with a true minus sign; a dash for what is not there. */
  function format(value, digits = 4) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const size = Math.floor(Math.log10(Math.abs(value)));
    const text = size < -3 || size >= 7 ? value.toExponential(digits - 1) : value.toFixed(Math.max(digits - 1 - size, 0));
    return text.replace("e+", "e").replace(/-/g, "−");
  }
  const signed = (value, digits) => (value > 0 ? "+" : "") + format(value, digits);
  /** A frequency in percent. What is not 0 or 1 never reads as 0 % or 100 %. */
  function share(value) {
    if (value === null || !Number.isFinite(value)) return "–";
    if (value === 0 || value === 1) return `${100 * value}%`;
    const percent = 100 * value;
    if (percent < 0.01) return "<0.01%";
    if (percent > 99.99) return ">99.99%";
    return `${percent.toFixed(percent < 10 ? 2 : 1)}%`;
  }
  /** A count with narrow spaces between thousands. */
  const count = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  /** `gate+_in-` as text: `gate+ in−`. */
  const label = (quadrant) => quadrant.replace("_", "\u2002").replace(/-/g, "−");

  /** @param {Uint16Array} bits IEEE half precision; infinity stands for NaN */
  function halves(bits) {
    const out = new Float32Array(bits.length);
    for (let i = 0; i < bits.length; i++) {
      const exponent = (bits[i] >> 10) & 31, fraction = bits[i] & 1023;
      if (exponent === 31) {
        out[i] = NaN;
        continue;
      }
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      out[i] = bits[i] & 0x8000 ? -size : size;
    }
    return out;
  }

  /** @param {string} packed base64 of deflated bytes */
  async function inflate(packed) {
    const text = atob(packed), raw = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) raw[i] = text.charCodeAt(i);
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** Takes one array after another from packed bytes. */
  class Reader {
    /** @param {Uint8Array} bytes */
    constructor(bytes) {
      this.bytes = bytes;
      this.place = 0;
    }
    take(count) {
      return this.bytes.subarray(this.place, (this.place += count));
    }
    /** `count` numbers of a typed array's class. */
    numbers(Type, count) {
      const width = Type.BYTES_PER_ELEMENT, planar = this.take(count * width), out = new Uint8Array(count * width);
      for (let plane = 0; plane < width; plane++) for (let i = 0; i < count; i++) out[i * width + plane] = planar[plane * count + i];
      return new Type(out.buffer);
    }
    /** Numbers of one class in arrays of these lengths. */
    arrays(Type, ...counts) {
      const all = this.numbers(Type, counts.reduce((sum, count) => sum + count, 0));
      let first = 0;
      return counts.map((count) => all.subarray(first, (first += count)));
    }
    /** Texts of `count` bytes together, separated by NUL. */
    strings(count) {
      return new TextDecoder().decode(this.take(count)).split("\0");
    }
  }

  /** @type {Map<string, {promise: Promise<any>, resolve: (value: any) => void}>} */
  const waiting = new Map();
  function slot(name) {
    if (!waiting.has(name)) {
      let resolve, reject;
      const promise = new Promise((yes, no) => { resolve = yes; reject = no; });
      waiting.set(name, { promise, resolve, reject, asked: false });
    }
    return waiting.get(name);
  }
  /** Called by a data script with its own name. */
  const provide = (name, value) => slot(name).resolve(value);
  /** The value that the data script at `url`, relative to this page, provides under `name`; rejects if there is no such file. */
  function load(name, url) {
    const entry = slot(name);
    if (!entry.asked) {
      entry.asked = true;
      const script = document.createElement("script");
      script.src = url;
      script.addEventListener("error", () => {
        waiting.delete(name);
        entry.reject(new Error(`${url} is missing.`));
      });
      script.addEventListener("load", () => script.remove());
      document.head.append(script);
    }
    return entry.promise;
  }

  const QUADRANTS = ["gate+_in+", "gate+_in-", "gate-_in+", "gate-_in-"];
  /** The quadrant with the other sign of in. */
  const otherQuadrant = (quadrant) => quadrant.slice(0, -1) + (quadrant.endsWith("+") ? "-" : "+");

  /** What stays from page to page, such as the layout. Storage may be closed to pages from disk. */
  const kept = {};
  try { Object.assign(kept, JSON.parse(sessionStorage.getItem("gluscope") || "{}")); } catch { /* nothing kept */ }
  function keep(change) {
    Object.assign(kept, change);
    try { sessionStorage.setItem("gluscope", JSON.stringify(kept)); } catch { /* not kept */ }
  }

  return { QUADRANTS, otherQuadrant, kept, keep, format, signed, share, count, label, halves, inflate, Reader, provide, load };
})();
