// Whom a lane listened to: shares of its attention as bars, and the tokens that it read most.

import { html, styled } from "./dom.js";
import { percent } from "./numbers.js";
import { coloured } from "./lane.js";
import { quoted } from "./tokens.js";

/** A bar as long as a share. */
export const amount = (share) =>
  styled(html("span", { class: "amount" }, html("i")), { "--w": share.toFixed(4) });

/** A row: name, bar, number. lane: whose colour it has; kind: a class; say: the number in words. */
export function shareRow(name, share, { lane = null, kind = "", say = percent } = {}) {
  const head = html("th", { scope: "row" }, name);
  const number = html("td", { class: "number" }, say(share));
  const row = html("tr", { class: kind }, head, html("td", {}, amount(share)), number);
  return lane === null ? row : coloured(row, lane);
}

/** The tokens that were read most. keys: [{ share, text, where }], the largest first. */
export function drawKeys(list, keys, say = percent) {
  const item = ({ share, text, where }) =>
    html("li", {}, `${say(share)} ${quoted(text)} `, html("small", {}, where));
  list.replaceChildren(...keys.map(item));
}
