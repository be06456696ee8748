"use strict";
// Labels that a person corrects or confirms, and the CSV file of these and the given ones.
(() => {
  const data = JSON.parse(document.getElementById("labels-data").textContent);
  const cards = [...document.querySelectorAll(".cards li")];
  const state = document.getElementById("state");
  const box = (card) => card.querySelector("input");
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;

  const show = () => {
    const told = cards.filter((card) => box(card).checked);
    for (const card of cards) card.classList.toggle("told", box(card).checked);
    state.textContent = `${data.given.length} given, ${told.length} checked`;
  };

  for (const card of cards) {
    card.querySelector("select").addEventListener("change", () => {
      box(card).checked = true;
      show();
    });
    box(card).addEventListener("change", show);
  }

  document.getElementById("download").addEventListener("click", () => {
    const rows = data.given.map((row) => row.slice());
    for (const card of cards) {
      if (box(card).checked) rows.push([card.dataset.path, data.classes[card.querySelector("select").value]]);
    }
    const text = ["path,label", ...rows.map((row) => row.map(quoted).join(","))].join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${text}\r\n`], { type: "text/csv" }));
    link.download = "few.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  show();
})();
