// The page of `tinylane play`: it draws what the server tells of a session, and asks for changes.
// Text of models and prompts is only ever set as text. Nothing comes from another host.

import { clamp, html } from "../../view/shared/dom.js";
import { arrows, onKeys } from "../../view/shared/keys.js";
import { addToken, drawCards, drawHead, placeOf } from "./cards.js";
import { choose, close, mark } from "./chosen.js";
import { leave, listen } from "./events.js";
import { drawReading, listenReading } from "./reading.js";
import { $, act, address, post, say, session, told, trying } from "./session.js";

let broken = false; // the line to the server
const TYPING = "input, textarea, select, button, summary"; // keys here are the element's own

// ---- What the server tells -------------------------------------------------------------------

/** Shows a session that has begun. Its address is new, so that Back leads to the one before. */
function show({ id, state }) {
  follow(id);
  remember(id);
  hear({ state });
}

/** Hears a session from now on, and no other. */
function follow(id) {
  close();
  Object.assign(session, { id, state: null, over: "" });
  listen(id, {
    hear,
    broken: () => lost("the server does not answer: the page goes on as soon as it does"),
    ended(why) {
      session.over = why;
      lost(why);
      if (session.state) return; // what it wrote stays
      forget();
      clear();
    },
  });
}

function hear(what) {
  if (what.error) say(what.error);
  if (what.state) drawAll(what.state);
  if (what.running !== undefined) session.state.running = what.running;
  if (what.new) hearStep(what);
  drawStatus();
}

function hearStep({ step, new: tokens, ended }) {
  const { state } = session;
  state.step = step;
  tokens.forEach(addToken);
  for (const { lane, reason, right } of ended) {
    Object.assign(state.lanes[lane], { ended: reason, right });
    drawHead(lane);
  }
  const how = (right) => (right === null ? "" : right ? ", right" : ", wrong");
  const said = ended.map(({ lane, right }) => `lane ${lane + 1} has ended${how(right)}`);
  if (said.length) $("said").textContent = said.join("; "); // for ears: not every step
}

function drawAll(state) {
  session.state = state;
  if (broken) say("");
  broken = false;
  for (const name of ["controls", "legend", "asked"]) $(name).hidden = false;
  $("asked-text").textContent = state.prompt;
  drawCards();
  mark();
  drawReading();
}

function drawStatus() {
  const { state } = session;
  const live = state.lanes.filter((lane) => !lane.ended && !lane.waits).length;
  const [run, step] = [$("run"), $("step")];
  run.textContent = state.running ? "Pause" : "Play";
  run.disabled = !live;
  step.disabled = !live || state.running;
  const all = state.lanes.length;
  const writing = live ? `${live} of ${all} lanes write` : "every lane has ended or waits";
  const truth = state.truth ? `; the right answer: ${state.truth}` : "";
  $("status").textContent = `step ${state.step}; ${writing}; seed ${state.seed}${truth}`;
}

/** The line to the server is broken. */
function lost(why) {
  broken = true;
  say(why);
  for (const name of ["run", "step"]) $(name).disabled = true;
}

// ---- The page's address ----------------------------------------------------------------------

/** The session is in the address: a page that is loaded again goes on with it. */
function remember(id) {
  const now = address();
  now.set("session", id);
  history.pushState(null, "", `#${now}`);
}

/** The session of the address is not there any more. */
function forget() {
  const now = address();
  now.delete("session");
  history.replaceState(null, "", now.size ? `#${now}` : location.pathname);
}

/** Shows the session of the address, or none. */
function arrive() {
  const id = address().get("session");
  if (id === session.id) return;
  if (id) return follow(id);
  leave();
  clear();
  return say("");
}

/** No session is shown. */
function clear() {
  close();
  Object.assign(session, { id: null, state: null });
  for (const name of ["controls", "legend", "asked", "matrix"]) $(name).hidden = true;
  drawCards();
  $("status").textContent = "";
}

// ---- The reader's hands ----------------------------------------------------------------------

const on = (name, kind, work) => $(name).addEventListener(kind, work);
const pace = () => Number($("pace").value);

function listenControls() {
  on("run", "click", () => act("run", { yes: !session.state?.running, pace: pace() }));
  on("step", "click", () => act("step"));
  on("pace", "change", () => act("pace", { pace: pace() }));
  on("close", "click", close);
  on("save", "click", () => trying(save));
  on("open", "change", () => trying(open));
  on("another", "click", () => trying(describe));
  on("start", "submit", (event) => {
    event.preventDefault();
    trying(start);
  });
  on("lanes", "click", ({ target }) => {
    const box = target.closest(".t");
    if (box) chooseAt(placeOf(box));
  });
  addEventListener("popstate", arrive);
}

const chooseAt = ({ lane, index }) => choose(lane, index);

function listenKeys() {
  const press = (name) => (event) => {
    if (!session.state || $(name).disabled || event.target.closest?.(TYPING)) return false;
    return $(name).click();
  };
  onKeys(document, {
    " ": press("run"),
    ".": press("step"),
    Escape: () => (session.chosen ? close() : false),
  });
  onKeys($("lanes"), {
    ...arrows((across, down, { target }) => {
      if (!target.closest(".t")) return false;
      const { lane, index } = placeOf(target);
      const { tokens } = session.state.lanes[lane + down] ?? { tokens: [] };
      if (tokens.length) choose(lane + down, clamp(index + across, 0, tokens.length - 1));
      return true;
    }),
    Enter: ({ target }) => (target.closest(".t") ? chooseAt(placeOf(target)) : false),
  });
}

/** Begins a session as the form says, and lets it write. */
async function start() {
  const { methods } = session.about;
  const [method, visibility, seed] = [$("method").value, $("pattern").value, $("seed").value];
  const asked = {
    prompt: $("prompt").value,
    lanes: Number($("count").value),
    method: methods.includes(method) ? method : methods[0],
    visibility: visibility === "custom" ? "joint" : visibility,
    temperature: Number($("temperature").value),
    max_tokens: Number($("tokens").value),
    seed: seed === "" ? null : Number(seed),
  };
  show(await post(`/play/sessions?leaving=${session.id}`, JSON.stringify(asked)));
  return act("run", { yes: true, pace: pace() });
}

async function save() {
  const run = await told(`/play/sessions/${session.id}/run`);
  const file = new Blob([JSON.stringify(run)], { type: "application/json" });
  const link = html("a", { href: URL.createObjectURL(file), download: "run.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function open() {
  const [file] = $("open").files;
  if (!file) return;
  show(await post(`/play/open?leaving=${session.id}`, await file.arrayBuffer()));
  $("open").value = "";
}

// ---- The beginning ---------------------------------------------------------------------------

async function describe() {
  session.about = await told("/play/about");
  $("prompt").value = session.about.prompt;
}

async function begin() {
  await describe();
  const { about } = session;
  $("model").textContent = `${about.name} (${about.backend}, ${about.dtype})`;
  $("count").replaceChildren(...about.counts.map((n) => html("option", { value: n }, n)));
  $("count").value = about.lanes;
  $("temperature").value = about.temperature;
  $("tokens").value = about.max_tokens;
  $("tokens").max = about.context;
  listenReading();
  drawReading();
  $("pattern").value = about.trained ? "joint" : "independent";
  if (about.game) {
    $("prompt-name").textContent =
      "Swaps: four cups stand in the order ABCD; 1-3 swaps the first and the third";
    $("another").hidden = false;
    $("pace").value = "0.3";
  }
  listenControls();
  listenKeys();
  arrive();
}

trying(begin);
