// The lane explorer: who sees whom, how far the planes turn, and what a score makes of it.
//
// The functions at the top are the mathematics of tinylane/core/lanes.py and rope.py once more. A
// test compares the two over thousands of cases. Below them is the page: one state, which the URL
// keeps, and a function for every figure. No library, no build step.
//
//   N lanes   P prompt tokens   [i, m]: position and lane of the query   [j, n]: of the key

export const SHARED = -1; // the lane of prompt tokens
const times = (count, f) => Array.from({ length: count }, (_, k) => f(k));

/** May the query at [i, m] see the key at [j, n]? visibility: N x N booleans. */
export function visible([i, m], [j, n], visibility, lag) {
  if (n === SHARED || n === m) return j <= i;
  return m !== SHARED && visibility[m][n] && j <= i - lag;
}

/** Why: "shared", "own", "other" where it is visible; "prompt", "hidden", "later", "lag" if not. */
export function reason([i, m], [j, n], visibility, lag) {
  if (n === SHARED || n === m) return j > i ? "later" : n === SHARED ? "shared" : "own";
  if (m === SHARED) return "prompt";
  if (!visibility[m][n]) return "hidden";
  return j > i ? "later" : j > i - lag ? "lag" : "other";
}

/** An N x N matrix by name: independent, joint, star, neighbours:k. */
export function pattern(name, N) {
  const [kind, k] = name.split(":");
  const sees = {
    independent: (m, n) => m === n,
    joint: () => true,
    star: (m, n) => m === n || m === 0,
    neighbours: (m, n) => Math.abs(m - n) <= Number(k),
  }[kind];
  return times(N, (m) => times(N, (n) => sees(m, n)));
}

/** theta: radians per position, of D/2 planes. */
export function frequencies(base, D) {
  return times(D / 2, (d) => base ** ((-2 * d) / D));
}

/** Omega: radians per lane. start: "none", "group_think" or "ntk". */
export function omega(start, theta, slot, scale) {
  if (start === "none") return theta.map(() => 0);
  if (start === "group_think") return theta.map((t) => slot * t);
  const last = Math.max(2 * theta.length - 2, 1);
  return theta.map((t, d) => slot * t * scale ** ((-2 * d) / last));
}

/** [j - i, n - m]; with promptLane "own" the prompt is 0 lanes away from everybody. */
export function difference([i, m], [j, n], promptLane) {
  const own = n === SHARED && promptLane === "own";
  return [j - i, own ? 0 : Math.max(n, 0) - Math.max(m, 0)];
}

/** Radians by which each plane is turned from query to key. */
export function angles(query, key, theta, Omega, promptLane) {
  const [positions, lanes] = difference(query, key, promptLane);
  return theta.map((t, d) => t * positions + Omega[d] * lanes);
}

/** The score of a query and a key vector (D numbers each) at a difference. */
export function score(q, k, theta, Omega, positions, lanes) {
  const half = theta.length;
  return theta.reduce((total, t, d) => {
    const turn = t * positions + Omega[d] * lanes;
    const along = q[d] * k[d] + q[d + half] * k[d + half];
    const across = q[d] * k[d + half] - q[d + half] * k[d];
    return total + along * Math.cos(turn) - across * Math.sin(turn);
  }, 0);
}

// ---- The state: what the reader has set ------------------------------------------------------

const NAMED = ["joint", "independent", "star", "neighbours:1", "neighbours:2"];
const STEPS = { 1: 16, 2: 9, 4: 6, 8: 5 }; // of the recorded runs; 6 for other numbers of lanes
const LIMITS = { lanes: [1, 8], prompt: [1, 32], step: [0, 16], lag: [0, 8], slot: [0, 512] };
const START = { lanes: 4, prompt: 23, step: 4, lag: 0, omega: "learned", slot: 32 };

const steps = (state) => STEPS[state.lanes] ?? 6;
const clock = (state) => state.prompt + state.step; // the position that this step feeds
const same = (a, b) => String(a) === String(b);
const nameOf = (see) => NAMED.find((name) => same(see, pattern(name, see.length)));
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const first = (state) => ({ query: [clock(state), +(state.lanes > 1)], key: [clock(state), 0] });

