"use strict";
// The page is complete without this: it only replaces the browser's slow title bubbles by quick ones.
(() => {
  const bubble = document.createElement("div");
  bubble.className = "bubble";
  bubble.hidden = true;
  bubble.setAttribute("aria-hidden", "true");
  document.body.append(bubble);

  const hints = new Map();
  for (const mark of document.querySelectorAll("svg g > title")) {
    hints.set(mark.parentElement, mark.textContent);
    mark.remove();
  }

  const place = (event) => {
    const gap = 14;
    const left = Math.min(event.clientX + gap, window.innerWidth - bubble.offsetWidth - gap);
    const below = event.clientY + gap + bubble.offsetHeight < window.innerHeight;
    const top = below ? event.clientY + gap : event.clientY - gap - bubble.offsetHeight;
    bubble.style.left = `${Math.max(left, 4)}px`;
    bubble.style.top = `${Math.max(top, 4)}px`;
  };

  for (const [mark, hint] of hints) {
    mark.addEventListener("pointerenter", (event) => {
      bubble.textContent = hint;
      bubble.hidden = false;
      place(event);
    });
    mark.addEventListener("pointermove", place);
    mark.addEventListener("pointerleave", () => {
      bubble.hidden = true;
    });
  }
})();
