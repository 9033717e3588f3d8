"use strict";
// Two registered pictures in turn or under a slider, and pictures in whole pixels of the screen.
const TURN_MS = 500;
const still = matchMedia("(prefers-reduced-motion: reduce)");

const viewOf = (pair) => pair.querySelector(".choice input:checked")?.value;
const pairOf = (event) => event.target.closest?.(".pair");

function setDot() {
  document.documentElement.style.setProperty("--dot", `${1 / devicePixelRatio}px`);
}

function enlarge(times) {
  document.documentElement.style.setProperty("--enlarged", times);
}

function showAll(view) {
  for (const choice of document.querySelectorAll(`.choice input[value="${view}"]`)) choice.checked = true;
}

function turnByHand(pair) {
  pair.dataset.byHand = "";
  pair.classList.toggle("swapped");
}

function moveSlider(event) {
  const box = event.target.closest(".choosable").getBoundingClientRect();
  const range = pairOf(event).querySelector(".cut");
  range.value = Math.round(100 * (event.clientX - box.left) / box.width);
  range.dispatchEvent(new Event("input", { bubbles: true }));
}

addEventListener("resize", setDot);
setDot();
const wholeDots = Math.min(Math.max(Math.round(devicePixelRatio), 1), 4);
enlarge(wholeDots);

setInterval(() => {
  if (still.matches) return;
  for (const choice of document.querySelectorAll('.choice input[value="blink"]:checked')) {
    const pair = choice.closest(".pair");
    if (!("byHand" in pair.dataset)) pair.classList.toggle("swapped");
  }
}, TURN_MS);

document.addEventListener("input", (event) => {
  const pair = pairOf(event);
  if (!pair) return;
  if (event.target.type === "range") pair.style.setProperty("--cut", `${event.target.value}%`);
  else delete pair.dataset.byHand;
});
document.addEventListener("keydown", (event) => {
  const pair = pairOf(event);
  if (!pair || event.key.toLowerCase() !== "b" || event.ctrlKey || event.metaKey || event.altKey) return;
  const blink = pair.querySelector('.choice input[value="blink"]');
  if (!blink) return;
  blink.checked = true;
  turnByHand(pair);
});
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".choosable") || event.button !== 0) return;
  if (viewOf(pairOf(event)) === "slider") {
    event.preventDefault();  // no dragging of the picture itself
    event.target.setPointerCapture(event.pointerId);
    moveSlider(event);
  }
});
document.addEventListener("pointermove", (event) => {
  if (event.target.hasPointerCapture?.(event.pointerId) && event.target.closest(".choosable")) moveSlider(event);
});
document.addEventListener("click", (event) => {
  if (event.target.closest(".choosable") && viewOf(pairOf(event)) === "blink") turnByHand(pairOf(event));
});
const sizes = document.querySelector('.filter select[name="size"]');
sizes?.form.reset();
if (sizes) sizes.value = wholeDots;
sizes?.form.addEventListener("submit", (event) => event.preventDefault());
sizes?.form.addEventListener("input", (event) => {
  if (event.target.name === "view") showAll(event.target.value);
  if (event.target.name === "size") enlarge(event.target.value);
});
