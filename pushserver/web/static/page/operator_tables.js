/** Tables of the operators' page. A column has a name, and what stands in a cell: a text, an element, or a button. */

import { h, keyed, put } from './dom.js';

/**
 * Shows rows in a table; what a cell holds is made anew only where it is another. `rows` is null where they could not be
 * read, and undefined as long as nobody has tried.
 */
export function fill(table, columns, rows, keyOf) {
  if (!table.tHead) table.append(h('thead', {}, h('tr', {}, ...columns.map(heading))), h('tbody'));
  table.tBodies[0].dataset.empty = rows === undefined ? '…' : rows === null ? 'cannot be read now' : 'none';
  keyed(table.tBodies[0], rows ?? [], keyOf, (row) => h('tr', {}, ...columns.map((column) => emptyCell(column, row))), (line, row) => {
    columns.forEach((column, place) => {
      if (!column.action) show(line.cells[place], column, row);
    });
  });
  table.parentElement.classList.toggle('bare', !rows?.length);
}

const heading = (column) =>
  h('th', { scope: 'col', class: column.number ? 'num' : undefined }, column.action ? h('span', { class: 'unseen' }, column.name) : column.name);

function emptyCell(column, row) {
  if (column.action) return h('td', { class: 'actions' }, column.action(row));
  return h('td', { 'data-label': column.name, class: column.number ? 'num' : undefined });
}

function show(cell, column, row) {
  const value = column.of(row);
  if (column.title) cell.title = column.title(row);
  if (!(value instanceof Element)) put(cell, value ?? '');
  else if (cell.textContent !== value.textContent) cell.replaceChildren(value);
}

/**
 * A list that the server searches, sorts and cuts into pages. Returns what looks at it.
 *
 * `ask` takes the query, and answers `{rows, key, total, unanswered}`; `look` asks for a look at once.
 */
export function listView(section, columns, size, look, ask) {
  const table = section.querySelector('table');
  const search = section.querySelector('input[type="search"]');
  const asked = { skip: 0, sort: null, order: null };
  const back = h('button', { type: 'button', onclick: () => turn(-size) }, 'Back');
  const on = h('button', { type: 'button', onclick: () => turn(size) }, 'Next');
  const where = h('p', { class: 'aside', role: 'status' });
  section.querySelector('.pages').append(back, on, where);

  function turn(by) {
    asked.skip = Math.max(0, asked.skip + by);
    look();
  }
  function sortBy(column) {
    const own = column.number || column.sort === 'since' || column.sort === 'heard' ? 'desc' : 'asc';
    const other = own === 'asc' ? 'desc' : 'asc';
    asked.order = asked.sort === column.sort && asked.order === own ? other : own;
    asked.sort = column.sort;
    asked.skip = 0;
    mark();
    look();
  }
  function mark() {
    columns.forEach((column, place) => {
      const cell = table.tHead.rows[0].cells[place];
      if (column.sort && column.sort === asked.sort) cell.setAttribute('aria-sort', asked.order === 'asc' ? 'ascending' : 'descending');
      else cell.removeAttribute('aria-sort');
    });
  }

  fill(table, columns, undefined, () => '');
  columns.forEach((column, place) => {
    if (column.sort) table.tHead.rows[0].cells[place].replaceChildren(h('button', { type: 'button', class: 'sort', onclick: () => sortBy(column) }, column.name));
  });
  let typing = null;
  search?.form.addEventListener('submit', (event) => event.preventDefault());
  search?.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => turn(-asked.skip), 250);
  });

  return async () => {
    const query = new URLSearchParams({ limit: size, skip: asked.skip });
    if (search?.value) query.set('match', search.value);
    if (asked.sort) {
      query.set('sort', asked.sort);
      query.set('order', asked.order);
    }
    const { rows, key, total, unanswered } = await ask(query);
    fill(table, columns, rows, key);
    back.disabled = asked.skip === 0;
    on.disabled = asked.skip + rows.length >= total;
    put(where, rows.length ? `${asked.skip + 1} to ${asked.skip + rows.length} of ${total}` : 'none');
    return unanswered;
  };
}
