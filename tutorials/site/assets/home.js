// The first page: one game, played once slowly; then the reader changes a swap and it is played
// again at once.

import { SHARED, joint } from "./lanes.js";
import { board } from "./board.js";
import { same, set } from "./shared/dom.js";
import { percent } from "./shared/numbers.js";
import { player, still } from "./shared/player.js";
import { draw as randomMoves, lanePrompts, parse } from "./shell_game.js";
import { attention, play, verdict } from "./run.js";

const PAUSE = 1100; // ms that a step stays
const MOVES = "3-4 2-3 2-4 3-4 2-3 2-4 3-4 1-3 1-2 1-3 1-3 3-4 3-4 1-2 1-4 2-4"; // the README's
const SAY = [
  "Each lane follows its own four swaps, as if its cups stood ABCD. Swap 1 …",
  "… swap 2 …",
  "… swap 3 …",
  "… swap 4. Every lane knows what its own four swaps do.",
  "Now they read each other (the lines). Lanes 1 and 2 combine what they found; so do 3 and 4.",
  "Then all four: every lane says where the cups stand. Six steps, where one lane needs sixteen.",
];

export function mount(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const view = { steps: 0, cell: null, layer: 1, head: "mean", end: false };
  const N = 4;
  let moves = MOVES.split(" ");
  let run = null;
  const field = root.querySelector("[name=moves]");
  const draw = board(part("board"), {
    onMove: (k, move) => change(moves.with(k, move)),
    onCell: (cell) => {
      view.cell = same(view.cell, cell) ? null : cell; // a second press lets it go
      draw(run, view);
      part("verdict").textContent = view.cell ? reading(run, cell) : verdict(run);
    },
  });

  function change(to) {
    [moves, view.cell] = [to, null];
    if (field !== document.activeElement) field.value = moves.join(" ");
    trouble("");
    const settings = { moves, lanes: N, tags: lanePrompts(N), omega: model.omega };
    const sees = { promptLane: "own", visibility: joint(N), lag: 0, silent: [] };
    run = play(model, { ...settings, ...sees });
    show(run.steps + 1);
    slowly.stop();
  }

  function trouble(said) {
    part("trouble").textContent = said;
    set(field, { "aria-invalid": said ? "true" : null });
  }

  /** Shows so many steps, and what there is to say of them. */
  function show(steps) {
    view.steps = steps;
    draw(run, view);
    part("verdict").textContent = steps > run.steps ? verdict(run) : (SAY[steps - 1] ?? "");
  }

  const slowly = player(part("play"), {
    next() {
      view.cell = null;
      show(view.steps > run.steps ? 1 : view.steps + 1);
      return view.steps <= run.steps;
    },
    wait: () => (still.matches ? 0 : PAUSE),
  });
  field.addEventListener("input", () => {
    try {
      change(parse(field.value));
    } catch (error) {
      trouble(error.message);
    }
  });
  field.addEventListener("blur", () => (field.value = moves.join(" ")) && trouble(""));
  part("another").addEventListener("click", () => change(randomMoves()));
  root.removeAttribute("data-off");
  change(moves);
  if (!still.matches) slowly.play();
}

/** What lane m read as it wrote its word of step t, in a sentence; shares as lines have them. */
function reading(run, [m, t]) {
  const others = attention(run, [m, t]).filter(({ lane, share }) =>
    lane !== SHARED && lane !== m && share >= 0.02);
  const word = (n, step) => (step ? run.cells[n][step - 1].word : run.tags[n]);
  const most = others
    .sort((a, b) => b.share - a.share)
    .slice(0, 3)
    .map(({ lane: n, step, share }) => `lane ${n + 1}’s ${word(n, step)} (${percent(share)})`);
  const list = most.join(", ");
  const read = list ? `Of other lanes it read most: ${list}` : "It read no other lane";
  return `Lane ${m + 1} wrote ${run.cells[m][t].word}. ${read}.`;
}
