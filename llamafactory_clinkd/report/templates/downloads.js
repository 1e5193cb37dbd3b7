// Every table as CSV and LaTeX, every figure as SVG and PDF; a hint below a table that is wider than the page.
(() => {
  const texts = (cell) => {
    const copy = cell.cloneNode(true);
    for (const small of copy.querySelectorAll("small")) small.prepend(" ");
    return copy.textContent.replace(/\s+/g, " ").trim();
  };
  const table = (element) => [...element.rows].map((row) => [...row.cells].map(texts));
  const csv = (rows) => rows.map((row) => row.map((text) => `"${text.replaceAll('"', '""')}"`).join(",")).join("\n");
  const escapes = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$" };
  const tex = (text) => text.replace(/[\\~^–−&%$#_{}]/g, (sign) => escapes[sign] ?? `\\${sign}`);
  const latex = (rows) => {
    const columns = Math.max(...rows.map((row) => row.length));
    const lines = rows.map((row) => `${row.map(tex).join(" & ")} \\\\`);
    const [head, ...body] = lines;
    return [`\\begin{tabular}{l${"r".repeat(columns - 1)}}`, "\\hline", head, "\\hline", ...body, "\\hline", "\\end{tabular}"].join("\n");
  };
  const svg = (figure) => {
    const style = getComputedStyle(document.documentElement);
    const copy = figure.querySelector("svg").cloneNode(true);
    copy.removeAttribute("data-pdf");
    return copy.outerHTML.replace(/var\(--([\w-]+), ([^)]*)\)/g, (_, name, other) => style.getPropertyValue(`--${name}`).trim() || other);
  };
  const pdf = (figure) => {
    const bytes = Uint8Array.from(atob(figure.querySelector("svg").dataset.pdf), (sign) => sign.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  };
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const offer = (element, place, number, kinds) => {
    const line = document.createElement("p");
    line.className = "downloads";
    for (const [title, type, make] of kinds) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.setAttribute("aria-label", `Save ${place} ${number} as ${title}`);
      const file = `${place}-${number}.${title === "LaTeX" ? "tex" : title.toLowerCase()}`;
      button.addEventListener("click", async () => save(file, type, await make()));
      line.append(button);
    }
    element.after(line);
    return line;
  };
  const hint = (frame, line) => {
    const more = document.createElement("span");
    more.className = "more";
    more.textContent = "Scroll sideways for more columns";
    line.prepend(more);
    const update = () => {
      more.hidden = frame.scrollWidth <= frame.clientWidth + 1;
      frame.classList.toggle("cut", frame.scrollLeft + frame.clientWidth < frame.scrollWidth - 1);
    };
    frame.addEventListener("scroll", update, { passive: true });
    new ResizeObserver(update).observe(frame);
    update();
  };
  document.querySelectorAll(".scroll > table").forEach((element, number) => {
    const line = offer(element.parentElement, "table", number + 1, [
      ["CSV", "text/csv", () => csv(table(element))],
      ["LaTeX", "text/x-tex", () => latex(table(element))],
    ]);
    hint(element.parentElement, line);
  });
  document.querySelectorAll(".chart").forEach((element, number) => {
    element.querySelector("svg").id ||= `figure-${number + 1}`;
    const line = document.createElement("div");
    element.append(line);
    offer(line, "figure", number + 1, [
      ["SVG", "image/svg+xml", () => svg(element)],
      ["PDF", "application/pdf", () => pdf(element)],
    ]);
  });
})();
