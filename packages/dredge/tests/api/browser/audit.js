// What has no name for a screen reader, what a pointer cannot hit, and what stands too little out from its ground.
() => {
  const troubles = [];
  const seen = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const name = (element) => (element.getAttribute('aria-label')
    || [...(element.labels || [])].map(label => label.textContent).join(' ')
    || (element.getAttribute('aria-labelledby') || '').split(' ')
      .map(id => document.getElementById(id)?.textContent || '').join(' ')
    || element.querySelector('title')?.textContent
    || (element.matches('a, button') ? element.textContent : '')).trim();
  const named = 'a, button, input, textarea, meter, svg, [role=region], nav, fieldset';
  for (const element of document.querySelectorAll(named)) {
    const own = element.matches('fieldset') ? element.querySelector('legend')?.textContent : name(element);
    if (seen(element) && !own) troubles.push('no name: ' + element.outerHTML.slice(0, 120));
  }
  const once = (selector) => document.querySelectorAll(selector).length === 1;
  for (const landmark of ['main', 'h1', 'header.top', 'footer', '[role=search]']) {
    if (!once(landmark)) troubles.push('not one ' + landmark);
  }
  let level = 1;
  for (const heading of document.querySelectorAll('h1, h2, h3')) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) troubles.push('a heading skips a level: ' + heading.textContent);
    level = own;
  }
  const channels = (colour) => {
    const parts = colour.match(/[\d.]+/g).map(Number);
    return parts.length === 3 ? [...parts, 1] : parts;
  };
  const over = (top, ground) => top.slice(0, 3).map((value, i) => value * top[3] + ground[i] * (1 - top[3]));
  const ground = (element) => {
    const layers = [];
    for (let up = element; up; up = up.parentElement) layers.push(channels(getComputedStyle(up).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map(value => value / 255)
      .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let counted = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !seen(element) || element.closest('.unseen, title, script')) continue;
    const style = getComputedStyle(element);
    const ink = channels(element.closest('svg') ? style.fill : style.color);
    const below = ground(element.closest('svg')?.parentElement || element);
    counted += 1;
    const found = contrast(over(ink, below), below);
    if (found < 4.5) troubles.push(`contrast ${found.toFixed(2)}: ${element.textContent.slice(0, 60)}`);
  }
  if (counted < 8) troubles.push('hardly any text was looked at');
  for (const field of document.querySelectorAll('input:not([type=radio], [type=checkbox]), textarea, button')) {
    if (!seen(field)) continue;
    const below = ground(field.parentElement);
    if (Math.max(contrast(channels(getComputedStyle(field).borderTopColor), below),
                 contrast(ground(field), below)) < 3) troubles.push('faint: ' + field.outerHTML.slice(0, 100));
    if (field.getBoundingClientRect().height < 24) troubles.push('small: ' + field.outerHTML.slice(0, 100));
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) troubles.push(`${wide} wide in ${innerWidth}`);
  if (document.title.includes('owned')) troubles.push('a text was run as a script');
  return troubles;
}
