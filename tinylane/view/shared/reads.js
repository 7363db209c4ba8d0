// Who reads whom: a table of N x N cells, row m reads column n; and arrangements by name.
//
//   N lanes   see: N x N booleans, of a lane itself true

import { html, refill, same, set, styled, times } from "./dom.js";

// The names are those of LaneMask.named (tinylane/core/lanes.py).
const PATTERNS = {
  joint: ["everybody reads all", () => true],
  independent: ["nobody reads another", (m, n) => m === n],
  star: ["lane 1 reads all", (m, n) => m === n || m === 0],
  "neighbours:1": ["neighbours", (m, n) => Math.abs(m - n) <= 1],
  "neighbours:2": ["two beside", (m, n) => Math.abs(m - n) <= 2],
};
const OWN = "custom"; // what the reader arranged cell by cell
export const NAMED = Object.keys(PATTERNS);

/** An N x N matrix by name. */
export const pattern = (name, N) => times(N, (m) => times(N, (n) => PATTERNS[name][1](m, n)));

/** The name of a matrix, if it has one. */
export const nameOf = (see) => NAMED.find((name) => same(see, pattern(name, see.length)));

/** The choice of an arrangement: its options. */
export function listPatterns(select) {
  const options = NAMED.map((name) => html("option", { value: name }, PATTERNS[name][0]));
  select.replaceChildren(...options, html("option", { value: OWN, disabled: true }, "your own"));
}

/** What the choice stands at. */
export const choiceOf = (see) => nameOf(see) ?? OWN;

/** Draws the table. name(m): how a lane is called in it; more: { head, cell(m) } of a last column.
 * still: it cannot be changed. */
export function drawReads(table, see, { name = (m) => m + 1, more = null, still = false } = {}) {
  const cell = still ? stillCell : pressedCell;
  const last = (m) => (more ? [html("td", { class: "more" }, more.cell(m))] : []);
  const head = (m, scope) => html("th", { scope, "aria-label": `lane ${m + 1}` }, name(m));
  const row = (cells, m) =>
    html("tr", {}, head(m, "row"), ...cells.map((on, n) => cell(on, m, n)), ...last(m));
  const heads = see.map((_, n) => head(n, "col"));
  const end = more ? [html("th", { scope: "col" }, more.head)] : [];
  const top = html("tr", {}, html("td", {}, still ? "" : "reads"), ...heads, ...end);
  styled(table, { "--lanes": see.length });
  refill(table, html("thead", {}, top), html("tbody", {}, ...see.map(row)));
}

const mark = (on, own) => (own ? "●" : on ? "▲" : "×");

function stillCell(on, m, n) {
  return html("td", { class: m === n ? "own" : on ? "yes" : "no" }, mark(on, m === n));
}

function pressedCell(on, m, n) {
  const label = `lane ${m + 1} reads lane ${n + 1}`;
  const said = { title: label, "aria-label": label, "aria-pressed": String(Boolean(on)) };
  const cell = html("button", { "data-see": [m, n], type: "button", ...said }, mark(on, m === n));
  return html("td", {}, set(cell, { disabled: m === n }));
}

/** change(m, n, on): the reader has pressed a cell. */
export function onReads(table, change) {
  table.addEventListener("click", ({ target }) => {
    const cell = target.closest("[data-see]");
    if (!cell) return;
    const [m, n] = cell.dataset.see.split(",").map(Number);
    change(m, n, cell.getAttribute("aria-pressed") !== "true");
  });
}
