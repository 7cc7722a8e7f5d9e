// Prints, for each file of the command line, the names that it defines, each with its line: of functions, classes,
// parameters, variables, methods, fields, and of properties that are assigned to.
//
//     node tests/js/names.mjs FILE ...        {"FILE": [["name", line], ...], ...}

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const installed = createRequire(new URL('../node/package.json', import.meta.url));
const { parseAst } = await import(pathToFileURL(installed.resolve('vite')));

/** What a pattern defines: `a`, `{ a, b: c }`, `[a, b]`, `a = 1`, `...a`, `this.a`. */
function* patterns(node) {
  switch (node?.type) {
    case 'Identifier':
    case 'PrivateIdentifier':
      yield node;
      break;
    case 'MemberExpression':
      if (!node.computed) yield node.property;
      break;
    case 'ObjectPattern':
      for (const part of node.properties) yield* patterns(part.value ?? part.argument);
      break;
    case 'ArrayPattern':
      for (const part of node.elements) yield* patterns(part);
      break;
    case 'AssignmentPattern':
      yield* patterns(node.left);
      break;
    case 'RestElement':
      yield* patterns(node.argument);
  }
}

function* defined(node) {
  for (const parameter of node.params ?? []) yield* patterns(parameter);
  switch (node.type) {
    case 'FunctionDeclaration':
    case 'FunctionExpression':
    case 'ClassDeclaration':
    case 'ClassExpression':
    case 'VariableDeclarator':
      yield* patterns(node.id);
      break;
    case 'MethodDefinition':
    case 'PropertyDefinition':
      if (!node.computed) yield* patterns(node.key);
      break;
    case 'Property':
      // Of an object that is made: a name of ours where it holds a function, else what somebody else's data has.
      if (node.method || /Function/.test(node.value.type)) yield* patterns(node.key);
      break;
    case 'AssignmentExpression':
      yield* patterns(node.left);
  }
}

function* within(node) {
  if (Array.isArray(node)) {
    for (const part of node) yield* within(part);
  } else if (typeof node?.type === 'string') {
    yield node;
    for (const part of Object.values(node)) yield* within(part);
  }
}

const found = {};
for (const path of process.argv.slice(2)) {
  const text = readFileSync(path, 'utf8');
  const at = (offset) => text.slice(0, offset).split('\n').length;
  found[path] = [];
  for (const node of within(parseAst(text, { lang: 'js' }))) {
    for (const name of defined(node)) found[path].push([name.name, at(name.start)]);
  }
}
process.stdout.write(JSON.stringify(found));
