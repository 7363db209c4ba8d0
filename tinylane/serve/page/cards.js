// The lanes as columns: their tokens, how they are, and what can be done to each.

import { button, html, refill, set } from "../../view/shared/dom.js";
import { laneCard } from "../../view/shared/lane.js";
import { percent } from "../../view/shared/numbers.js";
import { shade, tokenBox } from "../../view/shared/tokens.js";
import { $, act, session } from "./session.js";

const cards = []; // of laneCard, by lane
let expected = null; // a lane that is to be brought into view when it is there

/** The box of a token, if it is there. */
export const boxOf = ({ lane, index }) =>
  cards[lane]?.text.querySelector(`[data-token="${lane},${index}"]`);

export const placeOf = (box) => {
  const [lane, index] = box.dataset.token.split(",").map(Number);
  return { lane, index };
};

/** Draws all lanes as they are now; none without a session. */
export function drawCards() {
  const lanes = session.state?.lanes ?? [];
  while (cards.length > lanes.length) cards.pop().card.remove();
  for (const [m, { prompt, tokens }] of lanes.entries()) {
    if (!cards[m]) $("lanes").append((cards[m] = newCard(m)).card);
    const given = prompt ? [html("span", { class: "given" }, prompt), " "] : [];
    refill(cards[m].text, ...given, ...tokens.flatMap((token, k) => drawn(m, k, token)));
    drawHead(m);
  }
  wayIn();
  meet();
}

/** Brings a lane into view as soon as it is there. */
export function expect(m) {
  expected = m;
  meet();
}

function meet() {
  if (!cards[expected]) return;
  cards[expected].card.scrollIntoView({ block: "nearest" });
  expected = null;
}

/** Appends a token to its lane; its text stays at the end if it was there. */
export function addToken(token) {
  const { tokens } = session.state.lanes[token.lane];
  tokens.push(token);
  const { text } = cards[token.lane];
  const low = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
  text.append(...drawn(token.lane, tokens.length - 1, token));
  if (low) text.scrollTop = text.scrollHeight;
  wayIn();
}

function drawn(m, index, { text, p }) {
  const kinds = /^<.*>$/.test(text) ? ["special"] : [];
  const [spaces, box] = tokenBox(text, kinds);
  set(box, { role: "button", tabindex: -1, title: percent(p), "data-token": [m, index] });
  return [spaces, shade(box, 1 - p)];
}

/** One token can be reached with Tab: the chosen one, else the first. */
export function wayIn() {
  const boxes = $("lanes");
  const want = (session.chosen && boxOf(session.chosen)) ?? boxes.querySelector(".t");
  const had = boxes.querySelector('.t[tabindex="0"]');
  if (!want || had === want) return;
  if (had) set(had, { tabindex: -1 });
  set(want, { tabindex: 0 });
}

function newCard(m) {
  const made = laneCard(m);
  const press = (label, title, name, what = {}) =>
    button(label, () => act(name, { lane: m, ...what }), { title });
  const wait = button("Wait", () => act("pause", { lane: m, yes: !session.state.lanes[m].waits }), {
    title: "It draws nothing until it goes on",
  });
  const buttons = html("div", { class: "buttons" }, wait,
    press("Fork", "A twin that goes on by itself", "fork"),
    press("Silence", "Nobody reads it any more", "silence"),
    press("Drop", "It ends, and nobody sees what it wrote", "drop"));
  const verdict = html("span", { class: "verdict" });
  made.name.append(" ", verdict);
  made.card.append(buttons, giving(m));
  return { ...made, wait, verdict };
}

/** A field for a word that the lane is to write next. */
function giving(m) {
  const label = `A word for lane ${m + 1}`;
  const field = html("input", { type: "text", placeholder: "a word", "aria-label": label });
  const form = html("form", {}, field, html("button", {}, "Give"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await act("give", { lane: m, text: field.value })) field.value = "";
  });
  return form;
}

/** How a lane is: it writes, waits or has ended. */
export function drawHead(m) {
  const { ended, waits, begun, right } = session.state.lanes[m];
  const { card, state, wait, verdict } = cards[m];
  const how = ended ? `ended: ${ended}` : waits ? "waits" : "writes";
  state.textContent = how + (begun ? `, ${begun}` : "");
  verdict.textContent = typeof right === "boolean" ? (right ? "✓ right" : "✗ wrong") : "";
  card.classList.toggle("gone", ended === "dropped");
  for (const field of card.querySelectorAll("button, input")) field.disabled = Boolean(ended);
  wait.textContent = waits ? "Go on" : "Wait";
}
