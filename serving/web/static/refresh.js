// Keeps the open page current: every ten seconds the server renders it anew and changed parts replace the old ones.
"use strict";

async function refresh() {
  if (document.hidden || String(window.getSelection())) return;
  const answer = await fetch(window.location.href, { headers: { Accept: "text/html" } });
  if (answer.status === 401) return window.location.reload();
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [now, next] = [document.getElementById("page"), fresh.getElementById("page")];
  if (!next || next.children.length !== now.children.length) {
    if (next) now.replaceWith(next);
    return;
  }
  [...next.children].forEach((part, index) => {
    if (!part.isEqualNode(now.children[index])) now.children[index].replaceWith(part);
  });
}

setInterval(() => refresh().catch(() => {}), 10_000); // a server that is down is asked again
