// The page of `tinylane view`: a run, step by step, and who listened to whom.
// All text is set as text (textContent), never as HTML. Numbers come packed (replay_page.py).
//
// Steps count from 1; a lane's spans say at which step each token was drawn, and where it stands. The
// state is the step, a lane, a view (whose attention is shown) and what the shade shows. Everything
// on the page follows from the state.
"use strict";

const FADE = 6; // nats at which a shade is strongest
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

async function unpack([width, count, text]) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (planes.length !== width * count) throw new Error("an array is damaged");
  if (width === 1) return planes;
  const values = new Uint32Array(count);
  for (let p = width - 1; p >= 0; p--) {
    for (let i = 0; i < count; i++) values[i] = values[i] * 256 + planes[p * count + i];
  }
  return values;
}

const percent = (share) =>
  share > 0 && share < 0.0095 ? `${(100 * share).toFixed(1)}%` : `${Math.round(100 * share)}%`;
const chance = (nats) => {
  const p = Math.exp(-nats);
  return p > 0 && p < 0.0001 ? "under 0.01%" : `${(100 * p).toFixed(p < 0.0995 || p > 0.9995 ? 2 : 1)}%`;
};

(async function main() {
  const run = JSON.parse($("data").textContent);
  $("title").textContent = run.title;
  $("task").textContent = run.task;
  $("lead").textContent = run.sentences.join(" ");
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old (it has no DecompressionStream)");
  for (const name of ["heard", "ids", "text", "logprob", "likeliest", "asked"]) run[name] = await unpack(run[name]);
  for (const view of run.views) {
    for (const name of ["shares", "keys", "weights"]) view[name] = await unpack(view[name]);
  }
  for (const s of run.silences) {
    for (const name of ["likeliest", "drawn", "logprob", "kl"]) s[name] = await unpack(s[name]);
  }

  // Rows and tokens by number, as in tinylane/view/replay_record.py.
  const N = run.lanes.length;
  const special = new Set(run.special);
  let row = run.prompt, token = 0;
  for (const lane of run.lanes) {
    Object.assign(lane, { row, first: token });
    row += lane.given + lane.tokens;
    token += lane.tokens;
  }
  const Q = token;
  const steps = run.steps;
  for (const lane of run.lanes) {
    lane.positions = [];
    lane.steps = [];
    lane.spans.forEach(([index, position, step], s) => {
      const end = s + 1 < lane.spans.length ? lane.spans[s + 1][0] : lane.tokens;
      for (let k = index; k < end; k++) {
        lane.positions.push(position + k - index);
        lane.steps.push(step + k - index + 1);
      }
    });
  }
  const laneOfRow = (r) => run.lanes.findLastIndex((lane) => r >= lane.row);
  const positionOfRow = (r) => {
    const lane = run.lanes[laneOfRow(r)];
    if (r < run.prompt) return r;
    const k = r - lane.row - lane.given;
    return k < 0 ? lane.start + k : lane.positions[k];
  };
  const laneOfToken = new Uint16Array(Q);
  run.lanes.forEach((lane, m) => laneOfToken.fill(m, lane.first, lane.first + lane.tokens));
  const copied = (lane, k) => k < lane.copied;
  const writer = Uint16Array.from(laneOfToken, (m, q) => { // the lane that drew a token
    for (const k = q - run.lanes[m].first; k < run.lanes[m].copied; ) m = run.lanes[m].forked;
    return m;
  });
  const outside = new Set(run.outside); // tokens that were given, not drawn
  const share = (view, q, slot) => view.shares[slot * Q + q] / view.top;
  const toOthers = (view, q) => {
    let sum = 0;
    for (let n = 0; n < N; n++) if (n !== writer[q]) sum += share(view, q, n + 1);
    return sum;
  };
  const nats = (value) => value / 1000;
  const shown = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t");
  const quoted = (place) => `“${run.texts[place].trim() === "" ? shown(run.texts[place]).replaceAll(" ", "␣").trimEnd() : shown(run.texts[place].trim())}”`;
  const laneName = (m) => `lane ${m + 1}`; // they count from 1 on the page, from 0 in the code
  const laneStyle = (node, m) => {
    node.style.setProperty("--lane", `var(--c${m % run.colours})`);
    return node;
  };
  const symbol = (m) => run.symbols[m % run.symbols.length];

  const state = { step: steps, lane: 0, view: 0, shade: "logprob" };
  const tokenAt = (m, step) => {
    const lane = run.lanes[m], k = upTo(lane, step) - 1;
    return k >= 0 && lane.steps[k] === step ? lane.first + k : -1;
  };
  const upTo = (lane, step) => { // how many tokens it had drawn after a step
    let low = 0, high = lane.tokens;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (lane.steps[mid] <= step) low = mid + 1;
      else high = mid;
    }
    return low;
  };
  const stepOf = (q) => run.lanes[laneOfToken[q]].steps[q - run.lanes[laneOfToken[q]].first];

  // The tokens, made once.
  const nodes = new Array(row); // by row
  function span(r, given) {
    const place = run.text[r];
    const text = run.texts[place], body = text.trimStart() || text;
    const node = make("span", { className: "t", id: `r${r}`, textContent: shown(body) });
    node.before_ = text.slice(0, text.length - body.length); // spaces stand before the box
    if (given) node.classList.add("given");
    if (special.has(place)) node.classList.add("special");
    node.dataset.row = r;
    nodes[r] = node;
    return node;
  }
  const place = (box, node) => box.append(run.ids_only ? " " : shown(node.before_), node);
  const boxes = [$("prompt-text")];
  boxes[0].append(make("div"));
  for (let r = 0; r < run.prompt; r++) place(boxes[0].firstChild, span(r, true));
  const texts = run.lanes.map((lane, m) => {
    const text = make("div", { className: "text", id: `lane${m}`, role: "listbox", tabIndex: 0, ariaLabel: `Tokens of ${laneName(m)}` }, make("div", { dir: "auto" }));
    boxes.push(text);
    for (let k = 0; k < lane.given + lane.tokens; k++) {
      const node = span(lane.row + k, k < lane.given);
      if (k >= lane.given) {
        node.dataset.token = lane.first + k - lane.given;
        node.setAttribute("role", "option");
      }
      node.classList.add("future");
      place(text.firstChild, node);
    }
    const name = make("h3", {}, `${symbol(m)} ${laneName(m)} `, make("small", { id: `state${m}` }));
    $("grid").append(laneStyle(make("div", { className: "lane", id: `card${m}` }, name, text, make("p", { className: "would", id: `would${m}`, hidden: true })), m));
    return text;
  });
  if (run.ids_only) document.body.classList.add("ids");
  $("prompt").open = run.prompt <= 200;
  $("prompt").hidden = run.prompt === 0;

  const layers = boxes.map((box) => {
    const layer = make("div", { className: "layer", ariaHidden: "true" });
    box.append(layer);
    return layer;
  });

  // The controls.
  const viewName = ({ layer, head }) =>
    layer === null ? "mean of all layers and heads" : head === null ? `layer ${layer + 1}, mean of heads` : `layer ${layer + 1}, head ${head + 1}`;
  run.views.forEach((view, k) => $("view").append(make("option", { value: k, textContent: viewName(view) })));
  const viewAt = new Map(run.views.map((view, k) => [`${view.layer},${view.head}`, k]));
  const shades = [["logprob", "probability"], ["others", "attention to other lanes"]];
  for (const s of run.silences) shades.push([`s${s.lane}`, `change without ${laneName(s.lane)}`]);
  for (const [value, textContent] of shades) $("shade").append(make("option", { value, textContent }));
  $("step").max = steps;

  // What follows from the state.
  function describeShade() {
    if (state.shade === "logprob") return "Shade: how unlikely a token was; none at probability 100%, the strongest at 0.25% (6 nats) or less. Italics: given, not written.";
    if (state.shade === "others") return `Shade: share of attention to other lanes (${viewName(run.views[state.view])}); a stronger shade is more. Italics: given, not written.`;
    return `Shade: how much the next token's distribution changes without ${laneName(Number(state.shade.slice(1)))} (KL divergence, strongest at 6 nats). Wavy underline: a different token would have been written.`;
  }
  function shadeTokens() {
    const silence = state.shade[0] === "s" ? run.silences[Number(state.shade.slice(1))] : null;
    const view = run.views[state.view];
    run.lanes.forEach((lane) => {
      for (let k = 0; k < lane.tokens; k++) {
        const q = lane.first + k, node = nodes[lane.row + lane.given + k];
        const value = silence ? nats(silence.kl[q]) / FADE : state.shade === "others" ? toOthers(view, q) : nats(run.logprob[q]) / FADE;
        node.style.setProperty("--s", Math.min(value, 1).toFixed(3));
        node.classList.toggle("other", silence !== null && silence.drawn[q] > 0);
      }
    });
    $("legend").textContent = describeShade();
  }

  // Only what changes is touched: a long run has thousands of tokens. All begin as not yet written.
  for (const lane of run.lanes) Object.assign(lane, { to: -lane.given, isGone: false });
  function showTime() {
    run.lanes.forEach((lane, m) => {
      const to = state.step < lane.begun ? -lane.given : upTo(lane, state.step);
      for (let k = Math.min(to, lane.to); k < Math.max(to, lane.to); k++) {
        nodes[lane.row + lane.given + k].classList.toggle("future", k >= to);
      }
      lane.to = to;
      const isGone = lane.dropped !== null && state.step > lane.dropped;
      for (let k = -lane.given; k < lane.tokens && isGone !== lane.isGone; k++) {
        nodes[lane.row + lane.given + k].classList.toggle("gone", isGone);
      }
      lane.isGone = isGone;
      let said = `${lane.tokens} tokens`;
      if (isGone) said = `dropped at step ${lane.dropped}`;
      else if (state.step < lane.begun) said = `not started; ${lane.follows === null ? "joins" : "begins"} after step ${lane.begun}`;
      else if (to >= lane.tokens) said += lane.end ? `, ended: ${lane.end}` : "";
      else said = `${to} of ${said}`;
      if (lane.forked !== null && state.step >= lane.begun) said += `; forked from ${laneName(lane.forked)} after step ${lane.begun}`;
      else if (lane.follows !== null && state.step >= lane.begun) said += `; goes on from ${laneName(lane.follows)}`;
      $(`state${m}`).textContent = said;
      $(`card${m}`).classList.toggle("here", m === state.lane);
      if (to > -lane.given) scrollTo(texts[m], nodes[lane.row + lane.given + to - 1]);
    });
    $("step").value = state.step;
    $("now").textContent = `${state.step} of ${steps}`;
    $("step").setAttribute("aria-valuetext", `step ${state.step} of ${steps}, ${laneName(state.lane)}`);
  }
  function scrollTo(box, node) {
    const top = node.offsetTop - box.clientHeight / 2;
    if (node.offsetTop < box.scrollTop + 24 || node.offsetTop > box.scrollTop + box.clientHeight - 48) box.scrollTop = top;
  }

  let marked = [];
  function showChosen() {
    for (const node of marked) {
      node.classList.remove("chosen", "query", "heard");
      node.removeAttribute("aria-selected");
    }
    for (const layer of layers) layer.replaceChildren();
    marked = [];
    const q = tokenAt(state.lane, state.step), lane = run.lanes[state.lane];
    texts.forEach((text) => text.removeAttribute("aria-activedescendant"));
    $("chosen-body").hidden = q < 0;
    if (q < 0) {
      $("chosen-title").textContent = `${symbol(state.lane)} ${laneName(state.lane)}`;
      const early = lane.tokens > 0 && state.step < lane.steps[0], waits = state.step < (lane.steps.at(-1) ?? 0);
      $("chosen-how").textContent =
        state.step === 0 ? "Nothing is written yet. Press Play, or go one step on." : early ? "This lane has written nothing yet." : waits ? "This lane writes nothing at this step." : `This lane has ended (${lane.end ?? "no reason given"}).`;
      return;
    }
    const k = q - lane.first, own = lane.row + lane.given + k, view = run.views[state.view], query = run.asked[q];
    const mark = (r, ...names) => {
      nodes[r].classList.add(...names);
      marked.push(nodes[r]);
    };
    mark(own, "chosen");
    nodes[own].setAttribute("aria-selected", "true");
    texts[state.lane].setAttribute("aria-activedescendant", `r${own}`);
    mark(query, "query");
    $("chosen-title").textContent = `${symbol(state.lane)} ${laneName(state.lane)}, step ${state.step}: ${quoted(run.text[own])}`;
    const others = run.text[own] !== run.likeliest[q] && run.texts[run.likeliest[q]].trim() !== run.texts[run.text[own]].trim();
    $("chosen-how").textContent =
      `Token ${run.ids[own]} at position ${lane.positions[k]}, probability ${chance(nats(run.logprob[q]))} (${nats(run.logprob[q]).toFixed(3)} nats)` +
      (others ? `; the likeliest was ${quoted(run.likeliest[q])}. ` : ". ") +
      (copied(lane, k) ? `Written by ${laneName(writer[q])} and copied here by the fork. ` : "") +
      (outside.has(q) ? "It was given from outside. Its probability is that by" : "It was drawn from") +
      ` the row before it, ${quoted(run.text[query])}${query < run.prompt ? ", the end of the prompt" : laneOfRow(query) === state.lane ? "" : `, in ${laneName(laneOfRow(query))}`} (dashed); the attention below is that row’s.`;

    const bars = [];
    for (let slot = 0; slot <= N; slot++) {
      const value = share(view, q, slot), n = slot - 1, isOther = slot > 0 && n !== writer[q];
      const bar = make("div", { className: isOther ? "bar other-lane" : "bar" });
      bar.style.width = `${(100 * value).toFixed(1)}%`;
      const name = slot === 0 ? "prompt" : `${symbol(n)} ${laneName(n)}${n === writer[q] ? " (own)" : ""}`;
      const line = make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: percent(value) }), make("td", {}, bar));
      bars.push(slot === 0 ? line : laneStyle(line, n));
    }
    $("bars").tBodies[0].replaceChildren(...bars);
    $("bars-title").textContent = `Where its attention went: ${viewName(view)}`;

    const keys = [], badges = [], kept = new Float64Array(N + 1);
    for (let rank = 0; rank < view.keys_each; rank++) {
      const r = view.keys[rank * Q + q] - 1, w = view.weights[rank * Q + q] / view.top;
      if (r < 0 || w === 0) continue;
      const m = r < run.prompt ? -1 : laneOfRow(r);
      kept[m + 1] += w;
      mark(r, "heard");
      badges.push([m + 1, nodes[r], percent(w)]);
      nodes[r].style.setProperty("--w", `${(1 + 4 * Math.sqrt(w)).toFixed(1)}px`);
      const where = `${m < 0 ? "prompt" : `${symbol(m)} ${laneName(m)}`}, position ${positionOfRow(r)}`;
      keys.push(make("li", {}, `${percent(w)} ${quoted(run.text[r])} `, make("small", { textContent: where })));
    }
    $("keys").replaceChildren(...keys);
    const places = badges.map(([, node]) => [node.offsetLeft, node.offsetTop]);
    const taken = layers.map(() => []); // a place counts from the corner of its layer's own box
    badges.forEach(([slot, , textContent], k) => {
      const [x, y] = places[k];
      if (taken[slot].some(([left, top]) => Math.abs(top - y) < 9 && Math.abs(left - x) < 27)) return; // the list has them all
      taken[slot].push(places[k]);
      const badge = make("span", { textContent });
      [badge.style.left, badge.style.top] = places[k].map((x) => `${x}px`);
      layers[slot].append(badge);
    });
    const rest = [];
    for (let slot = 0; slot <= N; slot++) {
      const left = share(view, q, slot) - kept[slot];
      if (left >= 0.005) rest.push(`${slot === 0 ? "prompt" : laneName(slot - 1)} ${percent(left)}`);
    }
    $("rest").textContent = rest.length ? `All other keys, summed: ${rest.join(", ")}.` : "All other keys together: under 1% of any lane.";
    showHeads(q);
    showSilence(q, own);
  }

  function showHeads(q) {
    $("heads-box").hidden = run.layers * run.heads < 2 || N < 2;
    if ($("heads-box").hidden) return;
    const head = make("tr", {}, make("th", { scope: "col", textContent: "layer" }), make("th", { scope: "col", textContent: "mean" }));
    for (let h = 0; h < run.heads; h++) head.append(make("th", { scope: "col", textContent: `head ${h + 1}` }));
    const lines = [head];
    let averages = false;
    for (let layer = 0; layer < run.layers; layer++) {
      const line = make("tr", {}, make("th", { scope: "row", textContent: layer + 1 }));
      for (let h = -1; h < run.heads; h++) {
        const name = h < 0 ? `layer ${layer + 1}, mean of heads` : `layer ${layer + 1}, head ${h + 1}`;
        const k = viewAt.get(`${layer},${h < 0 ? null : h}`);
        const value = k === undefined ? average(layer, h, state.lane) : toOthers(run.views[k], q);
        const cell = make("td", { className: "cell" });
        cell.style.setProperty("--s", value.toFixed(3));
        if (k === undefined) {
          averages = true;
          cell.append(make("div", { className: "average", textContent: `ø${percent(value)}`, title: `${name}: average over the lane` }));
        } else {
          cell.classList.toggle("on", k === state.view);
          cell.append(make("button", { type: "button", textContent: percent(value), value: k, ariaLabel: `${name}: ${percent(value)} to other lanes`, ariaPressed: String(k === state.view) }));
        }
        line.append(cell);
      }
      lines.push(line);
    }
    const held = document.activeElement?.closest?.("#heads button")?.value;
    $("heads").replaceChildren(...lines);
    if (held !== undefined) $("heads").querySelector(`button[value="${Number(held)}"]`)?.focus();
    $("heads-note").textContent = "Choose a head to see where it looked." + (averages ? " ø: only the lane’s average over the run is kept." : "");
  }
  function average(layer, head, m) {
    const one = (h) => {
      let sum = 0;
      for (let n = 0; n < N; n++) if (n !== m) sum += run.heard[((layer * run.heads + h) * N + m) * (N + 1) + n + 1] / 65535;
      return sum;
    };
    if (head >= 0) return one(head);
    let sum = 0;
    for (let h = 0; h < run.heads; h++) sum += one(h) / run.heads;
    return sum;
  }

  function showSilence(q, own) {
    $("silence-box").hidden = run.silences.length === 0;
    const lines = run.silences.filter((s) => s.lane !== state.lane).map((s) => {
      const kl = nats(s.kl[q]), changed = s.drawn[q] > 0;
      const next = changed ? quoted(s.drawn[q] - 1) : `${quoted(run.text[own])} as it was`;
      const top = s.likeliest[q] > 0 ? ` (likeliest: ${quoted(s.likeliest[q] - 1)})` : "";
      return laneStyle(
        make("tr", { className: changed ? "big" : "same" },
          make("th", { scope: "row", textContent: `${symbol(s.lane)} ${laneName(s.lane)}` }),
          make("td", { textContent: (changed ? "≠ " : "= ") + next + (changed && s.likeliest[q] === s.drawn[q] ? "" : top) }),
          make("td", { textContent: `${chance(nats(run.logprob[q]))} → ${chance(nats(s.logprob[q]))}` }),
          make("td", { textContent: kl.toFixed(3) })),
        s.lane);
    });
    $("silence").tBodies[0].replaceChildren(...lines);
  }

  // With a silence as the shade: what each lane's next token at this step would have been.
  function showWould() {
    const silence = state.shade[0] === "s" ? run.silences[Number(state.shade.slice(1))] : null;
    run.lanes.forEach((lane, m) => {
      const q = tokenAt(m, state.step);
      const said = $(`would${m}`);
      said.hidden = silence === null || q < 0 || silence.lane === m;
      if (said.hidden) return;
      const own = quoted(run.text[lane.row + lane.given + q - lane.first]);
      said.textContent = `Without ${laneName(silence.lane)}, step ${state.step}: ` + (silence.drawn[q] > 0 ? `≠ ${quoted(silence.drawn[q] - 1)}, not ${own}` : `= ${own} as it was`);
    });
  }

  // Over time: one line a lane, drawn when the view changes; the cursors follow the step.
  const plots = run.lanes.map((lane, m) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const marks = path.cloneNode();
    marks.setAttribute("class", "event");
    marks.setAttribute("d", run.events.filter(([, n]) => n === m).map(([step]) => `M${step} 0V100`).join(""));
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${steps} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(path, marks);
    const plot = make("div", { className: "plot" }, svg, make("div", { className: "cursor" }));
    plot.dataset.lane = m;
    plot.setAttribute("role", "img");
    const value = make("div", { className: "value" });
    const line = laneStyle(make("div", { className: "line" }, make("div", { className: "name", textContent: `${symbol(m)} ${laneName(m)}` }), plot, value), m);
    line.style.display = "contents";
    $("rows").append(line);
    return { line, plot, path, value };
  });
  $("rows").append(make("div", { className: "axis" }, make("span", { textContent: "step 1" }), make("span", { textContent: `step ${steps}` })));
  function drawTime() {
    const view = run.views[state.view];
    $("time-note").textContent = `The share of each token’s attention that went to other lanes (${viewName(view)}); the height of a band is 100%. Click to go to a step.`;
    plots.forEach(({ plot, path }, m) => {
      const lane = run.lanes[m];
      let d = "", sum = 0, top = 0, at = 0;
      for (let k = 0; k < lane.tokens; k++) {
        const value = toOthers(view, lane.first + k), y = (100 - 98 * value).toFixed(1), x = lane.steps[k];
        d += `${k && lane.steps[k - 1] === x - 1 ? "L" : `M${x - 1} 100L`}${x - 1} ${y}L${x} ${y}`;
        if (lane.steps[k + 1] !== x + 1) d += `L${x} 100Z`; // it waits, or ends
        sum += value;
        if (value > top) [top, at] = [value, x];
      }
      path.setAttribute("d", d);
      plot.setAttribute("aria-label", lane.tokens ? `${laneName(m)}: ${percent(sum / lane.tokens)} on average, at most ${percent(top)} at step ${at}` : `${laneName(m)} wrote nothing`);
    });
  }
  function showCursors() {
    plots.forEach(({ line, plot, value }, m) => {
      const q = tokenAt(m, state.step);
      plot.lastChild.style.left = `${(100 * Math.max(0, state.step - 0.5)) / Math.max(1, steps)}%`;
      value.textContent = q < 0 ? "–" : percent(toOthers(run.views[state.view], q));
      line.classList.toggle("here", m === state.lane);
    });
  }

  function drawWhom() {
    const view = run.views[state.view];
    $("whom-note").textContent = `How each lane divided its attention between the prompt and the lanes, over the whole run (${viewName(view)}).`;
    const head = make("tr", {}, make("th", { scope: "col", textContent: "reader" }), make("th", { scope: "col", textContent: "prompt" }));
    for (let n = 0; n < N; n++) head.append(make("th", { scope: "col", textContent: `${symbol(n)} ${n + 1}`, ariaLabel: laneName(n) }));
    const lines = run.lanes.map((lane, m) => {
      const line = make("tr", {}, make("th", { scope: "row", textContent: `${symbol(m)} ${laneName(m)}` }));
      for (let slot = 0; slot <= N; slot++) {
        let sum = 0, count = 0;
        for (let k = 0; k < lane.tokens; k++) {
          if (copied(lane, k)) continue;
          sum += share(view, lane.first + k, slot);
          count++;
        }
        const value = count ? sum / count : 0;
        const cell = make("td", { className: slot - 1 === m ? "cell self" : "cell", textContent: count ? percent(value) : "–" });
        cell.style.setProperty("--s", value.toFixed(3));
        if (slot - 1 === m) cell.append(make("small", { textContent: "own" }));
        line.append(cell);
      }
      return line;
    });
    $("whom").replaceChildren(make("thead", {}, head), make("tbody", {}, ...lines));
  }

  function drawChanges() {
    $("changes").hidden = run.silences.length === 0 || N < 2;
    const head = make("tr", {}, make("th", { scope: "col", textContent: "lane, without" }));
    for (const s of run.silences) head.append(make("th", { scope: "col", textContent: `${symbol(s.lane)} ${s.lane + 1}`, ariaLabel: `without ${laneName(s.lane)}` }));
    const lines = run.lanes.map((lane, m) => {
      const line = make("tr", {}, make("th", { scope: "row", textContent: `${symbol(m)} ${laneName(m)}` }));
      for (const s of run.silences) {
        let changed = 0, kl = 0, count = 0;
        for (let k = 0; k < lane.tokens; k++) {
          if (copied(lane, k)) continue;
          changed += s.drawn[lane.first + k] > 0;
          kl += nats(s.kl[lane.first + k]);
          count++;
        }
        const cell = make("td", { className: "cell" });
        if (s.lane === m || !count) cell.textContent = "–";
        else {
          cell.append(count < 100 ? `${changed} of ${count}` : percent(changed / count), make("small", { textContent: (kl / count).toFixed(3) }));
          cell.style.setProperty("--s", (changed / count).toFixed(3));
        }
        line.append(cell);
      }
      return line;
    });
    $("changed").replaceChildren(make("thead", {}, head), make("tbody", {}, ...lines));
  }

  // Changes of the state.
  function go(step, lane = state.lane) {
    state.step = Math.max(0, Math.min(steps, step));
    state.lane = Math.max(0, Math.min(N - 1, lane));
    showTime();
    showChosen();
    showCursors();
    showWould();
  }
  function look(view) {
    state.view = view;
    $("view").value = view;
    drawTime();
    drawWhom();
    if (state.shade === "others") shadeTokens();
    showChosen();
    showCursors();
  }
  let timer = 0;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  function play(on) {
    clearInterval(timer);
    timer = 0;
    if (on) {
      if (state.step >= steps) go(0);
      const wait = Math.max(still.matches ? 600 : 60, Math.min(700, 15000 / Math.max(1, steps)));
      timer = setInterval(() => {
        go(state.step + 1);
        if (state.step >= steps) play(false);
      }, wait);
    }
    $("play").textContent = on ? "❚❚ Pause" : "▶ Play";
    $("play").setAttribute("aria-pressed", String(on));
  }

  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("back").addEventListener("click", () => (play(false), go(state.step - 1)));
  $("next").addEventListener("click", () => (play(false), go(state.step + 1)));
  $("play").addEventListener("click", () => play(!timer));
  $("step").addEventListener("input", () => (play(false), go(Number($("step").value))));
  $("view").addEventListener("change", () => look(Number($("view").value)));
  $("shade").addEventListener("change", () => {
    state.shade = $("shade").value;
    shadeTokens();
    showWould();
  });
  $("heads").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) look(Number(button.value));
  });
  $("grid").addEventListener("click", (event) => {
    const q = event.target.closest("[data-token]")?.dataset.token;
    if (q !== undefined) (play(false), go(stepOf(Number(q)), laneOfToken[q]));
  });
  $("rows").addEventListener("click", (event) => {
    const plot = event.target.closest(".plot");
    if (!plot) return;
    const box = plot.getBoundingClientRect();
    play(false);
    go(Math.floor(((event.clientX - box.left) / box.width) * steps) + 1, Number(plot.dataset.lane));
  });
  const when = (step) => (step ? `after step ${step}` : "before step 1");
  $("events").hidden = run.events.length === 0;
  for (const [step, , text] of run.events) {
    const button = make("button", { type: "button", textContent: when(step) });
    button.addEventListener("click", () => (play(false), go(step)));
    $("event-list").append(make("li", {}, button, `: ${text}`));
  }
  if (run.events_left) $("event-list").append(make("li", { textContent: `and ${run.events_left} more, in the run file` }));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest?.("select")) return;
    const inButton = event.target.closest?.("button, summary");
    const moves = {
      ArrowLeft: () => go(state.step - 1),
      ArrowRight: () => go(state.step + 1),
      ArrowUp: () => go(state.step, state.lane - 1),
      ArrowDown: () => go(state.step, state.lane + 1),
      Home: () => go(0),
      End: () => go(steps),
    };
    if (event.key === " " && !inButton) play(!timer);
    else if (event.key in moves) {
      play(false);
      moves[event.key]();
    } else return;
    event.preventDefault();
  });

  $("prompt").addEventListener("toggle", showChosen);
  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(showChosen);
  });

  for (const [name, value] of run.about) $("about").append(make("dt", { textContent: name }), make("dd", { textContent: value }));
  $("kept").textContent = run.kept;
  shadeTokens();
  drawTime();
  drawWhom();
  drawChanges();
  go(stepOf(run.first), laneOfToken[run.first]);
  document.body.dataset.ready = "true"; // for tests
})().catch((error) => {
  $("trouble").hidden = false;
  $("trouble").textContent = `This page cannot be shown: ${error.message}`;
});
