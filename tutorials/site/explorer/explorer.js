// The lane explorer: the model inside plays the reader's game, again at every change. Everything on
// the page is drawn from one state (state.js) and the run that the model makes of it (run.js).

import { board } from "../assets/board.js";
import { clamp, html, set, times } from "../assets/shared/dom.js";
import { arrows, onKeys } from "../assets/shared/keys.js";
import { player, still } from "../assets/shared/player.js";
import { choiceOf, listPatterns, onReads, pattern } from "../assets/shared/reads.js";
import { draw as randomMoves, parse, steps as stepsOf } from "../assets/shell_game.js";
import { play, verdict } from "../assets/run.js";
import { CHALLENGES, trial, watch } from "./challenges.js";
import { drawMethod, listMethods } from "./methods.js";
import { drawMatrix, drawOmega, drawWord, planeAt, valueAt } from "./panels.js";
import { drawDials, drawMask, drawScores, sentence } from "./pair.js";
import { PLANES, fromURL, initial, omegaOf, settingsOf, tidy, toURL } from "./state.js";

const [PAUSE, GAMES] = [900, 50]; // ms that a step stays; games of a trial
const LOOK = ["cell", "key", "layer", "head"]; // these change no word
const without = (all, item) => all.filter((other) => String(other) !== String(item));

/** Brings a page to life whose elements are named by data-part. methods: of methods.json. */
export function mount(root, model, methods) {
  const parts = {};
  for (const node of root.querySelectorAll("[data-part]")) parts[node.dataset.part] = node;
  root.removeAttribute("data-off");
  const page = { root, parts, model, state: fromURL(location.search), plane: 0, steps: Infinity };
  Object.assign(page, { challenge: null, before: null, predicted: [], tried: null });
  page.solved = new Set();
  page.board = board(parts.board, {
    onMove: (k, move) => change(page, { moves: page.state.moves.with(k, move) }),
    onCell: (cell) => change(page, { cell }),
  });
  page.slowly = player(parts.play, {
    next: () => showNext(page),
    wait: () => (still.matches ? 0 : PAUSE), // with less motion a press is one step
  });
  listPatterns(root.querySelector("[name=see]"));
  listen(page);
  listenOmega(page);
  listenChallenges(page);
  listMethods(parts, methods, (method) => {
    page.method = method;
    if (method.live) change(page, { ...initial(), moves: page.state.moves, ...method.live });
    else drawMethod(page);
  });
  update(page);
  let width = root.clientWidth;
  new ResizeObserver(() => {
    if (width !== root.clientWidth) drawAll(page);
    width = root.clientWidth;
  }).observe(root);
}

/** Takes over what was changed; the model plays before the next picture. */
function change(page, patch) {
  page.state = tidy({ ...page.state, ...patch });
  page.fresh ??= Object.keys(patch).every((name) => LOOK.includes(name)) && page.run !== null;
  page.fresh &&= Object.keys(patch).every((name) => LOOK.includes(name));
  if (!page.fresh) page.tried = null;
  page.root.setAttribute("aria-busy", "true");
  page.frame ??= requestAnimationFrame(() => update(page));
}

function update(page) {
  if (!page.fresh) {
    const began = performance.now();
    page.run = play(page.model, settingsOf(page.state, page.model));
    page.ms = Math.round(performance.now() - began);
    page.steps = Infinity;
    page.slowly.stop();
  }
  drawAll(page);
  page.frame = page.fresh = null;
  page.root.setAttribute("aria-busy", "false");
  clearTimeout(page.timer); // browsers limit how often a page may rewrite its address
  page.root.setAttribute("data-address", "old");
  page.timer = setTimeout(() => {
    history.replaceState(null, "", `${location.pathname}?${toURL(page.state)}${location.hash}`);
    page.root.setAttribute("data-address", "new");
  }, 150);
}

// ---- Drawing ---------------------------------------------------------------------------------

