// Who reads whom, and by which method: what holds from the next step on.

import { html } from "../../view/shared/dom.js";
import { coloured, symbol } from "../../view/shared/lane.js";
import { choiceOf, drawReads, listPatterns, onReads } from "../../view/shared/reads.js";
import { $, act, session } from "./session.js";

const SAYS = {
  learned: "Lanes are turned by the Omega that this model was trained with.",
  none: "Lanes are not told apart by any angle.",
  ntk: "Omega of the NTK-aware start: fast planes turn a whole slot a lane, slow ones less.",
  group_think: "Each lane stands a slot behind the last one (Group Think); the prompt is lane 1's.",
  hogwild: "Every lane reads one text: the prompt, the others, then itself (Hogwild!).",
  "as saved": "As the run was saved.",
};

export function listenReading() {
  listPatterns($("pattern"));
  $("method").addEventListener("change", () => {
    if (session.state) change("switch", { method: $("method").value });
    else sayMethod();
  });
  $("pattern").addEventListener("change", () => {
    if (session.state) change("arrange", { visibility: $("pattern").value });
  });
  onReads($("matrix"), (lane, of, yes) => act("read", { lane, of, yes }));
}

/** What the server refused is not left standing. */
async function change(name, what) {
  if (!(await act(name, what))) drawReading();
}

/** As the session is now. */
export function drawReading() {
  listMethods();
  if (!session.state) return;
  const see = session.state.reads.map((row) => row.map(Boolean));
  $("matrix").hidden = see.length < 2;
  drawReads($("matrix"), see, { name });
  $("pattern").value = choiceOf(see);
}

const name = (m) => coloured(html("span", { class: "name" }, `${symbol(m)} ${m + 1}`), m);

function listMethods() {
  const { about, state } = session;
  const names = [...new Set([...about.methods, ...(state ? [state.method] : [])])];
  const options = names.map((value) => html("option", { value }, value.replace("_", " ")));
  $("method").replaceChildren(...options);
  if (state) $("method").value = state.method;
  sayMethod();
}

const sayMethod = () => ($("method-says").textContent = SAYS[$("method").value]);
