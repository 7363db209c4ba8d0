// Lanes that read each other while they write: the model, in the reader's browser.
//
// The third edition of one idea: tinylane/core is the first, tutorials/one_file.py the second. The
// names are the same, and so are the tokens that it draws (tests/tutorials/test_lanes_js.py).
//
//   const model = await load("shell-game/");
//   const texts = generate(model, "cups ABCD, swap 1-2 3-4 ...: where?", { lanes: 4 });
//
// Weights, keys, values and logits are float32; sums and angles are float64. It does what this
// model needs: one-word tokens, no biases, one Omega for all layers. It refuses another model.
//
//   T rows (tokens) of a pass   S rows so far   N lanes   D size of a head   C width   V vocabulary

export const SHARED = -1; // the lane of the prompt, which every lane reads
const times = (count, f) => Array.from({ length: count }, (_, k) => f(k));

// 1. Files. A .safetensors file is a header of JSON, its length in front, and then the numbers.

/** An ArrayBuffer -> { name: numbers }, one flat array each. Throws for any other dtype. */
export function readTensors(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  const params = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const Numbers = { F32: Float32Array, F64: Float64Array }[dtype];
    if (!Numbers) throw new Error(`${name} has dtype ${dtype}; expected F32 or F64`);
    params[name] = new Numbers(buffer.slice(...data_offsets.map((offset) => start + offset)));
    if (params[name].length !== shape.reduce((a, b) => a * b, 1))
      throw new Error(`${name} has ${params[name].length} numbers; its shape is [${shape}]`);
  }
  return params;
}

/** The files of a folder -> a model. Throws if one is missing or the model is of another kind. */
export async function load(folder) {
  const read = async (name, kind) => {
    const answer = await fetch(folder + name);
    if (!answer.ok) throw new Error(`${folder}${name}: the server says ${answer.status}`);
    return answer[kind]();
  };
  const [config, tokenizer, params, adapter] = await Promise.all([
    read("config.json", "json"),
    read("tokenizer.json", "json"),
    read("model.safetensors", "arrayBuffer").then(readTensors),
    read("adapter/adapters.safetensors", "arrayBuffer").then(readTensors),
  ]);
  const { "lane_rope.omega": omega, ...others } = adapter;
  const { model_type, head_dim: D, attention_bias, rope_scaling, tie_word_embeddings } = config;
  if (model_type !== "qwen3" || attention_bias || rope_scaling || !tie_word_embeddings)
    throw new Error(`a model of type ${model_type}; expected qwen3, tied, no biases, plain RoPE`);
  if (tokenizer.model.type !== "WordLevel")
    throw new Error(`a tokenizer of type ${tokenizer.model.type}; expected WordLevel`);
  if (omega?.length !== D / 2 || Object.keys(others).length)
    throw new Error(`the adapter holds ${Object.keys(adapter)}; expected lane_rope.omega alone`);
  const vocabulary = new Map(Object.entries(tokenizer.model.vocab));
  const words = [...vocabulary.keys()].sort((a, b) => vocabulary.get(a) - vocabulary.get(b));
  return { config, params, omega, vocabulary, words, theta: frequencies(config.rope_theta, D) };
}

/** A text -> tokens. An unknown word is token 0. */
export function encode(model, text) {
  return (text.match(/[,:?]|[^\s,:?]+/g) ?? []).map((word) => model.vocabulary.get(word) ?? 0);
}

// 2. Where a token stands. A head's D numbers are D/2 points in planes. Position i turns plane d by
// i * theta[d] (RoPE), lane m by m * omega[d] more (LaneRoPE). So the product of a query and a key
// depends on how far apart they are, in position and in lane.

/** theta: radians per position, of D/2 planes. */
export function frequencies(base, D) {
  return Float64Array.from(times(D / 2, (d) => base ** ((-2 * d) / D)));
}

