"use strict";
// The map of the embeddings: the image under the pointer, and on a click, a tap or an arrow key its neighbours.
(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const map = document.getElementById("map");
  const chart = map.querySelector("svg");
  const tip = document.getElementById("tip");
  const near = document.getElementById("near");
  const side = chart.viewBox.baseVal.width;
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  ring.setAttribute("r", "9");
  ring.setAttribute("class", "ring");
  let selected = -1;

  const words = (index) => {
    const parts = [];
    const group = data.groups[index];
    if (group >= 0) parts.push(data.names[group]);
    if (data.predicted.length && data.predicted[index] !== group) {
      parts.push(`taken for ${data.names[data.predicted[index]]}`);
    }
    parts.push(data.paths.length ? data.paths[index] : `image ${index}`);
    return parts.join(", ");
  };

  const tile = (index) => {
    const element = document.createElement("span");
    element.className = "tile";
    const { width, height } = map.dataset;
    const x = (index % data.columns) * width;
    const y = Math.floor(index / data.columns) * height;
    element.style.backgroundPosition = `${-x}px ${-y}px`;
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", words(index));
    return element;
  };

  const labelled = (name, index) => {
    const element = document.createElement(name);
    element.append(tile(index), words(index));
    return element;
  };

  // The point nearest to the pointer, or -1 where none is within `reach` pixels of the screen.
  const at = (event, reach) => {
    const box = chart.getBoundingClientRect();
    const scale = side / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    let best = -1;
    let least = (reach * scale) ** 2;
    data.points.forEach(([px, py], index) => {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [index, distance];
    });
    return best;
  };

  const show = (index) => {
    tip.hidden = index < 0;
    if (index < 0) return;
    tip.replaceChildren(...labelled("div", index).childNodes);
    const scale = chart.getBoundingClientRect().width / side;
    const [x, y] = data.points[index].map((value) => value * scale);
    const left = x + 14 + tip.offsetWidth > map.clientWidth ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, y - tip.offsetHeight / 2)}px`;
  };

  const select = (index) => {
    selected = index;
    show(index);
    if (index < 0) return;
    ring.setAttribute("cx", data.points[index][0]);
    ring.setAttribute("cy", data.points[index][1]);
    chart.append(ring);
    const title = document.createElement("p");
    title.className = "names";
    title.textContent = `Nearest to ${words(index)}`;
    const list = document.createElement("ul");
    list.append(...data.near[index].map((other) => labelled("li", other)));
    near.replaceChildren(title, list);
  };

  chart.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") show(at(event, 16));
  });
  chart.addEventListener("pointerleave", () => show(-1));
  chart.addEventListener("click", (event) => select(at(event, 28)));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!step) return;
    event.preventDefault();
    select((selected + step + data.points.length) % data.points.length);
  });
})();
