// Without one of the lanes: what would have been written where nobody could have read it.

import { html, styled } from "../shared/dom.js";
import { coloured, laneName, laneTitle, symbol } from "../shared/lane.js";
import { chance, finely } from "../shared/numbers.js";
import { quoted } from "../shared/tokens.js";
import { nats } from "./record.js";
import { silenceOf, wordOf } from "./texts.js";

/** Of the chosen token: a row for every other lane. */
export function showSilence(page, q, own) {
  const { record, state, parts } = page;
  parts["silence-box"].hidden = record.silences.length === 0;
  const others = record.silences.filter(({ lane }) => lane !== state.lane);
  parts.silence.tBodies[0].replaceChildren(...others.map((one) => row(page, one, q, own)));
}

function row(page, silence, q, own) {
  const { record } = page;
  const { drawn, likeliest, logprob, kl, lane } = silence;
  const text = (code) => quoted(record.texts[code - 1]); // 0: as it was
  const changed = drawn[q] > 0;
  const next = changed ? `≠ ${text(drawn[q])}` : `= ${wordOf(page, own)} as it was`;
  const top = likeliest[q] > 0 && !(changed && likeliest[q] === drawn[q]);
  const now = `${chance(nats(record.logprob[q]))} → ${chance(nats(logprob[q]))}`;
  const made = html("tr", { class: changed ? "big" : "same" },
    html("th", { scope: "row" }, laneTitle(lane)),
    html("td", {}, next + (top ? ` (likeliest: ${text(likeliest[q])})` : "")),
    html("td", {}, now),
    html("td", {}, nats(kl[q]).toFixed(3)));
  return coloured(made, lane);
}

/** With a silence as the shade: what each lane would have written at this step. */
export function showWould(page) {
  const { record, state, cards } = page;
  const silence = silenceOf(page);
  for (const [m, { would }] of cards.entries()) {
    const q = record.tokenAt(m, state.step);
    would.hidden = silence === null || q < 0 || silence.lane === m;
    if (would.hidden) continue;
    const own = wordOf(page, record.rowOf(m, q - record.lanes[m].first));
    const code = silence.drawn[q];
    const next = code ? `≠ ${quoted(record.texts[code - 1])}, not ${own}` : `= ${own} as it was`;
    would.textContent = `Without ${laneName(silence.lane)}, step ${state.step}: ${next}`;
  }
}

/** Over the whole run: how many of a lane's tokens would have been others. */
export function drawChanges({ record, parts }) {
  const { silences, lanes, N } = record;
  parts.changes.hidden = silences.length === 0 || N < 2;
  const names = silences.map(({ lane }) => {
    const said = { scope: "col", "aria-label": `without ${laneName(lane)}` };
    return html("th", said, `${symbol(lane)} ${lane + 1}`);
  });
  const head = html("tr", {}, html("th", { scope: "col" }, "lane, without"), ...names);
  const rows = lanes.map((_, m) => {
    const cells = silences.map((silence) => changedCell(record, silence, m));
    return html("tr", {}, html("th", { scope: "row" }, laneTitle(m)), ...cells);
  });
  parts.changed.replaceChildren(html("thead", {}, head), html("tbody", {}, ...rows));
}

function changedCell(record, { lane, drawn, kl }, m) {
  const { first, tokens } = record.lanes[m];
  let [changed, sum, count] = [0, 0, 0];
  for (let k = 0; k < tokens; k++) {
    if (record.copied(m, k)) continue;
    changed += drawn[first + k] > 0;
    sum += nats(kl[first + k]);
    count++;
  }
  if (lane === m || !count) return html("td", { class: "cell" }, "–");
  const share = changed / count;
  const said = count < 100 ? `${changed} of ${count}` : finely(share);
  const cell = html("td", { class: "cell" }, said, html("small", {}, (sum / count).toFixed(3)));
  return styled(cell, { "--s": share.toFixed(3) });
}