/** Everything brought to where it can be. */
function tidy(state) {
  const { lanes: N, prompt: P, see } = state;
  if (see.length !== N) state.see = pattern(nameOf(see) ?? "joint", N);
  state.step = clamp(state.step, 0, steps(state));
  const inside = ([i, m], last) =>
    m === SHARED ? [clamp(i, 0, P - 1), m] : [clamp(i, P, last), clamp(m, 0, N - 1)];
  const query = inside(state.query, clock(state));
  return Object.assign(state, { query, key: inside(state.key, P + steps(state) + 1) });
}

export function fromURL(search) {
  const given = Object.fromEntries(new URLSearchParams(search)), state = { ...START };
  for (const [name, [low, high]] of Object.entries(LIMITS))
    if (/^\d{1,3}$/.test(given[name])) state[name] = clamp(Number(given[name]), low, high);
  if (["ntk", "group_think", "none"].includes(given.omega)) state.omega = given.omega;
  const { see = "joint" } = given, rows = see.split("."), N = state.lanes;
  const whole = rows.length === N && rows.every((row) => row.length === N && /^[01]+$/.test(row));
  if (whole) state.see = rows.map((row, m) => [...row].map((bit, n) => m === n || bit === "1"));
  else state.see = pattern(NAMED.includes(see) ? see : "joint", N);
  state.step = clamp(state.step, 0, steps(state));
  for (const [name, at] of Object.entries(first(state))) {
    const said = /^(\d{1,3}),(-1|\d)$/.exec(given[name]);
    state[name] = said ? [Number(said[1]), Number(said[2])] : at;
  }
  return tidy(state);
}

export function toURL(state) {
  const bits = state.see.map((row) => row.map(Number).join("")).join(".");
  const said = Object.entries({ ...state, see: nameOf(state.see) ?? bits });
  const plain = { ...START, ...first(state), see: "joint" };
  const told = said.filter(([name, value]) => !same(value, plain[name]));
  return told.map((setting) => setting.join("=")).join("&");
}

// ---- What there is to say of a token ---------------------------------------------------------

const KINDS = { // all that a token can be for the query: its mark, its name
  query: ["◆", "the query"], shared: ["■", "prompt"], own: ["●", "own lane"],
  other: ["▲", "other lanes"], hidden: ["×", "not read"], lag: ["…", "too recent"],
  prompt: ["×", "not for the prompt"], later: ["›", "later"], drawn: ["○", "sampled now"],
  future: ["", "not yet written"],
};
const number = (x, digits = 0) => x.toFixed(digits).replace("-", "−");

/** Every coordinate: the prompt, then lane by lane what is fed, and `more` columns. */
function places(state, more = 0) {
  const row = (m, from, count) => times(count, (c) => [from + c, m]);
  const lane = (m) => row(m, state.prompt, steps(state) + 1 + more);
  return [...row(SHARED, 0, state.prompt), ...times(state.lanes, lane).flat()];
}

/** The recorded run with these lanes, mask and lag, if there is one. */
function recorded({ state, data }) {
  if (state.prompt !== data.prompt.length) return undefined;
  const name = nameOf(state.see), alone = state.lanes === 1 || name === "independent";
  return data.runs[`${state.lanes} ${name} ${alone ? 0 : state.lag}`];
}

function wordOf({ state, data, run }, [j, n]) {
  if (!run || j > clock(state) + 1) return "";
  return n === SHARED ? data.prompt[j] : run.lanes[n][j - state.prompt];
}

/** What each place got of the query's attention: thousandths, the mean of all layers and heads. */
function heard(view) {
  const all = places(view.state).map(String);
  const row = view.run?.attention?.[all.indexOf(String(view.state.query))] ?? [];
  return Object.fromEntries(row.map((share, k) => [all[k], share]));
}

function kindOf({ state }, at) {
  const ahead = at[1] === SHARED ? 0 : at[0] - clock(state);
  if (ahead > 0) return ahead > 1 ? "future" : "drawn";
  return same(at, state.query) ? "query" : reason(state.query, at, state.see, state.lag);
}

