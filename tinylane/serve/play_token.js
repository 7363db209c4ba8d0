// A token that was chosen: what could have stood there, whom its lane listened to, and what if.
// Read before play.js, whose names it uses when it is called.
"use strict";

function mark() {
  for (const node of document.querySelectorAll(".t.on")) {
    node.classList.remove("on");
    node.tabIndex = -1;
  }
  if (!chosen) return null;
  const node = document.querySelector(`.t[data-lane="${chosen.lane}"][data-index="${chosen.index}"]`);
  if (node) {
    node.classList.add("on");
    node.tabIndex = 0;
  }
  return node;
}

async function choose(lane, index) {
  chosen = { lane, index };
  const node = mark();
  if (node) node.focus({ preventScroll: false });
  const told = await act("details", { lane, index });
  if (!told || chosen.lane !== lane || chosen.index !== index) return;
  $("chosen").hidden = false;
  $("chosen-title").textContent = `“${shown(told.text)}”, token ${index + 1} of lane ${lane + 1}: ${percent(told.p)}`;
  const alternatives = told.top.some((one) => one.id === told.id) ? told.top : [...told.top, { id: told.id, text: told.text, p: told.p }];
  $("top").replaceChildren(...alternatives.map((one) => alternative(told, one)));
  $("shares").replaceChildren(...told.shares.map(share));
  const words = told.most.map((one) => {
    const whose = one.lane < 0 ? "the prompt" : one.lane === lane ? "itself" : `lane ${one.lane + 1}`;
    return `“${shown(one.text)}” of ${whose} ${percent(one.share)}`;
  });
  $("most").textContent = words.length ? `Most to: ${words.join(", ")}.` : "";
}

function alternative(told, one) {
  const drawn = one.id === told.id;
  const bar = element("span", { className: "bar" }, element("i"));
  bar.firstChild.style.setProperty("--w", one.p.toFixed(4));
  const button = element(
    "button",
    { type: "button", disabled: drawn },
    element("span", { className: "word", textContent: shown(one.text) }),
    bar,
    element("span", { className: "do", textContent: drawn ? `drawn, ${percent(one.p)}` : `what if, ${percent(one.p)}` }),
  );
  button.title = drawn ? "This one was drawn" : "A new lane in which this one was drawn";
  button.onclick = async () => {
    if (await act("what_if", { lane: told.lane, index: told.index, token: one.id })) {
      card(state.lanes.length - 1)?.scrollIntoView({ block: "nearest" });
    }
  };
  return element("li", {}, button);
}

function share(one) {
  const bar = element("span", { className: "bar" }, element("i"));
  bar.firstChild.style.setProperty("--w", one.share.toFixed(4));
  if (one.lane !== undefined) colour(bar, one.lane);
  const name = one.lane === undefined ? one.of : `${symbol(one.lane)} ${one.of}`;
  return element("li", {}, element("span", { textContent: name }), bar, element("span", { className: "number", textContent: percent(one.share) }));
}
