import { useRef, useState } from 'react';
import { useInbox } from 'pushclient/react';

const textOf = ({ type, data }) => data?.title ?? data?.content ?? data?.message ?? type;

/** A bell with the user's inbox behind it. The styles are in bell.css. */
export function Bell() {
  const { messages, unread, more, markRead, markAllRead, remove, loadOlder } = useInbox();
  const [isOpen, setOpen] = useState(false);
  const panel = useRef(null);
  const button = useRef(null);
  const count = unread.notification + unread.chat + unread.task;

  const leave = ({ key }) => {
    if (key !== 'Escape') return;
    setOpen(false);
    button.current.focus();
  };
  return (
    <div className="bell" onKeyDown={leave}>
      <button
        type="button"
        ref={button}
        aria-expanded={isOpen}
        aria-label={`Notifications, ${count} not read`}
        onClick={() => setOpen(!isOpen)}
      >
        {count > 0 && <span className="badge" aria-hidden="true">{count}</span>}
      </button>
      {isOpen && (
        <div className="panel" ref={panel} tabIndex={-1}>
          <h2>Notifications</h2>
          <button type="button" disabled={count === 0} onClick={markAllRead}>Mark all read</button>
          <ul>
            {messages.map((message) => (
              <li key={`${message.epoch} ${message.offset}`} className={message.readAt ? '' : 'unread'}>
                <button type="button" className="text" onClick={() => markRead([message.offset])}>{textOf(message)}</button>
                <button
                  type="button"
                  aria-label={`Remove: ${textOf(message)}`}
                  onClick={() => {
                    panel.current.focus();
                    remove([message.offset]);
                  }}
                >
                  ×
                </button>
              </li>
            ))}
          </ul>
          {more && <button type="button" onClick={loadOlder}>Load older</button>}
        </div>
      )}
    </div>
  );
}
