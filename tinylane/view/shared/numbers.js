// Numbers in words, everywhere the same.

/** 0.374 -> "37%". What is rare but possible is not 0, what is nearly certain is not 100. */
export function percent(share) {
  if (share > 0 && share < 0.005) return "under 1%";
  return share >= 0.995 && share < 0.9995 ? "over 99%" : `${Math.round(100 * share)}%`;
}

/** As `percent`, with a decimal below 1%: for shares among many layers and heads. */
export const finely = (share) =>
  share > 0 && share < 0.0095 ? `${(100 * share).toFixed(1)}%` : `${Math.round(100 * share)}%`;

/** A surprise in nats as a probability. */
export function chance(nats) {
  const p = Math.exp(-nats);
  if (p > 0 && p < 0.0001) return "under 0.01%";
  return `${(100 * p).toFixed(p < 0.0995 || p > 0.9995 ? 2 : 1)}%`;
}
