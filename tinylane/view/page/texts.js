// The prompt's and the lanes' texts, token by token: what is written at a step, and the shade.

import { html, set, styled } from "../shared/dom.js";
import { laneCard, laneName } from "../shared/lane.js";
import { finely } from "../shared/numbers.js";
import { quoted, shade, shown, tokenBox } from "../shared/tokens.js";
import { nats, viewName } from "./record.js";

const FADE = 6; // nats at which a shade is strongest

/** Draws all tokens, once: a long run has thousands. All begin as not yet written. */
export function drawTexts(page) {
  const { record, parts } = page;
  page.boxes = new Array(record.rows); // a token's box, by row
  const box = html("div");
  parts["prompt-text"].append(box);
  for (let r = 0; r < record.prompt; r++) place(page, box, r, ["given"]);
  page.cards = record.lanes.map((lane, m) => drawLane(page, lane, m));
  document.body.classList.toggle("ids", record.ids_only);
  parts.prompt.open = record.prompt <= 200;
  parts.prompt.hidden = record.prompt === 0;
  page.layers = [parts["prompt-text"], ...page.cards.map(({ text }) => text)].map(layer);
}

function drawLane(page, lane, m) {
  const { card, state, text } = laneCard(m);
  const box = html("div", { dir: "auto" });
  const label = `Tokens of ${laneName(m)}`;
  set(text, { id: `lane${m}`, role: "listbox", tabindex: 0, "aria-label": label }).append(box);
  for (let k = -lane.given; k < lane.tokens; k++) drawToken(page, lane, m, k, box);
  state.id = `state${m}`;
  const would = html("p", { class: "would", id: `would${m}`, hidden: true });
  card.append(would);
  card.id = `card${m}`;
  page.parts.grid.append(card);
  return { card, state, text, would, to: -lane.given, isGone: false };
}

/** Token k of a lane; what it was given counts below 0. */
function drawToken(page, lane, m, k, box) {
  const made = place(page, box, page.record.rowOf(m, k), k < 0 ? ["given", "future"] : ["future"]);
  if (k < 0) return;
  made.dataset.token = lane.first + k;
  made.setAttribute("role", "option");
}

function place(page, box, r, kinds) {
  const { record } = page;
  const number = record.text[r];
  const special = record.special.has(number) ? ["special"] : [];
  const [spaces, made] = tokenBox(record.texts[number], [...kinds, ...special]);
  made.id = `r${r}`;
  made.dataset.row = r;
  box.append(record.ids_only ? " " : spaces, made);
  page.boxes[r] = made;
  return made;
}

/** Above a text, for numbers: in it they would make a long lane's lines be laid out anew. */
function layer(box) {
  const made = html("div", { class: "layer", "aria-hidden": "true" });
  box.append(made);
  return made;
}

/** The text of a row as a word of a sentence. */
export const wordOf = ({ record }, r) => quoted(record.texts[record.text[r]]);

// ---- What is written at a step ---------------------------------------------------------------

/** Only what changes is touched. */
export function showTime(page) {
  const { record, state, parts, cards } = page;
  for (const [m, lane] of record.lanes.entries()) {
    const card = cards[m];
    const begun = state.step >= lane.begun;
    const to = begun ? record.upTo(m, state.step) : -lane.given;
    mark(page, m, Math.min(to, card.to), Math.max(to, card.to), "future", (k) => k >= to);
    card.to = to;
    const isGone = lane.dropped !== null && state.step > lane.dropped;
    if (isGone !== card.isGone) mark(page, m, -lane.given, lane.tokens, "gone", () => isGone);
    card.isGone = isGone;
    card.state.textContent = said(lane, state.step, to, isGone);
    card.card.classList.toggle("here", m === state.lane);
    if (to > -lane.given) bringIntoView(card.text, page.boxes[record.rowOf(m, to - 1)]);
  }
  parts.step.value = state.step;
  const now = `${state.step} of ${record.steps}`;
  parts.now.textContent = now;
  parts.step.setAttribute("aria-valuetext", `step ${now}, ${laneName(state.lane)}`);
}

function mark({ boxes, record }, m, from, to, kind, on) {
  for (let k = from; k < to; k++) boxes[record.rowOf(m, k)].classList.toggle(kind, on(k));
}

