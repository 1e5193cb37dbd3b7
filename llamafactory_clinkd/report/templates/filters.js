// Each filter form gets a list for every data attribute whose values differ among its section's cards.
for (const form of document.querySelectorAll(".filters")) {
  const section = form.closest("section");
  const cards = [...section.querySelectorAll(".card, .change")];
  const lists = [];
  for (const name of Object.keys(Object.assign({}, ...cards.map((card) => card.dataset)))) {
    const values = [...new Set(cards.map((card) => card.dataset[name]))].filter(Boolean);
    if (values.length < 2) continue;
    const label = document.createElement("label");
    const list = document.createElement("select");
    list.name = name;
    list.add(new Option("all", ""));
    for (const value of values) list.add(new Option(value, value));
    label.append(`${name} `, list);
    form.append(label);
    lists.push(list);
  }
  const shown = document.createElement("output");
  form.append(shown);
  const apply = () => {
    for (const card of cards) {
      card.hidden = lists.some((list) => list.value && card.dataset[list.name] !== list.value);
    }
    for (const group of section.querySelectorAll(".cards, .changes")) {
      const empty = !group.querySelector(":scope > :not([hidden])");
      group.hidden = empty;
      if (group.previousElementSibling?.tagName === "H3") group.previousElementSibling.hidden = empty;
    }
    shown.value = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
  };
  form.addEventListener("input", apply);
  form.hidden = !lists.length;
  if (lists.length) apply();
}