/** The sentence: [what happens between query and key, why, what else]. */
function sentence(view, key) {
  const { lag, query, step } = view.state, kind = kindOf(view, key);
  const [[i, m], [j, n]] = [query, key], word = wordOf(view, key) || "token";
  const because = {
    query: "every token sees at least itself",
    shared: `the prompt is shared by all lanes, and ${j} ≤ ${i}`,
    own: `it is lane ${m}’s own past: ${j} ≤ ${i}`,
    other: `lane ${m} may read lane ${n}, and ${j} ≤ ${i}${lag ? ` − lag ${lag}` : ""}`,
    prompt: "a prompt token sees the prompt only: it is computed once, before the lanes",
    hidden: `the matrix does not let lane ${m} read lane ${n}`,
    lag: `another lane’s token is read ${lag} late: this one from position ${j + lag} on`,
    later: `it comes later: ${j} > ${i}`,
    drawn: `it is sampled in this step, ${step}; it is fed, and can be seen, in the next step`,
    future: `at step ${step} it is not written yet`,
  };
  const seen = ["query", "shared", "own", "other"].includes(kind), share = heard(view)[key];
  const percent = Math.round(share / 10) || "under 1";
  const target = `${n === SHARED ? "the prompt" : `lane ${n}`}’s ${word} at position ${j}`;
  return [
    `${m === SHARED ? "The prompt" : `Lane ${m}`} at position ${i} ` +
      `${seen ? "sees" : "does not see"} ${kind === "query" ? "itself" : target}`,
    ` because ${because[kind]}.`,
    (kind === "other" && i === j ? " Both were known before this step, so nothing leaks." : "") +
      (kind === "shared" ? " Every lane sees it as its own past." : "") +
      (seen && share >= 0 ? ` It gets ${percent}% of the attention.` : ""),
  ];
}

/** Where the words come from, and whether the lanes are right. */
function provenance({ state, data, run }) {
  if (!run) return "Positions only: there is no recording for this prompt, lanes, mask and lag.";
  const last = (words) => words.findLast((word) => word !== "<end>");
  const right = run.lanes.filter((words) => last(words) === data.answer).length;
  return (
    `Recorded: the model inside, the shell game of seed ${data.seed}. The answer is ` +
    `${data.answer}; ${right} of ${state.lanes} lanes end with it.` +
    (run.attention ? " Bars: the query's attention (mean of layers and heads)." : "") +
    (state.omega === "learned" ? "" : " The words were written with the learned Omega.")
  );
}

// ---- Drawing ---------------------------------------------------------------------------------

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
const build = (space) => (tag, attributes, ...children) => {
  const node = set(document.createElementNS(`http://www.w3.org/${space}`, tag), attributes);
  node.append(...children);
  return node;
};
const [svg, html] = [build("2000/svg"), build("1999/xhtml")];
const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
const rect = (x, y, width, height, kind) => svg("rect", { x, y, width, height, class: kind });
const circle = (cx, cy, r, kind) => svg("circle", { cx, cy, r, class: kind });
const text = (x, y, what, anchor = "middle", kind = "") =>
  svg("text", { x, y, class: kind, "text-anchor": anchor }, what);
const hatch = (node) => set(node, { style: "fill: url(#lx-hatch)" });
const widthFor = (node) => Math.max(node.parentElement.clientWidth, 280);

/** Draws shapes into a figure of that size; label: what it shows, in words. */
const figure = (node, width, height, label, shapes) =>
  set(node, { width, height, role: "img", "aria-label": label }).replaceChildren(...shapes);

/** Marks for [kind, x, y]: square, circle, triangle for what is seen, a dot for what is not. */
function marks(points, a) {
  const ring = (r) => `m${-r},0a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0z`;
  const shapes = {
    shared: `m${-a},${-a}h${2 * a}v${2 * a}h${-2 * a}z`,
    own: ring(1.1 * a),
    other: `m0,${-1.2 * a}l${1.3 * a},${2.2 * a}h${-2.6 * a}z`,
    query: `m0,${-2 * a}l${2 * a},${2 * a}l${-2 * a},${2 * a}l${-2 * a},${-2 * a}z`,
  };
  const paths = {};
  for (const [kind, x, y] of points)
    paths[kind] = `${paths[kind] ?? ""}M${x},${y}${shapes[kind] ?? ring(a / 3)}`;
  return Object.entries(paths).map(([kind, d]) => svg("path", { d, class: `mark ${kind}` }));
}

