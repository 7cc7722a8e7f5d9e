// Makes what browsers and npm get out of the sources.
//
//   node build.mjs client SOURCES OUTPUT    bundles the browser client, and copies what needs no bundling
//   node build.mjs encode OUTPUT            writes FILE.gz and FILE.br beside each file
//
// The names stay those of the sources (index.js, react.js, …), so that one address serves either; what the entries share
// lies in chunks/, under names that hold a hash.
import assert from 'node:assert/strict';
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { minify } from 'terser';

// The oldest browsers in which all that the sources use works: private methods, static blocks, `??=`.
const TARGET = ['es2022', 'chrome94', 'firefox93', 'safari16.4', 'node20'];

// Names that the client's parts have for each other. They stand in no declaration, in no message (neither to the server nor
// between a tab and its worker), in nothing stored and in nothing that is the platform's: they become letters.
const INTERNAL = [
  '_events', '_inboxPosition', '_listening', '_request', 'address', 'alive', 'applyTasks', 'arm', 'ask', 'asked', 'begin',
  'changed', 'cursor', 'cursors', 'deadline', 'discard', 'dispatch', 'emit', 'end', 'era', 'fail', 'failure', 'fallback',
  'flush', 'forget', 'forgetTasks', 'forgiven', 'grant', 'handler', 'handlers', 'heard', 'hears', 'held', 'hidden', 'inboxList', 'isArmed', 'isDue',
  'isEmpty', 'isOpen', 'isRenewable', 'isStranger', 'isWanted', 'kept', 'late', 'later', 'link', 'listen', 'lose', 'moveTo',
  'offer', 'opened', 'outbox', 'probe', 'promise', 'pump', 'receive', 'receivedAt', 'refresh', 'refused', 'renew', 'renewed',
  'schedule', 'sentAt', 'serverNow', 'settle', 'showInbox', 'showWhole', 'signedOut', 'stop', 'stranger', 'strays',
  'subscriptions', 'succeed', 'take', 'tick', 'toOpen', 'until', 'upgrade', 'watch', 'widen', 'within', 'woke', 'write',
];

const COMMON = {
  bundle: true,
  minify: true,
  mangleProps: new RegExp(`^(${INTERNAL.join('|')})$`),
  sourcemap: true,
  target: TARGET,
  external: ['react'],
  legalComments: 'none',
  logLevel: 'warning',
};

const files = async (folder) => (await readdir(folder, { recursive: true, withFileTypes: true }))
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name));

/**
 * Bundles, and minifies once more what the bundler wrote, whose own minifier does what is quick to do. Returns what
 * the bundler tells of its outputs.
 */
async function bundleAndShrink(options) {
  const { outputFiles, metafile } = await build({ ...COMMON, ...options, write: false });
  const texts = new Map(outputFiles.map(({ path, text }) => [path, text]));
  for (const [path, text] of texts) {
    if (path.endsWith('.map')) continue;
    const { code, map } = await minify(text, {
      module: options.format === 'esm',
      toplevel: true,
      ecma: 2022,
      // Of 'use client' the minifier knows nothing.
      compress: { directives: false, passes: 3 },
      sourceMap: { content: texts.get(`${path}.map`), includeSources: true, url: `${basename(path)}.map` },
    });
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, `${code}\n`);
    await writeFile(`${path}.map`, map);
  }
  return metafile;
}

/** The module of each entry by its name in `exports`, as `index` for `.`; a worker is loaded, never required. */
function entriesOf(manifest) {
  const entries = Object.entries(manifest.exports).filter(([, target]) => typeof target === 'object');
  return new Map(entries.map(([, { default: path }]) => [path.slice(2, -3), path]));
}