/** x: heads of D numbers one after another; angles: D/2 radians. Plane d pairs d with d + D/2. */
export function rotate(x, angles) {
  const [half, turned] = [angles.length, new Float32Array(x.length)];
  for (let d = 0; d < half; d++) {
    const [cos, sin] = [Math.cos(angles[d]), Math.sin(angles[d])];
    for (let left = d; left < x.length; left += 2 * half) {
      const right = left + half;
      turned[left] = x[left] * cos - x[right] * sin;
      turned[right] = x[right] * cos + x[left] * sin;
    }
  }
  return turned;
}

// 3. Who sees whom: the prompt, its own lane, and others where `visibility` says so, `lag` later.

/** May the query at [i, m] see the key at [j, n]? visibility: N x N booleans, row m reads n. */
export function visible([i, m], [j, n], visibility, lag) {
  if (n === SHARED || n === m) return j <= i;
  return m !== SHARED && visibility[m][n] && j <= i - lag; // the prompt reads no lane
}

/** Every lane reads every other. */
export const joint = (N) => times(N, () => Array(N).fill(true));

/** The same matrix, but nobody else reads `lane` any more. */
export const silence = (visibility, lane) =>
  visibility.map((row) => row.map((reads, n) => reads && n !== lane));

// 4. The decoder, and its cache: keys and values of every row so far, the prompt once, then what
// the lanes wrote, in order of arrival. A row that is cached never changes.

/** An empty cache. `weights` keeps the attention of every row, for drawings. */
export function newCache(model) {
  const layers = () => times(model.config.num_hidden_layers, () => []);
  return { places: [], keys: layers(), values: layers(), weights: layers() };
}

/** Brings x, or each head of it, to the same size; weight has the size of a head. */
export function rmsNorm(x, weight, eps) {
  const [size, normed] = [weight.length, new Float32Array(x.length)];
  for (let first = 0; first < x.length; first += size) {
    let sum = 0;
    for (let c = 0; c < size; c++) sum += x[first + c] ** 2;
    const scale = 1 / Math.sqrt(sum / size + eps);
    for (let c = 0; c < size; c++) normed[first + c] = x[first + c] * scale * weight[c];
  }
  return normed;
}

/** x @ weight.T for one row x (C,); weight is (out, C), row by row. */
export function linear(x, weight) {
  const [C, out] = [x.length, new Float32Array(weight.length / x.length)];
  for (let o = 0, w = 0; o < out.length; o++, w += C) out[o] = dot(x, 0, weight, w, C);
  return out;
}

function dot(a, i, b, j, count) {
  let [even, odd] = [0, 0]; // two sums: neither waits for the other
  for (let c = 0; c < count; c += 2) {
    even += a[i + c] * b[j + c];
    odd += a[i + c + 1] * b[j + c + 1];
  }
  return even + odd;
}

/** T rows (already normed) -> what each takes from the rows that it sees. */
function attention({ config, params, theta }, layer, rows, places, cache, settings) {
  const { omega, promptLane, visibility, lag } = settings;
  const { head_dim: D, num_attention_heads: H } = config;
  const group = H / config.num_key_value_heads; // query heads that share a key head
  const part = (name) => params[`model.layers.${layer}.self_attn.${name}.weight`];
  const queries = rows.map((x, t) => {
    const [i, m] = places[t];
    const byPosition = theta.map((angle) => i * angle);
    const byBoth = byPosition.map((angle, d) => angle + Math.max(m, 0) * omega[d]);
    const query = rmsNorm(linear(x, part("q_proj")), part("q_norm"), config.rms_norm_eps);
    const key = rmsNorm(linear(x, part("k_proj")), part("k_norm"), config.rms_norm_eps);
    cache.keys[layer].push(rotate(key, byBoth));
    cache.values[layer].push(linear(x, part("v_proj")));
    // With "own" every lane takes the prompt as its own: for prompt keys, a query is turned by
    // position alone. With 0 the prompt stands at lane 0.
    const lane = rotate(query, byBoth);
    return { lane, shared: promptLane === "own" ? rotate(query, byPosition) : lane };
  });
  const [keys, values] = [cache.keys[layer], cache.values[layer]];
  return queries.map((query, t) => {
    const mixed = new Float32Array(H * D);
    const seen = cache.places.map((place) => visible(places[t], place, visibility, lag));
    const weights = times(H, (h) => {
      const from = Math.floor(h / group) * D; // of its key head
      const scores = keys.map((key, s) => {
        const turned = cache.places[s][1] === SHARED ? query.shared : query.lane;
        return seen[s] ? dot(turned, h * D, key, from, D) / Math.sqrt(D) : -Infinity;
      });
      const shares = softmax(scores);
      for (const [s, share] of shares.entries())
        if (share > 0) for (let d = 0; d < D; d++) mixed[h * D + d] += share * values[s][from + d];
      return shares;
    });
    cache.weights[layer].push(weights); // H x S
    return linear(mixed, part("o_proj"));
  });
}

