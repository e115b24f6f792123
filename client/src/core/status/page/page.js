// Asks for the live part of the page once a second and replaces the sections that have changed. Without it the page
// is whole, and reloads itself.
"use strict";
(() => {
  const PAUSE_MS = 1000;
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  const last = new Map();

  function show(html) {
    const parsed = new DOMParser().parseFromString(html, "text/html");
    for (const section of parsed.body.children) {
      if (last.get(section.id) === section.outerHTML) continue;
      last.set(section.id, section.outerHTML);
      const old = document.getElementById(section.id);
      if (!old) {
        live.append(section);
      } else if (!holdsSelection(old)) {
        old.className = section.className;
        old.replaceChildren(...section.childNodes);
      } else {
        last.delete(section.id);
      }
    }
  }

  // What a person is about to copy, or has the focus in, is left alone.
  function holdsSelection(element) {
    const selection = document.getSelection();
    const selects = selection && !selection.isCollapsed && selection.containsNode(element, true);
    return selects || element.contains(document.activeElement);
  }

  async function refresh() {
    if (!document.hidden) {
      try {
        // Not relative: the page's own address may hold a password, and then that is an error.
        const answer = await fetch(`${location.origin}/live`, { cache: "no-store", signal: AbortSignal.timeout(5000) });
        if (!answer.ok) throw new Error(answer.statusText);
        show(await answer.text());
        lost.hidden = true;
      } catch {
        lost.hidden = false;
      }
      document.documentElement.dataset.refreshes = Number(document.documentElement.dataset.refreshes || 0) + 1;
    }
    setTimeout(refresh, PAUSE_MS);
  }

  setTimeout(refresh, PAUSE_MS);
})();
