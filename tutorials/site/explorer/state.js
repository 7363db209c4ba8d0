// What the reader has set, as one object; the page's address keeps it.
//
//   moves   16 swaps          see     N x N booleans: row m reads n     silent  [lane, step] pairs
//   lanes   N                 lag     steps                             cell    [lane, step]
//   tags    N first tokens    omega   its start; slot, times, off, drawn: what is made of it
//   promptLane "own" or 0     key     [lane, step] of a token that was fed; the prompt is lane -1
//   layer, head: whose attention is drawn, from 0, or "mean"

import { clamp } from "../assets/shared/dom.js";
import { NAMED, nameOf, pattern } from "../assets/shared/reads.js";
import * as game from "../assets/shell_game.js";
import { omega } from "./lane_rope.js";

export const STARTS = ["learned", "none", "group_think", "ntk", "drawn"];
export const PLANES = 32;
const MOVES = "3-4 2-3 2-4 3-4 2-3 2-4 3-4 1-3 1-2 1-3 1-3 3-4 3-4 1-2 1-4 2-4"; // the README's
const SIZES = { lag: [0, 8], slot: [0, 512], times: [0, 2] };

/** The state in which the page begins, with N lanes. */
export function initial(N = 4) {
  const [tags, see] = [game.lanePrompts(N), pattern("joint", N)];
  const turns = { omega: "learned", slot: 32, times: 1, off: [], drawn: [], promptLane: "own" };
  const [cell, key] = [[Math.min(1, N - 1), 16 / N], [0, 16 / N]];
  const look = { cell, key, layer: 1, head: "mean" };
  return { moves: MOVES.split(" "), lanes: N, tags, see, lag: 0, silent: [], ...turns, ...look };
}

/** A state brought to where it can be. What depends on the number of lanes starts again with it. */
export function tidy(state) {
  const plain = initial(game.LANES.includes(state.lanes) ? state.lanes : 4);
  const { lanes: N } = plain;
  const tidied = { ...plain, ...state, lanes: N };
  if (state.see.length !== N) tidied.see = pattern(nameOf(state.see) ?? "joint", N);
  if (state.tags.length !== N || !state.tags.every((tag) => game.TAGS.includes(tag)))
    tidied.tags = plain.tags;
  tidied.see = tidied.see.map((row, m) => row.map((reads, n) => reads || m === n));
  for (const [name, limits] of Object.entries(SIZES))
    tidied[name] = Number.isFinite(state[name]) ? clamp(state[name], ...limits) : plain[name];
  [tidied.lag, tidied.slot] = [Math.round(tidied.lag), Math.round(tidied.slot)];
  if (tidied.omega === "drawn" && state.drawn.length !== PLANES) tidied.omega = "learned";
  const last = game.steps(N);
  tidied.silent = state.silent.filter(([m, t]) => m < N && t <= last);
  const [m, t] = state.cell;
  tidied.cell = [clamp(m, 0, N - 1), clamp(t, 0, last)];
  const [n, s] = state.key;
  tidied.key = [clamp(n, -1, N - 1), clamp(s, 0, n < 0 ? game.PROMPT - 1 : last)];
  return tidied;
}

/** The Omega of a state: its start, times a factor, 0 in planes that are off. */
export function omegaOf({ omega: start, slot, times: factor, off, drawn, lanes }, model) {
  const made = { learned: () => [...model.omega], drawn: () => drawn };
  const base = made[start]?.() ?? [...omega(start, model.theta, slot, lanes)];
  return base.map((value, d) => (off.includes(d) ? 0 : value * factor));
}

/** A state as run.js wants it. */
export function settingsOf(state, model) {
  return { ...state, omega: omegaOf(state, model), visibility: state.see };
}

// ---- The address -----------------------------------------------------------------------------

const bits = (see) => see.map((row) => row.map(Number).join("")).join(".");
const pairs = (all) => all.map((pair) => pair.join("-")).join(".");
const WRITE = {
  moves: (moves) => moves.map((move) => move.replace(/\W/g, "") || "0").join("."),
  tags: (tags) => tags.join("_"),
  see: (see) => nameOf(see) ?? bits(see),
  silent: pairs,
  cell: (cell) => cell.join("-"),
  key: ([n, s]) => `${n + 1}-${s}`, // the prompt is 0
  off: (off) => off.join("."),
  drawn: (drawn) => drawn.map((value) => Number(value.toPrecision(9))).join("_"),
};
const whole = (text) => (/^\d{1,3}$/.test(text) ? Number(text) : NaN);
const READ = {
  moves(text) {
    const moves = text.split(".").map((digits) => (digits === "0" ? "--" : [...digits].join("-")));
    return moves.length === 16 && moves.every((move) => game.MOVES.includes(move)) ? moves : null;
  },
  tags: (text) => text.split("_"),
  see(text, N) {
    if (NAMED.includes(text)) return pattern(text, N);
    const rows = text.split(".");
    const good = rows.length === N && rows.every((row) => row.length === N && /^[01]+$/.test(row));
    return good ? rows.map((row) => [...row].map((bit) => bit === "1")) : null;
  },
  silent: (text) => text.match(/\d-\d{1,2}/g)?.map((pair) => pair.split("-").map(Number)) ?? null,
  cell: (text) => (/^\d-\d{1,2}$/.test(text) ? text.split("-").map(Number) : null),
  key(text) {
    const [n, s] = /^\d-\d{1,2}$/.test(text) ? text.split("-").map(Number) : [];
    return n === undefined ? null : [n - 1, s];
  },
  off: (text) => [...new Set(text.split(".").map(whole))].filter((plane) => plane < PLANES),
  drawn(text) {
    const values = text.split("_").map(Number);
    return values.every((value) => Math.abs(value) <= 1e4) ? values : null;
  },
  omega: (text) => (STARTS.includes(text) ? text : null),
  promptLane: (text) => (text === "0" ? 0 : "own"),
  layer: (text) => (/^[0-2]$/.test(text) ? Number(text) : text === "mean" ? text : null),
  head: (text) => (/^[0-3]$/.test(text) ? Number(text) : null),
  lag: whole,
  slot: whole,
  times: Number,
};

export function fromURL(search) {
  const given = new URLSearchParams(search);
  const state = initial(tidy({ ...initial(), lanes: whole(given.get("lanes")) }).lanes);
  for (const [name, read] of Object.entries(READ))
    if (given.has(name)) state[name] = read(given.get(name), state.lanes) ?? state[name];
  return tidy(state);
}

/** Only what differs from the state in which the page begins. */
export function toURL(state) {
  const plain = initial(state.lanes);
  const write = (all, name) => (WRITE[name] ?? String)(all[name]);
  const names = Object.keys(READ).filter((name) => write(state, name) !== write(plain, name));
  const told = names
    .filter((name) => name !== "drawn" || state.omega === "drawn")
    .map((name) => `${name}=${write(state, name)}`);
  return [...(state.lanes === 4 ? [] : [`lanes=${state.lanes}`]), ...told].join("&");
}
