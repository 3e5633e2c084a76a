// Makes the pages quicker; all that they do works without it.
"use strict";

const status = document.getElementById("status");
const search = document.getElementById("search");
const say = (words) => { status.textContent = words; };

for (const element of document.querySelectorAll("[data-scriptless]")) element.hidden = true;

// The sentence about what was just done belongs to this visit, not to the address.
const address = new URL(location.href);
if (address.searchParams.has("told")) {
  address.searchParams.delete("told");
  history.replaceState(null, "", address);
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  event.preventDefault();
  search.elements.q.select();
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      say("Copied.");
    } catch {
      // Browsers lend the clipboard to no page that came over a network unencrypted.
      getSelection().selectAllChildren(source);
      say("It is selected; copy it with the keyboard.");
    }
  });
}

for (const form of document.querySelectorAll("form[data-busy]")) {
  const hint = form.querySelector(".actions .hint");
  const idle = hint.textContent;
  form.addEventListener("submit", () => {
    // Later, because a disabled button would not be sent.
    setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
    hint.textContent = form.dataset.busy;
    say(form.dataset.busy);
  });
  // A browser may show the page again as it was left.
  addEventListener("pageshow", () => {
    for (const button of form.querySelectorAll("button")) button.disabled = false;
    hint.textContent = idle;
  });
}

// --- search as you type ----------------------------------------------------------------------------------------------

const results = document.querySelector("[data-live]");
if (results) {
  const before = [...results.childNodes];
  const onFindPage = address.pathname.endsWith(results.dataset.live);
  let timer, asking;

  const show = (nodes) => {
    results.replaceChildren(...nodes);
    const found = results.querySelectorAll("li").length;
    const trouble = results.querySelector(".error");
    say(trouble ? trouble.textContent : found ? `${found} found` : "Nothing found");
  };
  const find = async () => {
    asking?.abort();
    const query = new URLSearchParams(new FormData(search));
    if (!query.get("q").trim() && !onFindPage) {
      results.replaceChildren(...before);
      results.removeAttribute("aria-busy");
      say("");
      return;
    }
    const own = asking = new AbortController();
    const url = `${results.dataset.live}?${query}`;
    results.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(url, { signal: own.signal, headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.getElementById("results");
      if (!found) throw new Error(`status ${answer.status}`);
      show(found.childNodes);
      if (onFindPage) {
        history.replaceState(null, "", url);
        document.title = page.title;
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      const told = document.createElement("p");
      told.className = "error";
      told.textContent = `The search was not answered (${error.message}). Press Enter to try again.`;
      show([told]);
    }
    results.removeAttribute("aria-busy");
  };
  const soon = (delay) => {
    clearTimeout(timer);
    timer = setTimeout(find, delay);
  };
  search.elements.q.addEventListener("input", () => soon(250));
  for (const choice of document.querySelectorAll("input[form=search]")) choice.addEventListener("change", () => soon(0));
}

// --- packets that are shown and left out -----------------------------------------------------------------------------

const drawings = document.querySelector("[data-signal]");
const choices = [...document.querySelectorAll("[data-choice]")];
if (drawings && choices.length && drawings.querySelector(".packet")) {
  const charts = [...drawings.querySelectorAll("svg[data-x]")];
  const whole = charts.map((chart) => chart.querySelector(".fit").getAttribute("d"));
  let signal;

  const path = (chart, values) => {
    const [x, y] = [chart.dataset.x, chart.dataset.y].map((axis) => {
      const [low, high, start, end] = axis.split(" ").map(Number);
      return (value) => (start + ((value - low) / (high - low)) * (end - start)).toFixed(1);
    });
    return "M" + values.map((value, index) => `${x(signal.fit.coords[index])} ${y(value)}`).join("L");
  };
  const draw = async () => {
    const chosen = boxes.map((box) => box.checked);
    for (const packet of drawings.querySelectorAll(".packet")) {
      packet.classList.toggle("off", !chosen[packet.dataset.packet]);
    }
    if (charts.length) {
      try {
        if (!signal) {
          const answer = await fetch(drawings.dataset.signal);
          if (!answer.ok) throw new Error(`status ${answer.status}`);
          signal = (await answer.json()).signal;
        }
      } catch (error) {
        say(`The line was not drawn anew: the signal was not answered (${error.message}).`);
        return;
      }
      const sums = signal.fit.values.map((_, place) => signal.fit.packets.reduce(
        (sum, curve, index) => sum + (boxes[index].checked ? curve[place] : 0), signal.constant));
      const all = boxes.every((box) => box.checked);
      charts.forEach((chart, index) => {
        chart.querySelector(".fit").setAttribute("d", all ? whole[index] : path(chart, sums));
      });
    }
    const count = `${chosen.filter(Boolean).length} of ${boxes.length} packets`;
    say(charts.length ? `The line is the sum of ${count}.` : `${count} are shown.`);
  };
  const boxes = choices.map((place) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.autocomplete = "off";
    box.setAttribute("aria-label", `Packet ${place.textContent} in the sum`);
    box.addEventListener("change", draw);
    label.append(box, place.textContent);
    place.replaceChildren(label);
    return box;
  });
}
