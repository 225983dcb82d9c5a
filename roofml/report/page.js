(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const font = "system-ui, sans-serif";

  function layout(figure, printed) {
    const night = dark.matches && !printed;
    const ink = night ? "#dfe7ee" : "#1c2733";
    const line = night ? "#33404b" : "#d5dde3";
    const merged = structuredClone(figure.layout);
    merged.font = { family: font, size: 12, color: ink };
    merged.paper_bgcolor = merged.plot_bgcolor = "rgba(0,0,0,0)";
    merged.margin = { l: 8, r: 8, t: 8, b: 8, ...merged.margin };
    merged.legend = { orientation: "h", x: 0, y: 1, yanchor: "bottom", ...merged.legend };
    merged.hoverlabel = { bgcolor: night ? "#1a222a" : "#ffffff", bordercolor: line, font: { family: font, color: ink } };
    for (const name of Object.keys(merged)) {
      if (/^[xy]axis/.test(name)) {
        merged[name] = { automargin: true, gridcolor: line, zerolinecolor: line, linecolor: line, ...merged[name] };
      }
    }
    for (const shape of merged.shapes || []) shape.line = { color: ink, width: 1, dash: "dash", ...shape.line };
    return merged;
  }

  function draw(printed) {
    figures.forEach((figure, number) => {
      Plotly.react("figure-" + number, structuredClone(figure.traces), layout(figure, printed),
        { responsive: true, displayModeBar: false });
    });
  }

  draw(false);
  dark.addEventListener("change", () => draw(false));
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw(false));
  document.documentElement.dataset.drawn = String(figures.length);
})();
