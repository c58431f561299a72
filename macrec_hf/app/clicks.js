// One listener for all buttons of a piece: the piece is replaced at every change, its outer element stays.
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-action]');
  if (button) trigger('click', {action: button.dataset.action, item: button.dataset.item || ''});
});
