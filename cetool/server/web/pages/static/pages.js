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
  if (!line) return;
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
  const source = new EventSource(state.dataset.live + "?offset=" + log.dataset.offset);
  const on = (kind, act) => source.addEventListener(kind, (event) => act(JSON.parse(event.data)));
  // the log takes many lines at once: write it to the page once for each frame
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
  on("stage", (data) => {
    if (state.dataset.status === "QUEUED") reload();
    const text = data.text.charAt(0).toUpperCase() + data.text.slice(1);
    if (stage.textContent !== text) stage.textContent = text;
    bar.removeAttribute("value");
    amount.textContent = "";
  });
  on("progress", (data) => {
    if (!data.total) return;
    bar.max = data.total;
    bar.value = data.done;
    amount.textContent = data.amount || data.done + " of " + data.total;
  });
  on("end", reload);

  let reloading = false;
  function reload() {
    if (reloading) return;
    reloading = true;
    source.close();
    location.reload();
  }
}

document.addEventListener("DOMContentLoaded", () => {
  showProblem();
  const log = document.getElementById("log");
  if (log) log.scrollTop = log.scrollHeight;
  const state = document.querySelector("[data-live]");
  if (state) followBuild(state);
});
