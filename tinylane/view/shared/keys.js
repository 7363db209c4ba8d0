// The keyboard.

/** What the arrow keys mean: [across, down]. */
export const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** Calls actions[key](event) for keys that are pressed in `node`. The key is the browser's own if
 * there is no action, if it returns false, or with Ctrl, Alt or Meta. */
export function onKeys(node, actions) {
  node.addEventListener("keydown", (event) => {
    const { key, ctrlKey, metaKey, altKey } = event;
    if (ctrlKey || metaKey || altKey || !Object.hasOwn(actions, key)) return;
    if (actions[key](event) !== false) event.preventDefault();
  });
}

/** The same action for every arrow key: move(across, down, event). */
export const arrows = (move) =>
  Object.fromEntries(
    Object.entries(ARROWS).map(([key, way]) => [key, (event) => move(...way, event)]),
  );