function drawAll(page) {
  const { parts, run, state, model } = page;
  drawBoard(page);
  parts.verdict.textContent = verdict(run);
  parts.ms.textContent = `The model took ${page.ms} ms in your browser.`;
  drawMatrix(parts.matrix, state);
  parts.plane.textContent = drawOmega(parts.omega, state, model, page.plane);
  drawWord(parts, run, state);
  drawSilence(page);
  drawTrial(page);
  drawControls(page);
  drawPair(page);
  drawChallenges(page);
  drawMethod(page);
}

function drawBoard({ board, run, state, steps }) {
  board(run, { ...state, steps: Math.min(steps, run.steps + 1) });
}

/** In which steps the lane of the chosen word is silent. */
function drawSilence({ parts, state }) {
  const [m] = state.cell;
  const steps = state.silent.filter(([lane]) => lane === m).map(([, t]) => t + 1);
  const said = steps.length ? `Nobody else reads lane ${m + 1} in step ${steps.join(", ")}.` : "";
  parts.silent.textContent = said;
}

function drawTrial({ parts, tried }) {
  const { right, most, games } = tried ?? {};
  const said = `Of ${games} games all lanes are right in ${right}, most lanes in ${most}.`;
  parts.tried.textContent = tried ? said : "";
}

function drawControls(page) {
  const { root, state, plane } = page;
  const values = { ...state, see: choiceOf(state.see), moves: state.moves.join(" ") };
  Object.assign(values, { plane, radians: Number(omegaNow(page)[plane].toFixed(3)) });
  for (const field of root.querySelectorAll("form [name]")) {
    const value = values[field.name];
    if (field.type === "checkbox") field.checked = value === 0;
    else if (field !== document.activeElement || field.type === "range") field.value = value;
    const told = field.closest("label")?.querySelector("b");
    if (told) told.textContent = value;
  }
  root.querySelector("[name=slot]").disabled = !["group_think", "ntk"].includes(state.omega);
}

/** Only while its part of the page is open: the mask has thousands of cells. */
function drawPair({ parts, run, state, model }) {
  if (!parts.pair.open) return;
  const [n] = state.key;
  const lanes = times(run.lanes, (m) => html("option", { value: m }, `lane ${m + 1}`));
  parts.keylane.replaceChildren(html("option", { value: -1 }, "the prompt"), ...lanes);
  parts.keylane.value = n;
  const names = n < 0 ? times(run.P, (i) => `position ${i}`) : fed(run, n);
  parts.keystep.replaceChildren(...names.map((name, s) => html("option", { value: s }, name)));
  parts.keystep.value = state.key[1];
  parts.why.textContent = sentence(run, state);
  drawMask(parts.mask, run, state);
  drawDials(parts.dials, run, state, model);
  parts.score.textContent = drawScores(parts.scores, run, state, model);
}

const fed = (run, n) =>
  times(run.steps + 1, (s) => `${s ? (run.cells[n][s - 1]?.word ?? "nothing") : run.tags[n]}`);

/** Omega with all planes on. */
const omegaNow = ({ state, model }) => omegaOf({ ...state, off: [] }, model);
const drawnAs = (values) => ({ omega: "drawn", times: 1, drawn: values });

// ---- Controls --------------------------------------------------------------------------------

