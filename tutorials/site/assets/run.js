// One game, played and kept: what every lane was fed, wrote, expected and read.
//
//   N lanes   P tokens of the prompt   cell [m, t]: what lane m writes in step t, both from 0

import { SHARED, encode, forward, newCache, silence } from "./lanes.js";
import { times } from "./shared/dom.js";
import * as game from "./shell_game.js";

export const END = "<end>";

/** Who reads whom in a step. silent: pairs [lane, step]: in that step nobody else reads it. */
export const readsAt = (visibility, silent, step) =>
  silent.filter(([, at]) => at === step).reduce((sees, [lane]) => silence(sees, lane), visibility);

// The prompt reads no lane: no setting of lanes changes it, so the last one is kept.
let kept = {};
function prefill(model, prompt) {
  if (kept.model !== model || kept.prompt !== prompt) {
    const [cache, tokens] = [newCache(model), encode(model, prompt)];
    const shared = tokens.map(() => SHARED);
    const settings = { omega: model.omega, promptLane: "own", visibility: [], lag: 0 };
    forward(model, tokens, [...tokens.keys()], shared, cache, settings);
    kept = { model, prompt, cache };
  }
  const { places, keys, values, weights } = kept.cache;
  const copy = (layers) => layers.map((rows) => [...rows]);
  return { places: [...places], keys: copy(keys), values: copy(values), weights: copy(weights) };
}

/** Plays 16 swaps. settings: moves, lanes, tags, omega, promptLane, visibility, lag, silent. */
export function play(model, settings) {
  const { moves, lanes: N, tags, omega, promptLane, visibility, lag, silent } = settings;
  const [cache, steps] = [prefill(model, game.prompt(moves)), game.steps(N)];
  const P = cache.places.length;
  const [answer, cells] = [game.answer(moves), times(N, () => [])];
  const right = tags.map((tag) => game.rightFor(moves, tag));
  let fed = tags.map((tag, lane) => ({ lane, token: model.vocabulary.get(tag) }));
  for (let step = 0; step <= steps && fed.length; step++) {
    const [tokens, lanes] = [fed.map(({ token }) => token), fed.map(({ lane }) => lane)];
    const sees = { omega, promptLane, visibility: readsAt(visibility, silent, step), lag };
    const first = cache.places.length;
    const logits = forward(model, tokens, lanes.map(() => P + step), lanes, cache, sees);
    fed = lanes.map((lane, t) => {
      const token = logits[t].indexOf(Math.max(...logits[t]));
      const [word, wanted] = [model.words[token], right[lane][step] ?? END];
      const good = word === wanted;
      cells[lane].push({ word, wanted, good, logits: logits[t], row: first + t });
      return { lane, token };
    });
    fed = fed.filter(({ token }) => model.words[token] !== END);
  }
  const last = cells.map((lane) => lane.findLast(({ word }) => word !== END)?.word ?? "");
  const good = last.filter((word) => word === answer).length;
  const asked = encode(model, game.prompt(moves)).map((token) => model.words[token]);
  return { ...settings, P, steps, answer, cells, last, good, cache, asked, words: model.words };
}

/** The verdict in a sentence. */
export const verdict = ({ answer, good, lanes: N }) =>
  `The cups stand ${answer}. ${good} of ${N} ${N > 1 ? "lanes end" : "lane ends"} with it.`;

/** What a cell read: [{ lane, step, share }], the prompt's tokens with lane SHARED and their
 * position as the step. A lane's step s is the token that it was fed in step s: its tag, or the
 * word of the step before. layer, head: from 0, or "mean". */
export function attention(run, [m, t], layer = 1, head = "mean") {
  const { row } = run.cells[m][t];
  const layers = layer === "mean" ? run.cache.weights : [run.cache.weights[layer]];
  const all = layers.flatMap((rows) => (head === "mean" ? rows[row] : [rows[row][head]]));
  return all[0].map((_, s) => {
    const [position, lane] = run.cache.places[s];
    const share = all.reduce((sum, shares) => sum + shares[s], 0) / all.length;
    return { lane, step: lane === SHARED ? position : position - run.P, share };
  });
}

/** The likeliest next words of a cell: [{ word, share }], best first. */
export function probabilities(run, [m, t]) {
  const { logits } = run.cells[m][t];
  const highest = Math.max(...logits);
  const powers = [...logits].map((logit) => Math.exp(logit - highest));
  const sum = powers.reduce((a, b) => a + b);
  const shares = powers.map((power, k) => ({ word: run.words[k], share: power / sum }));
  return shares.sort((a, b) => b.share - a.share);
}
