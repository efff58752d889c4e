"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = new Map(Object.entries(data.charts));
  const hidden = new Set();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");
  const touch = matchMedia("(pointer: coarse)");
  const looks = new Map(data.looks.map((look) => [look.kind, look]));
  let mode = document.getElementById("mode")?.value ?? null;
  let zooms = {};

  // ---- looks

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  /** Relative luminance, 0 to 1. */
  function luminance(rgb) {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  /** The algorithm's colour; on dark paper lightened until it stands out. */
  function inkOf(kind) {
    let rgb = channels(looks.get(kind)?.colour ?? variable("--soft"));
    for (let i = 0; dark.matches && luminance(rgb) < 0.19 && i < 20; i++) {
      rgb = rgb.map((c) => Math.round(c + (255 - c) * 0.1));
    }
    return `rgb(${rgb.join(",")})`;
  }

  const faded = (rgb, alpha) => rgb.replace("rgb(", "rgba(").replace(")", `,${alpha})`);
  const dashOf = (kind) => looks.get(kind)?.dash ?? "longdash";

  const DASHES = { solid: "", dash: "6 3", dot: "1.5 2.5", dashdot: "6 3 1.5 3", longdash: "10 4",
    longdashdot: "10 4 1.5 4" };
  const SHAPES = {
    "circle": "M11.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z", "square": "M12 3h6v6h-6Z",
    "triangle-up": "M15 2l4 7h-8Z", "triangle-down": "M15 10l-4 -7h8Z", "diamond": "M15 1.5L19.5 6L15 10.5L10.5 6Z",
    "cross": "M13.7 2h2.6v2.7h2.7v2.6h-2.7V10h-2.6V7.3h-2.7V4.7h2.7Z",
    "x": "M12.5 2l2.5 2.5L17.5 2L19 3.5L16.5 6L19 8.5L17.5 10L15 7.5L12.5 10L11 8.5L13.5 6L11 3.5Z",
    "triangle-left": "M11 6l7 -4v8Z", "triangle-right": "M19 6l-7 -4v8Z",
    "hexagon": "M15 2l3.5 2v4L15 10L11.5 8V4Z", "pentagon": "M15 2l3.8 2.8L17.3 9.5h-4.6L11.2 4.8Z",
  };

  function drawSwatches() {
    for (const place of document.querySelectorAll(".swatch")) {
      const kind = place.dataset.kind;
      const make = (name, attributes) => {
        const node = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
        return node;
      };
      const svg = make("svg", { width: 30, height: 12, viewBox: "0 0 30 12" });
      svg.append(make("path", { d: "M0 6H30", stroke: inkOf(kind), "stroke-width": 2, fill: "none",
        "stroke-dasharray": DASHES[dashOf(kind)] ?? "" }));
      const shape = SHAPES[looks.get(kind)?.symbol];
      if (shape) svg.append(make("path", { d: shape, fill: inkOf(kind) }));
      place.replaceChildren(svg);
    }
  }

  // ---- charts

  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function shown(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en-US");
    return value.toFixed(size >= 10 ? 1 : 2);
  }

  function chosen(curve) {
    return (mode === "official" ? curve.official : mode === null || curve.mode === mode);
  }

  /** Line, band and single runs beyond them; texts are escaped, because the library reads HTML. */
  function tracesOf(curve) {
    const colour = inkOf(curve.kind);
    const look = looks.get(curve.kind);
    const name = plain(curve.kind);
    const traces = [];
    const base = { legendgroup: name, meta: { kind: curve.kind }, name, showlegend: false };
    if (curve.low) {
      traces.push({ ...base, x: [...curve.x, ...curve.x.slice().reverse()],
        y: [...curve.low, ...curve.high.slice().reverse()], mode: "lines", fill: "toself",
        fillcolor: faded(colour, dark.matches ? 0.18 : 0.14), line: { width: 0 }, hoverinfo: "skip" });
    }
    const drawn = look ? "lines+markers" : "lines";
    curve.lines.forEach((line, number) => {
      const seed = curve.lines.length > 1 ? ` (run ${number + 1})` : "";
      traces.push({ ...base, x: curve.x, y: line, mode: drawn, hoverinfo: "x+text",
        text: line.map((value, at) => hoverText(name + seed, curve, value, at)),
        line: { color: colour, width: curve.low ? 2 : 1.1, dash: dashOf(curve.kind) },
        marker: { color: colour, size: 6, symbol: look?.symbol, maxdisplayed: 9 } });
    });
    for (const tail of curve.tails ?? []) {
      traces.push({ ...base, x: tail.x, y: tail.y, mode: "lines", hoverinfo: "x+text",
        text: tail.y.map((value) => `${name}: one run ${shown(value)}`),
        line: { color: faded(colour, 0.75), width: 1, dash: "dot" } });
    }
    return traces;
  }

  function hoverText(name, curve, value, at) {
    const band = curve.low ? ` [${shown(curve.low[at])}, ${shown(curve.high[at])}]` : "";
    return `${name}: <b>${shown(value)}</b>${band}`;
  }

  /** All values at an env step, as long as they leave something of the chart to see. */
  function layoutOf(chart, curves) {
    const together = !narrow.matches && curves.length <= 5;
    const axis = { gridcolor: variable("--grid"), zerolinecolor: variable("--grid"), automargin: true,
      linecolor: variable("--line"), tickfont: { size: 11 }, title: { font: { size: 12 }, standoff: 8 } };
    return {
      paper_bgcolor: variable("--raised"), plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: variable("--soft"), size: 12 },
      margin: { l: 44, r: 10, t: 8, b: 36 }, showlegend: false, uirevision: "kept",
      hovermode: together ? "x unified" : "closest", hoverdistance: together ? -1 : 30,
      hoverlabel: { bgcolor: variable("--raised"), bordercolor: variable("--line"),
        font: { color: variable("--ink"), size: 12 }, namelength: 40 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--soft"), activecolor: variable("--accent") },
      dragmode: touch.matches ? false : "zoom",
      xaxis: { ...axis, title: { ...axis.title, text: "env steps" }, tickformat: "~s", hoverformat: ",d",
        rangemode: "tozero", nticks: 7, spikethickness: 1, spikecolor: variable("--soft"), spikedash: "solid" },
      yaxis: { ...axis, ...(chart.metric === "return" ? {} : { range: [-0.03, 1.03] }), nticks: 6 },
    };
  }

  const SETTINGS = { responsive: true, displaylogo: false, doubleClick: "reset",
    displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
    modeBarButtons: [["toImage", "resetScale2d"]] };

  function draw(frame) {
    const chart = charts.get(frame.dataset.name);
    const place = frame.querySelector(".plot");
    if (!chart || !place) return;
    const all = chart.reference ? [chart.reference, ...chart.curves.filter(chosen)] : chart.curves.filter(chosen);
    const curves = all.filter((curve) => !hidden.has(curve.kind));
    Plotly.react(place, curves.flatMap(tracesOf), layoutOf(chart, curves), SETTINGS);
    const zoom = zooms[frame.dataset.name] ?? {};
    delete zooms[frame.dataset.name];
    if (Object.keys(zoom).length) Plotly.relayout(place, zoom);
    frame.dataset.drawn = "true";
    delete frame.dataset.stale;
  }

  const frames = () => document.querySelectorAll("figure.chart[data-name]");

  function isInView(frame) {
    const box = frame.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  }

  /** Draws again what was drawn before: at once what is in view, the others one after the other. */
  function redraw() {
    for (const frame of frames()) if (frame.dataset.drawn) frame.dataset.stale = "true";
    for (const frame of stale()) if (isInView(frame)) draw(frame);
    catchUp();
  }

  const stale = () => document.querySelectorAll("figure[data-stale]");
  let catchingUp = 0;

  function catchUp() {
    clearTimeout(catchingUp);
    const [next] = stale();
    if (!next) return;
    catchingUp = setTimeout(() => { if (next.dataset.stale) draw(next); catchUp(); }, 0);
  }

  function drawAll() {
    for (const frame of frames()) if (!frame.dataset.drawn || frame.dataset.stale) draw(frame);
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      if (!entry.target.dataset.drawn) draw(entry.target);
    }
  }, { rootMargin: "500px" });

  function watch() {
    const all = frames();
    for (const frame of all) {
      frame.classList.toggle("alone", all.length === 1);
      if (!frame.dataset.drawn) watcher.observe(frame);
    }
  }

  // ---- controls

  function applyControls() {
    const list = document.getElementById("mode");
    if (list) list.value = mode;
    for (const box of document.querySelectorAll("[data-toggle]")) box.checked = !hidden.has(box.dataset.toggle);
    for (const part of document.querySelectorAll("[data-mode]")) part.hidden = mode !== null && part.dataset.mode !== mode;
  }

  document.addEventListener("change", (event) => {
    const kind = event.target.dataset?.toggle;
    if (kind !== undefined) hidden[event.target.checked ? "delete" : "add"](kind);
    else if (event.target.id === "mode") mode = event.target.value;
    else return;
    applyControls();
    redraw();
  });

  document.addEventListener("click", (event) => {
    const which = event.target.dataset?.all;
    if (!which) return;
    for (const box of document.querySelectorAll("[data-toggle]")) {
      hidden[which === "all" ? "delete" : "add"](box.dataset.toggle);
    }
    applyControls();
    redraw();
  });

  const restyle = () => { drawSwatches(); redraw(); };
  dark.addEventListener("change", restyle);
  narrow.addEventListener("change", restyle);
  addEventListener("beforeprint", drawAll);

  // ---- a page of `dime serve` reloads when the records have changed, and keeps the reader's choices

  const KEPT = "dime-report";

  /** What the reader has chosen, opened and zoomed into. */
  function choices() {
    const zoomed = {};
    for (const frame of document.querySelectorAll("figure[data-drawn]")) {
      const { xaxis, yaxis } = frame.querySelector(".plot").layout;
      const zoom = {};
      if (!xaxis.autorange) zoom["xaxis.range"] = xaxis.range;
      if (!yaxis.autorange) zoom["yaxis.range"] = yaxis.range;
      zoomed[frame.dataset.name] = zoom;
    }
    const open = [...document.querySelectorAll("details[open]")].map((part) => part.dataset.key);
    return { hidden: [...hidden], mode, open, zoomed: { ...zooms, ...zoomed } };
  }

  function restore() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
    sessionStorage.removeItem(KEPT);
    if (!kept) return;
    for (const kind of kept.hidden) hidden.add(kind);
    if (document.querySelector(`#mode option[value="${CSS.escape(kept.mode)}"]`)) mode = kept.mode;
    const open = new Set(kept.open);
    for (const part of document.querySelectorAll("details")) part.open = open.has(part.dataset.key);
    zooms = kept.zoomed;
  }

  const status = document.getElementById("live");
  const say = (text, lost) => { status.textContent = text; status.classList.toggle("lost", lost); };

  async function poll() {
    try {
      const headers = { "If-None-Match": `"${data.version}"` };
      const answer = await fetch("/", { method: "HEAD", cache: "no-store", headers });
      if (answer.status === 200) {
        sessionStorage.setItem(KEPT, JSON.stringify(choices()));
        location.reload();
        return;
      }
      if (answer.status === 304) say("live", false);
      else say("the folder cannot be read at the moment", true);
    } catch (error) {
      say("not connected; trying again", true);
    }
    setTimeout(poll, document.hidden ? 15000 : 4000);
  }

  if (data.version) restore();
  applyControls();
  drawSwatches();
  watch();
  if (data.version) { say("live", false); setTimeout(poll, 4000); }
})();
