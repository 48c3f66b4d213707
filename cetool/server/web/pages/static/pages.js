// What the pages do beyond plain HTML: copy buttons, and the progress and log of a running build. They work without it.
"use strict";

document.documentElement.classList.add("js");

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    // no clipboard without HTTPS: select the text, so that the keyboard can copy it
    getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

document.addEventListener("input", (event) => {
  const field = event.target;
  if (field.getAttribute("aria-invalid")) field.removeAttribute("aria-invalid");
});

/** Put the cursor on the line that the message is about. */
function showProblem() {
  const text = document.querySelector("textarea[data-line]");
  const line = text && Number(text.dataset.line);
  if (!line) {
    document.getElementById("problem")?.focus();
    return;
  }
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  text.focus({ preventScroll: true });
  text.setSelectionRange(start, start + (lines[line - 1] || "").length);
  text.scrollTop = Math.max(0, (line - 4) * parseFloat(getComputedStyle(text).lineHeight));
}

/** Follow a running build until it ends, then load the page again. */
function followBuild(state) {
  const log = document.getElementById("log");
  const follow = document.getElementById("follow");
  const stage = state.querySelector("[data-stage]");
  const bar = state.querySelector("[data-progress]");
  const amount = state.querySelector("[data-amount]");
  const source = new EventSource(`${state.dataset.live}?offset=${log.dataset.offset}`);
  const on = (kind, act) => source.addEventListener(kind, (event) => act(JSON.parse(event.data)));
  // many lines may come at once: write them to the page once for each frame
  let waiting = "";
  const write = () => {
    log.append(waiting);
    waiting = "";
    if (follow.checked) log.scrollTop = log.scrollHeight;
  };

  on("log", (data) => {
    if (!waiting) requestAnimationFrame(write);
    waiting += data.text;
  });
  on("status", (data) => {
    if (data.status === state.dataset.status) return;
    const mark = document.getElementById(`mark-${data.status}`);
    if (!mark) return; // it has ended, which another event says
    state.dataset.status = data.status;
    state.querySelector("[data-status-mark]").replaceChildren(mark.content.cloneNode(true));
    stage.textContent = data.status === "BUILDING" ? "Starting." : `Waits for another attempt: ${data.reason || ""}`;
    moveStep(data.status === "BUILDING" ? "solv" : "queued");
  });
  on("progress", (data) => {
    const sentence = data.stage.charAt(0).toUpperCase() + data.stage.slice(1).replace(/\.?$/, ".");
    // only what has changed: this text is read aloud
    if (stage.textContent !== sentence) {
      stage.textContent = sentence;
      moveStep(data.stage.toLowerCase());
    }
    if (data.total) {
      bar.max = data.total;
      bar.value = data.done || 0;
    } else {
      bar.removeAttribute("value");
    }
    amount.textContent = data.total ? amountOf(data) : "";
  });
  on("end", reload);

  function moveStep(text) {
    const steps = [...state.querySelectorAll(".steps li")];
    const now = steps.findIndex((step) => (step.dataset.words || "").split(" ").some((word) => word && text.includes(word)));
    if (now < 0) return;
    steps.forEach((step, index) => {
      step.className = index < now ? "done" : index === now ? "now" : "";
      step.querySelector(".hidden-text").textContent = index < now ? " (done)" : "";
      step.removeAttribute("aria-current");
      if (index === now) step.setAttribute("aria-current", "step");
    });
  }

  let reloading = false;
  function reload() {
    if (reloading) return;
    reloading = true;
    source.close();
    location.reload();
  }
}

/** Show a list, or an environment, again when its builds have started or ended. */
function followList(list) {
  const source = new EventSource(list.dataset.refresh);
  let timer = 0;
  const refresh = async () => {
    const place = `#${list.id}`;
    await htmx.ajax("GET", location.href, { target: place, select: place, swap: "outerHTML" });
    const next = document.querySelector(`${place}[data-refresh]`);
    if (!next) source.close();
  };
  const act = (event) => {
    const build = list.dataset.build;
    if (build && String(JSON.parse(event.data).build) !== build) return;
    // several events may come at once
    clearTimeout(timer);
    timer = setTimeout(refresh, 400);
  };
  const ends = ["build.completed", "build.failed", "build.canceled", "build.retried"];
  const kinds = list.dataset.build ? ends : ["build.queued", "build.started", ...ends];
  kinds.forEach((kind) => source.addEventListener(kind, act));
}

/** Say how much is done: bytes with a unit, all else as numbers. */
function amountOf(data) {
  const size = (bytes) => {
    const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
    const value = bytes / 1000 ** power;
    return `${value < 9.95 && power ? value.toFixed(1).replace(".0", "") : value.toFixed(0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
  };
  if (data.unit === "bytes") return `${size(data.done || 0)} of ${size(data.total)}`;
  return `${data.done || 0} of ${data.total} ${data.unit || ""}`.trim();
}

document.addEventListener("DOMContentLoaded", () => {
  showProblem();
  const log = document.getElementById("log");
  if (log) log.scrollTop = log.scrollHeight;
  const state = document.querySelector("[data-live]");
  if (state) followBuild(state);
  const list = document.querySelector("[data-refresh]");
  if (list) followList(list);
});
