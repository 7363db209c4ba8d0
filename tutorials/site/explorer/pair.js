// A query and a key: may the one see the other, by how much is each plane turned, and what a score
// makes of it. The query is the chosen word; the reader chooses the key.

import { SHARED, visible } from "../assets/lanes.js";
import { circle, clamp, line, rect, set, svg, text, times } from "../assets/shared/dom.js";
import { readsAt } from "../assets/run.js";
import { angles, difference, reason, score } from "./lane_rope.js";
import { omegaOf } from "./state.js";

const number = (x, digits = 0) => x.toFixed(digits).replace("-", "−");
const widthFor = (node) => Math.max(node.parentElement.clientWidth, 280);
/** Draws shapes into a figure of that size; label: what it shows, in words. */
const figure = (node, width, height, label, shapes) =>
  set(node, { width, height, role: "img", "aria-label": label }).replaceChildren(...shapes);

/** The sentence: what happens between query and key, and why. */
export function sentence(run, state) {
  const [query, key] = places(run, state);
  const [[i, m], [j, n]] = [query, key];
  const sees = readsAt(state.see, state.silent, state.cell[1]);
  const silent = state.see[m][Math.max(n, 0)] && n !== SHARED && !sees[m][n];
  const why = reason(query, key, sees, state.lag);
  const because = {
    shared: `the prompt is shared by all lanes, and ${j} ≤ ${i}`,
    own: `it is its own past: ${j} ≤ ${i}`,
    other: `it may read lane ${n + 1}, and ${j} ≤ ${i}${state.lag ? ` − lag ${state.lag}` : ""}`,
    hidden: silent ? `lane ${n + 1} is silent in this step` : `it may not read lane ${n + 1}`,
    lag: `another lane’s token is read ${state.lag} steps late`,
    later: `it comes later: ${j} > ${i}`,
  };
  const does = ["shared", "own", "other"].includes(why) ? "sees" : "does not see";
  const whose = n === SHARED ? "the prompt’s token" : `lane ${n + 1}’s token`;
  return `Lane ${m + 1} at position ${i} ${does} ${whose} at position ${j}: ${because[why]}.`;
}

/** [query, key]: position and lane of the pair. */
export function places(run, { cell: [m, t], key: [n, s] }) {
  return [[run.P + t, m], [n === SHARED ? s : run.P + s, n]];
}

/** All queries (rows) by all keys (columns) of the run; bands show the pair. */
export function drawMask(node, run, state) {
  const lanes = times(run.lanes, (m) => run.cells[m].map((_, t) => [run.P + t, m]));
  const all = [...times(run.P, (i) => [i, SHARED]), ...lanes.flat()];
  const side = Math.min(widthFor(node), 320);
  const a = side / all.length;
  const shapes = { shared: "", own: "", other: "" };
  let count = 0;
  for (const [y, q] of all.entries()) {
    const sees = q[1] === SHARED ? state.see : readsAt(state.see, state.silent, q[0] - run.P);
    for (const [x, k] of all.entries()) {
      if (!visible(q, k, sees, state.lag)) continue;
      count++;
      shapes[reason(q, k, sees, state.lag)] += `M${x * a} ${y * a}h${a}v${a}h${-a}z`;
    }
  }
  const paths = Object.entries(shapes).map(([kind, d]) => svg("path", { d, class: kind }));
  const [query, key] = places(run, state).map((at) =>
    all.findIndex((other) => other[0] === at[0] && other[1] === at[1]),
  );
  if (query >= 0) paths.push(rect(0, query * a, side, a, "band"));
  if (key >= 0) paths.push(rect(key * a, 0, a, side, "band"));
  const label = `The mask of ${all.length} tokens: ${count} visible pairs`;
  figure(node, side, side, label, paths);
}

/** A dial for each plane: dashed the turn by position, an arc the turn by lane, a hand for both. */
export function drawDials(node, run, state, model) {
  const [query, key] = places(run, state);
  const turned = [...angles(query, key, model.theta, omegaOf(state, model), state.promptLane)];
  const width = widthFor(node);
  const w = width / 8;
  const [r, high] = [Math.min(w / 2 - 4, 28), 2 * Math.min(w / 2 - 4, 28) + 22];
  const dial = (angle, d) => {
    const [x, y] = [((d % 8) + 0.5) * w, Math.floor(d / 8) * high + r + 4];
    const to = (turn, s = r) => [x + s * Math.cos(turn), y - s * Math.sin(turn)];
    const from = model.theta[d] * (key[0] - query[0]);
    const turn = clamp(angle - from, -6.28, 6.28);
    const [flags, s] = [`0 ${+(Math.abs(turn) > Math.PI)} ${+(turn < 0)}`, r / 2];
    const arc = `M${to(from, s)}A${s} ${s} ${flags} ${to(from + turn, s)}`;
    return svg("g", { class: "dial" }, circle(x, y, r, "face"), line(x, y, ...to(from), "position"),
      svg("path", { d: arc, class: "lane" }), line(x, y, ...to(angle), "hand"),
      text(x, y + r + 13, number(angle, Math.abs(angle) < 10 ? 2 : 1)),
      svg("title", {}, `plane ${d}: ${number(angle, 3)} rad`));
  };
  figure(node, width, high * 4, "The angle of each plane, query to key", turned.map(dial));
}

/** The score of a query and key of length 1 that point the same way in every plane: for every
 * difference of lanes a curve over differences of positions. Hatched: what the query cannot see. */
export function drawScores(node, run, state, model) {
  const [{ lanes: N, P, steps }, [query, key]] = [run, places(run, state)];
  const [theta, Omega] = [model.theta, omegaOf(state, model)];
  const sees = readsAt(state.see, state.silent, state.cell[1]);
  const [m, R] = [query[1], P + steps];
  const unit = times(2 * theta.length, (d) => (d < theta.length ? theta.length ** -0.5 : 0));
  const f = (p, l) => score(unit, unit, theta, Omega, p, l);
  const width = widthFor(node);
  const [left, high] = [92, N > 4 ? 26 : 42];
  const bottom = (2 * N - 1) * high;
  const x = (p) => left + ((p + R) / (2 * R)) * (width - left - 12);
  const y = (l, s) => (N - l - s * 0.8) * high - 6;
  const shapes = [];
  for (let l = N - 1; l > -N; l--) {
    const there = m + l >= 0 && m + l < N;
    const last = !there || (l && !sees[m][m + l]) ? -R : l ? -state.lag : 0; // last position seen
    const curve = times(2 * R + 1, (k) => `${x(k - R)},${y(l, f(k - R, l))}`).join("L");
    const d = `M${x(-R)},${y(l, 0)}L${curve}L${x(R)},${y(l, 0)}z`;
    shapes.push(svg("path", { d, class: there ? "hill" : "hill absent" }));
    shapes.push(rect(x(last), y(l, 1), x(R) - x(last), 0.8 * high, "hatch"));
    const name = !there ? "no lane" : l ? `lane ${m + l + 1}` : "own lane";
    shapes.push(text(0, y(l, 0) - 2, `${l > 0 ? "+" : ""}${number(l)} ${name}`, "", "start"));
  }
  const [p, l] = difference(query, key, state.promptLane);
  const said = `${number(f(p, l), 3)} at j−i = ${number(p)}, n−m = ${number(l)}`;
  shapes.push(line(x(p), 0, x(p), bottom, "at"), circle(x(p), y(l, f(p, l)), 5, "tip"));
  for (const tick of [-R, 0, R]) shapes.push(text(x(tick), bottom + 14, number(tick)));
  figure(node, width, bottom + 20, `The score is ${said}`, shapes);
  return said;
}
