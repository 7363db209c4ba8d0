// The other methods: their five choices in words, and what they do. Those that are no more than a
// rotation and a mask are played by the page's model; of others the package's run is shown, made
// when the site was built (methods.json), and the page says so.

import { html, same, set, times } from "../assets/shared/dom.js";
import { drawReads } from "../assets/shared/reads.js";

const CHOICES = {
  place: "Where a key stands",
  sees: "Who is read",
  life: "When lanes begin and end",
  draws: "Who draws",
  extra: "Extra parameters",
  source: "Source",
};
const TRAINED = "lanerope";

/** The choice of a method. choose(method): the reader has chosen one. */
export function listMethods(parts, methods, choose) {
  const options = methods.map(({ name, title }) => html("option", { value: name }, title));
  parts.method.replaceChildren(html("option", { value: "" }, "choose …"), ...options);
  parts.method.addEventListener("input", () => {
    const method = methods.find(({ name }) => name === parts.method.value);
    if (method) choose(method);
  });
}

/** What there is to say of the chosen method, beside the board as it is now. */
export function drawMethod({ parts, method, state }) {
  if (!method) return;
  const { live, run, name } = method;
  parts.chosen.hidden = false;
  parts.plays.textContent = said(method, state);
  const trained = name === TRAINED ? "" : " The model inside was not trained for it.";
  const needs = method.needs
    ? ` It lacks ${method.needs}: what is left of the method is where keys stand and who is read.`
    : "";
  parts.what.textContent = method.what + trained + needs;
  const terms = Object.entries(CHOICES).flatMap(([key, term]) => [
    html("dt", {}, term),
    html("dd", {}, method[key]),
  ]);
  parts.choices.replaceChildren(...terms);
  set(parts.reads, { "aria-label": "Row reads column" });
  drawReads(parts.reads, run?.see ?? [], { still: true });
  const events = (run?.events ?? []).map(([step, words]) =>
    html("li", {}, step ? `after step ${step}: ${words}` : `at the beginning: ${words}`),
  );
  parts.events.replaceChildren(...events);
  drawRun(parts.recorded, live ? null : run);
}

function said({ live, run, beyond }, state) {
  if (live) {
    const here = Object.entries(live).every(([name, value]) => same(state[name], value));
    const plain = here && state.times === 1 && !state.off.length && !state.silent.length;
    return plain ? "The board above plays it." : "The board has other settings than it now.";
  }
  const why = `This page cannot play it: it has ${beyond.join(", and ")}.`;
  if (!run) return why;
  const unknown = run.lanes.flat().some(([, , word]) => word === "<unk>");
  const known = unknown ? " <unk> stands for a tag that the model has no word for." : "";
  const below = "Below: how the package played the first view’s game with it, with positions.";
  return `${why} ${below}${known}`;
}

/** Every word with its position, at the step in which it was written. */
function drawRun(table, run) {
  if (!run) return table.replaceChildren();
  const at = new Map();
  for (const [m, lane] of run.lanes.entries())
    for (const [step, position, word] of lane) at.set(`${step},${m}`, [word, position]);
  const last = Math.max(...[...at.keys()].map((key) => Number(key.split(",")[0])));
  const cell = (step, m) => {
    const [word, position] = at.get(`${step},${m}`) ?? [];
    return html("td", {}, word ? `${word.replace("<end>", "end")} ` : "",
      word ? html("small", {}, position) : "");
  };
  const names = run.lanes.map((_, m) => html("th", { scope: "col" }, `lane ${m + 1}`));
  const rows = times(last + 1, (step) => html("tr", {},
    html("th", { scope: "row" }, `step ${step + 1}`), ...run.lanes.map((_, m) => cell(step, m))));
  table.replaceChildren(html("thead", {}, html("tr", {}, html("td", {}), ...names)),
    html("tbody", {}, ...rows));
}
