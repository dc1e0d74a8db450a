// The page of one symbol: candles and volume, redrawn for each interval and adjustment.
"use strict";

const place = document.getElementById("chart");
const isDark = window.matchMedia("(prefers-color-scheme: dark)").matches;
const UP = "#26775b", DOWN = "#b5382f", UNFINISHED = "#9a9a9a";
const state = { interval: "21d", adjust: "splits", log: true };

const chart = LightweightCharts.createChart(place, {
  autoSize: true,
  // Not the browser's: some report a language that no number format knows.
  localization: { locale: "en-US", dateFormat: "yyyy-MM-dd" },
  layout: {
    attributionLogo: false,
    background: { color: "transparent" },
    textColor: isDark ? "#d0d0d0" : "#333333",
  },
  grid: { vertLines: { visible: false }, horzLines: { color: isDark ? "#333333" : "#e6e6e6" } },
});
const candles = chart.addSeries(LightweightCharts.CandlestickSeries, {
  upColor: UP, downColor: DOWN, wickUpColor: UP, wickDownColor: DOWN, borderVisible: false,
});
const volume = chart.addSeries(LightweightCharts.HistogramSeries, {
  priceFormat: { type: "volume" }, priceScaleId: "volume", color: "#9db7c4",
});
chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.8, bottom: 0 } });
candles.priceScale().applyOptions({ scaleMargins: { top: 0.12, bottom: 0.24 } }); // above the volume
const marks = LightweightCharts.createSeriesMarkers(candles, []);

function candle(bar) {
  const { time, open, high, low, close, complete } = bar;
  const grey = complete ? {} : { color: UNFINISHED, wickColor: UNFINISHED };
  return { time, open, high, low, close, ...grey };
}

// A split is marked at the first bar that begins on or after it, or at the last bar.
function markers(facts) {
  const times = facts.bars.map((bar) => bar.time);
  return facts.splits.map((day) => ({
    time: times.find((time) => time >= day) ?? times[times.length - 1],
    position: "aboveBar", shape: "arrowDown", color: "#c98a1b", text: "split " + day,
  }));
}

async function draw() {
  for (const button of document.querySelectorAll("[data-interval]")) {
    button.setAttribute("aria-pressed", String(button.dataset.interval === state.interval));
  }
  for (const button of document.querySelectorAll("[data-adjust]")) {
    button.setAttribute("aria-pressed", String(button.dataset.adjust === state.adjust));
  }
  document.getElementById("log").setAttribute("aria-pressed", String(state.log));
  candles.priceScale().applyOptions({
    mode: state.log ? LightweightCharts.PriceScaleMode.Logarithmic : LightweightCharts.PriceScaleMode.Normal,
  });
  const symbol = encodeURIComponent(place.dataset.symbol);
  const answer = await fetch(`/data/bars/${symbol}/${state.interval}?adjust=${state.adjust}`);
  const facts = await answer.json();
  const last = document.getElementById("last");
  if (facts.error) {
    last.textContent = facts.error;
    return;
  }
  candles.setData(facts.bars.map(candle));
  volume.setData(facts.bars.map((bar) => ({ time: bar.time, value: bar.volume })));
  marks.setMarkers(markers(facts));
  // Some bars' width free on both sides: the marks of the first and the last bar are wider than the bar.
  const free = Math.max(2, Math.round(facts.bars.length / 25));
  chart.timeScale().setVisibleLogicalRange({ from: -free, to: facts.bars.length - 1 + free });
  last.textContent = `${facts.last.close.toLocaleString("en-US", { maximumFractionDigits: 4 })} USD on ${facts.last.session}`;
  place.dataset.bars = String(facts.bars.length);
}

for (const button of document.querySelectorAll("[data-interval]")) {
  button.addEventListener("click", () => { state.interval = button.dataset.interval; draw(); });
}
for (const button of document.querySelectorAll("[data-adjust]")) {
  button.addEventListener("click", () => { state.adjust = button.dataset.adjust; draw(); });
}
document.getElementById("log").addEventListener("click", () => { state.log = !state.log; draw(); });
draw();
