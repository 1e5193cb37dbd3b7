"use strict";
(() => {
  const button = document.getElementById("scheme");
  const order = ["system", "light", "dark"];
  const remembered = () => {
    try {
      return localStorage.getItem("clinkd-scheme");
    } catch (error) {
      if (error instanceof DOMException) return null; // storage is forbidden here: the choice lasts as long as the page
      throw error;
    }
  };
  const remember = (name) => {
    try {
      localStorage.setItem("clinkd-scheme", name);
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
    }
  };
  const show = (name) => {
    if (name === "system") delete document.documentElement.dataset.scheme;
    else document.documentElement.dataset.scheme = name;
    button.textContent = `Scheme: ${name}`;
    button.setAttribute("aria-label", `Colour scheme: ${name}. Change it.`);
  };
  let current = remembered();
  if (!order.includes(current)) current = "system";
  show(current);
  button.hidden = false;
  button.addEventListener("click", () => {
    current = order[(order.indexOf(current) + 1) % order.length];
    show(current);
    remember(current);
  });
})();
