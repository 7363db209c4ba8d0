// The board: the swaps as strands that cross, and below them what every lane writes, step by step,
// with lines to the words that it reads. The reader moves the cups by drag or keyboard.

import { SHARED } from "./lanes.js";
import { circle, clamp, html, line, rect, set, svg, text, times } from "./shared/dom.js";
import { arrows, onKeys } from "./shared/keys.js";
import { percent } from "./shared/numbers.js";
import { MOVES, START, STAY, SWAPS, swapped } from "./shell_game.js";
import { END, attention } from "./run.js";

const LEAST = 0.12; // shares of attention below this are not drawn
const [PLACE, TOP] = [24, 12]; // pixels: from place to place, above the first
const HIGH = TOP + 3 * PLACE + 12; // of the strands; below them is the swap's name
const ROW = HIGH + 24;
const NARROW = 24; // a column is never narrower
const placed = (i) => TOP + i * PLACE;
const shown = (word) => (word === END ? "end" : word);

/** Puts a board into `root`. onMove(k, move): the reader sets swap k. onCell([m, t]): chooses a
 * word. Returns draw(run, view); view: steps (how many are shown), cell, layer, head, end (is the
 * end token shown?). */
export function board(root, { onMove, onCell }) {
  const strands = svg("svg", { "aria-hidden": "true" });
  const columns = times(SWAPS, (k) => column(k, onMove));
  const braid = html("div", { class: "braid", role: "group" }, strands, ...columns);
  const arcs = svg("svg", { class: "arcs", "aria-hidden": "true" });
  const table = html("table", { class: "played" });
  set(braid, { "aria-label": "The sixteen swaps. Up and down change one, left and right move." });
  root.replaceChildren(braid, html("div", { class: "under" }, table, arcs));
  let last = null;
  table.addEventListener("click", ({ target }) => {
    const at = target.closest("[data-cell]")?.dataset.cell;
    if (at) onCell(at.split(",").map(Number));
  });
  onKeys(table, arrows((across, down, { target }) => {
    if (!target.dataset.cell || !last?.view.cell) return false;
    const cell = [last.view.cell[0] + across, last.view.cell[1] + down];
    if (!last.run.cells[cell[0]]?.[cell[1]]) return true;
    last.view = { ...last.view, cell }; // the next key may come before the next picture
    return onCell(cell);
  }));
  const draw = (run, view) => {
    last = { run, view };
    drawStrands(strands, columns, run, view);
    drawWords(table, run, view);
    drawArcs(arcs, table, run, view);
  };
  new ResizeObserver(() => last && draw(last.run, last.view)).observe(root);
  return draw;
}

// ---- The swaps -------------------------------------------------------------------------------

/** One swap: drag from place to place; keys: up, down, two digits, Delete; left and right move. */
function column(k, onMove) {
  const node = html("div", { role: "spinbutton", tabindex: k ? -1 : 0, "data-swap": k });
  set(node, { "aria-valuemin": 1, "aria-valuemax": MOVES.length });
  const move = (to) => {
    node.dataset.move = to; // the next key may come before the next picture
    onMove(k, to);
  };
  const placeAt = ({ clientY }) =>
    clamp(Math.floor((clientY - node.getBoundingClientRect().top) / PLACE), 0, 3) + 1;
  let from = null;
  let before = STAY;
  let digit = null;
  node.addEventListener("pointerdown", (event) => {
    [from, before] = [placeAt(event), node.dataset.move];
    node.setPointerCapture(event.pointerId);
  });
  node.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = placeAt(event);
    const made = to === from ? before : `${Math.min(from, to)}-${Math.max(from, to)}`;
    if (made !== node.dataset.move) move(made);
  });
  for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => (from = null));
  const turn = (way) => move(MOVES.at((MOVES.indexOf(node.dataset.move) + way) % MOVES.length));
  const go = (side) => {
    const next = node.parentElement.querySelectorAll("[data-swap]")[clamp(k + side, 0, SWAPS - 1)];
    set(node, { tabindex: -1 });
    set(next, { tabindex: 0 }).focus();
  };
  const place = ({ key }) => {
    if (digit && digit !== key) move([digit, key].sort().join("-"));
    digit = digit && digit !== key ? null : key;
  };
  const stay = () => move(STAY);
  onKeys(node, {
    ...arrows((across, down) => (across ? go(across) : turn(-down))),
    ...{ Home: () => go(-SWAPS), End: () => go(SWAPS) },
    ...{ Delete: stay, Backspace: stay, "-": stay },
    ...{ 1: place, 2: place, 3: place, 4: place },
  });
  return node;
}