/** The modules of npm and of browsers. Returns what each exports, by its name. */
async function bundleModules(source, output, names) {
  const metafile = await bundleAndShrink({
    // Hashes are made of paths, too: seen from here they are the same wherever the sources lie.
    absWorkingDir: source,
    metafile: true,
    entryPoints: names.map((name) => join(source, `${name}.js`)),
    outdir: output,
    format: 'esm',
    splitting: true,
    chunkNames: 'chunks/[hash]',
  });
  const shared = await readFile(join(output, 'shared.js'), 'utf8');
  // As it stands here bundlers look for it, and it is beside this file that the worker lies.
  assert.match(shared, /new SharedWorker\(new URL\("\.\/worker\.js",import\.meta\.url\)/, 'the worker is no file of its own');
  const react = await readFile(join(output, 'react.js'), 'utf8');
  const isClient = /^["']use client["'];/m;
  assert.equal(isClient.test(react), isClient.test(await readFile(join(source, 'react.js'), 'utf8')), "'use client' is lost");
  const outputs = Object.entries(metafile.outputs).filter(([, { entryPoint }]) => entryPoint);
  return Object.fromEntries(outputs.map(([path, { exports }]) => [basename(path, '.js'), exports]));
}

/**
 * One CommonJS file for all entries, so that there is one of each class; and a door to it for each of them, which names what
 * it exports for those who read it without running it.
 */
async function bundleCommonJs(source, output, names, exported) {
  const doors = names.map((name) => `get ${name}() { return require('./${name}.js'); }`);
  await bundleAndShrink({
    absWorkingDir: source,
    stdin: { contents: `module.exports = { ${doors.join(', ')} };`, resolveDir: source },
    outfile: join(output, 'pushclient.cjs'),
    format: 'cjs',
    // The worker's address is the module's own: who requires createSharedClient gives `workerUrl`.
    logOverride: { 'empty-import-meta': 'silent' },
  });
  for (const name of names) {
    await writeFile(join(output, `${name}.cjs`), [
      "'use strict';",
      "Object.defineProperty(exports, '__esModule', { value: true });",
      `const { ${name} } = require('./pushclient.cjs');`,
      ...exported[name].map((each) => `exports.${each} = ${name}.${each};`),
      '',
    ].join('\n'));
    const types = await readFile(join(source, `${name}.d.ts`), 'utf8');
    await writeFile(join(output, `${name}.d.cts`), types.replace(/(from '\.\/\w+)\.js'/g, "$1.cjs'"));
  }
}

async function bundle(source, output) {
  const manifest = JSON.parse(await readFile(join(source, 'package.json'), 'utf8'));
  const names = [...entriesOf(manifest).keys()];
  const required = names.filter((name) => name !== 'worker');
  await bundleCommonJs(source, output, required, await bundleModules(source, output, names));
  for (const path of await files(source)) {
    if (/\.d\.ts$|\.md$/.test(path)) await cp(path, join(output, path.slice(source.length)));
  }
  for (const [key, target] of Object.entries(manifest.exports)) {
    const name = target.default?.slice(2, -3);
    if (!required.includes(name)) continue;
    manifest.exports[key] = {
      import: { types: `./${name}.d.ts`, default: `./${name}.js` },
      require: { types: `./${name}.d.cts`, default: `./${name}.cjs` },
    };
  }
  manifest.files = ['*.js', '*.cjs', '*.map', '*.d.ts', '*.d.cts', 'chunks/*'];
  await writeFile(join(output, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
}

async function client(sources, output) {
  await rm(output, { recursive: true, force: true });
  await mkdir(output, { recursive: true });
  await bundle(join(sources, 'pushclient'), join(output, 'pushclient'));
  await cp(join(sources, 'pushclient.js'), join(output, 'pushclient.js'));
  await cp(join(sources, 'page'), join(output, 'page'), { recursive: true });
}

const CODINGS = {
  gz: (octets) => gzipSync(octets, { level: 9 }),
  br: (octets) => brotliCompressSync(octets, {
    params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: octets.length },
  }),
};

async function encode(output) {
  for (const path of await files(output)) {
    if (path.endsWith('.tgz')) continue;
    const octets = await readFile(path);
    for (const [ending, compress] of Object.entries(CODINGS)) {
      const encoded = compress(octets);
      if (encoded.length < octets.length) await writeFile(`${path}.${ending}`, encoded);
    }
  }
}

const [step, ...folders] = process.argv.slice(2);
await { client, encode }[step](...folders.map((folder) => resolve(folder)));
