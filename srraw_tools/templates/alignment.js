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

form.addEventListener("input", filter);
addEventListener("beforeprint", () => list.querySelectorAll(".figures").forEach(unpack));
filter();
