// The session that the page shows, and how the server is asked. Its state is the server's: after a
// change the server tells it anew to everybody who listens.

/** id: null before one has begun. state: PlaySession.state (tinylane/serve/session.py). chosen:
 * { lane, index } of a token. about: the model, and what a session may begin with. over: why it
 * has ended, or "". */
export const session = { id: null, state: null, chosen: null, about: null, over: "" };

export const $ = (id) => document.getElementById(id);

const KEY = address().get("key");
const headers = KEY ? { authorization: `Bearer ${KEY}` } : {};

/** What stands behind # in the page's address: the server's key, the session. */
export function address() {
  return new URLSearchParams(location.hash.slice(1));
}

/** The server's answer. Throws an Error with `status` where it says no. */
export async function asked(path, more = {}) {
  const answer = await fetch(path, { headers, ...more });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const error = new Error(told.error?.message ?? `the server says ${answer.status}`);
  throw Object.assign(error, { status: answer.status });
}

export const told = async (path) => (await asked(path)).json();
export const post = async (path, body) => (await asked(path, { method: "POST", body })).json();

/** Does something to the session. Returns what the server says, or null. */
export async function act(name, what = {}) {
  const path = `/play/sessions/${session.id}/${name}`;
  const answer = await trying(() => post(path, JSON.stringify(what)));
  if (session.over) say(session.over); // a server that ends may refuse what was under way
  return answer;
}

/** Does some work. What goes wrong is shown in a line; that it takes long, too. */
export async function trying(work) {
  say("");
  const late = setTimeout(() => document.body.classList.add("busy"), 300);
  try {
    return await work();
  } catch (error) {
    say(error.status ? error.message : `the server does not answer (${error.message})`);
    return null;
  } finally {
    clearTimeout(late);
    document.body.classList.remove("busy");
  }
}

export const say = (what) => ($("trouble").textContent = what);
