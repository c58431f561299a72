"""The style of `macrec app`'s page. Its colours are those of Gradio's theme, light and dark."""

STYLE = """
.gradio-container { max-width: 1360px !important; width: 100%; margin: 0 auto; overflow: visible !important; }
.html-container { padding: 0 !important; }
#shelf { position: sticky; top: 12px; align-self: flex-start; }
#catalogue { max-height: calc(100vh - 150px) !important; min-height: 320px; overflow-y: auto !important; }
.mr { font-size: 14px; line-height: 1.4; color: var(--body-text-color); }
.mr * { box-sizing: border-box; }
.mr h1 { font-size: 22px; font-weight: 650; margin: 0; letter-spacing: -.01em; }
.mr h2 { font-size: 15px; font-weight: 650; margin: 0; }
.mr p { margin: 0; }
.mr .soft { color: var(--body-text-color-subdued); }
.mr .line { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: baseline; justify-content: space-between; }
.mr button { font: inherit; color: inherit; cursor: pointer; background: none; border: 0; padding: 0;
  text-align: left; }
.mr button:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
.mr .text-button { color: var(--link-text-color); font-weight: 600; padding: 4px 2px; }
.mr .wide-button { display: block; width: 100%; text-align: center; padding: 9px; margin-top: 10px;
  font-weight: 600; border: 1px solid var(--border-color-primary); border-radius: 8px;
  color: var(--link-text-color); }
.mr .wide-button:hover { background: var(--background-fill-secondary); }
.mr .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 10px; padding: 2px; }
.mr .tile { position: relative; display: flex; flex-direction: column; border-radius: 10px; overflow: hidden;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-primary);
  transition: border-color .12s, transform .12s; }
.mr .tile:hover { border-color: var(--color-accent); }
.mr .tile:active { transform: scale(.97); }
.mr .tile[aria-pressed=true] { border-color: var(--color-accent); box-shadow: 0 0 0 1px var(--color-accent); }
.mr .photo { display: block; width: 100%; aspect-ratio: 1; background: #fff; object-fit: contain; }
.mr .no-photo { display: flex; align-items: center; justify-content: center; text-align: center; padding: 8px;
  font-size: 11px; color: var(--body-text-color-subdued); background: var(--background-fill-secondary); }
.mr .name { padding: 6px 8px 7px; font-size: 12px; line-height: 1.3; display: -webkit-box; -webkit-line-clamp: 2;
  -webkit-box-orient: vertical; overflow: hidden; min-height: 44px; }
.mr .badge { position: absolute; top: 6px; left: 6px; min-width: 22px; height: 22px; padding: 0 6px;
  border-radius: 11px; font-size: 12px; line-height: 22px; font-weight: 650; text-align: center;
  background: var(--color-accent); color: #fff; }
.mr .sold-out .photo, .mr .sold-out .name { opacity: .5; }
.mr .tag { display: inline-block; font-size: 11px; line-height: 18px; padding: 0 7px; border-radius: 9px;
  white-space: nowrap; font-weight: 600; background: var(--background-fill-secondary);
  color: var(--body-text-color-subdued); border: 1px solid var(--border-color-primary);
  vertical-align: 1px; }
.mr .tag.new { background: #1a7f4b; border-color: #1a7f4b; color: #fff; }
.mr .tile .tag { position: absolute; right: 6px; top: 6px; }
.mr .strip { display: flex; gap: 8px; overflow-x: auto; padding: 8px 2px 6px; min-height: 92px;
  align-items: flex-start; }
.mr .step { position: relative; flex: none; width: 72px; }
.mr .step .photo { width: 72px; height: 72px; border-radius: 8px; border: 1px solid var(--border-color-primary); }
.mr .step .badge { top: 4px; left: 4px; min-width: 20px; height: 20px; line-height: 20px; font-size: 11px;
  padding: 0 4px; }
.mr .step .remove { position: absolute; top: -6px; right: -6px; width: 22px; height: 22px; border-radius: 11px;
  line-height: 20px; text-align: center; font-size: 14px; background: var(--background-fill-primary);
  border: 1px solid var(--border-color-primary); }
.mr .step .remove:hover { background: #b3261e; border-color: #b3261e; color: #fff; }
.mr .step .name { padding: 3px 0 0; font-size: 11px; min-height: 0; -webkit-line-clamp: 2; }
.mr .empty { border: 1px dashed var(--border-color-primary); border-radius: 10px; padding: 20px 16px;
  text-align: center; color: var(--body-text-color-subdued); margin: 8px 2px; }
.mr .note { border-left: 3px solid var(--color-accent); background: var(--background-fill-secondary);
  padding: 8px 12px; border-radius: 0 8px 8px 0; margin: 0 0 10px; }
.mr .note.bad { border-color: #b3261e; }
.mr .list { display: flex; flex-direction: column; gap: 8px; }
.mr .hit { display: grid; grid-template-columns: 26px 56px 1fr auto; gap: 2px 12px; align-items: center;
  padding: 8px 12px 8px 8px; border: 1px solid var(--border-color-primary); border-radius: 10px;
  background: var(--background-fill-primary); }
.mr .hit .rank { font-size: 16px; font-weight: 650; text-align: right; color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums; }
.mr .hit .photo { width: 56px; height: 56px; border-radius: 8px; border: 1px solid var(--border-color-primary); }
.mr .hit .title { font-weight: 600; }
.mr .hit .score { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; min-width: 64px; }
.mr .line + .list { margin-top: 8px; } .mr .line + .note { margin-top: 8px; }
.mr .below { margin: 12px 0 6px; } .mr .company { margin-top: 8px; }
.mr .hit button:hover .photo { border-color: var(--color-accent); }
.mr .bar { display: block; height: 4px; border-radius: 2px; margin-top: 4px;
  background: var(--border-color-primary); }
.mr .bar i { display: block; height: 4px; border-radius: 2px; background: var(--color-accent); }
.mr .ids { display: flex; flex-wrap: wrap; gap: 2px 14px; margin-top: 3px; }
.mr .id { font-size: 12px; white-space: nowrap; }
.mr .id b { font-weight: 500; color: var(--body-text-color-subdued); }
.mr code { font-family: var(--font-mono); font-size: 12px; background: none; border: 0; padding: 0; color: inherit; }
.mr code .shared { color: var(--link-text-color); font-weight: 700; }
.mr .places { display: grid; grid-template-columns: repeat(auto-fit, minmax(310px, 1fr)); gap: 12px;
  margin-top: 10px; }
.mr .place { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 12px 14px;
  background: var(--background-fill-primary); }
.mr .place > code { display: block; font-size: 17px; font-weight: 600; margin: 4px 0 6px; overflow-wrap: anywhere; }
.mr .kin { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; margin-top: 8px; }
.mr .kin .photo { border-radius: 8px; border: 1px solid var(--border-color-primary); }
.mr .kin code { font-size: 10.5px; display: block; overflow-wrap: anywhere; line-height: 1.35; }
.mr .kin .name { padding: 3px 0 1px; font-size: 11px; min-height: 0; }
@media (max-width: 760px) {
  #shelf { position: static; }
  #catalogue { max-height: 46vh !important; }
}
@media (max-width: 640px) {
  .mr .tiles { grid-template-columns: repeat(3, 1fr); gap: 8px; }
  .mr .hit { grid-template-columns: 20px 56px 1fr; column-gap: 10px; }
  .mr .hit .photo { width: 56px; height: 56px; }
  .mr .hit .score { grid-column: 3; display: flex; gap: 10px; align-items: center; text-align: left; }
  .mr .hit .score .bar { flex: 1; margin: 0; }
}
"""
# One listener for all buttons of a piece: the piece is replaced at every change, its outer element stays.
CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-action]');
  if (button) trigger('click', {action: button.dataset.action, item: button.dataset.item || ''});
});
"""