function listen(page) {
  const { root, parts } = page;
  const set_ = {
    see: (name) => ({ see: pattern(name, page.state.lanes) }),
    lanes: (value) => ({ ...initial(Number(value)), ...kept(page.state) }),
    promptLane: (_, field) => ({ promptLane: field.checked ? 0 : "own" }),
    layer: (value) => ({ layer: value === "mean" ? value : Number(value) }),
    head: (value) => ({ head: value === "mean" ? value : Number(value) }),
    omega: (value) => ({ omega: value, drawn: omegaNow(page) }),
    moves: (value) => ({ moves: parse(value) }),
    plane(value) {
      page.plane = Number(value);
      return {};
    },
    radians(value, field) {
      if (field.value === "") throw new Error("No number; expected radians such as 0.5.");
      return drawnAs(omegaNow(page).with(page.plane, clamp(Number(value), -100, 100)));
    },
  };
  root.addEventListener("submit", (event) => event.preventDefault());
  root.addEventListener("input", ({ target: field }) => {
    if (field.dataset.tag) {
      const tags = page.state.tags.with(field.dataset.tag, field.value);
      return change(page, { tags });
    }
    if (!field.name) return;
    try {
      const patch = set_[field.name]?.(field.value, field) ?? { [field.name]: Number(field.value) };
      set(field, { "aria-invalid": null });
      parts.trouble.textContent = "";
      change(page, patch);
    } catch (error) {
      set(field, { "aria-invalid": "true" });
      parts.trouble.textContent = error.message;
    }
  });
  onReads(parts.matrix, (m, n, on) => {
    const { see } = page.state;
    change(page, { see: see.with(m, see[m].with(n, on)) });
  });
  const pair = [parts.keylane, parts.keystep];
  const key = () => change(page, { key: pair.map((field) => Number(field.value)) });
  for (const field of pair) field.addEventListener("input", key);
  parts.pair.addEventListener("toggle", () => drawPair(page));
  const silence = (which) => () => {
    const [m, t] = page.state.cell;
    const others = page.state.silent.filter(([lane]) => lane !== m);
    const mine = page.state.silent.filter(([lane]) => lane === m);
    const after = times(stepsOf(page.state.lanes) + 1 - t, (s) => [m, t + s]);
    const made = { step: [...without(mine, [m, t]), [m, t]], on: after, never: [] }[which];
    change(page, { silent: [...others, ...made].sort() });
  };
  for (const which of ["step", "on", "never"])
    parts[`silence-${which}`].addEventListener("click", silence(which));
  parts.another.addEventListener("click", () => change(page, { moves: randomMoves() }));
  parts.reset.addEventListener("click", () => change(page, fromURL("")));
  parts.try.addEventListener("click", () => tryMany(page, GAMES, Math.floor(Math.random() * 1e9)));
}

/** What stays when the number of lanes changes. */
const kept = ({ moves, lag, omega, slot, times, off, drawn, promptLane, layer, head }) =>
  ({ moves, lag, omega, slot, times, off, drawn, promptLane, layer, head });

/** One step more on the board; says whether there is another. */
function showNext(page) {
  page.steps = page.steps > page.run.steps ? 1 : page.steps + 1;
  drawBoard(page);
  return page.steps <= page.run.steps;
}

/** Plays other games with the same settings, until something is changed. */
async function tryMany(page, games, seed) {
  const { state } = page;
  const alive = () => page.state === state || String(toURL(page.state)) === String(toURL(state));
  await watch(trial(page.model, state, games, seed), alive, (so) => {
    page.tried = so;
    drawTrial(page);
    if (so.games === games) drawChallenges(page);
  });
}

// ---- Omega, drawn ----------------------------------------------------------------------------

