"""How the page looks: as wide as its window, plots beside each other where there is room, tables that scroll."""

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1800px; padding: 1rem 1.5rem; font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { background: #fff; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-top: 2px solid #ddd;
padding-top: 1rem; overflow-wrap: anywhere; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
h4 { font-size: .85rem; font-weight: 600; margin: .3rem 0 0; overflow-wrap: anywhere; }
p, li, figcaption { overflow-wrap: anywhere; max-width: 48rem; } .quiet { color: #666; font-size: .85rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; border: 1px solid #ddd; border-radius: 4px; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eee; }
th { background: #f6f6f6; } th:first-child, td:first-child { text-align: left; } tr:last-child td { border-bottom: 0; }
tr.better td:nth-child(7) { color: #00684a; font-weight: 600; } tr.worse td:nth-child(7) { color: #a84300; }
.is-live tr[data-group] { cursor: pointer; } .is-live tr[data-group]:hover { background: #f2f7fb; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 36rem), 1fr)); gap: 0 2rem; }
.figures > .wide { grid-column: 1 / -1; } .figures > div { min-width: 0; }
figure { margin: .3rem 0 1.2rem; } figcaption { font-size: .85rem; color: #444; }
.still, .live { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 1rem; }
.still[hidden] { display: none; } .still > *, .live > * { min-width: 0; } .plot { min-height: 120px; }
svg { display: block; font-family: system-ui, sans-serif; } .still svg { width: 100%; height: auto; max-width: 60rem; }
summary { cursor: pointer; padding: .4rem 0; font-weight: 600; } dt { font-weight: 600; overflow-wrap: anywhere; }
dd { margin: 0 0 .5rem 1rem; overflow-wrap: anywhere; }
.filter { position: sticky; top: 0; z-index: 5; background: #fff; max-height: 45vh; overflow-y: auto; }
.filter details { border: 1px solid #ddd; border-radius: 4px; padding: 0 .6rem; margin: .6rem 0; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem .8rem; padding-bottom: .5rem; }
fieldset { border: 1px solid #ddd; border-radius: 4px; padding: .1rem .6rem; min-width: 0; max-width: 100%; }
legend { font-size: .8rem; color: #444; overflow-wrap: anywhere; }
label { display: inline-block; margin-right: .7rem; font-size: .85rem; } input[type=number] { width: 7rem; }
dialog { width: min(62rem, calc(100vw - 2rem)); max-height: 90vh; border: 1px solid #888; border-radius: 6px; }
dialog img { max-width: 100%; height: auto; display: block; } .close { float: right; }
@media (max-width: 600px) { body { padding: .6rem; font-size: 14px; } ul { padding-left: 1.2rem; }
th:first-child, td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 10.5rem; } }
"""
