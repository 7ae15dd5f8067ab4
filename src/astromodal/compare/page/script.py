"""The script of the page: draws the panels with plotly.js, filters them by swept keys, opens a run's own plots.

It reads the figures from a block of JSON. Names from runs become text (``textContent``), or are escaped (``shown``)
where plotly.js would read markup in them; addresses are relative and were escaped when they were made.
"""

SCRIPT = r"""
(() => {
"use strict";
const D = JSON.parse(document.getElementById("runs").textContent);
const kept = D.map(() => null);  // of each cohort the configurations that pass the filter; null: all
const drawn = new Map();  // element -> how to draw it again
const shown = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
  .replace(/\$/g, "&#36;").replace(/\n/g, "<br>");  // a pair of dollar signs would be taken for a formula
const cut = (text, n) => text.length <= n ? text : text.slice(0, n - 1) + "…";
function make(tag, parent, text, attributes) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  if (parent) parent.appendChild(element);
  return element;
}

// ---------------------------------------------------------------- panels
function placed(panel, keep) {
  const rows = (panel.rows || []).map((row, i) => ({...row, i}))
    .filter((row) => !keep || row.group === null || keep.has(row.group));
  return {rows, place: new Map(rows.map((row, at) => [row.i, at]))};
}
function filtered(trace, keep, place) {
  const {marks, row, dy, ends, spread, ...rest} = trace;
  const index = [...trace.x.keys()].filter((i) => row ? place.has(row[i]) : !keep || !marks || keep.has(marks[i][0]));
  const pick = (values) => Array.isArray(values) ? index.map((i) => values[i]) : values;
  const out = {...rest, x: pick(trace.x), customdata: pick(marks), hoverinfo: rest.hoverinfo || "text"};
  out.y = row ? index.map((i) => place.get(row[i]) + (dy || 0)) : pick(trace.y);
  if (rest.text) out.text = pick(rest.text).map(shown);
  if (rest.name) out.name = shown(rest.name);
  if (rest.legendgroup) out.legendgroup = shown(rest.legendgroup);
  if (rest.marker) out.marker = {...rest.marker, color: pick(rest.marker.color)};
  if (ends) {
    const chosen = pick(ends);
    const side = (sign, end) => chosen.map((pair, i) => pair ? sign * (pair[end] - out.x[i]) : 0);
    out.error_x = {type: "data", symmetric: false, array: side(1, 1), arrayminus: side(-1, 0), width: 0, thickness: 2,
      color: "#999"};
  }
  if (spread) out.error_y = {type: "data", array: pick(spread), width: 3, thickness: 1};
  return out;
}
function rowLayout(layout, panel, rows, width) {
  const name = (row) => shown(width < 560 ? cut(row.short, 18) : cut(row.label, 44));
  layout.height = 110 + 32 * Math.max(rows.length, 1);
  layout.yaxis = {tickvals: rows.map((_, i) => i), ticktext: rows.map(name),
    range: [rows.length - 0.5, -0.5], automargin: true, zeroline: false, showgrid: false};
  layout.xaxis.zeroline = true;
  layout.xaxis.zerolinecolor = "#333";
  if (panel.limit) layout.xaxis.range = [-panel.limit, panel.limit];
  layout.bargap = 0.25;
}
function turnedLayout(layout, panel, data) {
  const n = panel.axes.length;
  for (const trace of data) [trace.x, trace.y] = [trace.y, trace.x];
  layout.height = 40 + 66 * n;
  layout.margin = {l: 10, r: 10, t: 40, b: 10};
  layout.xaxis = {visible: false, range: [-0.03, 1.03]};
  layout.yaxis = {visible: false, range: [n - 0.7, -0.6]};
  layout.shapes = panel.axes.map((_, i) => ({type: "line", x0: 0, x1: 1, y0: i, y1: i, line: {width: 1}}));
  const base = {showarrow: false, yanchor: "bottom"};
  layout.annotations = panel.words.map(([i, at, text]) => ({...base, x: at, y: i, yshift: 3, text: shown(cut(text, 9)),
    xanchor: at < 0.1 ? "left" : at > 0.9 ? "right" : "center", bgcolor: "rgba(255,255,255,.75)", font: {size: 10}}));
  layout.annotations.push(...panel.axes.map((axis, i) => ({...base, x: 0, y: i, yshift: 19, xanchor: "left",
    text: shown(axis.long), bgcolor: "rgba(255,255,255,.75)", font: {size: 11, weight: 700}})));
}
function uprightLayout(layout, panel, width) {
  const n = panel.axes.length, room = width / n;
  layout.height = 420;
  layout.xaxis = {tickvals: panel.axes.map((_, i) => i), range: [-0.4, n - 0.5], ticklabeloverflow: "allow",
    showgrid: false, zeroline: false,
    ticktext: panel.axes.map((axis) => shown(axis.long.length * 7 < room ? axis.long : axis.short))};
  layout.yaxis = {visible: false, range: [-0.04, 1.04]};
  layout.margin.l = 20;
  layout.shapes = panel.axes.map((_, i) => ({type: "line", x0: i, x1: i, y0: 0, y1: 1, line: {width: 1}}));
  layout.annotations = panel.words.map(([i, at, text]) => ({x: i, y: at, text: shown(text), showarrow: false,
    xanchor: "left", xshift: 5, bgcolor: "rgba(255,255,255,.75)", font: {size: 11}}));
}
function built(panel, keep, width) {
  const {rows, place} = placed(panel, keep);
  const data = panel.data.map((trace) => filtered(trace, keep, place));
  const legend = data.some((trace) => trace.name && trace.showlegend !== false);
  const layout = {width, height: 340, hovermode: "closest", showlegend: legend, font: {family: "system-ui", size: 12},
    margin: {l: 60, r: 16, t: legend ? 56 : 30, b: 44}, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    legend: {orientation: "h", x: 0, y: 1.01, yanchor: "bottom"}, dragmode: width < 560 ? false : "zoom",
    hoverlabel: {align: "left", bgcolor: "#fff", bordercolor: "#888", font: {color: "#222"}, namelength: -1},
    xaxis: {title: {text: shown(panel.x || ""), standoff: 8}, automargin: true, gridcolor: "#eee", zeroline: false},
    yaxis: {title: {text: shown(panel.y || "")}, automargin: true, gridcolor: "#eee", zeroline: false}};
  if (panel.rows) rowLayout(layout, panel, rows, width);
  if (panel.ticks) Object.assign(layout.xaxis, {type: "log", tickvals: panel.ticks.map((tick) => tick[0]),
    ticktext: panel.ticks.map((tick) => tick[1])});
  if (panel.zero) layout.yaxis.rangemode = "tozero";
  if (panel.turn) width < 560 ? turnedLayout(layout, panel, data) : uprightLayout(layout, panel, width);
  return {data, layout};
}
function emphasise(box, event) {  // of many lines the one under the pointer
  const mark = event && event.points[0].customdata;
  if (box.data.length > 400 || (event && !(mark && mark[1] >= 0))) return;
  const opacity = box.data.map((trace) => !mark || !trace.customdata || trace.customdata.some((m) => m[1] === mark[1])
    ? 1 : 0.15);
  Plotly.restyle(box, {opacity});
}
const OPTIONS = {displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]]};
function draw(box, panel, c) {
  const again = () => {
    const {data, layout} = built(panel, kept[c], box.clientWidth);
    return Plotly.react(box, data, layout, OPTIONS);
  };
  drawn.set(box, again);
  again();
  box.on("plotly_click", (event) => {
    const mark = event.points[0].customdata;
    if (mark) openRun(c, mark[0], mark[1]);
  });
  if (panel.data.length > 1 && !panel.rows) {
    box.on("plotly_hover", (event) => emphasise(box, event));
    box.on("plotly_unhover", () => emphasise(box, null));
  }
}
function liveFigure(figure, panels, c) {
  const still = figure.querySelector(".still"), live = make("div", null, null, {class: "live"});
  live.style.setProperty("--panels", panels.length);
  still.before(live);
  still.hidden = true;
  for (const panel of panels) {
    const cell = make("div", live);
    if (panel.title) make("h4", cell, panel.title);
    const box = make("div", cell, null, {class: "plot"});
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      try { draw(box, panel, c); }
      catch (error) { drawn.delete(box); live.remove(); still.hidden = false; console.error(error); }
    }, {rootMargin: "800px"}).observe(box);
  }
}

// ---------------------------------------------------------------- a run
const dialog = make("dialog", document.body, null, {id: "run"});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
function openRun(c, g, r) {
  const cohort = D[c], group = cohort.groups[g];
  const own = cohort.runs.map((run, i) => ({...run, i})).filter((run) => run.group === g);
  const chosen = own.find((run) => run.i === r) || own[0];
  dialog.replaceChildren();
  make("button", dialog, "close", {class: "close"}).addEventListener("click", () => dialog.close());
  make("h3", dialog, `#${g + 1} ${group.name}`);
  make("p", dialog, group.label, {class: "quiet"});
  const list = make("ul", dialog);
  for (const run of own) {
    const item = make("li", list), text = `seed ${run.seed}: ${cohort.metric} ${run.value}`;
    if (run === chosen) make("strong", item, text);
    else make("button", item, text).addEventListener("click", () => openRun(c, g, run.i));
    item.append(" ");
    make("a", item, run.name, {href: run.folder, target: "_blank", rel: "noopener"});
  }
  if (!chosen.plots.length) make("p", dialog, "This run has no plots.");
  for (const plot of chosen.plots) {
    const link = make("a", make("figure", dialog), null, {href: plot, target: "_blank", rel: "noopener"});
    const name = decodeURIComponent(plot).split("/").slice(-1)[0];
    const image = make("img", link, null, {src: plot, alt: name, loading: "lazy"});
    image.addEventListener("error", () => link.replaceChildren(`${name}: not found from where this page lies`));
    make("figcaption", link.parentNode, name);
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

// ---------------------------------------------------------------- filter
function passing(cohort, state) {
  return new Set(cohort.groups.map((group, g) => [group, g]).filter(([group]) => cohort.axes.every((axis, a) => {
    const value = group.values[a];
    if (axis.kind === "choice") return state[a].has(value);
    if (axis.kind === "words") return String(value).toLowerCase().includes(state[a]);
    return value === null ? !state[a].narrowed : value >= state[a].low && value <= state[a].high;
  })).map((pair) => pair[1]));
}
function choice(parent, axis, state, a, change) {
  state[a] = new Set(axis.values.keys());
  axis.values.forEach((value, i) => {
    const label = make("label", parent), box = make("input", label, null, {type: "checkbox"});
    box.checked = true;
    make("span", label, value);
    box.addEventListener("change", () => { box.checked ? state[a].add(i) : state[a].delete(i); change(); });
  });
}
function range(parent, axis, state, a, change) {
  state[a] = {low: -Infinity, high: Infinity, narrowed: false};
  for (const [end, name, bare] of [["low", "from", -Infinity], ["high", "to", Infinity]]) {
    const label = make("label", parent, name + " "), box = make("input", label, null, {type: "number", step: "any"});
    box.placeholder = axis[end];
    box.addEventListener("input", () => {
      state[a][end] = box.value === "" ? bare : Number(box.value);
      state[a].narrowed = state[a].low > -Infinity || state[a].high < Infinity;
      change();
    });
  }
}
function words(parent, axis, state, a, change) {
  state[a] = "";
  const box = make("input", make("label", parent, "contains "), null, {type: "search"});
  box.addEventListener("input", () => { state[a] = box.value.toLowerCase(); change(); });
}
function filterOf(place, c) {
  const cohort = D[c], state = [];
  if (!cohort.axes.length || cohort.groups.length < 2) return;
  const details = make("details", place), summary = make("summary", details);
  details.open = innerWidth > 800;
  const body = make("div", details, null, {class: "keys"});
  const change = () => {
    const found = passing(cohort, state), all = found.size === cohort.groups.length;
    kept[c] = all ? null : found;
    summary.textContent = `Filter by swept keys: ${found.size} of ${cohort.groups.length} configurations shown`;
    for (const row of document.querySelectorAll(`[data-cohort="${c}"] tr[data-group]`))
      row.hidden = !found.has(Number(row.dataset.group));
    for (const [box, again] of drawn) if (box.closest(`[data-cohort="${c}"]`)) again();
  };
  cohort.axes.forEach((axis, a) => {
    const field = make("fieldset", body);
    make("legend", field, axis.label);
    ({choice, range, words})[axis.kind](field, axis, state, a, change);
  });
  change();
}

D.forEach((cohort, c) => {
  const section = document.querySelector(`section[data-cohort="${c}"]`);
  filterOf(section.querySelector(".filter"), c);
  for (const [id, panels] of Object.entries(cohort.figures)) {
    const figure = document.getElementById(id);
    if (figure) liveFigure(figure, panels, c);
  }
  for (const row of section.querySelectorAll("tr[data-group]"))
    row.addEventListener("click", () => openRun(c, Number(row.dataset.group), -1));
});
let waiting = 0, width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;  // a phone's address bar comes and goes
  width = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(() => drawn.forEach((again) => again()), 150);
});
document.body.classList.add("is-live");
})();
"""
