// Tokens as text that can be read and pressed.

import { html, styled } from "./dom.js";

const PART = "·"; // stands for a token that is a part of a character

/** Ends of lines and tabs, which could not be seen. */
export const shown = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t");

const spaced = (text) => shown(text).replaceAll(" ", "␣").trimEnd();

/** A token within a sentence: without the spaces around it, unless it is nothing else. */
export const quoted = (text) =>
  `“${text.trim() ? shown(text.trim()) : spaced(text) || PART}”`;

/** A token beside others: with its spaces, which tell two tokens apart. */
export const exact = (text) => spaced(text) || PART;

/** [spaces, box]: a token's spaces stand before its box, so that its shade covers the word alone.
 * kinds: "given", "special". */
export function tokenBox(text, kinds = []) {
  const body = text.trimStart() || text || PART;
  const spaces = text.slice(0, Math.max(text.length - body.length, 0));
  return [shown(spaces), html("span", { class: ["t", ...kinds].join(" ") }, shown(body))];
}

/** How strongly a token is shaded: from 0 to 1. */
export const shade = (box, strength) =>
  styled(box, { "--s": Math.min(strength, 1).toFixed(3) });
