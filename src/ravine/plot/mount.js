// Draws every figure of the page, in the page's own inks, and again when the reader changes between light and dark.
(() => {
  const figures = [...document.querySelectorAll(".ravine-panel")];
  const inks = () => {
    const style = getComputedStyle(document.body);
    return {
      "font.color": style.color,
      "hoverlabel.bgcolor": style.backgroundColor,
      "hoverlabel.font.color": style.color,
    };
  };
  const config = {
    responsive: true,
    displaylogo: false,
    // Nothing here may send the reader's data anywhere: named buttons only, and no server to send to.
    showSendToCloud: false,
    plotlyServerURL: "",
  };
  for (const place of figures) {
    const { data, layout } = JSON.parse(place.nextElementSibling.textContent);
    layout.autosize = true;
    // A finger that moves over a figure means to scroll the page.
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
    const modeBarButtons = layout.scene
      ? [["toImage", "orbitRotation", "pan3d", "resetCameraDefault3d"]]
      : [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
    Plotly.newPlot(place, data, layout, { ...config, modeBarButtons }).then(() => Plotly.relayout(place, inks()));
  }
  const restyle = () => figures.forEach((place) => Plotly.relayout(place, inks()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
})();