/** Every lane's share on its own: its strands begin as ABCD and end as the lane should say. Where
 * columns would be too narrow for a finger, they stand in two rows. */
function drawStrands(node, columns, { moves, lanes: N }, view) {
  const width = Math.max(node.parentElement.clientWidth, 160);
  const [share, per] = [SWAPS / N, width < NARROW * SWAPS ? SWAPS / 2 : SWAPS];
  const w = width / per;
  const corner = (k) => [(k % per) * w, Math.floor(k / per) * ROW]; // of the column of swap k
  const drawn = [];
  const discs = (cups, x, top) => {
    for (const [i, cup] of [...cups].entries()) drawn.push(...disc(x, top + placed(i), cup));
  };
  for (let m = 0; m < N; m++) {
    const [first, last] = [m * share, (m + 1) * share - 1];
    if (view.steps > 0 && view.steps <= share)
      drawn.push(rect(...corner(first + view.steps - 1), w, HIGH, "now")); // the swap of this step
    let cups = START;
    for (let k = first; k <= last; k++) {
      const [[x0, top], next] = [corner(k), swapped(cups, moves[k])];
      for (const cup of START) {
        const [x1, y0, y1] = [x0 + w, ...[cups, next].map((of) => top + placed(of.indexOf(cup)))];
        const bend = `M${x0} ${y0}C${x0 + w / 2} ${y0} ${x1 - w / 2} ${y1} ${x1} ${y1}`;
        drawn.push(svg("path", { d: bend, class: `strand ${cup}` }));
      }
      drawn.push(text(x0 + w / 2, top + HIGH + 12, moves[k], "move"));
      if (k === first || !x0) discs(cups, x0 + 8, top);
      if (k === last || (k + 1) % per === 0) discs(next, x0 + w - 8, top);
      if (k === first && x0) drawn.push(line(x0, top, x0, top + HIGH + 18, "border"));
      cups = next;
    }
  }
  for (let row = 0; row < SWAPS / per; row++)
    for (const i of [0, 1, 2, 3]) drawn.push(text(-14, row * ROW + placed(i) + 4, i + 1, "place"));
  set(node, { width, height: (SWAPS / per) * ROW }).replaceChildren(...drawn);
  for (const [k, column] of columns.entries()) {
    const lane = Math.floor(k / share) + 1;
    const label = `Swap ${k + 1} of ${SWAPS}, of lane ${lane}`;
    const said = moves[k] === STAY ? "nothing moves" : moves[k].replace("-", " and ");
    set(column, { "aria-label": label, "aria-valuenow": MOVES.indexOf(moves[k]) + 1 });
    set(column, { "aria-valuetext": said, "data-move": moves[k] });
    const [left, top] = corner(k);
    set(column, { style: `left: ${left}px; top: ${top}px; width: ${w}px` });
  }
}

const disc = (x, y, cup) => [circle(x, y, 7, `cup ${cup}`), text(x, y + 4, cup, "letter")];

// ---- The words -------------------------------------------------------------------------------

/** What a step is: its row's name. */
export function stepName(step, N) {
  const share = 16 / N;
  if (step < share) return "own";
  const group = 2 ** (step - share + 1);
  return group < N ? { 2: "pairs", 4: "fours" }[group] : group === N ? "all" : "end";
}

