// The page of `tinylane view`: a run, step by step, and who listened to whom.
// All text is set as text, never as HTML. Numbers come packed (tinylane/view/replay_page.py).
//
// The state is the step, a lane, a view (whose attention is shown) and what the shade shows.
// Everything on the page follows from the state.

import { button, clamp, html } from "../shared/dom.js";
import { onKeys } from "../shared/keys.js";
import { laneName } from "../shared/lane.js";
import { player, still } from "../shared/player.js";
import { showChosen } from "./chosen.js";
import { drawBands, drawWhom, makeBands, showCursors } from "./overview.js";
import { readRecord, viewName } from "./record.js";
import { drawChanges, showWould } from "./silence.js";
import { drawTexts, shadeTokens, showTime } from "./texts.js";

const parts = {};
for (const node of document.querySelectorAll("[id]")) parts[node.id] = node;

function begin(record) {
  const state = { step: record.steps, lane: 0, view: 0, shade: "logprob" };
  const page = { record, parts, state };
  page.viewAt = new Map(record.views.map((view, k) => [viewName(view), k]));
  page.look = (view) => look(page, view);
  drawTexts(page);
  makeBands(page, (step, lane) => leap(page, step, lane));
  listChoices(page);
  page.player = playing(page);
  listen(page);
  listEvents(page);
  drawAbout(page);
  shadeTokens(page);
  drawBands(page);
  drawWhom(page);
  drawChanges(page);
  go(page, record.stepOf(record.first), record.laneOfToken[record.first]);
  document.body.dataset.ready = "true"; // for tests
}

// ---- Changes of the state --------------------------------------------------------------------

function go(page, step, lane = page.state.lane) {
  page.state.step = clamp(step, 0, page.record.steps);
  page.state.lane = clamp(lane, 0, page.record.N - 1);
  showTime(page);
  showChosen(page);
  showCursors(page);
  showWould(page);
}

/** Goes where the reader points; what plays stops. */
function leap(page, step, lane) {
  page.player.stop();
  go(page, step, lane);
}

/** Shows another layer and head. */
function look(page, view) {
  page.state.view = view;
  parts.view.value = view;
  drawBands(page);
  drawWhom(page);
  if (page.state.shade === "others") shadeTokens(page);
  showChosen(page);
  showCursors(page);
}

function playing(page) {
  const { record, state } = page;
  const pace = () => clamp(15000 / Math.max(1, record.steps), 60, 700);
  return player(parts.play, {
    next() {
      go(page, state.step < record.steps ? state.step + 1 : 0);
      return state.step < record.steps;
    },
    wait: () => (still.matches ? Math.max(600, pace()) : pace()),
    names: ["▶ Play", "❚❚ Pause"],
  });
}

// ---- The reader's hands ----------------------------------------------------------------------

function listChoices({ record }) {
  const option = (value, name) => html("option", { value }, name);
  parts.view.append(...record.views.map((view, k) => option(k, viewName(view))));
  const silent = ({ lane }) => option(`s${lane}`, `change without ${laneName(lane)}`);
  parts.shade.append(
    option("logprob", "probability"),
    option("others", "attention to other lanes"),
    ...record.silences.map(silent),
  );
  parts.step.max = record.steps;
}

function listen(page) {
  const { record, state } = page;
  const on = (name, kind, work) => parts[name].addEventListener(kind, work);
  on("controls", "submit", (event) => event.preventDefault());
  on("back", "click", () => leap(page, state.step - 1));
  on("next", "click", () => leap(page, state.step + 1));
  on("step", "input", () => leap(page, Number(parts.step.value)));
  on("view", "change", () => look(page, Number(parts.view.value)));
  on("shade", "change", () => {
    state.shade = parts.shade.value;
    shadeTokens(page);
    showWould(page);
  });
  on("grid", "click", ({ target }) => {
    const q = target.closest("[data-token]")?.dataset.token;
    if (q !== undefined) leap(page, record.stepOf(Number(q)), record.laneOfToken[q]);
  });
  on("prompt", "toggle", () => showChosen(page));
  listenKeys(page);
  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => showChosen(page));
  });
}

function listenKeys(page) {
  const { record, state } = page;
  const within = (event, what) => event.target.closest?.(what);
  const move = (step, lane) => (event) =>
    within(event, "select") ? false : leap(page, step(), lane?.());
  const here = () => state.step;
  onKeys(document, {
    ArrowLeft: move(() => state.step - 1),
    ArrowRight: move(() => state.step + 1),
    ArrowUp: move(here, () => state.lane - 1),
    ArrowDown: move(here, () => state.lane + 1),
    Home: move(() => 0),
    End: move(() => record.steps),
    " ": (event) => (within(event, "button, summary, select") ? false : page.player.toggle()),
  });
}

// ---- What is said once -----------------------------------------------------------------------

function listEvents(page) {
  const { events, events_left: left } = page.record;
  parts.events.hidden = events.length === 0;
  const when = (step) => (step ? `after step ${step}` : "before step 1");
  const item = ([step, , text]) =>
    html("li", {}, button(when(step), () => leap(page, step)), `: ${text}`);
  parts["event-list"].append(...events.map(item));
  if (left) parts["event-list"].append(html("li", {}, `and ${left} more, in the run file`));
}

function drawAbout({ record }) {
  for (const [name, value] of record.about)
    parts.about.append(html("dt", {}, name), html("dd", {}, value));
  parts.kept.textContent = record.kept;
}

async function main() {
  const { title, task, sentences } = JSON.parse(parts.data.textContent);
  parts.title.textContent = title;
  parts.task.textContent = task;
  parts.lead.textContent = sentences.join(" ");
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser is too old (it has no DecompressionStream)");
  begin(await readRecord(parts.data.textContent));
}

main().catch((error) => {
  parts.trouble.hidden = false;
  parts.trouble.textContent = `This page cannot be shown: ${error.message}`;
});
