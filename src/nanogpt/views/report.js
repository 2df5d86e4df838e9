"use strict";
// Draws each figure when it comes into view, and again when a choice, the step, the theme or the width changes.
(() => {
  const index = JSON.parse(document.getElementById("index").textContent);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chooser = document.getElementById("theme");
  const NARROW = 600;
  const CELL = 52;
  const theme = () => (chooser.value === "auto" ? (system.matches ? "dark" : "light") : chooser.value);

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // Labels may hold &lt; and such, which must not be cut in two.
  const shorten = (text) => (text.length > 18 && !text.includes("&") ? "…" + text.slice(-17) : text);

  function fitted(layout, width, entries) {
    const fit = structuredClone(layout);
    fit.template = index.themes[theme()];
    fit.autosize = true;
    delete fit.title;
    fit.margin = { t: 16, r: 16, b: 48, l: 56 };
    if (width >= NARROW) return fit;
    fit.height += 18 * entries;
    const below = { orientation: "h", x: 0, y: -50 / (fit.height - 80 - 18 * entries), yanchor: "top", font: { size: 11 } };
    fit.legend = { ...fit.legend, ...below };
    fit.margin = { t: 12, r: 8, b: 44, l: 44 };
    for (const key of Object.keys(fit).filter((k) => /^[xy]axis/.test(k))) {
      const axis = fit[key];
      if (key[0] === "y" && axis.ticktext) axis.ticktext = axis.ticktext.map(shorten);
      if (key[0] === "x" && axis.tickvals && !axis.ticktext && axis.tickvals.length > 6) {
        axis.tickvals = axis.tickvals.filter((_, n) => n % 3 === 0);
      }
      axis.title = { ...axis.title, font: { size: 11 } };
      axis.tickfont = { size: Math.min(10, axis.tickfont ? axis.tickfont.size : 10) };
    }
    return fit;
  }

  // Three panels side by side stand below each other where there is no room.
  function stacked(fit, width) {
    const across = Object.keys(fit).filter((k) => /^xaxis/.test(k));
    if (width >= NARROW || across.length < 2) return fit;
    across.forEach((key, n) => {
      const up = key.replace("x", "y");
      const high = 1 - n / across.length;
      fit[key].domain = [0, 1];
      fit[up].domain = [high - 1 / across.length + 0.09, high];
    });
    fit.height = 260 * across.length;
    fit.legend.y = -45 / fit.height;
    return fit;
  }

  // Words in cells want room for each: where there is none, the picture is wider than the page and scrolls.
  function readable(fit, data, width) {
    const worded = data.find((trace) => trace.type === "heatmap" && trace.text);
    if (width < NARROW && worded) Object.assign(fit, { autosize: false, width: Math.max(width, 130 + CELL * worded.text[0].length) });
    return fit;
  }

  // Small: slim colour bars with short words, no numbers in cells that cannot hold them.
  function slim(data, width) {
    if (width >= NARROW) return data;
    return data.map((trace) => {
      const made = { ...trace };
      if (made.type === "heatmap") Object.assign(made, { xgap: 0, ygap: 0 });
      if (made.type === "heatmap" && !made.text) delete made.texttemplate;
      if (!made.colorbar) return made;
      const bar = { ...made.colorbar, thickness: 8, tickfont: { size: 9 }, xpad: 2 };
      if (bar.ticktext) bar.ticktext = bar.ticktext.map((words) => words.split(":")[0]);
      if (bar.title) bar.title = { ...bar.title, font: { size: 10 } };
      return { ...made, colorbar: bar };
    });
  }

  const listed = (data) => data.filter((trace) => trace.type !== "heatmap" && trace.showlegend !== false).length;

  // On a dark page every colour is a little lighter, a faint one less faint, and what is normal recedes.
  const lit = (text) => {
    const hex = /^#(..)(..)(..)$/.exec(text);
    const numbers = hex ? hex.slice(1).map((part) => parseInt(part, 16)) : (/^rgba?\(/.test(text) ? text.match(/[\d.]+/g).map(Number) : null);
    if (!numbers) return text;
    const [r, g, b] = numbers.map((part) => Math.round(part + (255 - part) * 0.28));
    return `rgba(${r},${g},${b},${Math.min(1, 1.5 * (numbers[3] ?? 1))})`;
  };

  function lighter(trace) {
    const made = { ...trace };
    for (const key of ["line", "marker"]) if (made[key] && made[key].color) made[key] = { ...made[key], color: lit(made[key].color) };
    if (made.fillcolor) made.fillcolor = lit(made.fillcolor);
    if (Array.isArray(made.colorscale)) made.colorscale = made.colorscale.map(([at, c]) => [at, index.dark[c] ?? c]);
    return made;
  }

  class Figure {
    constructor(element, facts) {
      Object.assign(this, { element, facts, packs: new Map(), stale: true, at: -1 });
      this.plot = element.querySelector(".plot");
      const controls = element.querySelector(".controls");
      this.selects = facts.keys.map((key) => {
        const select = make("select", { onchange: () => this.choose() });
        const label = make("label", {}, `${key} `, select);
        if (facts.words[key].length < 2) label.hidden = true;
        controls.append(label);
        return select;
      });
      this.range = make("input", { type: "range", min: 0, step: 1, oninput: () => this.scrub() });
      this.shown = make("output");
      this.stepLabel = make("label", { className: "step", hidden: true }, "step ", this.range, this.shown);
      const save = ["png", "svg"].map((format) => make("button", { type: "button", textContent: format.toUpperCase(), title: `Save this figure as ${format.toUpperCase()}`, onclick: () => this.save(format) }));
      save.forEach((button) => button.setAttribute("aria-label", `${facts.title}: ${button.title}`));
      controls.append(this.stepLabel, make("span", { className: "save" }, ...save));
      this.options(facts.choices[0]);
    }

    // Fill each list with what there is for the choices before it, and keep what was chosen where that still is.
    options(wanted) {
      let left = this.facts.choices;
      this.selects.forEach((select, n) => {
        const there = [...new Set(left.map((choice) => choice[n]))];
        const value = there.includes(wanted[n]) ? wanted[n] : there[0];
        select.replaceChildren(...there.map((word) => make("option", { value: word, textContent: this.facts.words[this.facts.keys[n]][word] })));
        select.value = value;
        left = left.filter((choice) => choice[n] === value);
      });
      return this.facts.choices.indexOf(left[0]);
    }

    async choose() {
      const number = this.options(this.selects.map((select) => Number(select.value)));
      const pack = this.facts.starts.filter((start) => start <= number).length - 1;
      if (!this.packs.has(pack)) this.packs.set(pack, unpack(`${this.facts.name}-${pack}`));
      const picture = (await this.packs.get(pack))[number - this.facts.starts[pack]];
      const frames = picture.frames || [];
      const before = this.picture && this.picture.frames && this.at >= 0 ? this.picture.frames[this.at] : null;
      this.picture = picture;
      this.stepLabel.hidden = frames.length < 2;
      this.range.max = frames.length - 1;
      const same = before ? frames.findIndex((frame) => frame.name === before.name) : -1;
      this.range.value = this.at = same >= 0 ? same : frames.length - 1;
      return this.draw();
    }

    data() {
      const frame = (this.picture.frames || [])[this.at];
      const data = this.picture.data.slice();
      if (frame) frame.traces.forEach((trace, n) => { data[trace] = { ...data[trace], ...frame.data[n] }; });
      return theme() === "dark" ? data.map(lighter) : data;
    }

    async draw() {
      const width = this.plot.clientWidth;
      const frame = (this.picture.frames || [])[this.at];
      this.shown.value = frame ? frame.name : "";
      if (frame) this.range.setAttribute("aria-valuetext", `step ${frame.name}`);
      const data = slim(this.data(), width);
      const layout = readable(stacked(fitted(this.picture.layout, width, listed(data)), width), data, width);
      await Plotly.react(this.plot, data, layout, { displayModeBar: false, responsive: false });
      this.plot.style.minHeight = "";
      if (!this.element.dataset.drawn) performance.mark(`drawn ${this.facts.name}`);
      this.element.dataset.drawn = this.facts.name;
    }

    scrub() {
      this.at = Number(this.range.value);
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => { this.waiting = false; this.draw(); });
    }

    save(format) {
      const layout = { ...structuredClone(this.picture.layout), template: index.themes[theme()] };
      const frame = (this.picture.frames || [])[this.at];
      if (frame) layout.title.text += `, step ${frame.name}`;
      const size = { width: 1000, height: layout.height + 40, scale: 2 };
      Plotly.downloadImage({ data: this.data(), layout }, { format, filename: `${index.file}-${this.facts.name}`, ...size });
    }

    async show() {
      this.stale = false;
      try {
        await (this.picture ? this.draw() : this.choose());
      } catch (error) {
        this.plot.classList.add("failed");
        this.plot.textContent = `This figure cannot be drawn in this browser (${error.message}).`;
        console.error(error);
      }
    }
  }

  const figures = new Map(index.figures.map((facts) => [facts.name, new Figure(document.getElementById(facts.name), facts)]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const figure = figures.get(entry.target.dataset.name);
      figure.near = entry.isIntersecting;
      if (figure.near && figure.stale) figure.show();
    }
  }, { rootMargin: "400px 0px" });
  figures.forEach((figure) => seen.observe(figure.element));

  // What is in view is drawn again now, the rest when it comes into view.
  const redraw = () => figures.forEach((figure) => {
    figure.stale = true;
    if (figure.near) figure.show();
  });
  const repaint = () => {
    document.documentElement.dataset.theme = chooser.value;
    redraw();
  };
  chooser.onchange = repaint;
  system.onchange = repaint;
  let later;
  addEventListener("resize", () => {
    clearTimeout(later);
    later = setTimeout(redraw, 150);
  });
})();
