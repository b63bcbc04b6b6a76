{
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const said = document.getElementById("said");

  // Sorting. Rows without a value stay at the end in both directions.
  const key = (row, column, text) => {
    const cell = row.cells[column];
    if (text) return cell.textContent.trim().toLowerCase();
    return cell.dataset.v ? Number(cell.dataset.v) : null;
  };
  const sort = (table, head, column) => {
    const kind = head.dataset.sort, text = kind === "text";
    const current = head.getAttribute("aria-sort");
    const first = kind === "down" ? "descending" : "ascending", second = first === "ascending" ? "descending" : "ascending";
    const direction = current === first ? second : first;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const body = table.tBodies[0], sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row, place) => ({row, place, key: key(row, column, text)}));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
      const order = text ? a.key.localeCompare(b.key) : a.key - b.key;
      return sign * order || a.place - b.place;
    });
    body.append(...rows.map(entry => entry.row));
    said.textContent = `Sorted by ${head.querySelector("button").textContent.trim()}, ${direction}`;
  };
  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = element("button", {type: "button"});
      button.append(...[...head.childNodes].filter(node => node.nodeName !== "SMALL"));
      head.prepend(button);
      button.addEventListener("click", () => sort(table, head, column));
    });
  }

  // Charts: which models they show.
  const series = all("input[name=series]"), seriesRule = document.getElementById("hidden-series");
  const draw = () => {
    const hidden = series.filter(box => !box.checked).map(box => `.chart [data-e="${box.value}"]`);
    seriesRule.textContent = hidden.length ? `${hidden.join(",")}{display:none}` : "";
  };
  series.forEach(box => box.addEventListener("change", draw));

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
    let count = 0;
    for (const [entrant, [text, ...facts]] of Object.entries(data.filters)) {
      const fits = text.includes(search) && wanted.every((value, index) => !value || facts[index] === value);
      if (fits) count += 1;
      else hidden.push(`[data-e="${entrant}"]`);
    }
    rule.textContent = hidden.length ? `${hidden.join(",")}{display:none!important}` : "";
    form.querySelector("output").textContent = `${count} of ${Object.keys(data.filters).length} models`;
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
