// Opens the page that stands in README.md, from another origin, and prints what it shows: argv is url, then an
// expression that becomes true once it has shown it.
import { Chromium } from './chromium.js';

const [url, shown] = process.argv.slice(2);
const browser = await Chromium.start();
const tab = await browser.open(url, `
  window.lines = [];
  const log = console.log;
  console.log = (...words) => { window.lines.push(words.join(' ')); log(...words); };
`);
console.log('open');
const end = Date.now() + 15000;
try {
  for (;;) {
    if (await tab.run(shown)) break;
    if (Date.now() > end) throw new Error(`never came: ${shown}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
} finally {
  await browser.stop();
}
console.log('shown');
process.exit(0);
