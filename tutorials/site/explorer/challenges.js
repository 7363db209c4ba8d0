// Challenges: what the reader is to bring about, and whether it has been. A verdict comes from
// runs of the model, never from what the reader says.
//
//   check(now, before): "" while it is open, else what has been shown. now, before: { state, run };
//   `before` is the same game with the settings that the challenge began with.

import { draw } from "../assets/shell_game.js";
import { play } from "../assets/run.js";
import { pattern } from "../assets/shared/reads.js";
import { initial, omegaOf, settingsOf } from "./state.js";

const joint = ({ see }) => see.flat().every(Boolean);
const ends = ({ last, answer }) => last.map((word) => word === answer);
const count = (flags) => flags.filter(Boolean).length;
const names = (flags) => flags.flatMap((flag, m) => (flag ? [`lane ${m + 1}`] : [])).join(", ");
const likeFirst = ({ state, run }, before) =>
  String(state.moves) === String(before.state.moves) && run.lanes === before.run.lanes;

/** The largest change of a logit, in standard deviations of all of them. */
export function change(run, before) {
  let [worst, sum, squares, total] = [0, 0, 0, 0];
  for (const [m, lane] of before.cells.entries())
    for (const [t, { logits }] of lane.entries())
      for (const [v, logit] of logits.entries()) {
        const difference = Math.abs(logit - (run.cells[m][t]?.logits[v] ?? Infinity));
        [worst, total] = [Math.max(worst, difference), total + 1];
        [sum, squares] = [sum + logit, squares + logit * logit];
      }
  return worst / Math.sqrt(squares / total - (sum / total) ** 2);
}

/** In how many of `games` games all lanes are right with these settings, and in how many most of
 * them are. A generator: it yields after every game, so that the page stays alive. */
export function* trial(model, state, games, seed = 1) {
  const random = generator(seed);
  let [right, most] = [0, 0];
  for (let k = 1; k <= games; k++) {
    const run = play(model, { ...settingsOf(state, model), moves: draw(random) });
    right += run.good === run.lanes;
    most += run.good > run.lanes / 2;
    yield { right, most, games: k };
  }
}

/** Numbers from 0 to 1, always the same for a seed (mulberry32). */
export function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const CHALLENGES = [
  {
    name: "Silence a lane: who fails?",
    task:
      "Two lanes. Say first which lanes will end wrong if nobody reads lane 1, and tick them. " +
      "Then press × in row 2, column 1 of “Who reads whom”: lane 2 no longer reads lane 1.",
    begin: () => initial(2),
    predicts: true,
    check(now, before, predicted) {
      const { see } = now.state;
      if (!likeFirst(now, before) || see[1][0] || !see[0][1]) return "";
      const failed = ends(now.run).map((good) => !good);
      if (String(failed) !== String(predicted)) return "";
      return `As you said: ${names(failed)} ends wrong. The other one still read all it needed.`;
    },
  },
  {
    name: "Change Omega so that nothing changes",
    task:
      "Turn at least one plane of Omega by something that is not 0, so that no logit of any lane " +
      "changes. (All four lanes go on reading each other.)",
    begin: () => initial(),
    check(now, before, predicted, model) {
      const [new_, old] = [now, before].map(({ state }) => omegaOf(state, model));
      const apart = Math.max(...new_.map((value, d) => Math.abs(value - old[d])));
      if (!likeFirst(now, before) || !joint(now.state) || apart < 0.5) return "";
      const worst = change(now.run, before.run);
      if (!(worst < 1e-4)) return "";
      const most = worst ? `by more than ${worst.toExponential(0)} of their spread` : "at all";
      return (
        `Omega changed by up to ${apart.toFixed(2)} radians, no logit ${most}. Lanes are whole ` +
        "numbers, and a whole turn is no turn."
      );
    },
  },
  {
    name: "Break exactly one pair",
    task:
      "In step 5 the lanes combine in pairs: 1 with 2, 3 with 4. Make both lanes of one pair " +
      "write a wrong word there. The other pair, and all words before, stay right.",
    begin: () => initial(),
    check(now, before) {
      const { cells, lanes: N } = now.run;
      if (!likeFirst(now, before)) return "";
      if (!cells.every((lane) => lane.slice(0, 16 / N).every(({ good }) => good))) return "";
      const good = cells.map((lane) => lane[16 / N]?.good ?? false);
      const pairs = [good.slice(0, 2), good.slice(2)];
      const broken = pairs.findIndex((pair) => count(pair) === 0);
      if (broken < 0 || count(pairs[1 - broken]) < 2) return "";
      return `Lanes ${2 * broken + 1} and ${2 * broken + 2} are broken, the other pair is whole.`;
    },
  },
  {
    name: "Which planes tell the lanes apart?",
    task:
      "Switch off at least 16 of the 32 planes of Omega so that all four lanes are still right, " +
      "in at least 20 of 24 other games too. The page plays them once this game is right.",
    begin: () => initial(),
    games: 24,
    wants: ({ state, run }) =>
      state.off.length >= 16 && joint(state) && run.lanes === 4 && run.good === 4,
    check(now, before, predicted, model, tried) {
      if (!this.wants(now) || !tried || tried.games < this.games || tried.right < 20) return "";
      return (
        `${now.state.off.length} planes are off, and ${tried.right} of ${tried.games} games are ` +
        "right. The planes that are left tell the lanes apart."
      );
    },
  },
  {
    name: "Make three lanes right with the fewest cells",
    task:
      "Nobody reads anybody. Allow as few readings as you can (cells ▲ of “Who reads whom”) so " +
      "that three lanes end right.",
    begin: () => ({ ...initial(), see: pattern("independent", 4) }),
    check(now, before) {
      const cells = count(now.state.see.flat()) - now.run.lanes;
      if (!likeFirst(now, before) || count(ends(now.run)) < 3 || cells > FEWEST) return "";
      return `${names(ends(now.run))}: right with ${cells} cells. No fewer will do.`;
    },
  },
];

/** Of the game with which the page begins: found by trying all masks with fewer. */
export const FEWEST = 5;

/** Runs a generator a game at a time; stops when `alive` says so. tell: after every game. */
export async function watch(games, alive, tell) {
  for (const so of games) {
    await new Promise((done) => setTimeout(done));
    if (!alive()) return;
    tell(so);
  }
}