function drawWords(table, run, view) {
  const { lanes: N, tags, cells, steps } = run;
  const focused = table.contains(document.activeElement);
  const chosen = view.cell ?? [0, 0];
  const cell = (m, t) => {
    const { word, good, wanted } = cells[m][t] ?? {};
    if (word === undefined || t >= view.steps) return html("td");
    const kind = t < 16 / N ? "own" : t < steps - 1 ? "pair" : t < steps ? "whole" : "over";
    const said = `lane ${m + 1}, step ${t + 1}: ${shown(word)}, `;
    const silent = run.silent.some(([lane, step]) => lane === m && step === t);
    const state = `${kind} ${good ? "right" : "wrong"}${silent ? " silent" : ""}`;
    const mark = html("b", { "aria-hidden": "true" }, (good ? "✓" : "✗") + (silent ? "⊘" : ""));
    const unread = silent ? "; nobody else reads this lane in this step" : "";
    const label = said + (good ? "right" : `wrong, expected ${shown(wanted)}`) + unread;
    const tab = m === chosen[0] && t === chosen[1] ? 0 : -1;
    const at = { "data-cell": [m, t], "aria-pressed": String(!!view.cell && !tab), tabindex: tab };
    const button = html("button", { type: "button", class: state, "aria-label": label, ...at });
    button.append(shown(word), mark);
    return html("td", {}, button);
  };
  const names = times(N, (m) => {
    const tag = html("small", {}, tags[m] === `${m + 1}/${N}` ? "" : `tag ${tags[m]}`);
    return html("th", { scope: "col", "data-lane": m }, html("span", {}, "lane "), m + 1, " ", tag);
  });
  const rows = times(steps + Number(view.end ?? true), (t) => {
    const name = t < 16 / N ? t + 1 : stepName(t, N);
    const head = html("th", { scope: "row", title: `step ${t + 1}` }, name);
    const kind = t < 16 / N || t === steps ? "own" : "both";
    return html("tr", { class: kind }, head, ...times(N, (m) => cell(m, t)));
  });
  table.classList.toggle("few", N <= 4); // room for a word and its mark in a line
  table.replaceChildren(
    html("thead", {}, html("tr", {}, html("td", {}, "step"), ...names)),
    html("tbody", {}, ...rows),
  );
  if (focused) table.querySelector("[data-cell][tabindex='0']")?.focus();
}

/** Lines from words that are read to the word that is written; of a chosen word with shares. */
function drawArcs(node, table, run, view) {
  const boxes = new Map();
  for (const box of table.querySelectorAll("[data-cell]")) boxes.set(box.dataset.cell, box);
  const heads = [...table.querySelectorAll("[data-lane]")];
  const base = table.getBoundingClientRect();
  const at = (box, low) => {
    const { left, width, top, bottom } = box.getBoundingClientRect();
    return [left + width / 2 - base.left, (low ? bottom : top) - base.top, width];
  };
  const drawn = [];
  for (const [name, box] of boxes) {
    const [m, t] = name.split(",").map(Number);
    const chosen = view.cell && m === view.cell[0] && t === view.cell[1];
    for (const { lane: n, step, share } of attention(run, [m, t], view.layer, view.head)) {
      if (n === SHARED || n === m || share < (chosen ? 0.02 : LEAST)) continue;
      if (t === run.steps && !chosen) continue; // to read before the end would only hide the rest
      const [x0, y0] = at(step ? boxes.get(`${n},${step - 1}`) : heads[n], true);
      const [x, y1, width] = at(box, false);
      const x1 = x + (Math.sign(x0 - x) * width) / 4;
      const middle = Math.max((y0 + y1) / 2, y0 + 6);
      const d = `M${x0} ${y0}C${x0} ${middle} ${x1} ${Math.min(middle, y1 - 6)} ${x1} ${y1}`;
      const kind = chosen ? "arc chosen" : view.cell ? "arc faint" : "arc";
      drawn.push(svg("path", { d, class: kind, "stroke-width": 0.8 + 8 * share }));
      if (chosen && share >= 0.05) {
        const [tx, ty] = [(x0 + 3 * x1) / 4, (y0 + 3 * y1) / 4 - 2];
        drawn.push(text(tx, ty, percent(share), "share"));
      }
    }
  }
  set(node, { width: table.clientWidth, height: table.clientHeight }).replaceChildren(...drawn);
}