/** Where each token stands: on a wide page all in one line, else in bands of what fits. */
function layout(state, width) {
  const { lanes: N, prompt: P } = state, columns = steps(state) + 2, boxes = [], axis = [];
  const one = 21 * P + 56 + 48 * columns <= width, high = one ? Math.max(34, 136 / N) : 36;
  const left = one ? 21 * P + 56 : 18;
  let y = 18;
  const band = (lanes, from, count, x0, tall, [least, most], title) => {
    const per = Math.min(count, Math.floor((width - x0) / least)), all = lanes.length * tall;
    const w = Math.min((width - x0) / per, most), step = all + 26;
    axis.push([x0, y - 7, title, "start"]);
    for (let c = 0; c < count; c++) {
      const x = x0 + (c % per) * w, top = y + Math.floor(c / per) * step;
      axis.push([x + w / 2, top + all + 13, from + c, "middle", lanes[0] === 0 && from + c]);
      for (const [row, m] of lanes.entries()) {
        boxes.push({ at: [from + c, m], x, y: top + row * tall, w, h: tall });
        if (c % per === 0 && m !== SHARED)
          axis.push([x - 6, top + (row + 0.5) * tall + 4, one ? `lane ${m}` : m, "end"]);
      }
    }
    return y + Math.ceil(count / per) * step;
  };
  const size = one ? [21, 21] : [42, 74];
  const under = band([SHARED], 0, P, 0, one ? N * high : high, size, "the prompt, for all lanes");
  if (!one) y = under + 18;
  const lanes = times(N, (m) => m), title = "the lanes, one token per step";
  return { boxes, axis, height: band(lanes, P, columns, left, high, [39, 74], title) - 6 };
}

function drawGrid(view, key) {
  const { state, parts } = view, shares = heard(view), width = widthFor(parts.grid);
  const { boxes, axis, height } = layout(state, width);
  const most = Math.max(1, ...Object.values(shares));
  const cells = boxes.map(({ at, x, y, w, h }) => {
    const kind = kindOf(view, at), [sign, name] = KINDS[kind], chosen = same(at, key);
    const what = wordOf(view, at), slim = h > w;
    const box = set(rect(1, 1, w - 2, h - 2, "box"), { rx: 3 });
    if (["hidden", "prompt", "lag"].includes(kind)) hatch(box);
    const word = text(w / 2, h / 2 + 7, what, "middle", "word");
    if (slim) set(word, { transform: `rotate(-90 ${w / 2} ${h / 2})`, y: h / 2 + 5 });
    const mark = slim ? text(w / 2, 14, sign) : text(9, 12, sign);
    const bar = rect(3, h - 6, ((w - 6) * (shares[at] ?? 0)) / most, 3, "bar");
    const who = at[1] === SHARED ? "prompt" : `lane ${at[1]}`;
    const says = { role: "option", "aria-label": `${who}, position ${at[0]}, ${what}: ${name}` };
    const place = { id: `at${at}`, "data-at": at, transform: `translate(${x} ${y})` };
    const looks = { class: `cell ${kind}`, "aria-selected": chosen };
    return svg("g", { ...says, ...place, ...looks }, box, bar, word, mark);
  });
  const names = axis.map(([x, y, what, anchor, at]) =>
    at === clock(state) ? text(x, y, `▴${what}`, anchor, "now") : text(x, y, what, anchor),
  );
  set(parts.grid, { width, height, "aria-activedescendant": `at${key}` });
  parts.grid.replaceChildren(svg("g", { class: "axis", "aria-hidden": true }, ...names), ...cells);
}

function drawWords(view, key) {
  const { parts, state } = view, [what, ...why] = sentence(view, key);
  parts.why.replaceChildren(html("strong", {}, what), ...why);
  parts.from.textContent = provenance(view);
  const kinds = places(state, 1).map((at) => kindOf(view, at));
  const count = (kind) => kinds.filter((other) => other === kind).length;
  const entry = ([kind, [sign, name]]) =>
    html("span", { class: kind }, html("b", {}, sign), ` ${name} `, count(kind));
  parts.legend.replaceChildren(...Object.entries(KINDS).filter(([k]) => count(k)).map(entry));
}

