// A token that was chosen: what could have stood there, whom its lane listened to, and what if.

import { button, html } from "../../view/shared/dom.js";
import { laneName, laneTitle, symbol } from "../../view/shared/lane.js";
import { amount, drawKeys, shareRow } from "../../view/shared/listening.js";
import { percent } from "../../view/shared/numbers.js";
import { exact, quoted } from "../../view/shared/tokens.js";
import { boxOf, expect, wayIn } from "./cards.js";
import { $, act, session } from "./session.js";

/** Marks the chosen token, and no other. Returns its box. */
export function mark() {
  for (const box of document.querySelectorAll(".t.on")) box.classList.remove("on");
  const box = session.chosen && boxOf(session.chosen);
  box?.classList.add("on");
  wayIn();
  return box;
}

export async function choose(lane, index) {
  session.chosen = { lane, index };
  mark()?.focus({ preventScroll: true });
  const told = await act("details", { lane, index });
  if (!told || session.chosen?.lane !== lane || session.chosen.index !== index) return;
  draw(told);
  $("chosen").hidden = false;
  boxOf(session.chosen)?.scrollIntoView({ block: "nearest" }); // it is not to lie below the sheet
}

export function close() {
  $("chosen").hidden = true;
  const box = session.chosen && boxOf(session.chosen);
  session.chosen = null;
  mark();
  box?.focus({ preventScroll: true });
}

function draw(told) {
  const { lane, index, text, id, p, top, shares, most } = told;
  const title = `${quoted(text)}, token ${index + 1} of ${laneName(lane)}: ${percent(p)}`;
  $("chosen-title").textContent = title;
  const drawn = top.some((one) => one.id === id) ? [] : [{ id, text, p }]; // unlikely, but it was
  $("top").replaceChildren(...[...top, ...drawn].map((one) => alternative(told, one)));
  $("shares").replaceChildren(...shares.map(shareOf));
  const whose = (n) => (n < 0 ? "the prompt" : n === lane ? "itself" : laneTitle(n));
  const keys = most.map((key) => ({ share: key.share, text: key.text, where: whose(key.lane) }));
  drawKeys($("most"), keys);
}

function shareOf({ of, lane = null, share }) {
  return shareRow(lane === null ? of : `${symbol(lane)} ${of}`, share, { lane });
}

/** One of the likeliest tokens: pressed, it begins a lane in which it was drawn. */
function alternative({ lane, index, id }, { id: token, text, p }) {
  const drawn = token === id;
  const whatIf = async () => {
    const before = session.state.lanes.length;
    if (await act("what_if", { lane, index, token })) expect(before);
  };
  const said = { disabled: drawn };
  said.title = drawn ? "This one was drawn" : "A new lane in which this one was drawn";
  const press = button(html("span", { class: "word" }, exact(text)), whatIf, said);
  const does = `${drawn ? "drawn" : "what if"}, ${percent(p)}`;
  press.append(amount(p), html("span", { class: "do" }, does));
  return html("li", {}, press);
}
