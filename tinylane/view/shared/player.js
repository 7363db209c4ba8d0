// A button that plays: step after step, until it is pressed again or there is no more.

export const still = matchMedia("(prefers-reduced-motion: reduce)");

/** next(): shows a step; says whether there is another. wait(): ms until it; 0: not by itself, a
 * press is one step. names: of the button while it stands, while it plays. */
export function player(button, { next, wait, names = ["Play slowly", "Pause"] }) {
  let timer = 0;

  function show() {
    button.textContent = names[Number(timer > 0)];
  }

  function play() {
    clearTimeout(timer);
    const more = next();
    const pause = wait();
    timer = more && pause ? setTimeout(play, pause) : 0;
    show();
  }

  function stop() {
    clearTimeout(timer);
    timer = 0;
    show();
  }

  const toggle = () => (timer ? stop() : play());
  button.addEventListener("click", toggle);
  show();
  return { play, stop, toggle };
}