function drawMatrix({ state: { see }, parts }) {
  const cell = (m, n) => {
    const say = `lane ${m} reads lane ${n}`, own = m === n ? { disabled: "" } : {};
    const pressed = { "data-cell": [m, n], "aria-pressed": see[m][n], "aria-label": say };
    const [mark] = KINDS[m === n ? "own" : see[m][n] ? "other" : "hidden"];
    return html("td", {}, html("button", { type: "button", title: say, ...pressed, ...own }, mark));
  };
  const top = html("tr", {}, html("td", {}), ...see.map((_, n) => html("th", {}, n)));
  const row = (_, m) => html("tr", {}, html("th", {}, m), ...see.map((_, n) => cell(m, n)));
  parts.matrix.replaceChildren(top, ...see.map(row));
}

/** All queries (rows) by all keys (columns); bands show where the pair stands. */
function drawMask({ state, parts }, key) {
  const all = places(state), side = Math.min(widthFor(parts.mask), 300), a = side / all.length;
  const { see, lag, query } = state, middle = (k) => (k + 0.5) * a;
  const pairs = all.flatMap((q, y) => all.map((k, x) => [q, k, middle(x), middle(y)]));
  const points = pairs
    .filter(([q, k]) => visible(q, k, see, lag))
    .map(([q, k, x, y]) => [reason(q, k, see, lag), x, y]);
  const edges = times(state.lanes, (m) => (state.prompt + m * (steps(state) + 1)) * a);
  const rules = edges.flatMap((x) => [line(x, 0, x, side, "rule"), line(0, x, side, x, "rule")]);
  const at = (place) => all.findIndex((other) => same(place, other)) * a; // not fed yet: < 0
  const bands = [rect(0, at(query), side, a, "band"), rect(at(key), 0, a, side, "band")];
  if (at(key) < 0) bands.pop();
  const label = `The mask of ${all.length} tokens: ${points.length} visible pairs`;
  figure(parts.mask, side, side, label, [...rules, ...marks(points, a * 0.38), ...bands]);
}

/** A dial for each plane: dashed the turn by position, an arc the turn by lane, a hand for both. */
function drawDials({ state, theta, Omega, virtual, parts }, key) {
  const width = widthFor(parts.dials), w = width / 8, r = Math.min(w / 2 - 4, 30);
  const ours = angles(state.query, key, theta, Omega, "own"), high = 2 * r + 22;
  const theirs = angles(state.query, key, theta, virtual, 0);
  const dial = (t, d) => {
    const [x, y] = [((d % 8) + 0.5) * w, Math.floor(d / 8) * high + r + 4];
    const to = (turn, s = r) => [x + s * Math.cos(turn), y - s * Math.sin(turn)];
    const from = t * (key[0] - state.query[0]), turn = clamp(ours[d] - from, -6.28, 6.28);
    const flags = `0 ${+(Math.abs(turn) > Math.PI)} ${+(turn < 0)}`, s = r / 2;
    const arc = `M${to(from, s)}A${s} ${s} ${flags} ${to(from + turn, s)}`;
    const said = `plane ${d}: ${number(ours[d], 3)}; in Group Think ${number(theirs[d], 3)} rad`;
    return svg("g", { class: "dial" }, ...[
      circle(x, y, r, "face"), line(x, y, ...to(from), "position"),
      svg("path", { d: arc, class: "lane" }), circle(...to(theirs[d]), r / 8, "theirs"),
      line(x, y, ...to(ours[d]), "hand"), circle(...to(ours[d]), r / 11, "tip"),
      text(x, y + r + 13, number(ours[d], Math.abs(ours[d]) < 10 ? 2 : 1)), svg("title", {}, said),
    ]);
  };
  const height = high * Math.ceil(theta.length / 8);
  figure(parts.dials, width, height, "The angle of each plane, query to key", theta.map(dial));
}

