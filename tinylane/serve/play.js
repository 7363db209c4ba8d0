// The page of `tinylane play`: it draws what the server tells of a session, and asks for changes.
// Text of models and prompts is only ever set as text. No library, nothing from another host.
"use strict";

const $ = (id) => document.getElementById(id);
const SYMBOLS = "●■▲◆▼✚★⬢";
const COLOURS = 6;
const SAYS = {
  learned: "Lanes are turned by the Omega that this model was trained with.",
  none: "Lanes are not told apart by any angle.",
  ntk: "Omega of the NTK-aware start: fast planes turn a whole slot a lane, slow ones less.",
  group_think: "Each lane stands a slot behind the one before (Group Think); the prompt is lane 1's.",
  hogwild: "Every lane reads one text: the prompt, the others, then itself (Hogwild!).",
  "as saved": "As the run was saved.",
};
const KEY = new URLSearchParams(location.hash.slice(1)).get("key");

let about = null;
let id = null; // of the session
let state = null;
let chosen = null; // {lane, index}
let stream = null; // AbortController of the events

// Asking.

async function ask(path, body, method = "POST") {
  const headers = KEY ? { authorization: `Bearer ${KEY}` } : {};
  const answer = await fetch(path, { method, body, headers });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ? told.error.message : `the server says ${answer.status}`);
  return told;
}

// Do something to the session; what goes wrong is shown in a line.
async function act(name, what = {}) {
  return trying(() => ask(`/play/sessions/${id}/${name}`, JSON.stringify(what)));
}

async function trying(work) {
  $("trouble").textContent = "";
  const late = setTimeout(() => document.body.classList.add("busy"), 300);
  try {
    return await work();
  } catch (error) {
    $("trouble").textContent = error.message;
    return null;
  } finally {
    clearTimeout(late);
    document.body.classList.remove("busy");
  }
}

// What happens, until the session is left.
async function listen(session) {
  if (stream) stream.abort();
  stream = new AbortController();
  const headers = KEY ? { authorization: `Bearer ${KEY}` } : {};
  try {
    const answer = await fetch(`/play/sessions/${session}/events`, { headers, signal: stream.signal });
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) happened(JSON.parse(line.slice(6)));
    }
    if (session === id) gone("the server has ended this session: begin another");
  } catch (error) {
    if (error.name !== "AbortError" && session === id) gone(`the server does not answer (${error.message})`);
  }
}

function gone(why) {
  $("trouble").textContent = why;
  for (const name of ["run", "step"]) $(name).disabled = true;
}

// What was told.

function happened(what) {
  if (what.error) $("trouble").textContent = what.error;
  if (what.state) {
    state = what.state;
    draw();
  }
  if (what.running !== undefined && state) {
    state.running = what.running;
    status();
  }
  if (what.new && state) {
    state.step = what.step;
    for (const token of what.new) {
      const lane = state.lanes[token.lane];
      lane.tokens.push(token);
      const text = card(token.lane).querySelector(".text");
      const low = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
      text.append(word(token.lane, lane.tokens.length - 1, token));
      if (low) text.scrollTop = text.scrollHeight;
    }
    for (const end of what.ended) {
      state.lanes[end.lane].ended = end.reason;
      state.lanes[end.lane].right = end.right;
    }
    if (what.ended.length) {
      state.lanes.forEach((_, m) => head(m));
      // For ears: not every step, only who has ended.
      const right = (end) => (end.right === null ? "" : end.right ? ", right" : ", wrong");
      $("said").textContent = what.ended.map((end) => `lane ${end.lane + 1} has ended${right(end)}`).join("; ");
    }
    status();
  }
}

// Drawing.

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const percent = (p) => (p >= 0.995 && p < 1 ? ">99%" : p > 0 && p < 0.005 ? "<1%" : `${Math.round(100 * p)}%`);
const symbol = (m) => SYMBOLS[m % SYMBOLS.length];
const colour = (node, m) => node.style.setProperty("--lane", `var(--c${m % COLOURS})`);
const card = (m) => $("lanes").children[m];
const shown = (text) => text.replace(/^ /, "␣").replace(/\n/g, "⏎") || "·";

function draw() {
  for (const name of ["controls", "legend", "asked"]) $(name).hidden = false;
  $("asked-text").textContent = state.prompt;
  const lanes = $("lanes");
  while (lanes.children.length > state.lanes.length) lanes.lastChild.remove();
  state.lanes.forEach((lane, m) => {
    if (!card(m)) lanes.append(newCard(m));
    const text = card(m).querySelector(".text");
    const words = lane.tokens.map((token, k) => word(m, k, token));
    if (lane.prompt) words.unshift(element("span", { className: "given", textContent: `${lane.prompt} ` }));
    text.replaceChildren(...words);
    head(m);
  });
  mark();
  matrix();
  status();
}

