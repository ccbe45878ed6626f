// Enlarges tiles in a dialog, which brings Escape, the focus and the backdrop. Without script the addresses do it.
const large = document.getElementById("large");
const tiles = [...document.querySelectorAll(".tile")];
let shown = 0;

function show(index) {
  shown = (index + tiles.length) % tiles.length;
  const card = tiles[shown].firstElementChild.cloneNode(true);
  card.querySelector(".open").removeAttribute("href");
  large.replaceChildren(card);
  if (!large.open) large.showModal();
  card.querySelector(".next").focus();
}

document.documentElement.classList.add("scripted");
document.addEventListener("click", (event) => {
  const link = event.target.closest(".open, .steps a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (!large.open) show(tiles.indexOf(link.closest(".tile")));
  else if (link.className === "next") show(shown + 1);
  else if (link.className === "previous") show(shown - 1);
  else large.close();
});
large.addEventListener("click", (event) => {
  if (!event.target.closest("a, img, .caption")) large.close();
});
large.addEventListener("close", () => tiles[shown].querySelector(".open").focus());
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});

const asked = tiles.findIndex((tile) => "#" + tile.id === location.hash);
if (asked >= 0) show(asked);