/** The score of a unit query and key: for every difference of lanes a curve over positions. */
function drawScores({ state, theta }, key, node, Omega, own) {
  const { lanes: N, see, lag, query } = state, m = query[1], R = state.prompt + steps(state);
  const unit = times(2 * theta.length, (d) => (d < theta.length ? theta.length ** -0.5 : 0));
  const f = (p, l) => score(unit, unit, theta, Omega, p, l);
  const width = widthFor(node), left = 76, high = N > 4 ? 26 : 42, bottom = (2 * N - 1) * high;
  const x = (p) => left + ((p + R) / (2 * R)) * (width - left - 12), shapes = [];
  const y = (l, s) => (N - l - s * 0.8) * high - 6;
  for (let l = N - 1; l > -N; l--) {
    const there = m === SHARED ? l === 0 : m + l >= 0 && m + l < N;
    const last = !there || (l && !see[m][m + l]) ? -R : l ? -lag : 0; // the last position seen
    const at = (p) => `${x(p).toFixed(1)},${y(l, f(p, l)).toFixed(1)}`;
    const curve = times(2 * R + 1, (k) => at(k - R)).join("L"), [from, to] = [x(-R), x(R)];
    const d = `M${from},${y(l, 0)}L${curve}L${to},${y(l, 0)}z`;
    shapes.push(svg("path", { d, class: there ? "hill" : "hill absent" }));
    shapes.push(hatch(rect(x(last), y(l, 1), to - x(last), 0.8 * high, "off")));
    const name = !there ? "no lane" : l ? `lane ${m + l}` : "own lane";
    shapes.push(text(0, y(l, 0) - 2, `${l > 0 ? "+" : ""}${number(l)} ${name}`, "start"));
  }
  const [p, l] = difference(query, key, own), [cx, cy] = [x(p), y(l, f(p, l))];
  shapes.push(line(cx, 0, cx, bottom, "at"), circle(cx, cy, 5, "tip"));
  for (const tick of [-R, 0, R]) shapes.push(text(x(tick), bottom + 14, number(tick)));
  const said = `${number(f(p, l), 3)} at j−i = ${number(p)}, n−m = ${number(l)}`;
  figure(node, width, bottom + 20, `The score is ${said}`, shapes);
  node.nextElementSibling.textContent = said;
}

/** Group Think: lane m's token i stands where token i + m * slot of one long text would. */
function drawVirtual(view, key) {
  const { state, parts } = view, { lanes: N, slot, query } = state, width = widthFor(parts.line);
  const place = ([i, m]) => i + Math.max(m, 0) * slot, span = place([clock(state), N - 1]) + 1;
  const step = (width - 56) / span, x = (at) => 48 + (place(at) + 0.5) * step;
  const y = ([, m]) => 14 + Math.max(m, 0) * 18, end = N * 18 + 20;
  const points = places(state)
    .map((at) => [kindOf(view, at), x(at), y(at)])
    .filter(([kind]) => !["query", "drawn", "future"].includes(kind));
  const names = times(N, (m) => text(0, 18 + m * 18, `lane ${m}`, "start"));
  names.push(text(48, end, 0, "start"), text(width - 8, end, span - 1, "end"));
  const ahead = hatch(rect(x(query), 0, width - x(query), N * 18 + 4, "off"));
  const pair = [circle(x(key), y(key), 8, "ring"), ...marks([["query", x(query), y(query)]], 3)];
  const [p, l] = difference(query, key, 0);
  const far = p + l * slot, said = `${number(p)} + ${number(l)}·${slot} = ${number(far)}`;
  const shapes = [ahead, ...names, ...marks(points, clamp(step * 0.4, 1.2, 4)), ...pair];
  figure(parts.line, width, end + 4, `Virtual positions; the distance is ${said}`, shapes);
  const where = far > 0 ? ", ahead of the query: no pretrained model has seen that" : "";
  parts.far.textContent = `The key is (j−i) + (n−m)·slot = ${said} away${where}.`;
}

// ---- The page --------------------------------------------------------------------------------

