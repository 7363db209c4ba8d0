// What happens in a session, as the server tells it. A line that breaks is made again: a phone
// sleeps, a cable is pulled. The first thing that is told is the whole state, so nothing is missed.

import { asked } from "./session.js";

const [FIRST, MOST] = [500, 8000]; // ms from one try to the next
const SILENCE = 40000; // ms; the server gives a sign of life every 15 s

let leaving = null; // AbortController of the session that is heard

/** Hears a session until another is heard. hear(what): what happens in it; broken(): the line is,
 * and will be tried again; ended(why): it will not. */
export async function listen(id, { hear, broken, ended }) {
  leave();
  leaving = new AbortController();
  const { signal } = leaving;
  let wait = FIRST;
  for (;;) {
    try {
      const why = await follow(id, signal, (what) => {
        wait = FIRST;
        heard(hear, what);
      });
      if (why) return ended(why);
    } catch (error) {
      if (signal.aborted) return;
      if (error.status) return ended(error.message);
    }
    if (signal.aborted) return;
    broken();
    await later(wait);
    wait = Math.min(2 * wait, MOST);
  }
}

/** A fault of the page is no fault of the line. */
function heard(hear, what) {
  try {
    hear(what);
  } catch (error) {
    reportError(error);
  }
}

/** Hears no session any more. */
export function leave() {
  leaving?.abort();
}

/** One line to the server. Returns why the session has ended, or "" if only the line has. */
async function follow(id, signal, hear) {
  const line = new AbortController();
  const cut = () => line.abort();
  signal.addEventListener("abort", cut);
  let quiet = setTimeout(cut, SILENCE);
  let gone = "";
  try {
    const answer = await asked(`/play/sessions/${id}/events`, { signal: line.signal });
    for await (const what of eventsOf(answer.body)) {
      clearTimeout(quiet);
      quiet = setTimeout(cut, SILENCE);
      if (what?.gone !== undefined) gone = `this session has ended (${what.gone}): begin another`;
      else if (what) hear(what);
    }
  } finally {
    clearTimeout(quiet);
    signal.removeEventListener("abort", cut);
  }
  return gone;
}

/** The events of a stream; null for a sign of life. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines)
      if (line) yield line.startsWith("data: ") ? JSON.parse(line.slice(6)) : null;
  }
}

/** Waits; not longer than until the reader comes back to the page, or the network does. */
function later(ms) {
  return new Promise((done) => {
    const go = () => {
      clearTimeout(timer);
      removeEventListener("online", go);
      document.removeEventListener("visibilitychange", go);
      done();
    };
    const timer = setTimeout(go, ms);
    addEventListener("online", go);
    document.addEventListener("visibilitychange", go);
  });
}
