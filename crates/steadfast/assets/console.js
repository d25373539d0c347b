"use strict";
// Replaces server-rendered fragments as they change. Without this script the pages are still whole.
(() => {
  const status = document.getElementById("connection");
  const say = (text) => {
    if (status && status.textContent !== text) status.textContent = text;
  };

  const ago = (iso) => {
    const seconds = Math.trunc((Date.now() - Date.parse(iso)) / 1000);
    const size = Math.abs(seconds);
    if (Number.isNaN(size)) return null;
    if (size < 5) return "just now";
    const [count, unit] =
      size < 60 ? [size, "s"]
      : size < 3600 ? [Math.trunc(size / 60), "min"]
      : size < 86400 ? [Math.trunc(size / 3600), "h"]
      : [Math.trunc(size / 86400), "d"];
    return seconds < 0 ? `in ${count} ${unit}` : `${count} ${unit} ago`;
  };

  const tick = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const text = ago(time.dateTime);
      if (text && time.textContent !== text) time.textContent = text;
    }
  };

  const build = (html) => {
    // The server has escaped every value; a template element runs nothing.
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  };

  const place = ({ id, container, html }) => {
    const fresh = build(html);
    if (!fresh) return;
    const old = document.getElementById(id);
    if (!old) {
      document.getElementById(container)?.append(fresh);
      return;
    }
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    // By their key where they have one: rows change places.
    const before = [...old.querySelectorAll("details")];
    fresh.querySelectorAll("details").forEach((details, index) => {
      const { key } = details.dataset;
      const same = key ? before.find((other) => other.dataset.key === key) : before[index];
      if (same) details.open = same.open;
    });
    const scrolled = old.querySelector(".wide")?.scrollLeft ?? 0;
    old.replaceWith(fresh);
    const wide = fresh.querySelector(".wide");
    if (wide) wide.scrollLeft = scrolled;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  for (const root of document.querySelectorAll("[data-live]")) {
    const source = new EventSource(root.dataset.live);
    source.addEventListener("open", () => say("Live"));
    source.addEventListener("fragments", (event) => {
      JSON.parse(event.data).forEach(place);
      tick();
    });
    source.addEventListener("error", () => {
      // A run that is over ends its stream; there is nothing to come back for.
      if (document.querySelector("#head .succeeded, #head .cancelled, #head .badge.failed")) {
        source.close();
        say("");
      } else {
        say("Connection lost: trying again");
      }
    });
    addEventListener("pagehide", () => source.close());
  }
  tick();
  setInterval(tick, 15000);
})();