function draw(view) {
  const { state, parts, form, theta, data } = view, key = view.hover ?? state.key, N = state.lanes;
  view.Omega = state.omega === "learned" ? data.learned : omega(state.omega, theta, state.slot, N);
  view.run = recorded(view);
  view.virtual = omega("group_think", theta, state.slot);
  for (const part of [drawGrid, drawWords, drawMask, drawDials, drawVirtual]) part(view, key);
  drawScores(view, key, parts.ours, view.Omega, "own");
  drawScores(view, key, parts.theirs, view.virtual, 0);
  const shown = { ...state, see: nameOf(state.see) ?? "custom" };
  form.step.max = steps(state);
  parts.play.textContent = view.playing ? "Pause" : "Play";
  for (const field of form.querySelectorAll("[name]")) {
    const value = shown[field.name] ?? field.value; // a number is left alone while it is typed
    if (field.type !== "number" || field !== document.activeElement) field.value = value;
    if (field.type === "range") field.parentElement.querySelector("b").textContent = value;
  }
}

/** Take over what was changed, draw it, and keep it in the URL. */
function change(view, patch) {
  const state = tidy(Object.assign(view.state, patch));
  if ("prompt" in patch) Object.assign(state, first(state));
  if ("step" in patch) state.query = [clock(state), Math.max(state.query[1], 0)];
  drawMatrix(view);
  draw(Object.assign(view, { hover: null }));
  clearTimeout(view.timer); // browsers limit how often a page may rewrite its URL
  const url = () => `${location.pathname}?${toURL(state)}${location.hash}`;
  view.timer = setTimeout(() => history.replaceState(null, "", url()), 150);
}

/** Choose a token as the key or as the query; the clock goes on to a query that is later. */
function choose(view, at, as) {
  const { state } = view, step = at[1] === SHARED ? 0 : at[0] - state.prompt;
  if (as === "query") state.step = Math.max(state.step, step);
  change(view, { [as]: at });
}

function press(view, event) {
  const { state, form } = view, [j, n] = state.key, key = event.key;
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  const as = { q: "query", " ": form.pick.value, Enter: form.pick.value }[key];
  if (as) choose(view, state.key, as);
  else if (way) {
    const to = j + way[0], lane = n === SHARED ? Math.max(state.query[1], 0) : n + way[1];
    const at = [to, to < state.prompt ? SHARED : lane];
    if (places(state, 1).some((place) => same(place, at))) change(view, { key: at });
  } else return;
  event.preventDefault();
}

/** Bring a page to life whose elements are named by data-part. data: the recording. */
export function mount(root, data) {
  const parts = {}, form = root.querySelector("form");
  for (const node of root.querySelectorAll("[data-part]")) parts[node.dataset.part] = node;
  const theta = frequencies(data.base, data.head_dim), state = fromURL(location.search);
  const view = { data, theta, parts, form, state, hover: null };
  const pair = (words) => words?.split(",").map(Number) ?? null;
  const at = ({ target }) => pair(target.closest("[data-at]")?.dataset.at);
  const point = (key) => same(key, view.hover) || draw(Object.assign(view, { hover: key }));
  parts.grid.addEventListener("pointerover", (e) => e.pointerType === "mouse" && point(at(e)));
  parts.grid.addEventListener("pointerleave", () => point(null));
  parts.grid.addEventListener("click", (e) => at(e) && choose(view, at(e), form.pick.value));
  parts.grid.addEventListener("keydown", (e) => press(view, e));
  parts.matrix.addEventListener("click", ({ target }) => {
    const [m, n] = pair(target.dataset.cell) ?? [];
    const flip = (on, a, b) => on !== (a === m && b === n);
    change(view, { see: state.see.map((row, a) => row.map((on, b) => flip(on, a, b))) });
    parts.matrix.querySelector(`[data-cell="${m},${n}"]`)?.focus();
  });
  form.addEventListener("input", ({ target: { name, value } }) => {
    if (name === "see") change(view, { see: pattern(value, state.lanes) });
    else if (name === "omega") change(view, { omega: value });
    else if (name in LIMITS && value)
      change(view, { [name]: clamp(Math.round(value), ...LIMITS[name]) });
  });
  parts.reset.addEventListener("click", () => change(view, fromURL("")));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches; // a press is one step
  const play = (on) => {
    clearTimeout(view.playing);
    view.playing = on && !still && setTimeout(play, 900, true);
    change(view, on ? { step: (state.step + 1) % (steps(state) + 1) } : {});
  };
  parts.play.addEventListener("click", () => play(!view.playing));
  change(view, {});
  new ResizeObserver(() => draw(view)).observe(root);
}
