"use strict";
// Shows the graded rows of the page a few at a time, searched and filtered. Texts reach the page as text alone.
(() => {
  const PAGE = 25;
  const [LONG, HEAD, TAIL] = [120, 40, 70]; // characters of a text; a longer one is shown by its ends until opened
  const browser = document.getElementById("rows-browser");
  const find = (selector) => browser.querySelector(selector);
  const data = JSON.parse(document.getElementById("rows-data").textContent);
  const [text, task, kind, before, after, whole] = ["text", "task", "kind", "before", "after", "whole"].map(
    (name) => find(`[name=${name}]`));
  const [reset, back, next] = ["reset", "back", "next"].map((name) => find(`button[name=${name}]`));
  const VERDICTS = { right: true, wrong: false, "not graded": null };
  const CHANGES = [["wrong", "right"], ["right", "wrong"], ["right", "right"], ["wrong", "wrong"]];

  const rows = data.rows.map(([task, kind, idx, question, label, before, after]) => ({
    task, kind, idx, question, label, before, after,
    name: data.kinds[kind] ? `row ${idx}, ${data.kinds[kind]}` : `row ${idx}`,
  }));
  const number = (value) => value.toLocaleString("en");
  const hasVerdict = (side, wanted) => wanted === "" || (side !== null && side[1] === VERDICTS[wanted]);

  function make(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function fill(select, names, values = names) {
    const options = names.map((name, i) => make("option", { value: values[i] }, name));
    select.replaceChildren(make("option", { value: "" }, "any"), ...options);
  }

  function fillKinds() {
    const kinds = new Set(rows.filter((row) => task.value === "" || row.task === +task.value).map((row) => row.kind));
    const chosen = kind.value;
    const values = [...kinds].filter((i) => data.kinds[i]);
    fill(kind, values.map((i) => data.kinds[i]), values);
    kind.value = kinds.has(+chosen) ? chosen : "";
    kind.closest("label").hidden = !values.length;
  }

  /** The searched words as a pattern that any white space may part; null where nothing is searched. */
  function pattern() {
    const words = text.value.trim().split(/\s+/).filter(Boolean);
    return words.length ? words.map((word) => word.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&")).join("\\s+") : null;
  }

  /** The text with every match marked. */
  function marked(value, searched) {
    if (searched === null) return [value];
    const found = [];
    let end = 0;
    for (const match of value.matchAll(new RegExp(searched, "gi"))) {
      found.push(value.slice(end, match.index), make("mark", {}, match[0]));
      end = match.index + match[0].length;
    }
    return [...found, value.slice(end)];
  }

  /** The ends of a long text, and what is around the first match: a question and an answer often stand last. */
  function excerpt(value, searched) {
    if (value.length <= LONG) return value;
    const at = searched === null ? -1 : value.search(new RegExp(searched, "i"));
    const around = at >= HEAD && at < value.length - TAIL ? `${value.slice(Math.max(at - 20, HEAD), at + 60)} … ` : "";
    return `${value.slice(0, HEAD)} … ${around}${value.slice(-TAIL)}`;
  }

  /** A text that is opened and closed by its `show`. */
  function textElement(value, searched) {
    const element = make("div", { class: "text" });
    element.show = (open) => {
      element.classList.toggle("open", open);
      element.replaceChildren(...marked(open ? value : excerpt(value, searched), searched));
    };
    element.show(whole.checked);
    return element;
  }

  function answerCell(name, side, searched) {
    if (side === null) return make("td", { "data-name": name }, make("span", { class: "soft" }, "no such row"));
    const [answer, correct, grades] = side;
    const verdict = correct === null ? ["soft", "not graded"] : correct ? ["good", "right"] : ["bad", "wrong"];
    const said = make("span", { class: "soft" }, grades ? ` ${grades}` : "");
    return make("td", { "data-name": name }, make("b", { class: verdict[0] }, verdict[1]), said,
      textElement(answer, searched));
  }

  function rowElement(row, searched) {
    const open = make("button", { type: "button", "aria-expanded": whole.checked }, ...marked(row.name, searched));
    const cells = [
      make("td", { "data-name": "" }, open, make("div", { class: "soft" }, data.tasks[row.task])),
      make("td", { "data-name": "prompt" }, textElement(row.question, searched)),
      make("td", { "data-name": "label" }, textElement(row.label, searched)),
      ...(hasBefore ? [answerCell("before", row.before, searched)] : []),
      answerCell("after", row.after, searched),
    ];
    const element = make("tr", {}, ...cells);
    open.addEventListener("click", () => {
      const opened = open.getAttribute("aria-expanded") !== "true";
      open.setAttribute("aria-expanded", opened);
      for (const one of element.querySelectorAll(".text")) one.show(opened);
    });
    return element;
  }

  let page = 0;
  let shown = rows;

  function show() {
    const searched = pattern();
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const part = shown.slice(page * PAGE, (page + 1) * PAGE);
    find("tbody").replaceChildren(...part.map((row) => rowElement(row, searched)));
    find(".pages span").textContent = `page ${number(page + 1)} of ${number(pages)}`;
    [back.disabled, next.disabled] = [page === 0, page === pages - 1];
    find(".pages").hidden = pages === 1;
  }

  function filter() {
    const searched = pattern();
    const matcher = searched === null ? null : new RegExp(searched, "i");
    const texts = (row) => [row.name, row.question, row.label, row.before?.[0] ?? "", row.after?.[0] ?? ""];
    const matching = rows.filter((row) => (task.value === "" || row.task === +task.value)
      && (kind.value === "" || row.kind === +kind.value) && (!matcher || texts(row).some((one) => matcher.test(one))));
    shown = matching.filter((row) => hasVerdict(row.before, before.value) && hasVerdict(row.after, after.value));
    for (const button of changes) {
      const [was, is] = button.change;
      const count = matching.filter((row) => hasVerdict(row.before, was) && hasVerdict(row.after, is)).length;
      button.lastChild.textContent = number(count);
      button.setAttribute("aria-pressed", before.value === was && after.value === is);
    }
    find("#rows-count").textContent = `${number(shown.length)} of ${number(rows.length)} rows`;
    page = 0;
    show();
  }

  const hasBefore = rows.some((row) => row.before !== null);
  for (const element of browser.querySelectorAll("[data-before]")) element.hidden = !hasBefore;
  fill(task, data.tasks, data.tasks.map((_, i) => i));
  task.closest("label").hidden = data.tasks.length === 1;
  for (const select of [before, after]) fill(select, Object.keys(VERDICTS));
  const changes = CHANGES.map(([was, is]) => {
    const button = make("button", { type: "button" }, `${was} → ${is} `, make("b", {}));
    button.change = [was, is];
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      [before.value, after.value] = pressed ? ["", ""] : [was, is];
      filter();
    });
    return button;
  });
  find(".changes").append(...changes);

  task.addEventListener("change", fillKinds);
  for (const select of [task, kind, before, after]) select.addEventListener("change", filter);
  text.addEventListener("input", filter);
  whole.addEventListener("change", show);
  reset.addEventListener("click", () => {
    for (const control of [text, task, before, after]) control.value = "";
    fillKinds();
    kind.value = "";
    filter();
  });
  for (const [button, step] of [[back, -1], [next, 1]]) {
    button.addEventListener("click", () => {
      page += step;
      show();
      browser.scrollIntoView();
    });
  }
  fillKinds();
  filter();
  document.getElementById("rows-fallback").hidden = true;
  browser.hidden = false;
})();
