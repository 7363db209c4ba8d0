// Over the whole run: attention to other lanes over time, and who listened to whom.

import { html, styled, svg, times } from "../shared/dom.js";
import { coloured, laneName, laneTitle, symbol } from "../shared/lane.js";
import { finely } from "../shared/numbers.js";
import { viewName } from "./record.js";

// ---- Over time -------------------------------------------------------------------------------

/** A band for every lane, made once. go(step, lane): the reader has pressed one. */
export function makeBands(page, go) {
  const { record, parts } = page;
  page.bands = record.lanes.map((_, m) => band(record, m));
  const ends = [html("span", {}, "step 1"), html("span", {}, `step ${record.steps}`)];
  parts.rows.append(...page.bands.map(({ line }) => line), html("div", { class: "axis" }, ...ends));
  parts.rows.addEventListener("click", ({ target, clientX }) => {
    const plot = target.closest(".plot");
    if (!plot) return;
    const { left, width } = plot.getBoundingClientRect();
    go(Math.floor(((clientX - left) / width) * record.steps) + 1, Number(plot.dataset.lane));
  });
}

function band({ events, steps }, m) {
  const marks = events.filter(([, lane]) => lane === m).map(([step]) => `M${step} 0V100`);
  const path = svg("path");
  const box = { viewBox: `0 0 ${steps} 100`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const drawn = svg("svg", box, path, svg("path", { class: "event", d: marks.join("") }));
  const cursor = html("div", { class: "cursor" });
  const plot = html("div", { class: "plot", "data-lane": m, role: "img" }, drawn, cursor);
  const value = html("div", { class: "value" });
  const name = html("div", { class: "name" }, laneTitle(m));
  const line = coloured(html("div", { class: "line" }, name, plot, value), m);
  return { line, plot, path, cursor, value };
}

/** Drawn when the view changes; the cursors follow the step. */
export function drawBands({ record, state, parts, bands }) {
  const view = record.views[state.view];
  parts["time-note"].textContent =
    `The share of each token’s attention that went to other lanes (${viewName(view)}); ` +
    "the height of a band is 100%. Click to go to a step.";
  for (const [m, { plot, path }] of bands.entries()) {
    const values = record.lanes[m].steps.map((_, k) =>
      record.toOthers(view, record.lanes[m].first + k));
    path.setAttribute("d", outline(values, record.lanes[m].steps));
    plot.setAttribute("aria-label", summary(values, record.lanes[m].steps, m));
  }
}

function outline(values, steps) {
  const pieces = values.map((value, k) => {
    const [x, y] = [steps[k], (100 - 98 * value).toFixed(1)];
    const begin = k && steps[k - 1] === x - 1 ? "L" : `M${x - 1} 100L`;
    const end = steps[k + 1] === x + 1 ? "" : `L${x} 100Z`; // it waits, or ends
    return `${begin}${x - 1} ${y}L${x} ${y}${end}`;
  });
  return pieces.join("");
}

function summary(values, steps, m) {
  if (!values.length) return `${laneName(m)} wrote nothing`;
  const sum = values.reduce((a, b) => a + b);
  const top = values.reduce((best, value, k) => (value > values[best] ? k : best), 0);
  const most = `at most ${finely(values[top])} at step ${steps[top]}`;
  return `${laneName(m)}: ${finely(sum / values.length)} on average, ${most}`;
}

export function showCursors({ record, state, bands }) {
  const left = (100 * Math.max(0, state.step - 0.5)) / Math.max(1, record.steps);
  for (const [m, { line, cursor, value }] of bands.entries()) {
    const q = record.tokenAt(m, state.step);
    styled(cursor, { left: `${left}%` });
    value.textContent = q < 0 ? "–" : finely(record.toOthers(record.views[state.view], q));
    line.classList.toggle("here", m === state.lane);
  }
}

// ---- Who listened to whom --------------------------------------------------------------------

export function drawWhom({ record, state, parts }) {
  const view = record.views[state.view];
  parts["whom-note"].textContent =
    "How each lane divided its attention between the prompt and the lanes, over the whole run " +
    `(${viewName(view)}).`;
  const column = (name, said = {}) => html("th", { scope: "col", ...said }, name);
  const names = record.lanes.map((_, n) =>
    column(`${symbol(n)} ${n + 1}`, { "aria-label": laneName(n) }));
  const head = html("tr", {}, column("reader"), column("prompt"), ...names);
  const rows = record.lanes.map((_, m) => {
    const cells = times(record.N + 1, (slot) => whomCell(record, view, m, slot));
    return html("tr", {}, html("th", { scope: "row" }, laneTitle(m)), ...cells);
  });
  parts.whom.replaceChildren(html("thead", {}, head), html("tbody", {}, ...rows));
}

function whomCell(record, view, m, slot) {
  const { first, tokens } = record.lanes[m];
  let [sum, count] = [0, 0];
  for (let k = 0; k < tokens; k++) {
    if (record.copied(m, k)) continue;
    sum += record.share(view, first + k, slot);
    count++;
  }
  const [value, own] = [count ? sum / count : 0, slot - 1 === m];
  const cell = html("td", { class: own ? "cell self" : "cell" }, count ? finely(value) : "–");
  if (own) cell.append(html("small", {}, "own"));
  return styled(cell, { "--s": value.toFixed(3) });
}
