// The record of a run, unpacked: rows and tokens by number, as in tinylane/view/replay_record.py.
//
//   N lanes   Q tokens that were drawn or given, q one of them   r a row: the prompt's, then lane
//   after lane what it was given and what it wrote   steps count from 1   m, n lanes, from 0

const PER_NAT = 1000; // as tinylane/view/replay_page.py packs them

/** Reads the page's data. Throws if an array is damaged. */
export async function readRecord(text) {
  const data = JSON.parse(text);
  await unpackAll(data, ["heard", "ids", "text", "logprob", "likeliest", "asked"]);
  for (const view of data.views) await unpackAll(view, ["shares", "keys", "weights"]);
  for (const one of data.silences) await unpackAll(one, ["likeliest", "drawn", "logprob", "kl"]);
  return new Record(data);
}

async function unpackAll(into, names) {
  for (const name of names) into[name] = await unpack(into[name]);
}

/** Whole numbers: bytes of each, how many, base64 of the deflated planes of bytes. */
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

class Record {
  constructor(data) {
    Object.assign(this, data);
    this.N = this.lanes.length;
    this.outside = new Set(data.outside); // tokens that were given, not drawn
    this.special = new Set(data.special); // texts that are names of special tokens
    let [row, token] = [this.prompt, 0];
    for (const lane of this.lanes) {
      Object.assign(lane, { row, first: token }, unrolled(lane));
      row += lane.given + lane.tokens;
      token += lane.tokens;
    }
    [this.rows, this.Q] = [row, token];
    this.laneOfToken = new Uint16Array(token);
    for (const [m, { first, tokens }] of this.lanes.entries())
      this.laneOfToken.fill(m, first, first + tokens);
    this.writer = this.laneOfToken.map((m, q) => this.writerOf(m, q)); // the lane that drew it
  }

  writerOf(m, q) {
    const k = q - this.lanes[m].first;
    while (this.copied(m, k)) m = this.lanes[m].forked;
    return m;
  }

  /** Did lane m get its token k by a fork? */
  copied(m, k) {
    return k < this.lanes[m].copied;
  }

  // ---- Rows and tokens -----------------------------------------------------------------------

  laneOfRow(r) {
    return this.lanes.findLastIndex((lane) => r >= lane.row);
  }

  positionOfRow(r) {
    if (r < this.prompt) return r;
    const lane = this.lanes[this.laneOfRow(r)];
    const k = r - lane.row - lane.given;
    return k < 0 ? lane.start + k : lane.positions[k];
  }

  /** The row of token k of lane m. */
  rowOf(m, k) {
    return this.lanes[m].row + this.lanes[m].given + k;
  }

  stepOf(q) {
    const lane = this.lanes[this.laneOfToken[q]];
    return lane.steps[q - lane.first];
  }

  /** q of what lane m wrote at a step, or -1. */
  tokenAt(m, step) {
    const lane = this.lanes[m];
    const k = this.upTo(m, step) - 1;
    return k >= 0 && lane.steps[k] === step ? lane.first + k : -1;
  }

  /** How many tokens lane m had after a step. */
  upTo(m, step) {
    const { steps, tokens } = this.lanes[m];
    let [low, high] = [0, tokens];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // ---- Attention -----------------------------------------------------------------------------

  /** The share of token q's attention; slot 0 is the prompt, slot n + 1 lane n. */
  share(view, q, slot) {
    return view.shares[slot * this.Q + q] / view.top;
  }

  toOthers(view, q) {
    let sum = 0;
    for (let n = 0; n < this.N; n++)
      if (n !== this.writer[q]) sum += this.share(view, q, n + 1);
    return sum;
  }

  /** The largest keys of a token: [{ row, lane (-1: the prompt), share }]. */
  keysOf(view, q) {
    const keys = [];
    for (let rank = 0; rank < view.keys_each; rank++) {
      const row = view.keys[rank * this.Q + q] - 1;
      const share = view.weights[rank * this.Q + q] / view.top;
      const lane = row < this.prompt ? -1 : this.laneOfRow(row);
      if (row >= 0 && share > 0) keys.push({ row, lane, share });
    }
    return keys;
  }

  /** A lane's average share to other lanes, of a layer and a head (-1: the mean of heads). */
  average(layer, head, m) {
    const { heads, heard, N } = this;
    if (head < 0) {
      let sum = 0;
      for (let h = 0; h < heads; h++) sum += this.average(layer, h, m) / heads;
      return sum;
    }
    const first = ((layer * heads + head) * N + m) * (N + 1);
    let sum = 0;
    for (let n = 0; n < N; n++) if (n !== m) sum += heard[first + n + 1] / 65535;
    return sum;
  }
}

/** A number as it is packed, in nats. */
export const nats = (value) => value / PER_NAT;

/** Position and step of each of a lane's tokens, from its spans [index, position, step from 0]. */
function unrolled({ spans, tokens }) {
  const [positions, steps] = [[], []];
  for (const [s, [index, position, step]] of spans.entries()) {
    const end = s + 1 < spans.length ? spans[s + 1][0] : tokens;
    for (let k = index; k < end; k++) {
      positions.push(position + k - index);
      steps.push(step + k - index + 1);
    }
  }
  return { positions, steps };
}

/** A view's layer and head in words, counted from 1. */
export function viewName({ layer, head }) {
  if (layer === null) return "mean of all layers and heads";
  return `layer ${layer + 1}, ${head === null ? "mean of heads" : `head ${head + 1}`}`;
}
