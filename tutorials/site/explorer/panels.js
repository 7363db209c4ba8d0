// The panels beside the board: who reads whom, Omega, and what there is to know of a word.

import { SHARED } from "../assets/lanes.js";
import { circle, clamp, html, line, rect, set, svg, text, times } from "../assets/shared/dom.js";
import { drawKeys, shareRow } from "../assets/shared/listening.js";
import { drawReads } from "../assets/shared/reads.js";
import { TAGS } from "../assets/shell_game.js";
import { END, attention, probabilities } from "../assets/run.js";
import { PLANES, omegaOf } from "./state.js";

const shown = (word) => (word === END ? "end" : word);

/** Who reads whom, and every lane's tag. */
export function drawMatrix(table, { see, tags }) {
  const tag = (m) => {
    const chosen = html("select", { "data-tag": m, "aria-label": `First token of lane ${m + 1}` });
    chosen.append(...TAGS.map((name) => html("option", { selected: name === tags[m] }, name)));
    return chosen;
  };
  drawReads(table, see, { more: { head: "tag", cell: tag } });
}

// ---- Omega -----------------------------------------------------------------------------------

const [LOW, HIGH, FLAT] = [-3, 64, 0.05]; // radians at the edges of the plot; linear below FLAT
const up = (value) => Math.asinh(value / FLAT);
const TALL = 150;
const yOf = (value) => TALL * (1 - (up(value) - up(LOW)) / (up(HIGH) - up(LOW)));
/** What a height of the plot means, in radians per lane. */
export const valueAt = (y) => {
  const value = FLAT * Math.sinh(up(LOW) + (1 - y / TALL) * (up(HIGH) - up(LOW)));
  return clamp(Math.abs(value) < 0.02 ? 0 : value, LOW, HIGH);
};

/** A bar for every plane; the reader draws over them. `plane`: the one that has the focus. */
export function drawOmega(node, state, model, plane) {
  const Omega = omegaOf(state, model);
  const width = Math.max(node.parentElement.clientWidth, 200);
  const [left, w] = [26, (width - 26) / PLANES];
  const ticks = [-1, 0, 0.1, 1, 10].flatMap((value) => [
    line(left, yOf(value), width, yOf(value), value ? "rule" : "zero"),
    text(left - 4, yOf(value) + 4, value, "", "end"),
  ]);
  const bars = Omega.flatMap((value, d) => {
    const [x, y, zero] = [left + d * w, yOf(clamp(value, LOW, HIGH)), yOf(0)];
    const off = state.off.includes(d);
    const kind = `bar${off ? " off" : ""}${d === plane ? " chosen" : ""}`;
    const bar = rect(x + 1, Math.min(y, zero), w - 2, Math.max(Math.abs(y - zero), 1), kind);
    const mark = off ? text(x + w / 2, TALL + 12, "×") : circle(x + w / 2, TALL + 8, 2.5, "on");
    return [bar, mark];
  });
  const slots = times(PLANES, (d) => `${left + (d + 0.5) * w} ${yOf(32 * model.theta[d])}`);
  const start = svg("path", { d: `M${slots.join("L")}`, class: "start" });
  const labels = [0, 8, 16, 24, 31].map((d) => text(left + (d + 0.5) * w, TALL + 28, d));
  set(node, { width, height: TALL + 32, role: "slider", tabindex: 0 });
  const radians = `${Number(Omega[plane].toFixed(3))} radians per lane`;
  const said = `plane ${plane}: ${radians}${state.off.includes(plane) ? ", off" : ""}`;
  set(node, { "aria-label": "Omega, plane by plane", "aria-valuetext": said });
  set(node, { "aria-valuemin": 0, "aria-valuemax": PLANES - 1, "aria-valuenow": plane });
  node.replaceChildren(...ticks, ...bars, start, ...labels);
  return said;
}

/** [plane, radians] under a pointer. */
export function planeAt(node, { clientX, clientY }) {
  const { left, top, width } = node.getBoundingClientRect();
  const d = Math.floor(((clientX - left - 26) / (width - 26)) * PLANES);
  return [clamp(d, 0, PLANES - 1), clientY - top];
}

// ---- The chosen word -------------------------------------------------------------------------

/** The tokens that a lane was fed: its tag, then what it wrote. */
const fedWord = (run, n, step) => (step ? run.cells[n][step - 1].word : run.tags[n]);

/** Its likeliest words, where its attention went, and what it read most. */
export function drawWord(parts, run, state) {
  const [m, t] = state.cell;
  const cell = run.cells[m][t];
  const where = `Lane ${m + 1}, step ${t + 1}`;
  parts.silences.hidden = run.lanes === 1;
  if (!cell) {
    parts.word.textContent = `${where}: the lane has ended before`;
    for (const name of ["next", "heard", "keys"]) parts[name].replaceChildren();
    return;
  }
  const { word, good, wanted } = cell;
  const verdict = good ? "right" : `wrong, expected ${shown(wanted)}`;
  parts.word.textContent = `${where}: ${shown(word)}, ${verdict}`;
  const likely = probabilities(run, state.cell);
  const name = ({ word }) => shown(word) + (word === wanted ? " ✓" : "");
  const best = likely.slice(0, 5);
  const missing = likely.find((next) => next.word === wanted);
  if (!best.includes(missing)) best.push(missing);
  const kind = (next) => (next.word === wanted ? "right" : "");
  const rows = best.map((next) => shareRow(name(next), next.share, { kind: kind(next) }));
  parts.next.replaceChildren(...rows);
  const read = attention(run, state.cell, state.layer, state.head);
  const sum = (lane) => read.reduce((all, key) => all + (key.lane === lane ? key.share : 0), 0);
  const who = (n) => (n === SHARED ? "the prompt" : n === m ? "itself" : `lane ${n + 1}`);
  const heard = [SHARED, ...times(run.lanes, (n) => n)];
  parts.heard.replaceChildren(...heard.map((n) => shareRow(who(n), sum(n))));
  const most = read.toSorted((a, b) => b.share - a.share).slice(0, 4);
  drawKeys(parts.keys, most.map(({ lane: n, step, share }) => {
    const swap = n === SHARED && step >= 4 && step < 20 ? `, swap ${step - 3}` : "";
    const text = n === SHARED ? run.asked[step] : fedWord(run, n, step);
    return { share, text, where: who(n) + swap };
  }));
}
