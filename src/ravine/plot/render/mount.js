// Draws every figure of the page, in the page's own inks, and again when the reader changes between light and dark.
(() => {
  const figures = [...document.querySelectorAll(".ravine-panel")];
  if (!window.Plotly) {
    // The library was to come from the network and did not: the pictures for a reader without scripts stand in.
    for (const place of document.querySelectorAll(".ravine-figure")) {
      place.innerHTML = place.querySelector("noscript").textContent;
    }
    return;
  }
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
  const coarse = matchMedia("(pointer: coarse)").matches;
  for (const place of figures) {
    const { data, layout } = JSON.parse(place.nextElementSibling.textContent);
    layout.autosize = true;
    // A finger that moves over a figure means to scroll the page; the buttons still switch panning and turning on.
    if (coarse) layout.dragmode = false;
    if (coarse && layout.scene) layout.scene.dragmode = false;
    if (layout.scene) {
      // A narrow place would cut off the sides of a box, so it is seen from farther away.
      const farther = Math.min(Math.max(660 / place.clientWidth, 1), 2);
      for (const axis of "xyz") layout.scene.camera.eye[axis] *= farther;
    }
    const modeBarButtons = layout.scene
      ? [["toImage", "orbitRotation", "pan3d", "resetCameraDefault3d"]]
      : [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
    // On a phone the buttons would lie on the names of the curves; only a box is of little use without them.
    const displayModeBar = coarse && !layout.scene && place.clientWidth < 480 ? false : "hover";
    place.drawn = Plotly.newPlot(place, data, layout, { ...config, displayModeBar, modeBarButtons }).then(() =>
      Plotly.relayout(place, inks()),
    );
  }
  const restyle = () => figures.forEach((place) => Plotly.relayout(place, inks()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  document.addEventListener("ravine:theme", restyle);
})();