function listenOmega(page) {
  const node = page.parts.omega;
  const draw = (values) => change(page, drawnAs(values));
  const now = () => omegaNow(page);
  const toggle = (planes, off) => {
    const others = page.state.off.filter((d) => !planes.includes(d));
    change(page, { off: [...others, ...(off ? planes : [])].sort((a, b) => a - b) });
  };
  const flip = (d) => toggle([d], !page.state.off.includes(d));
  let from = null;
  node.addEventListener("pointerdown", (event) => {
    const [d, y] = planeAt(node, event);
    page.plane = d;
    node.setPointerCapture(event.pointerId);
    if (y > 152) flip(d);
    else draw(now().with((from = d), valueAt(y)));
  });
  node.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const [d, y] = planeAt(node, event);
    const values = now();
    for (let k = Math.min(from, d); k <= Math.max(from, d); k++)
      if (k !== from || d === from) values[k] = valueAt(clamp(y, 0, 150)); // none is skipped
    [from, page.plane] = [d, d];
    draw(values);
  });
  for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => (from = null));
  const go = (side) => {
    page.plane = clamp(page.plane + side, 0, PLANES - 1);
    drawAll(page);
  };
  const raise = (way) => {
    const value = now()[page.plane];
    const far = Math.max(Math.abs(value) * 0.1, 0.05);
    draw(now().with(page.plane, clamp(value + way * far, -100, 100)));
  };
  onKeys(node, {
    ...arrows((across, down) => (across ? go(across) : raise(-down))),
    ...{ Home: () => go(-PLANES), End: () => go(PLANES), " ": () => flip(page.plane) },
  });
  const all = times(PLANES, (d) => d);
  const { parts } = page;
  parts["plane-flip"].addEventListener("click", () => flip(page.plane));
  parts["plane-turn"].addEventListener("click", () =>
    draw(now().with(page.plane, now()[page.plane] + 2 * Math.PI)),
  );
  parts["planes-on"].addEventListener("click", () => toggle(all, false));
  parts["fast-off"].addEventListener("click", () => toggle(all.slice(0, 16), true));
  parts["slow-off"].addEventListener("click", () => toggle(all.slice(16), true));
}

// ---- Challenges ------------------------------------------------------------------------------

function listenChallenges(page) {
  const items = CHALLENGES.map(({ name, task, predicts }, c) => {
    const begin = html("button", { type: "button", "data-begin": c }, "Begin");
    const verdict = html("p", { class: "said", "aria-live": "polite", "data-said": c });
    const ticks = times(predicts ? 2 : 0, (m) =>
      html("label", {}, html("input", { type: "checkbox", "data-predict": m }), `lane ${m + 1}`),
    );
    const head = html("summary", {}, html("span", { "data-mark": c }, "○"), ` ${name}`);
    const item = html("details", { "data-challenge": c }, head, html("p", {}, task));
    item.append(html("p", { class: "ticks" }, begin, ...ticks), verdict);
    return html("li", {}, item);
  });
  page.parts.challenges.replaceChildren(...items);
  page.parts.challenges.addEventListener("click", ({ target }) => {
    if (target.dataset.begin === undefined) return;
    page.challenge = Number(target.dataset.begin);
    page.predicted = [false, false];
    for (const box of page.root.querySelectorAll("[data-predict]")) box.checked = false;
    const state = tidy(CHALLENGES[page.challenge].begin());
    page.before = { state, run: play(page.model, settingsOf(state, page.model)) };
    change(page, state);
  });
  page.parts.challenges.addEventListener("change", ({ target }) => {
    if (target.dataset.predict) page.predicted[target.dataset.predict] = target.checked;
    drawChallenges(page);
  });
}

function drawChallenges(page) {
  const { challenge: c, before, run, state, root } = page;
  for (const node of root.querySelectorAll("[data-said]")) node.textContent = "";
  if (c === null) return;
  const challenge = CHALLENGES[c];
  const said = challenge.check({ state, run }, before, page.predicted, page.model, page.tried);
  if (said) page.solved.add(c);
  const waiting = challenge.wants?.({ state, run }) && !page.tried;
  if (waiting) tryMany(page, challenge.games, 7);
  const begun = toURL(state) === toURL(before.state);
  for (const box of root.querySelectorAll("[data-predict]")) box.disabled = !begun || c !== 0;
  for (const k of page.solved) root.querySelector(`[data-mark="${k}"]`).textContent = "✓ solved:";
  const open = waiting ? "The page plays 24 other games …" : "Not yet.";
  root.querySelector(`[data-said="${c}"]`).textContent = said ? `Solved. ${said}` : open;
}
