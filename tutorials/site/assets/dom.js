// Elements, made and filled. What is shown is always set as text.

/** Sets attributes; false and null leave one out. */
export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? "" : value);
  }
  return node;
}

const maker = (space) => (tag, attributes = {}, ...children) => {
  const node = set(document.createElementNS(`http://www.w3.org/${space}`, tag), attributes);
  node.append(...children);
  return node;
};
export const [svg, html] = [maker("2000/svg"), maker("1999/xhtml")];
export const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
export const rect = (x, y, width, height, kind) =>
  svg("rect", { x, y, width, height, class: kind });
export const circle = (cx, cy, r, kind) => svg("circle", { cx, cy, r, class: kind });
export const text = (x, y, what, kind = "", anchor = "middle") =>
  svg("text", { x, y, class: kind, "text-anchor": anchor }, what);

export const times = (count, f) => Array.from({ length: count }, (_, k) => f(k));
export const same = (a, b) => String(a) === String(b);
export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
/** 0.374 -> "37%"; what would round to 0 is "under 1%". */
export const percent = (share) =>
  share > 0 && share < 0.005 ? "under 1%" : `${Math.round(100 * share)}%`;
