"use strict";
// Sorting: a header button sorts its column, again reverses. Empty cells stay last.
document.querySelectorAll("table.sortable").forEach(function (table) {
  var body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach(function (head, column) {
    head.querySelector("button").addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach(function (other) {
        other.removeAttribute("aria-sort");
      });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var numeric = head.classList.contains("num");
      var keyed = Array.from(body.rows, function (row) {
        var cell = row.cells[column], text = cell.textContent.trim();
        var value = cell.dataset.value === undefined ? parseFloat(text) : Number(cell.dataset.value);
        return { row: row, key: numeric ? value : text, empty: numeric ? isNaN(value) : !text };
      });
      keyed.sort(function (a, b) {
        if (a.empty || b.empty) { return a.empty - b.empty; }
        var order = numeric ? a.key - b.key
          : a.key.localeCompare(b.key, undefined, { numeric: true });
        return down ? -order : order;
      });
      keyed.forEach(function (item) { body.appendChild(item.row); });
    });
  });
});
// Light and dark: follow the system until the reader chooses.
(function () {
  var root = document.documentElement, button = document.getElementById("theme");
  function stored(value) {
    try {
      if (value) { localStorage.setItem("nasbench-theme", value); }
      return localStorage.getItem("nasbench-theme");
    } catch (error) { return value; }
  }
  function current() {
    return root.dataset.theme
      || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  }
  function label() { button.textContent = current() === "dark" ? "Light" : "Dark"; }
  var saved = stored();
  if (saved) { root.dataset.theme = saved; }
  button.addEventListener("click", function () {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    stored(root.dataset.theme);
    label();
  });
  label();
  // A link into a closed section opens it.
  function open() {
    var target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (var at = target; at; at = at.parentElement) {
      if (at.tagName === "DETAILS") { at.open = true; }
    }
    if (target) { target.scrollIntoView(); }
  }
  addEventListener("hashchange", open);
  open();
})();
