// Elements, made and filled. What is shown is always set as text.

const SVG = "http://www.w3.org/2000/svg";

/** Sets attributes; false and null leave one out. */
export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? "" : value);
  }
  return node;
}

function filled(node, attributes, children) {
  set(node, attributes).append(...children);
  return node;
}

export const html = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

export const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
export const rect = (x, y, width, height, kind) =>
  svg("rect", { x, y, width, height, class: kind });
export const circle = (cx, cy, r, kind) => svg("circle", { cx, cy, r, class: kind });
export const text = (x, y, what, kind = "", anchor = "middle") =>
  svg("text", { x, y, class: kind, "text-anchor": anchor }, what);

/** A button that does `work`. */
export function button(label, work, attributes = {}) {
  const made = html("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", work);
  return made;
}

/** Sets CSS properties. A page that forbids styles in its text forbids the attribute, not this. */
export function styled(node, properties) {
  for (const [name, value] of Object.entries(properties)) node.style.setProperty(name, value);
  return node;
}

/** Fills a box anew. What had the focus in it has it again, found by its first data attribute. */
export function refill(box, ...children) {
  const had = box.contains(document.activeElement) ? document.activeElement.dataset : {};
  const [name] = Object.keys(had);
  const again = name && `[data-${name}="${had[name]}"]`;
  box.replaceChildren(...children);
  if (again) box.querySelector(again)?.focus({ preventScroll: true });
}

export const times = (count, f) => Array.from({ length: count }, (_, k) => f(k));
export const same = (a, b) => String(a) === String(b);
export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
