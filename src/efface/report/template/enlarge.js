const large = document.getElementById("large"), pairs = [...document.querySelectorAll(".pair")];
let shown = 0;
function show(index) {
  shown = (index + pairs.length) % pairs.length;
  document.getElementById("stage").replaceChildren(...[...pairs[shown].children].map((child) => child.cloneNode(true)));
  document.getElementById("caption").textContent = pairs[shown].dataset.caption;
  if (!large.open) large.showModal();
}
pairs.forEach((pair, index) => pair.addEventListener("click", () => show(index)));
large.addEventListener("click", (event) => event.target === large && large.close());
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});
