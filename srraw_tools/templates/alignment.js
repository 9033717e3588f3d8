"use strict";
const form = document.getElementById("filter");
const list = document.getElementById("pairs");
const pairs = [...list.querySelectorAll(".pair")];

// Pictures lie in templates, where they cost nothing, until their pair comes near the window.
function unpack(place) {
  const template = place.querySelector("template");
  if (template) {
    place.append(template.content);
    template.remove();
  }
}
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      unpack(entry.target);
      near.unobserve(entry.target);
    }
  }
}, { rootMargin: "800px" });
list.querySelectorAll(".figures").forEach((place) => near.observe(place));

function filter() {
  const wanted = Object.fromEntries(new FormData(form));
  let shown = 0;
  for (const pair of pairs) {
    const fits =
      (!wanted.status || pair.dataset.status === wanted.status) &&
      (!wanted.zoom || pair.dataset.zoom === wanted.zoom) &&
      Number(pair.dataset.error) >= Number(wanted.error) &&
      pair.dataset.text.includes(wanted.text.trim().toLowerCase());
    pair.hidden = !fits;
    shown += fits;
  }
  form.querySelector("output").textContent = `${shown} of ${pairs.length} shown`;
}

function showAll(view) {
  for (const choice of list.querySelectorAll(`input[value="${view}"]`)) choice.checked = true;
}

form.addEventListener("input", (event) => {
  if (event.target.name === "view") showAll(event.target.value);
  else if (event.target.name === "size") list.classList.toggle("twice", event.target.value === "2");
  else filter();
});
form.addEventListener("submit", (event) => event.preventDefault());
form.reset();
filter();