/** Scores -> shares that sum to 1. */
function softmax(scores) {
  const highest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - highest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/** One pass: tokens, positions and lanes of T rows -> T rows of V logits. The cache grows by T. */
export function forward(model, tokens, positions, lanes, cache, settings) {
  const { config, params } = model;
  const add = (x, y) => x.map((value, c) => value + y[c]);
  const norm = (x, name) => rmsNorm(x, params[`model.${name}.weight`], config.rms_norm_eps);
  const places = tokens.map((_, t) => [positions[t], lanes[t]]);
  cache.places.push(...places);
  const [embeddings, C] = [params["model.embed_tokens.weight"], config.hidden_size];
  let rows = tokens.map((token) => embeddings.slice(token * C, (token + 1) * C));
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const name = `layers.${layer}.`;
    const normed = rows.map((x) => norm(x, name + "input_layernorm"));
    const read = attention(model, layer, normed, places, cache, settings);
    const part = (which) => params[`model.${name}mlp.${which}_proj.weight`];
    rows = rows.map((row, t) => {
      const x = add(row, read[t]);
      const after = norm(x, name + "post_attention_layernorm");
      const up = linear(after, part("up"));
      const gated = linear(after, part("gate")).map((g, c) => (g / (1 + Math.exp(-g))) * up[c]);
      return add(x, linear(gated, part("down")));
    });
  }
  return rows.map((x) => linear(norm(x, "norm"), embeddings));
}

// 5. Joint decoding: each step is one pass, which gives every live lane its next token.

/** The settings of a run, with what is not given filled in. tags: the first token of every lane. */
export function settle(model, given = {}) {
  const { lanes = 4 } = given;
  const tags = times(lanes, (m) => `${m + 1}/${lanes}`);
  const own = { omega: model.omega, promptLane: "own", visibility: joint(lanes), lag: 0 };
  return { lanes, tags, maxTokens: 30, ...own, ...given };
}

/** Yields every step: [{ lane, position, token, word, logits }], the token that a lane draws after
 * what it was fed at this position. */
export function* stream(model, prompt, given) {
  const settings = settle(model, given);
  const cache = settings.cache ?? newCache(model);
  const tokens = encode(model, prompt);
  const P = tokens.length;
  forward(model, tokens, [...tokens.keys()], Array(P).fill(SHARED), cache, settings);
  let fed = settings.tags.map((tag, lane) => ({ lane, token: model.vocabulary.get(tag) ?? 0 }));
  for (let position = P; position < P + settings.maxTokens && fed.length; position++) {
    const [next, lanes] = [fed.map(({ token }) => token), fed.map(({ lane }) => lane)];
    const logits = forward(model, next, fed.map(() => position), lanes, cache, settings);
    fed = fed.map(({ lane }, t) => {
      const token = logits[t].indexOf(Math.max(...logits[t]));
      return { lane, position, token, word: model.words[token], logits: logits[t] };
    });
    yield fed;
    fed = fed.filter(({ token }) => token !== model.config.eos_token_id);
  }
}

/** The words of each lane, greedy, without the end token. */
export function generate(model, prompt, given) {
  const texts = times(settle(model, given).lanes, () => []);
  for (const step of stream(model, prompt, given))
    for (const { lane, word } of step) if (word !== "<end>") texts[lane].push(word);
  return texts;
}
