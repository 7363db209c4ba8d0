// A live game on a page: the model of lanes.js plays the reader's swaps, at once, and every word of
// every lane is marked right or wrong. What is right comes from the swaps alone (shell_game.js).

import { button, html } from "./shared/dom.js";
import { generate, joint, silence } from "./lanes.js";
import { SWAPS, answer, draw, parse, prompt, rightWords } from "./shell_game.js";

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
    const texts = generate(model, prompt(moves), { lanes: N, omega, visibility, maxTokens: 20 });
    const ms = Math.round(performance.now() - began);
    const right = rightWords(moves, N);
    const good = texts.filter((words) => words.at(-1) === answer(moves)).length;
    part("lanes").replaceChildren(...texts.map((words, m) => row(words, right[m], moves, m, N)));
    part("verdict").textContent =
      `The cups stand ${answer(moves)}. ` +
      `${good} of ${N} ${N > 1 ? "lanes end" : "lane ends"} with it. ` +
      `The model took ${ms} ms in your browser.`;
  }

  function row(words, right, moves, m, N) {
    const silence = () => {
      silent.delete(m) || silent.add(m);
      play();
      part("lanes").rows[m].querySelector("button").focus();
    };
    const press = button(silent.has(m) ? "silent" : "is read", silence, {
      "aria-pressed": String(silent.has(m)),
      "aria-label": `Silence lane ${m + 1}: nobody else reads it`,
      disabled: N === 1,
    });
    const said = words.map((word, t) => marked(word, word === right[t], t < SWAPS / N));
    const name = html("th", { scope: "row" }, `lane ${m + 1}`);
    return html("tr", {}, name, html("td", {}, press), html("td", { class: "words" }, ...said));
  }

  function marked(word, good, own) {
    const mark = html("b", { "aria-label": good ? "right" : "wrong" }, good ? "✓" : "✗");
    const kind = `${own ? "own" : "both"} ${good ? "right" : "wrong"}`;
    return html("span", { class: kind }, `${word} `, mark);
  }

  root.removeAttribute("data-off");
  count.addEventListener("change", () => {
    silent = new Set();
    play();
  });
  turned.addEventListener("change", play);
  field.addEventListener("input", play);
  part("another").addEventListener("click", () => {
    field.value = draw().join(" ");
    play();
  });
  play();
}
