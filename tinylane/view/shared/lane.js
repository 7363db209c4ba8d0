// What a lane looks like: its name, its symbol, its colour, its column of text. Lanes count from 1
// on a page, from 0 in the code.

import { html, styled } from "./dom.js";

const SYMBOLS = "●■▲◆▼✚★⬢"; // a colour never stands alone
const COLOURS = 6; // --c0 to --c5 of tinylane/view/palette.py

export const symbol = (m) => SYMBOLS[m % SYMBOLS.length];
export const laneName = (m) => `lane ${m + 1}`;
export const laneTitle = (m) => `${symbol(m)} ${laneName(m)}`;

/** Gives a node, and what stands in it, the colour of a lane. */
export const coloured = (node, m) => styled(node, { "--lane": `var(--c${m % COLOURS})` });

/** A lane's column: `card` with its name, `state` for how it is, `text` for its tokens. */
export function laneCard(m) {
  const [state, text] = [html("small"), html("div", { class: "text" })];
  const name = html("h3", {}, `${laneTitle(m)} `, state);
  const card = html("article", { class: "lane", "aria-label": `Lane ${m + 1}` }, name, text);
  return { card: coloured(card, m), name, state, text };
}
