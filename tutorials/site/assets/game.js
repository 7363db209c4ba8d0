// A live game on a page: the model of lanes.js plays the reader's swaps, at once, and every word of
// every lane is marked right or wrong. What is right is computed here, from the swaps alone.

import { generate, joint, silence } from "./lanes.js";

const START = "ABCD";
const SWAPS = 16;
const times = (count, f) => Array.from({ length: count }, (_, k) => f(k));

/** A reader's text -> 16 swaps, padded with "--" (nothing moves). Throws with one line. */
export function parse(text) {
  const moves = (text.match(/[^\s,]+/g) ?? []).map((word) => {
    const [i, j] = word.match(/^([1-4])-([1-4])$/)?.slice(1).sort() ?? [];
    if (word !== "--" && i === j) throw new Error(`“${word}” is no swap; expected one like 1-3.`);
    return word === "--" ? word : `${i}-${j}`;
  });
  if (!moves.length) throw new Error("No swap; expected swaps like 1-3 2-4.");
  if (moves.length > SWAPS) throw new Error(`${moves.length} swaps; expected at most ${SWAPS}.`);
  return [...moves, ...Array(SWAPS - moves.length).fill("--")];
}

/** First arrangement a, then b, as one. */
const compose = (a, b) => [...b].map((cup) => a[START.indexOf(cup)]).join("");

function swapped(arrangement, move) {
  const cups = [...arrangement];
  const [i, j] = move.split("-").map((place) => place - 1);
  if (move !== "--") [cups[i], cups[j]] = [cups[j], cups[i]];
  return cups.join("");
}

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

/** What is on the page: plays the game that the controls of `root` describe. */
export function mount(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const control = (name) => root.querySelector(`[name=${name}]`);
  const [field, count, turned] = [control("swaps"), control("lanes"), control("omega")];
  let silent = new Set();

  function play() {
    const N = Number(count.value);
    let moves;
    try {
      moves = parse(field.value);
    } catch (error) {
      part("lanes").replaceChildren();
      part("verdict").textContent = error.message;
      field.setAttribute("aria-invalid", "true");
      return;
    }
    field.setAttribute("aria-invalid", "false");
    const visibility = [...silent].reduce(silence, joint(N));
    const omega = turned.checked ? model.omega : model.omega.map(() => 0);
    const began = performance.now();
    const prompt = `cups ${START}, swap ${moves.join(" ")}: where?`;
    const texts = generate(model, prompt, { lanes: N, omega, visibility, maxTokens: 20 });
    const ms = Math.round(performance.now() - began);
    const right = rightWords(moves, N);
    const answer = moves.reduce(swapped, START);
    const good = texts.filter((words) => words.at(-1) === answer).length;
    part("lanes").replaceChildren(...texts.map((words, m) => row(words, right[m], moves, m, N)));
    part("verdict").textContent =
      `The cups stand ${answer}. ${good} of ${N} ${N > 1 ? "lanes end" : "lane ends"} with it. ` +
      `The model took ${ms} ms in your browser.`;
  }

  function row(words, right, moves, m, N) {
    const line = document.createElement("tr");
    const add = (parent, tag, text = "", kind = "") => {
      const made = parent.appendChild(document.createElement(tag));
      made.textContent = text;
      made.className = kind;
      return made;
    };
    add(line, "th", `lane ${m + 1}`).scope = "row";
    const button = add(add(line, "td"), "button", silent.has(m) ? "silent" : "is read");
    button.type = "button";
    button.setAttribute("aria-pressed", String(silent.has(m)));
    button.setAttribute("aria-label", `Silence lane ${m + 1}: nobody else reads it`);
    button.disabled = N === 1;
    button.addEventListener("click", () => {
      silent.delete(m) || silent.add(m);
      play();
      part("lanes").rows[m].querySelector("button").focus();
    });
    const said = add(line, "td", "", "words");
    for (const [t, word] of words.entries()) {
      const good = word === right[t];
      const kind = t < SWAPS / N ? "own" : "both";
      const cell = add(said, "span", `${word} `, `${kind} ${good ? "right" : "wrong"}`);
      add(cell, "b", good ? "✓" : "✗").setAttribute("aria-label", good ? "right" : "wrong");
    }
    return line;
  }

  count.addEventListener("change", () => {
    silent = new Set();
    play();
  });
  turned.addEventListener("change", play);
  field.addEventListener("input", play);
  part("another").addEventListener("click", () => {
    const moves = ["1-2", "1-3", "1-4", "2-3", "2-4", "3-4"];
    field.value = times(SWAPS, () => moves[Math.floor(Math.random() * moves.length)]).join(" ");
    play();
  });
  play();
}