function newCard(m) {
  const make = (label, title, work) => element("button", { type: "button", textContent: label, title, onclick: work });
  const input = element("input", { type: "text", placeholder: "a word", ariaLabel: `A word for lane ${m + 1}` });
  const form = element("form", {}, input, element("button", { textContent: "Give" }));
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (await act("give", { lane: m, text: input.value })) input.value = "";
  };
  const wait = make("Wait", "It draws nothing until it goes on", () => act("pause", { lane: m, yes: !state.lanes[m].waits }));
  wait.className = "wait";
  const buttons = element(
    "div",
    { className: "buttons" },
    wait,
    make("Fork", "A twin that goes on by itself", () => act("fork", { lane: m })),
    make("Silence", "Nobody reads it any more", () => act("silence", { lane: m })),
    make("Drop", "It ends, and nobody sees what it wrote", () => act("drop", { lane: m })),
  );
  const made = element("article", { className: "lane" }, element("h3"), element("div", { className: "text" }), buttons, form);
  made.setAttribute("aria-label", `Lane ${m + 1}`);
  colour(made, m);
  return made;
}

function head(m) {
  const lane = state.lanes[m];
  const how = lane.ended ? `ended: ${lane.ended}` : lane.waits ? "waits" : "writes";
  const begun = lane.begun ? `, ${lane.begun}` : "";
  const h3 = card(m).querySelector("h3");
  h3.replaceChildren(`${symbol(m)} lane ${m + 1} `, element("small", { textContent: how + begun }));
  if (lane.right !== null && lane.right !== undefined) {
    h3.append(" ", element("span", { className: "verdict", textContent: lane.right ? "✓ right" : "✗ wrong" }));
  }
  card(m).classList.toggle("gone", lane.ended === "dropped");
  for (const button of card(m).querySelectorAll("button")) button.disabled = Boolean(lane.ended);
  card(m).querySelector(".wait").textContent = lane.waits ? "Go on" : "Wait";
}

function word(m, index, token) {
  const text = token.text.replace(/\n/g, "⏎\n") || "·"; // there must be something to click on
  const made = element("span", { className: "t", textContent: text, tabIndex: -1 });
  made.setAttribute("role", "button");
  made.dataset.lane = m;
  made.dataset.index = index;
  made.title = percent(token.p);
  if (/^<.*>$/.test(token.text)) made.classList.add("special");
  made.style.setProperty("--s", (1 - token.p).toFixed(3));
  if (m === 0 && index === 0 && !chosen) made.tabIndex = 0; // the way in for the keyboard
  return made;
}

function status() {
  const live = state.lanes.filter((lane) => !lane.ended && !lane.waits).length;
  $("run").textContent = state.running ? "Pause" : "Play";
  $("run").disabled = !live;
  $("step").disabled = !live || state.running;
  const writing = live ? `${live} of ${state.lanes.length} lanes write` : "every lane has ended or waits";
  const truth = state.truth ? `; the right answer: ${state.truth}` : "";
  $("status").textContent = `step ${state.step}; ${writing}; seed ${state.seed}${truth}`;
}

function matrix() {
  const n = state.lanes.length;
  const box = (m, k) => {
    const input = element("input", { type: "checkbox", checked: Boolean(state.reads[m][k]) });
    input.setAttribute("aria-label", `lane ${m + 1} reads lane ${k + 1}`);
    input.onchange = async () => {
      if (!(await act("read", { lane: m, of: k, yes: input.checked }))) input.checked = !input.checked;
    };
    return element("td", {}, element("label", {}, input));
  };
  const name = (m, scope) => {
    const th = element("th", { scope, textContent: `${symbol(m)} ${m + 1}`, ariaLabel: `lane ${m + 1}` });
    th.style.color = `var(--c${m % COLOURS})`;
    return th;
  };
  const rows = state.lanes.map((_, m) =>
    element(
      "tr",
      {},
      name(m, "row"),
      ...state.lanes.map((_, k) => (k === m ? element("td", { className: "own", textContent: "–" }) : box(m, k))),
    ),
  );
  const top = element("tr", {}, element("th", { textContent: "reads" }), ...state.lanes.map((_, k) => name(k, "col")));
  const focused = document.activeElement ? document.activeElement.getAttribute("aria-label") : null;
  $("matrix").replaceChildren(n > 1 ? element("table", {}, element("thead", {}, top), element("tbody", {}, ...rows)) : "");
  if (focused) $("matrix").querySelector(`[aria-label="${focused}"]`)?.focus();
  methods();
  const want = { joint: () => 1, independent: () => 0, star: (m) => m === 0, "neighbours:1": (m, k) => Math.abs(m - k) <= 1 };
  const fits = (rule) => state.reads.every((row, m) => row.every((yes, k) => m === k || Boolean(yes) === Boolean(rule(m, k))));
  $("pattern").value = Object.keys(want).find((key) => fits(want[key])) || "";
}

