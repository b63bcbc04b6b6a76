if (document.getElementById("index")) {
  const PER_PAGE = 20;
  const form = document.querySelector(".browse"), list = document.getElementById("list");
  const outputs = document.querySelector(".pager output"), buttons = [...document.querySelectorAll(".pager button")];
  const chunks = new Map();
  // a chunk is unpacked when an item of it is looked at, and kept
  const chunk = number => chunks.get(number) || chunks.set(number, unpack(`chunk-${number}`)).get(number);
  let index, found = [], page = 0, turn = 0;

  const number = value => value === null || value === undefined ? "–" : value.toFixed(Math.abs(value) >= 100 ? 1 : 3).replace("-", "−");
  const marker = model => {
    const [label, colour, path] = index.models[model];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("class", `mark m${colour}`);
    svg.setAttribute("viewBox", "-6 -6 12 12");
    svg.setAttribute("aria-hidden", "true");
    shape.setAttribute("d", path);
    svg.append(shape);
    return element("span", {class: "model"}, svg, element("span", {}, label));
  };
  const verdict = score => {
    if (score === null) return null;
    if (!index.binary) return element("span", {}, `score ${number(score)}`);
    return score === 1 ? element("span", {class: "right"}, "✓ right") : element("span", {class: "wrong"}, "✗ wrong");
  };
  const choicesTable = (item, place) => {
    const head = element("tr", {}, element("th", {scope: "col"}, "Choice"));
    item.m.forEach((answer, model) => answer && head.append(element("th", {scope: "col"}, marker(model))));
    const body = element("tbody");
    item.c.forEach((choice, row) => {
      const right = String(row) === item.t;
      const line = element("tr", right ? {class: "target"} : {}, element("th", {scope: "row", dir: "auto"}, choice, right ? " (right)" : ""));
      item.m.forEach(answer => answer && line.append(
        element("td", {class: String(row) === answer[2] ? "number pick" : "number"}, number(answer[1][row]), String(row) === answer[2] ? " ◂" : "")));
      body.append(line);
    });
    const last = element("tr", {}, element("th", {scope: "row"}, ""));
    item.m.forEach((answer, model) => answer && last.append(element("td", {}, verdict(index.scores[model][place]) || "")));
    body.append(last);
    const table = element("table", {}, element("thead", {}, head), body);
    return element("div", {class: "scroll", role: "region", tabindex: "0", "aria-label": "Choices and log-likelihoods"}, table);
  };
  const outputsOf = (item, place) => {
    const made = element("div", {class: "outputs"});
    item.m.forEach((answer, model) => answer && made.append(element("div", {},
      element("h4", {}, marker(model), " ", verdict(index.scores[model][place])),
      typeof answer[1] === "string"
        ? element("div", {class: "text", dir: "auto"}, answer[1] || "(nothing)")
        : element("div", {}, `log-likelihood ${answer[1].map(number).join(", ")}`),
      answer[2] !== null && answer[2] !== answer[1] && typeof answer[1] === "string"
        ? element("p", {class: "meta"}, `taken as: ${answer[2] || "(nothing)"}`) : null)));
    return made;
  };
  const article = (item, place) => {
    const group = index.group[place];
    const made = element("article", {class: "item"},
      element("h3", {}, `Item ${index.items[place]} `, element("small", {}, [index.ids[place], group < 0 ? "" : index.groups[group]].filter(Boolean).join(" · "))));
    item.p.forEach((prompt, version) => {
      const models = item.m.flatMap((answer, model) => answer && answer[0] === version ? [index.models[model][0]] : []);
      if (item.p.length > 1) made.append(element("p", {class: "meta"}, `asked of ${models.join(", ")}:`));
      if (prompt) made.append(element("div", {class: "text prompt", dir: "auto", tabindex: "0"}, prompt));
    });
    if (item.c.length) made.append(choicesTable(item, place));
    else {
      if (item.t !== null) made.append(element("p", {class: "meta"}, "Right: "), element("div", {class: "text", dir: "auto"}, item.t));
      made.append(outputsOf(item, place));
    }
    const cut = item.m.flatMap((answer, model) => answer && answer[3] ? [index.models[model][0]] : []);
    if (cut.length) made.append(element("p", {class: "meta"}, `cut at the limit of tokens: ${cut.join(", ")}`));
    return made;
  };

  const wrong = (place, model) => index.scores[model][place] !== null && index.scores[model][place] < 1;
  const kept = (place, which, group) => {
    if (group !== "" && index.group[place] !== Number(group)) return false;
    if (which === "differ") return index.differ[place] === "1";
    const models = index.models.map((_, model) => model).filter(model => index.scores[model][place] !== null);
    if (which === "wrong") return models.some(model => wrong(place, model));
    if (which === "every") return models.length > 0 && models.every(model => wrong(place, model));
    return which.startsWith("wrong-") ? wrong(place, Number(which.slice(6))) : true;
  };
  const holds = (item, text) => JSON.stringify([item.p, item.c, item.t, item.m.map(answer => answer && [answer[1], answer[2]])]).toLowerCase().includes(text);
  const show = async () => {
    const mine = ++turn;
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(Math.max(0, page), pages - 1);
    const places = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    const items = await Promise.all(places.map(async place => (await chunk(Math.floor(place / index.chunk)))[place % index.chunk]));
    if (mine !== turn) return;
    list.replaceChildren(...items.map((item, row) => article(item, places[row])));
    outputs.textContent = `${found.length} of ${index.items.length} items, page ${page + 1} of ${pages}`;
    buttons.forEach(button => { button.disabled = button.dataset.step === "-1" ? page === 0 : page === pages - 1; });
    list.dataset.ready = String(mine);
  };
  const choose = async () => {
    const mine = ++turn, values = new FormData(form);
    const text = JSON.stringify(values.get("search").trim().toLowerCase()).slice(1, -1);
    let chosen = index.items.map((_, place) => place).filter(place => kept(place, values.get("which"), values.get("group") || ""));
    if (text) {
      const matching = [];
      for (const place of chosen) {
        const part = Math.floor(place / index.chunk);
        if (!chunks.has(part)) outputs.textContent = `Searching, item ${place} of ${index.items.length}`;
        const items = await chunk(part);
        if (mine !== turn) return;
        if (holds(items[place % index.chunk], text)) matching.push(place);
      }
      chosen = matching;
    }
    found = chosen;
    page = 0;
    await show();
  };
  let waiting;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 150); });
  form.addEventListener("submit", event => event.preventDefault());
  buttons.forEach(button => button.addEventListener("click", async () => {
    page += Number(button.dataset.step);
    await show();
    if (button.closest(".pager") !== document.querySelector(".pager")) document.getElementById("items").scrollIntoView();
  }));
  unpack("index").then(data => { index = data; return choose(); });
}
