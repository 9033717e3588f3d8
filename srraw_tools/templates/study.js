"use strict";
const STEP_PX = 40;  // of the screen, by which a key moves
const at = (id) => document.getElementById(id);
const panes = ["left", "right", "input"].map(at);

// Where trials come from and votes go: a server, or this file and the browser's own store.
function served() {
  const ask = async (path, body) => {
    const request = body ? { method: "POST", body: JSON.stringify(body) } : {};
    for (let wait = 1; ; wait = Math.min(2 * wait, 30)) {
      try {
        const answer = await fetch(`${location.pathname.replace(/\/$/, "")}/${path}`, request);
        if (answer.ok) return at("trouble").hidden = true, answer.json();
        if (answer.status < 500) throw new TypeError(`the server said ${answer.status}`);
      } catch (error) {
        if (error.message.startsWith("the server said")) throw error;
      }
      trouble(`The server does not answer. Your last answer is kept here and sent again in ${wait} s.`);
      await new Promise((done) => setTimeout(done, 1000 * wait));
    }
  };
  return {
    source: (name) => `../images/${name}`,
    current: () => ask("trial"),
    vote: (vote) => ask("vote", vote),
  };
}

function mailed() {
  const store = `srraw-study-${MAILED.study}-${MAILED.rater}`;
  let votes = [];
  try { votes = JSON.parse(localStorage.getItem(store)) || []; } catch { /* a browser without a store */ }
  const state = () => ({
    position: votes.length,
    total: MAILED.trials.length,
    trial: MAILED.trials[votes.length] || null,
    following: [],
  });
  return {
    source: (name) => MAILED.pictures[name],
    current: async () => state(),
    vote: async (vote) => {
      if (vote.position === votes.length) votes.push({ rater: MAILED.rater, number: MAILED.number, ...vote });
      try { localStorage.setItem(store, JSON.stringify(votes)); } catch { /* likewise */ }
      return state();
    },
    file: () => JSON.stringify({ format: "srraw-votes", study: MAILED.study, votes }, null, 1) + "\n",
  };
}

const study = MAILED ? mailed() : served();
let shown = null;       // the state that is on the page, once its pictures are
let since = 0;          // when they were
let view = { scale: 1, x: 0, y: 0 };  // CSS pixels to a pixel of a result; its middle in the panes' middle

function trouble(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = false;
}

// A pane lies on whole pixels of the screen; so does a picture that is moved by whole ones.
function onGrid(length) {
  return Math.round(length * devicePixelRatio) / devicePixelRatio;
}

function draw() {
  const [left, , input] = panes;
  const width = left.querySelector("img").naturalWidth || 1;
  for (const pane of panes) {
    if (pane.hidden) continue;
    const img = pane.querySelector("img");
    // The small picture lies under the results, pixel under pixel.
    const scale = view.scale * (pane === input ? width / (img.naturalWidth || 1) : 1);
    const x = onGrid(pane.clientWidth / 2 - view.x * view.scale);
    const y = onGrid(pane.clientHeight / 2 - view.y * view.scale);
    img.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  }
}

function truePixels() {
  const img = panes[0].querySelector("img");
  view = { scale: 1 / devicePixelRatio, x: img.naturalWidth / 2, y: img.naturalHeight / 2 };
  draw();
}

function enlarge(times, pane, event) {
  const scale = Math.min(Math.max(view.scale * times, 1 / 16), 32);
  if (event) {
    const box = pane.getBoundingClientRect();
    const dx = event.clientX - box.left - box.width / 2, dy = event.clientY - box.top - box.height / 2;
    view.x += dx / view.scale - dx / scale;
    view.y += dy / view.scale - dy / scale;
  }
  view.scale = scale;
  draw();
}

async function show(state) {
  shown = null;
  setButtons(false);
  at("progress").value = state.total ? state.position / state.total : 1;
  const over = state.trial === null;
  for (const id of ["pictures", "answers", "tools"]) at(id).hidden = over;
  at("start").hidden = true;
  at("end").hidden = !over;
  if (over) {
    if (MAILED) at("save").href = URL.createObjectURL(new Blob([study.file()], { type: "application/json" }));
    return;
  }
  at("where").textContent = `${state.trial.practice ? "Practice, " : ""}${state.position + 1} of ${state.total}`;
  const loads = panes.map(async (pane) => {
    const name = state.trial[pane.id], img = pane.querySelector("img");
    pane.hidden = !name;
    if (!name) return;
    img.style.visibility = "hidden";
    img.src = study.source(name);
    await img.decode();
  });
  try {
    await Promise.all(loads);
  } catch {
    trouble("A picture could not be loaded. Load the page again; your answers are kept.");
    return;
  }
  truePixels();
  for (const pane of panes) pane.querySelector("img").style.visibility = "visible";  // all at once
  shown = state;
  since = performance.now();
  setButtons(true);
  for (const name of state.following) new Image().src = study.source(name);
}

function setButtons(on) {
  for (const button of at("answers").children) button.disabled = !on;
}

async function answer(what) {
  if (shown === null || (what === "same" && !TIES)) return;
  const vote = { position: shown.position, answer: what, seconds: (performance.now() - since) / 1000 };
  shown = null;
  setButtons(false);
  try {
    await show(await study.vote(vote));
  } catch (error) {
    trouble(`${error.message}. Load the page again; your answers are kept.`);
  }
}

at("begin").addEventListener("click", async () => {
  try { await show(await study.current()); } catch (error) { trouble(error.message); }
});
at("answers").addEventListener("click", (event) => {
  if (event.target.dataset.answer) answer(event.target.dataset.answer);
});
at("nearer").addEventListener("click", () => enlarge(2));
at("farther").addEventListener("click", () => enlarge(0.5));
at("true").addEventListener("click", truePixels);
addEventListener("resize", draw);
addEventListener("keydown", (event) => {
  if ((event.repeat && !event.shiftKey) || event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.shiftKey && event.key in moves) {
    event.preventDefault();
    view.x += STEP_PX * moves[event.key][0] / view.scale;
    view.y += STEP_PX * moves[event.key][1] / view.scale;
    draw();
    return;
  }
  const answers = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "same" };
  if (event.key in answers && shown) event.preventDefault(), answer(answers[event.key]);
  else if (event.key === "+" || event.key === "=") enlarge(2);
  else if (event.key === "-") enlarge(0.5);
});

const fingers = new Map();
for (const pane of panes) {
  pane.addEventListener("wheel", (event) => {
    event.preventDefault();
    enlarge(Math.exp(-event.deltaY / 300), pane, event);
  }, { passive: false });
  pane.addEventListener("pointerdown", (event) => {
    pane.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  pane.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (others.length) {
      const apart = (place) => Math.hypot(place.x - others[0].x, place.y - others[0].y) || 1;
      enlarge(apart(now) / apart(before), pane, event);
    } else {
      view.x -= (now.x - before.x) / view.scale;
      view.y -= (now.y - before.y) / view.scale;
      draw();
    }
    fingers.set(event.pointerId, now);
  });
  for (const over of ["pointerup", "pointercancel"]) {
    pane.addEventListener(over, (event) => fingers.delete(event.pointerId));
  }
}