function methods() {
  const names = [...about.methods];
  if (state && !names.includes(state.method)) names.push(state.method);
  $("method").replaceChildren(...names.map((name) => element("option", { value: name, textContent: name.replace("_", " ") })));
  if (state) $("method").value = state.method;
  $("method-says").textContent = SAYS[$("method").value];
}

// The reader's hands.

$("lanes").addEventListener("click", (event) => {
  const node = event.target.closest(".t");
  if (node) choose(Number(node.dataset.lane), Number(node.dataset.index));
});

document.addEventListener("keydown", (event) => {
  const node = event.target.closest ? event.target.closest(".t") : null;
  const typing = event.target.closest && event.target.closest("input, textarea, select, button, summary");
  if (event.ctrlKey || event.metaKey || event.altKey || typing || !state) return;
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (node && moves[event.key]) {
    const lane = Number(node.dataset.lane) + moves[event.key][0];
    if (!state.lanes[lane] || !state.lanes[lane].tokens.length) return;
    const last = state.lanes[lane].tokens.length - 1;
    event.preventDefault();
    choose(lane, Math.min(Math.max(Number(node.dataset.index) + moves[event.key][1], 0), last));
  } else if (node && event.key === "Enter") {
    choose(Number(node.dataset.lane), Number(node.dataset.index));
  } else if (event.key === "Escape" && chosen) {
    $("close").click();
  } else if (event.key === " " && !$("run").disabled) {
    event.preventDefault();
    $("run").click();
  } else if (event.key === "." && !$("step").disabled) {
    $("step").click();
  }
});

$("close").onclick = () => {
  $("chosen").hidden = true;
  const node = mark();
  if (node) node.focus({ preventScroll: true });
  chosen = null;
  for (const on of document.querySelectorAll(".t.on")) on.classList.remove("on");
};

$("run").onclick = () => act("run", { yes: !state.running, pace: Number($("pace").value) });
$("step").onclick = () => act("step");
$("pace").onchange = () => act("pace", { pace: Number($("pace").value) });
$("method").onchange = async () => {
  if (!state) return methods0();
  return act("switch", { method: $("method").value });
};
$("pattern").onchange = () => state && act("arrange", { visibility: $("pattern").value });

function methods0() {
  $("method-says").textContent = SAYS[$("method").value];
}

$("save").onclick = () =>
  trying(async () => {
    const told = await ask(`/play/sessions/${id}/run`, undefined, "GET");
    const link = element("a", { download: "run.json" });
    link.href = URL.createObjectURL(new Blob([JSON.stringify(told)], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });

$("open").onchange = () =>
  trying(async () => {
    const file = $("open").files[0];
    if (!file) return;
    begun(await ask("/play/open", await file.arrayBuffer()));
    $("open").value = "";
  });

$("start").onsubmit = (event) => {
  event.preventDefault();
  trying(async () => {
    const seed = $("seed").value;
    begun(
      await ask(
        "/play/sessions",
        JSON.stringify({
          prompt: $("prompt").value,
          lanes: Number($("count").value),
          method: about.methods.includes($("method").value) ? $("method").value : about.methods[0],
          visibility: $("pattern").value || "joint",
          temperature: Number($("temperature").value),
          max_tokens: Number($("tokens").value),
          seed: seed === "" ? null : Number(seed),
        }),
      ),
    );
    return act("run", { yes: true, pace: Number($("pace").value) });
  });
};

function begun(told) {
  id = told.id;
  chosen = null;
  $("chosen").hidden = true;
  $("lanes").replaceChildren();
  state = told.state;
  draw();
  listen(id);
}

async function describe() {
  about = await ask("/play/about", undefined, "GET");
  $("prompt").value = about.prompt;
}

async function begin() {
  await describe();
  $("model").textContent = `${about.name} (${about.backend}, ${about.dtype})`;
  $("count").replaceChildren(...about.counts.map((n) => element("option", { value: n, textContent: n })));
  $("count").value = about.lanes;
  $("temperature").value = about.temperature;
  $("tokens").value = about.max_tokens;
  $("tokens").max = about.context;
  methods();
  $("pattern").value = about.trained ? "joint" : "independent";
  if (about.game) {
    $("prompt-name").textContent = "Swaps: four cups stand in the order ABCD; 1-3 swaps the first and the third";
    $("another").hidden = false;
    $("pace").value = "0.3";
  }
}

$("another").onclick = () => trying(describe);

trying(begin);
