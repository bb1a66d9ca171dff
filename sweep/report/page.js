"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const views = new Map();

  // Expressions are interpreted (ast), not compiled: the page's policy forbids eval.
  for (const element of document.querySelectorAll(".panel")) {
    const spec = data.panels[Number(element.dataset.panel)];
    const options = { renderer: "svg", actions: false, ast: true, theme: "none", tooltip: { theme: "custom" } };
    vegaEmbed(element, spec, options).then(
      (result) => { views.set(element, result.view); element.dataset.drawn = "yes"; },
      (error) => { element.textContent = "cannot be drawn: " + error.message; console.error(error); }
    );
  }

  for (const legend of document.querySelectorAll(".legend")) {
    legend.addEventListener("click", (event) => {
      const key = event.target.closest(".key");
      if (!key) return;
      const picked = key.getAttribute("aria-pressed") === "true" ? null : key.dataset.series;
      for (const other of legend.querySelectorAll(".key")) {
        other.setAttribute("aria-pressed", String(other.dataset.series === picked));
      }
      for (const element of legend.parentElement.querySelectorAll(".panel")) {
        const view = views.get(element);
        if (view) view.signal("picked", picked).runAsync();
      }
    });
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => {
      const code = button.parentElement.querySelector("pre code");
      const done = () => { button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy the SQL"; }, 1500); };
      const select = () => { getSelection().selectAllChildren(code); if (document.execCommand("copy")) done(); };
      if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, select);
      else select();
    });
  }

  if (data.table) setUpTable(data.table);

  function setUpTable({ numbers, rows }) {
    const STEP = 25;
    const table = document.getElementById("rows");
    const headings = [...table.tHead.rows[0].cells];
    const names = headings.map((heading) => heading.textContent.trim());
    const input = document.getElementById("filter"), more = document.getElementById("more");
    const texts = rows.map((row) => row.map(shown).join("\n").toLowerCase());
    let found = rows.map((_, i) => i), limit = STEP, order = null;

    function shown(value) {
      if (value === null) return "-";
      return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 6 }) : String(value);
    }

    // One word of the filter as a test of a row number: a comparison with a column, or a text anywhere in the row.
    function testOf(word) {
      const match = /^(\w+)(<=|>=|!=|=|<|>)(.+)$/.exec(word);
      const column = match ? names.indexOf(match[1]) : -1;
      if (column < 0) return (i) => texts[i].includes(word.toLowerCase());
      const [, , operator, wanted] = match, number = Number(wanted);
      const compare = {
        "=": (a, b) => a === b, "!=": (a, b) => a !== b, "<": (a, b) => a < b, ">": (a, b) => a > b,
        "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
      }[operator];
      if (numbers[column] && !Number.isNaN(number)) {
        return (i) => rows[i][column] !== null && compare(rows[i][column], number);
      }
      return (i) => compare(String(rows[i][column]), wanted);
    }

    function select() {
      const tests = input.value.split(/\s+/).filter(Boolean).map(testOf);
      found = rows.map((_, i) => i).filter((i) => tests.every((test) => test(i)));
      if (order) {
        const { column, sign } = order;
        found.sort((a, b) => {
          const x = rows[a][column], y = rows[b][column];
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * (numbers[column] ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
        });
      }
      limit = STEP;
      show();
    }

    function show() {
      const body = document.createElement("tbody");
      for (const i of found.slice(0, limit)) {
        const line = body.insertRow();
        rows[i].forEach((value, column) => {
          const cell = line.insertCell();
          cell.textContent = shown(value);
          if (numbers[column]) cell.className = "number";
        });
      }
      table.tBodies[0].replaceWith(body);
      document.getElementById("count").textContent =
        `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
      more.hidden = found.length <= limit;
      document.getElementById("printed").textContent =
        more.hidden ? "" : `, the first ${limit.toLocaleString("en")} are printed`;
    }

    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const sign = order && order.column === column ? -order.sign : 1;
        order = { column, sign };
        for (const other of headings) other.setAttribute("aria-sort", "none");
        heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        select();
      });
    });
    input.addEventListener("input", select);
    more.addEventListener("click", () => { limit += 10 * STEP; show(); });
    document.getElementById("save").addEventListener("click", () => {
      const quoted = (value) => {
        const text = value === null ? "" : String(value);
        return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
      };
      const lines = [names, ...found.map((i) => rows[i])].map((row) => row.map(quoted).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
      link.download = "rows.csv";
      link.click();
    });
    select();
  }
})();