/** How a lane is after a step, in words. */
function said(lane, step, to, isGone) {
  const all = `${lane.tokens} tokens`;
  if (isGone) return `dropped at step ${lane.dropped}${origin(lane)}`;
  if (step < lane.begun) {
    const how = lane.follows === null ? "joins" : "begins";
    return `not started; ${how} after step ${lane.begun}`;
  }
  if (to < lane.tokens) return `${to} of ${all}${origin(lane)}`;
  return all + (lane.end ? `, ended: ${lane.end}` : "") + origin(lane);
}

function origin({ forked, follows, begun }) {
  if (forked !== null) return `; forked from ${laneName(forked)} after step ${begun}`;
  return follows === null ? "" : `; goes on from ${laneName(follows)}`;
}

function bringIntoView(box, node) {
  const [top, low] = [box.scrollTop + 24, box.scrollTop + box.clientHeight - 48];
  if (node.offsetTop < top || node.offsetTop > low)
    box.scrollTop = node.offsetTop - box.clientHeight / 2;
}

// ---- The shade -------------------------------------------------------------------------------

/** The silence that is chosen as the shade, or null. */
export const silenceOf = ({ record, state }) =>
  record.silences.find(({ lane }) => state.shade === `s${lane}`) ?? null;

export function shadeTokens(page) {
  const { record, state, boxes } = page;
  const [silence, view] = [silenceOf(page), record.views[state.view]];
  const strength = (q) => {
    if (silence) return nats(silence.kl[q]) / FADE;
    return state.shade === "others" ? record.toOthers(view, q) : nats(record.logprob[q]) / FADE;
  };
  for (const [m, lane] of record.lanes.entries())
    for (let k = 0; k < lane.tokens; k++) {
      const [q, box] = [lane.first + k, boxes[record.rowOf(m, k)]];
      shade(box, strength(q));
      box.classList.toggle("other", silence !== null && silence.drawn[q] > 0);
    }
  page.parts.legend.textContent = legend(page);
}

function legend({ record, state }) {
  const given = "Italics: given, not written.";
  if (state.shade === "logprob")
    return (
      "Shade: how unlikely a token was; none at probability 100%, the strongest at 0.25% " +
      `(${FADE} nats) or less. ${given}`
    );
  if (state.shade === "others") {
    const view = viewName(record.views[state.view]);
    return `Shade: share of attention to other lanes (${view}); a stronger shade is more. ${given}`;
  }
  const lane = laneName(silenceOf({ record, state }).lane);
  return (
    `Shade: how much the next token's distribution changes without ${lane} (KL divergence, ` +
    `strongest at ${FADE} nats). Wavy underline: a different token would have been written.`
  );
}

// ---- Marks in the text -----------------------------------------------------------------------

const MARKS = ["chosen", "query", "heard"];

/** Marks the chosen token, the row that it was drawn from, and the keys with their shares. */
export function markTokens(page, chosen = null) {
  for (const box of page.marked ?? []) {
    box.classList.remove(...MARKS);
    box.removeAttribute("aria-selected");
  }
  for (const { text } of page.cards) text.removeAttribute("aria-activedescendant");
  for (const layer of page.layers) layer.replaceChildren();
  page.marked = [];
  if (!chosen) return;
  const { own, query, keys } = chosen;
  add(page, own, "chosen").setAttribute("aria-selected", "true");
  page.cards[page.state.lane].text.setAttribute("aria-activedescendant", `r${own}`);
  add(page, query, "query");
  for (const { row, share } of keys)
    styled(add(page, row, "heard"), { "--w": `${(1 + 4 * Math.sqrt(share)).toFixed(1)}px` });
  drawBadges(page, keys);
}

function add(page, r, kind) {
  const box = page.boxes[r];
  box.classList.add(kind);
  page.marked.push(box);
  return box;
}

/** The shares above their tokens; of two that would lie on one another the larger. */
function drawBadges({ boxes, layers }, keys) {
  const places = keys.map(({ row }) => [boxes[row].offsetLeft, boxes[row].offsetTop]);
  const taken = layers.map(() => []); // a place counts from the corner of its layer's own box
  for (const [k, { lane, share }] of keys.entries()) {
    const [x, y] = places[k];
    const near = ([left, top]) => Math.abs(top - y) < 9 && Math.abs(left - x) < 27;
    if (taken[lane + 1].some(near)) continue;
    taken[lane + 1].push(places[k]);
    const badge = html("span", {}, finely(share));
    layers[lane + 1].append(styled(badge, { left: `${x}px`, top: `${y}px` }));
  }
}
