// The chosen token: its probability, where its attention went, and what each head did.

import { button, html, refill, styled, times } from "../shared/dom.js";
import { laneName, laneTitle } from "../shared/lane.js";
import { drawKeys, shareRow } from "../shared/listening.js";
import { chance, finely } from "../shared/numbers.js";
import { quoted } from "../shared/tokens.js";
import { nats, viewName } from "./record.js";
import { showSilence } from "./silence.js";
import { markTokens, wordOf } from "./texts.js";

export function showChosen(page) {
  const { record, state, parts } = page;
  const q = record.tokenAt(state.lane, state.step);
  parts["chosen-body"].hidden = q < 0;
  if (q < 0) {
    markTokens(page);
    parts["chosen-title"].textContent = laneTitle(state.lane);
    parts["chosen-how"].textContent = whyNone(record.lanes[state.lane], state.step);
    return;
  }
  const k = q - record.lanes[state.lane].first;
  const [own, query] = [record.rowOf(state.lane, k), record.asked[q]];
  const view = record.views[state.view];
  const keys = record.keysOf(view, q);
  markTokens(page, { own, query, keys });
  const title = `${laneTitle(state.lane)}, step ${state.step}: ${wordOf(page, own)}`;
  parts["chosen-title"].textContent = title;
  parts["chosen-how"].textContent = how(page, q, k, own, query);
  showShares(page, q, view);
  showKeys(page, q, view, keys);
  showHeads(page, q);
  showSilence(page, q, own);
}

function whyNone({ tokens, steps, end }, step) {
  if (step === 0) return "Nothing is written yet. Press Play, or go one step on.";
  if (tokens > 0 && step < steps[0]) return "This lane has written nothing yet.";
  if (step < (steps.at(-1) ?? 0)) return "This lane writes nothing at this step.";
  return `This lane has ended (${end ?? "no reason given"}).`;
}

/** How a token came about, in sentences. */
function how(page, q, k, own, query) {
  const { record, state } = page;
  const { texts, text, likeliest, logprob } = record;
  const surprise = nats(logprob[q]);
  const likely = texts[likeliest[q]];
  const other = text[own] !== likeliest[q] && likely.trim() !== texts[text[own]].trim();
  const lane = record.laneOfRow(query);
  const end = lane === state.lane ? "" : `, in ${laneName(lane)}`;
  const where = query < record.prompt ? ", the end of the prompt" : end;
  const drawn = record.outside.has(q)
    ? "It was given from outside. Its probability is that by"
    : "It was drawn from";
  const copied = `Written by ${laneName(record.writer[q])} and copied here by the fork. `;
  return [
    `Token ${record.ids[own]} at position ${record.lanes[state.lane].positions[k]}, `,
    `probability ${chance(surprise)} (${surprise.toFixed(3)} nats)`,
    other ? `; the likeliest was ${quoted(likely)}. ` : ". ",
    record.copied(state.lane, k) ? copied : "",
    `${drawn} the row before it, ${wordOf(page, query)}${where} (dashed); `,
    "the attention below is that row’s.",
  ].join("");
}

/** Where the attention went: the prompt, then every lane. */
function showShares({ record, parts }, q, view) {
  const rows = [shareRow("prompt", record.share(view, q, 0), { say: finely })];
  for (let n = 0; n < record.N; n++) {
    const own = n === record.writer[q];
    const look = { lane: n, kind: own ? "" : "other-lane", say: finely };
    rows.push(shareRow(laneTitle(n) + (own ? " (own)" : ""), record.share(view, q, n + 1), look));
  }
  parts.bars.tBodies[0].replaceChildren(...rows);
  parts["bars-title"].textContent = `Where its attention went: ${viewName(view)}`;
}

function showKeys(page, q, view, keys) {
  const { record, parts } = page;
  const where = ({ lane, row }) =>
    `${lane < 0 ? "prompt" : laneTitle(lane)}, position ${record.positionOfRow(row)}`;
  const named = keys.map((key) => {
    const text = record.texts[record.text[key.row]];
    return { share: key.share, text, where: where(key) };
  });
  drawKeys(parts.keys, named, finely);
  const rest = [];
  for (let slot = 0; slot <= record.N; slot++) {
    const kept = keys.filter(({ lane }) => lane + 1 === slot).reduce((sum, x) => sum + x.share, 0);
    const left = record.share(view, q, slot) - kept;
    if (left >= 0.005) rest.push(`${slot ? laneName(slot - 1) : "prompt"} ${finely(left)}`);
  }
  parts.rest.textContent = rest.length
    ? `All other keys, summed: ${rest.join(", ")}.`
    : "All other keys together: under 1% of any lane.";
}

// ---- Layers and heads ------------------------------------------------------------------------

/** The share to other lanes of every layer and head; those that the page holds can be chosen. */
function showHeads(page, q) {
  const { record, parts } = page;
  parts["heads-box"].hidden = record.layers * record.heads < 2 || record.N < 2;
  if (parts["heads-box"].hidden) return;
  const names = times(record.heads, (h) => `head ${h + 1}`);
  const heads = ["layer", "mean", ...names].map((name) => html("th", { scope: "col" }, name));
  const rows = [html("tr", {}, ...heads)];
  for (let layer = 0; layer < record.layers; layer++) {
    const row = html("tr", {}, html("th", { scope: "row" }, layer + 1));
    for (let h = -1; h < record.heads; h++) row.append(headCell(page, q, layer, h));
    rows.push(row);
  }
  refill(parts.heads, ...rows);
  const averages = parts.heads.querySelector(".average")
    ? " ø: only the lane’s average over the run is kept."
    : "";
  parts["heads-note"].textContent = `Choose a head to see where it looked.${averages}`;
}

function headCell({ record, state, viewAt, look }, q, layer, h) {
  const name = viewName({ layer, head: h < 0 ? null : h });
  const k = viewAt.get(name);
  const value = k === undefined ? record.average(layer, h, state.lane)
    : record.toOthers(record.views[k], q);
  const cell = styled(html("td", { class: "cell" }), { "--s": value.toFixed(3) });
  if (k === undefined) {
    const about = { class: "average", title: `${name}: average over the lane` };
    cell.append(html("div", about, `ø${finely(value)}`));
    return cell;
  }
  const on = k === state.view;
  cell.classList.toggle("on", on);
  const label = `${name}: ${finely(value)} to other lanes`;
  const said = { "data-view": k, "aria-label": label, "aria-pressed": String(on) };
  cell.append(button(finely(value), () => look(k), said));
  return cell;
}
