// The shell game: its swaps, and what every lane should write. Once more what
// tinylane/evaluate/tasks/shell_game.py says; the model has no part in it.

import { times } from "./shared/dom.js";

export const [START, SWAPS, STAY] = ["ABCD", 16, "--"];
export const MOVES = ["1-2", "1-3", "1-4", "2-3", "2-4", "3-4", STAY];
export const LANES = [1, 2, 4, 8];
export const PROMPT = SWAPS + 7; // tokens of a prompt
/** First tokens of lanes: the share that a lane is to follow. */
export const TAGS = LANES.flatMap((N) => lanePrompts(N));

/** A reader's text -> 16 swaps, padded with "--" (nothing moves). Throws with one line. */
export function parse(text) {
  const moves = (text.match(/[^\s,]+/g) ?? []).map((word) => {
    const [i, j] = word.match(/^([1-4])-([1-4])$/)?.slice(1).sort() ?? [];
    if (word !== STAY && i === j) throw new Error(`“${word}” is no swap; expected one like 1-3.`);
    return word === STAY ? word : `${i}-${j}`;
  });
  if (!moves.length) throw new Error("No swap; expected swaps like 1-3 2-4.");
  if (moves.length > SWAPS) throw new Error(`${moves.length} swaps; expected at most ${SWAPS}.`);
  return [...moves, ...Array(SWAPS - moves.length).fill(STAY)];
}

/** 16 random swaps. random: a function that gives numbers from 0 to 1. */
export const draw = (random = Math.random) => times(SWAPS, () => MOVES[Math.floor(random() * 6)]);

export const prompt = (moves) => `cups ${START}, swap ${moves.join(" ")}: where?`;

export function lanePrompts(N) {
  return times(N, (m) => `${m + 1}/${N}`);
}

/** Arrangements that each of N lanes writes: its share, then compositions in pairs. */
export const steps = (N) => SWAPS / N + Math.log2(N);

/** First arrangement a, then b, as one. */
export const compose = (a, b) => [...b].map((cup) => a[START.indexOf(cup)]).join("");

export function swapped(arrangement, move) {
  const cups = [...arrangement];
  const [i, j] = move.split("-").map((place) => place - 1);
  if (move !== STAY) [cups[i], cups[j]] = [cups[j], cups[i]];
  return cups.join("");
}

export const answer = (moves) => moves.reduce(swapped, START);

/** What every one of N lanes should write: its share, swap by swap, then compositions in pairs. */
export function rightWords(moves, N) {
  const share = SWAPS / N;
  const lanes = times(N, (m) => {
    let cups = START;
    return moves.slice(m * share, (m + 1) * share).map((move) => (cups = swapped(cups, move)));
  });
  for (let width = 1; width < N; width *= 2) {
    const last = lanes.map((words) => words.at(-1));
    lanes.forEach((words, m) => {
      const left = m - (m % (2 * width));
      words.push(compose(last[left], last[left + width]));
    });
  }
  return lanes;
}

/** What a lane with this tag should write. */
export function rightFor(moves, tag) {
  const [m, N] = tag.split("/").map(Number);
  return rightWords(moves, N)[m - 1];
}
