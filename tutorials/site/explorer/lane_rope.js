// Who reads whom and how far planes turn: tinylane/core/lanes.py and rope.py once more, for the
// figures. The model's own are in ../assets/lanes.js; tests compare both with the package.
//
//   N lanes   [i, m]: position and lane of the query   [j, n]: of the key

import { SHARED } from "../assets/lanes.js";

/** Why a query sees a key: "shared", "own", "other"; or why not: "prompt", "hidden", "later",
 * "lag". visibility: N x N booleans. */
export function reason([i, m], [j, n], visibility, lag) {
  if (n === SHARED || n === m) return j > i ? "later" : n === SHARED ? "shared" : "own";
  if (m === SHARED) return "prompt";
  if (!visibility[m][n]) return "hidden";
  return j > i ? "later" : j > i - lag ? "lag" : "other";
}

/** Omega: radians per lane. start: "none", "group_think" or "ntk". theta: radians per position. */
export function omega(start, theta, slot, scale) {
  if (start === "none") return theta.map(() => 0);
  if (start === "group_think") return theta.map((t) => slot * t);
  const last = Math.max(2 * theta.length - 2, 1);
  return theta.map((t, d) => slot * t * scale ** ((-2 * d) / last));
}

/** [j - i, n - m]; with promptLane "own" the prompt is 0 lanes away from everybody. */
export function difference([i, m], [j, n], promptLane) {
  const own = n === SHARED && promptLane === "own";
  return [j - i, own ? 0 : Math.max(n, 0) - Math.max(m, 0)];
}

/** Radians by which each plane is turned from query to key. */
export function angles(query, key, theta, Omega, promptLane) {
  const [positions, lanes] = difference(query, key, promptLane);
  return theta.map((t, d) => t * positions + Omega[d] * lanes);
}

/** The score of a query and a key vector (D numbers each) at a difference. */
export function score(q, k, theta, Omega, positions, lanes) {
  const half = theta.length;
  return theta.reduce((total, t, d) => {
    const turn = t * positions + Omega[d] * lanes;
    const along = q[d] * k[d] + q[d + half] * k[d + half];
    const across = q[d] * k[d + half] - q[d + half] * k[d];
    return total + along * Math.cos(turn) - across * Math.sin(turn);
  }, 0);
}
