{
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const said = document.getElementById("said");

  // Sorting. Rows without a value stay at the end in both directions.
  const key = (row, column, text) => {
    const cell = row.cells[column];
    if (text) return cell.textContent.trim().toLowerCase();
    return cell.dataset.v ? Number(cell.dataset.v) : null;
  };
  const arrange = (table, head) => {
    const text = head.dataset.sort === "text", column = head.cellIndex;
    const body = table.tBodies[0], sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row, place) => ({row, place, key: key(row, column, text)}));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
      const order = text ? a.key.localeCompare(b.key) : a.key - b.key;
      return sign * order || a.place - b.place;
    });
    body.append(...rows.map(entry => entry.row));
  };
  const sort = (table, head) => {
    const current = head.getAttribute("aria-sort");
    const first = head.dataset.sort === "down" ? "descending" : "ascending", second = first === "ascending" ? "descending" : "ascending";
    const direction = current === first ? second : first;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    arrange(table, head);
    said.textContent = `Sorted by ${head.querySelector("button").textContent.trim()}, ${direction}`;
  };
  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach(head => {
      if (!head.dataset.sort) return;
      const button = element("button", {type: "button"});
      button.append(...[...head.childNodes].filter(node => node.nodeName !== "SMALL"));
      head.prepend(button);
      button.addEventListener("click", () => sort(table, head));
    });
  }

  // Charts: which models they show.
  const series = all("input[name=series]"), seriesRule = document.getElementById("hidden-series");
  const draw = () => {
    const hidden = series.filter(box => !box.checked).map(box => `.chart [data-e="${box.value}"]`);
    seriesRule.textContent = hidden.length ? `${hidden.join(",")}{display:none}` : "";
  };
  series.forEach(box => box.addEventListener("change", draw));

  // Places and first places among the models that the filter leaves, by the rule of the whole board: intervals that overlap share places.
  const ends = cell => (cell.dataset.r ? cell.dataset.r.split(" ").map(Number) : null);
  const ranked = cells => {
    const compared = cells.filter(ends).map(cell => ({cell, ends: ends(cell)}));
    return compared.map(({cell, ends: [low, high]}) => ({
      cell,
      best: 1 + compared.filter(other => other.ends[0] > high).length,
      worst: compared.length - compared.filter(other => other.ends[1] < low).length,
    }));
  };
  const placeModels = (table, shown) => {
    const rows = [...table.tBodies[0].rows].filter(row => shown(row.dataset.e));
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const found = ranked(rows.map(row => row.cells[column]));
      for (const row of rows) row.cells[column].classList.remove("first");
      if (found.length > 1) for (const {cell, best} of found) cell.classList.toggle("first", best === 1);
      if (!head.classList.contains("mean")) return;
      for (const {cell, best, worst} of found) {
        const place = cell.previousElementSibling;
        place.textContent = best === worst ? String(best) : `${best} to ${worst}`;
        place.dataset.v = String(best + worst / 1000 - Number(cell.dataset.v) / 1e7);
      }
    });
    const sorted = table.querySelector("th.place[aria-sort]");
    if (sorted) arrange(table, sorted);
  };
  const placeTask = (row, shown) => {
    const found = ranked([...row.cells].filter(cell => cell.dataset.e && shown(cell.dataset.e)));
    const first = found.filter(({best}) => best === 1);
    for (const {cell, best} of found) cell.classList.toggle("first", best === 1 && first.length < found.length);
  };
  const verdicts = all(".verdict").map(element => ({element, text: element.textContent}));
  const place = (count, models, shown, hiddenLanguages) => {
    for (const table of all("table.means")) placeModels(table, shown);
    for (const row of all("table.tasks tbody tr")) placeTask(row, shown);
    for (const {element, text} of verdicts) {
      const among = count < models ? `Places and bold numbers are among the ${count} of ${models} models that the filter leaves.` : text;
      // the first table alone has a mean over languages
      const over = hiddenLanguages && element.parentElement.querySelector(".means th[data-l]") ? "Place and mean are over all languages, also those that are hidden." : "";
      element.textContent = [among, over].filter(Boolean).join(" ");
      element.hidden = !element.textContent;
    }
  };

  // The panel on a number, and the filters by model, need the data.
  const dialog = document.querySelector("dialog"), part = name => document.getElementById(`panel-${name}`);
  const show = (data, name) => {
    const [facts, alarm, aside, command] = data.cells[name], [entrant, task] = name.split("-");
    const [title, page, marks] = data.tasks[task];
    part("model").textContent = data.entrants[entrant];
    part("title").textContent = title;
    part("marks").replaceChildren(...(marks ? marks.split(", ").map(mark => element("span", {class: "badge"}, mark)) : []));
    part("alarm").textContent = [alarm && `▲ ${alarm}`, aside && `≠ ${aside}`].filter(Boolean).join(" · ");
    part("facts").replaceChildren(...facts.map((value, index) =>
      element("div", {}, element("dt", {}, data.labels[index]), element("dd", {}, value))));
    part("command").textContent = command || "The store does not say.";
    part("page").href = `${page}#model-${entrant}`;
    dialog.showModal();
  };
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });

  const form = document.querySelector(".filters form"), rule = document.getElementById("filtered");
  const filter = data => {
    const values = new FormData(form), hidden = [];
    const languages = new Set(values.getAll("language"));
    for (const box of all("input[name=language]", form)) if (!languages.has(box.value)) hidden.push(`[data-l="${box.value}"]`);
    const measure = values.get("measure");
    if (measure) hidden.push(`[data-m]:not([data-m="${measure}"])`);
    const search = values.get("search").trim().toLowerCase();
    const wanted = ["size", "backend", "dtype", "template"].map(name => values.get(name) || "");
    const left = new Set(), models = Object.keys(data.filters).length;
    for (const [entrant, [text, ...facts]] of Object.entries(data.filters)) {
      const fits = text.includes(search) && wanted.every((value, index) => !value || facts[index] === value);
      if (fits) left.add(entrant);
      else hidden.push(`[data-e="${entrant}"]`);
    }
    rule.textContent = hidden.length ? `${hidden.join(",")}{display:none!important}` : "";
    place(left.size, models, entrant => left.has(entrant), all("input[name=language]", form).some(box => !box.checked));
    form.querySelector("output").textContent = `${left.size} of ${models} models${left.size < models ? "; places are among these" : ""}`;
  };
  unpack("data").then(data => {
    form.addEventListener("input", () => filter(data));
    form.addEventListener("submit", event => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => filter(data)));
    filter(data);
    document.addEventListener("click", event => {
      const cell = event.target.closest("[data-cell]");
      // with a key held the link opens the task's page, as links do
      if (!cell || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      show(data, cell.dataset.cell);
    });
    document.documentElement.dataset.ready = "yes";
  });
  // on a narrow window the filters would push the tables away
  if (matchMedia("(max-width: 68rem)").matches) document.querySelector(".filters").open = false;
}
